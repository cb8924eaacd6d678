//! The checks that follow on decoding: keys that the types do not have, and items that are null.

use super::{Class, Codec, Decoder, Dialect, Fatal, Kind, NodeId, PatchError, Shape, TypeId};
use super::{find_field, inline_map};

/// Refuses keys that the type does not have. All of them are named.
pub(super) fn check_unknown_keys(decoder: &Decoder<'_>, root: NodeId, typ: TypeId) -> Fatal<()> {
    let mut walk = Walk { decoder, path: Vec::new(), found: Vec::new(), anchors: Vec::new(), steps: 0 };
    walk.unknown(root, typ)?;
    let Some((first, line)) = walk.found.first() else { return Ok(()) };
    let names: Vec<&str> = walk.found.iter().map(|(path, _)| path.as_str()).collect();
    let message = format!("unknown keys found during decoding: {}", names.join(", "));
    Err(PatchError::new(Class::UnknownKeys, message).at(first.clone()).on_line(*line))
}

/// Refuses null where a pointer is kept in a list or a map.
pub(super) fn check_null_elements(decoder: &Decoder<'_>, root: NodeId, typ: TypeId) -> Fatal<()> {
    let mut walk = Walk { decoder, path: Vec::new(), found: Vec::new(), anchors: Vec::new(), steps: 0 };
    walk.nulls(root, typ)?;
    match walk.found.into_iter().next() {
        None => Ok(()),
        Some((path, line)) => {
            Err(PatchError::new(Class::NullElement, "null value is not allowed").at(path).on_line(line))
        }
    }
}

struct Walk<'a, 'd> {
    decoder: &'d Decoder<'a>,
    path: Vec<String>,
    found: Vec<(String, usize)>,
    anchors: Vec<NodeId>,
    steps: usize,
}

impl Walk<'_, '_> {
    fn note(&mut self, key: &str, line: usize) {
        self.path.push(key.to_owned());
        let mut path = String::new();
        for part in &self.path {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        self.path.pop();
        self.found.push((path, line));
    }

    /// Only the newest line looks behind aliases; the older ones pass over them.
    fn enter(&mut self, id: NodeId) -> Fatal<Option<(NodeId, bool)>> {
        let node = self.decoder.tree.node(id);
        self.steps += 1;
        if self.steps > super::MAX_VALUES {
            let message = "document contains excessive aliasing";
            return Err(PatchError::new(Class::Alias, message).on_line(node.line));
        }
        let newest = self.decoder.dialect == Dialect::V4Rc6;
        let target = self.decoder.tree.target(id);
        if target != id && !newest {
            return Ok(None);
        }
        if !newest || self.decoder.tree.node(target).anchor.is_none() {
            return Ok(Some((target, false)));
        }
        if self.anchors.contains(&target) {
            return Err(PatchError::new(Class::Alias, "anchor value contains itself").on_line(node.line));
        }
        self.anchors.push(target);
        Ok(Some((target, true)))
    }

    fn pointed(&self, mut typ: TypeId) -> TypeId {
        while let Shape::Pointer(target) = self.decoder.schema.typ(typ).shape {
            typ = target;
        }
        typ
    }

    fn unknown(&mut self, id: NodeId, typ: TypeId) -> Fatal<()> {
        let Some((id, anchored)) = self.enter(id)? else { return Ok(()) };
        let result = self.unknown_in(id, self.pointed(typ));
        if anchored {
            self.anchors.pop();
        }
        result
    }

    fn unknown_in(&mut self, id: NodeId, typ: TypeId) -> Fatal<()> {
        let definition = self.decoder.schema.typ(typ);
        let tree = self.decoder.tree;
        match &tree.node(id).kind {
            Kind::Mapping(entries) => {
                for (key, value) in entries {
                    let key_node = tree.node(*key);
                    let Kind::Scalar { text, .. } = &key_node.kind else {
                        // Free-form values are not looked at.
                        if matches!(definition.shape, Shape::Any) {
                            return Ok(());
                        }
                        let message = "unexpected mapping key type";
                        return Err(PatchError::new(Class::WrongType, message).on_line(key_node.line));
                    };
                    let inner = match &definition.shape {
                        Shape::Map(inner) => Some(*inner),
                        Shape::Struct(fields) => match inline_map(self.decoder.schema, fields) {
                            Some((_, inner)) => Some(inner),
                            None => match find_field(self.decoder.schema, fields, text) {
                                Some((_, inner)) => Some(inner),
                                None if is_pem_key(&definition.codec, text) => None,
                                None => {
                                    self.note(text, key_node.line);
                                    None
                                }
                            },
                        },
                        _ => None,
                    };
                    if let Some(inner) = inner {
                        self.path.push(text.to_string());
                        let result = self.unknown(*value, inner);
                        self.path.pop();
                        result?;
                    }
                }
                Ok(())
            }
            Kind::Sequence(items) => {
                if let Shape::List(inner) = definition.shape {
                    for (index, item) in items.iter().enumerate() {
                        self.path.push(format!("[{index}]"));
                        let result = self.unknown(*item, inner);
                        self.path.pop();
                        result?;
                    }
                }
                Ok(())
            }
            Kind::Alias(_) | Kind::Scalar { .. } => Ok(()),
        }
    }

    fn nulls(&mut self, id: NodeId, typ: TypeId) -> Fatal<()> {
        let Some((id, anchored)) = self.enter(id)? else { return Ok(()) };
        let result = self.nulls_in(id, self.pointed(typ));
        if anchored {
            self.anchors.pop();
        }
        result
    }

    fn nulls_in(&mut self, id: NodeId, typ: TypeId) -> Fatal<()> {
        let definition = self.decoder.schema.typ(typ);
        let tree = self.decoder.tree;
        let is_pointer = |typ| matches!(self.decoder.schema.typ(typ).shape, Shape::Pointer(_));
        match &tree.node(id).kind {
            Kind::Mapping(entries) => {
                for (key, value) in entries {
                    let Some(text) = tree.text(*key) else { continue };
                    let (inner, element) = match &definition.shape {
                        Shape::Map(inner) => (*inner, true),
                        Shape::Struct(fields) => match inline_map(self.decoder.schema, fields) {
                            Some((_, inner)) => (inner, true),
                            None => match find_field(self.decoder.schema, fields, text) {
                                Some((_, inner)) => (inner, false),
                                None => continue,
                            },
                        },
                        _ => continue,
                    };
                    if element && is_pointer(inner) && self.decoder.is_null(*value) {
                        self.note(text, tree.node(*value).line);
                        continue;
                    }
                    self.path.push(text.to_owned());
                    let result = self.nulls(*value, inner);
                    self.path.pop();
                    result?;
                }
            }
            Kind::Sequence(items) => {
                let Shape::List(inner) = definition.shape else { return Ok(()) };
                for (index, item) in items.iter().enumerate() {
                    if is_pointer(inner) && self.decoder.is_null(*item) {
                        self.note(&format!("[{index}]"), tree.node(*item).line);
                        continue;
                    }
                    self.path.push(format!("[{index}]"));
                    let result = self.nulls(*item, inner);
                    self.path.pop();
                    result?;
                }
            }
            Kind::Alias(_) | Kind::Scalar { .. } => {}
        }
        Ok(())
    }
}

fn is_pem_key(codec: &Codec, key: &str) -> bool {
    match codec {
        Codec::PemCertificate => key == "crt",
        Codec::PemCertificateAndKey => matches!(key, "crt" | "key"),
        Codec::PemKey => key == "key",
        _ => false,
    }
}
