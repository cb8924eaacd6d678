//! `$patch: delete`: found in a patch document before it is decoded, carried out on typed values.

use super::decode::zero;
use super::error::{Class, PatchError};
use super::line::TalosLine;
use super::schema::{Field, Schema, Shape, TypeId};
use super::value::{Key, Value};
use crate::machine::document::find_value;
use crate::machine::{Document, DocumentId, Kind, NodeId};

/// One `$patch: delete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    /// The document that it is about.
    pub(super) id: DocumentId,
    /// Whether a name was given.
    pub(super) named: bool,
    /// Keys from the root; an item of a list is `[n]`, whatever the number. Empty: the whole document.
    pub(super) path: Vec<String>,
    /// Of a list item: the key to look for, and its text.
    pub(super) item: Option<(String, String)>,
    /// Line of the statement.
    pub(super) line: usize,
}

/// Takes the deletes out of a patch document. What is left of the document is merged; nothing is left when the
/// whole document is deleted or nothing but its identity would remain.
///
/// # Errors
/// When a delete stands where it cannot be carried out.
pub(super) fn take_deletes(tree: &mut Document) -> Result<(Vec<Selector>, bool), PatchError> {
    let mut finder = Finder { selectors: Vec::new(), path: Vec::new(), root: tree.root() };
    let root = tree.root();
    let gone = finder.walk(tree, root, Parent::Document)?;
    let nothing_left = gone || is_empty_document(tree, root);
    Ok((finder.selectors, nothing_left))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parent {
    Document,
    Mapping,
    Sequence,
}

struct Finder {
    selectors: Vec<Selector>,
    path: Vec<String>,
    root: NodeId,
}

impl Finder {
    /// Whether the node is to be taken out of its parent.
    fn walk(&mut self, tree: &mut Document, id: NodeId, parent: Parent) -> Result<bool, PatchError> {
        match tree.node(id).kind.clone() {
            Kind::Mapping(mut entries) => {
                let mut index = 0;
                while let Some(&(key, value)) = entries.get(index) {
                    if tree.text(key) == Some("$patch") && tree.text(value) == Some("delete") {
                        self.found(tree, id, key, parent)?;
                        return Ok(true);
                    }
                    self.path.push(tree.text(key).unwrap_or_default().to_owned());
                    let gone = self.walk(tree, value, Parent::Mapping);
                    self.path.pop();
                    if gone? {
                        entries.remove(index);
                        tree.node_mut(id).kind = Kind::Mapping(entries.clone());
                        if entries.is_empty() {
                            return Ok(true);
                        }
                    } else {
                        index += 1;
                    }
                }
                Ok(false)
            }
            Kind::Sequence(mut items) => {
                let mut index = 0;
                while let Some(&item) = items.get(index) {
                    self.path.push(format!("[{index}]"));
                    let gone = self.walk(tree, item, Parent::Sequence);
                    self.path.pop();
                    if gone? {
                        items.remove(index);
                        tree.node_mut(id).kind = Kind::Sequence(items.clone());
                        if items.is_empty() {
                            return Ok(true);
                        }
                    } else {
                        index += 1;
                    }
                }
                Ok(false)
            }
            Kind::Alias(_) | Kind::Scalar { .. } => Ok(false),
        }
    }

    fn found(&mut self, tree: &Document, id: NodeId, at: NodeId, parent: Parent) -> Result<(), PatchError> {
        let line = tree.node(at).line;
        let path = self.path.join(".");
        let refuse =
            |message: String| Err(PatchError::new(Class::DeleteSyntax, message).at(&path).on_line(line));
        let inside_item = self.path.iter().any(|part| part.starts_with('[') || part.is_empty());
        if parent != Parent::Sequence && inside_item {
            return refuse(format!("cannot delete an inner key in '{}'", self.path.join(".")));
        }
        let item = if parent == Parent::Sequence {
            let first = tree.entries(id).iter().find(|(key, value)| {
                tree.text(*key) != Some("$patch") || tree.text(*value) != Some("delete")
            });
            let Some(&(key, value)) = first else {
                return refuse(format!("no key:val found in sequence node for path {}", self.path.join(".")));
            };
            let text = |id| match &tree.node(id).kind {
                Kind::Alias(target) => tree.node(*target).anchor.as_deref().unwrap_or_default().to_owned(),
                _ => tree.text(id).unwrap_or_default().to_owned(),
            };
            Some((text(key), text(value)))
        } else {
            None
        };
        let value = |key| find_value(tree, self.root, key);
        if self.path.is_empty() {
            for key in ["apiVersion", "kind"] {
                if value(key).is_none() {
                    return refuse(format!("missing {key} in document for which $patch: delete is used"));
                }
            }
        }
        let text = |key| value(key).unwrap_or_default().to_owned();
        let mut doc = DocumentId { api_version: text("apiVersion"), kind: text("kind"), name: text("name") };
        if doc.kind.is_empty() && doc.api_version.is_empty() {
            doc.kind = "v1alpha1".into();
        } else if doc.kind.is_empty() || doc.api_version.is_empty() {
            let path = self.path.join(".");
            return refuse(format!("kind and apiVersion must be both set for path {path}"));
        }
        let named = !doc.name.is_empty();
        self.selectors.push(Selector { id: doc, named, path: self.path.clone(), item, line });
        Ok(())
    }
}

/// Whether a mapping holds only scalars that identify the document. `apiVersion` is not among the keys that the
/// library looks at, so this is only ever true of the legacy document.
fn is_empty_document(tree: &Document, root: NodeId) -> bool {
    if !matches!(tree.node(root).kind, Kind::Mapping(_)) {
        return false;
    }
    tree.entries(root).iter().all(|(key, value)| {
        tree.text(*value).is_some() && matches!(tree.text(*key), Some("version" | "kind" | "name"))
    })
}

/// Deletes what the path names; whether it was there.
///
/// # Errors
/// When nothing is there, or the path cannot be followed.
pub(super) fn delete(
    schema: &Schema,
    line: TalosLine,
    typ: TypeId,
    value: &mut Value,
    selector: &Selector,
) -> Result<(), PatchError> {
    let deleter = Deleter { schema, line, selector };
    deleter.delete(typ, value, &selector.path).map_err(|class| {
        let message = match class {
            Class::DeleteLookup => "patch delete: lookup failed",
            _ => "patch delete: searching for complex paths in slices is not supported",
        };
        PatchError::new(class, message)
            .at(selector.path.join("."))
            .on_line(selector.line)
            .in_document(&selector.id)
    })
}

struct Deleter<'a> {
    schema: &'a Schema,
    line: TalosLine,
    selector: &'a Selector,
}

impl Deleter<'_> {
    fn delete(&self, typ: TypeId, value: &mut Value, path: &[String]) -> Result<(), Class> {
        let Some((first, rest)) = path.split_first() else { return Err(Class::DeleteSyntax) };
        let definition = self.schema.typ(typ);
        match (&definition.shape, value) {
            (Shape::Pointer(target), Value::Pointer(inner)) => self.delete(*target, inner, path),
            (Shape::Any, value) => self.delete_untyped(value, first, rest),
            (Shape::Struct(fields), Value::Struct(values))
                if definition.codec == super::codec::Codec::Kind =>
            {
                self.delete_field(fields, values, first, rest)
            }
            (Shape::Map(item), Value::Map(map)) => {
                let key = Key::Str(first.clone());
                if rest.is_empty() {
                    return map.remove(&key).map(|_| ()).ok_or(Class::DeleteLookup);
                }
                match map.get_mut(&key) {
                    Some(inner) => self.delete(*item, inner, rest),
                    None => Err(Class::DeleteLookup),
                }
            }
            (Shape::List(item), list) => self.delete_item(*item, list, first, rest),
            (Shape::Bytes, _) => self.check_item_path(first, rest).and(Err(Class::DeleteLookup)),
            _ => Err(Class::DeleteLookup),
        }
    }

    fn delete_field(
        &self,
        fields: &[Field],
        values: &mut [Value],
        first: &str,
        rest: &[String],
    ) -> Result<(), Class> {
        for (field, value) in fields.iter().zip(values) {
            if field.inline {
                if self.line >= TalosLine::V1_12 {
                    let mut path = vec![first.to_owned()];
                    path.extend_from_slice(rest);
                    match self.delete(field.typ, value, &path) {
                        Err(Class::DeleteLookup) => {}
                        result => return result,
                    }
                }
            } else if field.tagged && field.key == first {
                if rest.is_empty() {
                    *value = zero(self.schema, field.typ);
                    return Ok(());
                }
                return self.delete(field.typ, value, rest);
            }
        }
        Err(Class::DeleteLookup)
    }

    fn delete_untyped(&self, value: &mut Value, first: &str, rest: &[String]) -> Result<(), Class> {
        match value {
            Value::Map(map) => {
                let key = Key::Str(first.to_owned());
                match rest.split_first() {
                    None => map.remove(&key).map(|_| ()).ok_or(Class::DeleteLookup),
                    Some((next, rest)) => match map.get_mut(&key) {
                        Some(inner) => self.delete_untyped(inner, next, rest),
                        None => Err(Class::DeleteLookup),
                    },
                }
            }
            Value::List(_) => self.check_item_path(first, rest).and(Err(Class::DeleteLookup)),
            _ => Err(Class::DeleteLookup),
        }
    }

    fn check_item_path(&self, first: &str, rest: &[String]) -> Result<(), Class> {
        if rest.is_empty() && first.starts_with('[') { Ok(()) } else { Err(Class::DeleteSyntax) }
    }

    fn delete_item(&self, item: TypeId, list: &mut Value, first: &str, rest: &[String]) -> Result<(), Class> {
        self.check_item_path(first, rest)?;
        let (Value::List(items), Some((key, text))) = (list, &self.selector.item) else {
            return Err(Class::DeleteLookup);
        };
        let mut definition = self.schema.typ(item);
        while let Shape::Pointer(target) = definition.shape {
            definition = self.schema.typ(target);
        }
        let Shape::Struct(fields) = &definition.shape else { return Err(Class::DeleteLookup) };
        let matches = |item: &Value| {
            let item = match item {
                Value::Pointer(inner) => inner,
                other => other,
            };
            let Value::Struct(values) = item else { return false };
            fields
                .iter()
                .zip(values)
                .filter(|(field, _)| field.tagged && !field.inline && field.key == *key)
                .any(|(field, value)| self.text(field.typ, value).as_deref() == Some(text))
        };
        // An item without its URL cannot be printed, and the library crashes when it comes to one.
        let unprintable =
            |item: &Value| self.line >= TalosLine::V1_12 && has_unset_url(self.schema, fields, item, key);
        match items.iter().position(|item| unprintable(item) || matches(item)) {
            Some(index) if unprintable(&items[index]) => Err(Class::DeleteLookup),
            Some(index) => {
                items.remove(index);
                Ok(())
            }
            None => Err(Class::DeleteLookup),
        }
    }

    /// The text by which a field of a list item is compared: that of a string, and since 1.12 that of a type
    /// which can print itself. Anything else prints as its type, which nobody asks for.
    fn text(&self, typ: TypeId, value: &Value) -> Option<String> {
        let definition = self.schema.typ(typ);
        if let (Shape::Str, Value::Str(text)) = (&definition.shape, value) {
            return Some(text.clone());
        }
        if self.line < TalosLine::V1_12 || !definition.prints {
            return None;
        }
        use super::codec::Codec;
        match (&definition.codec, value) {
            (Codec::PortRange, Value::Struct(ends)) => match ends.as_slice() {
                [Value::Uint(low), Value::Uint(high)] => Some(format!("{low}-{high}")),
                _ => None,
            },
            (Codec::FileMode, Value::Uint(mode)) => Some(format!("0o{mode:o}")),
            (Codec::Prefix, Value::Text(text)) if text.is_empty() => Some("invalid Prefix".into()),
            (Codec::Address, Value::Text(text)) if text.is_empty() => Some("invalid IP".into()),
            (codec, value) => codec.to_text(value),
        }
    }
}

fn has_unset_url(schema: &Schema, fields: &[Field], item: &Value, key: &str) -> bool {
    let Value::Struct(values) = item else { return false };
    let unset = |(field, value): (&Field, &Value)| {
        field.tagged
            && field.key == key
            && matches!(value, Value::Nil)
            && schema.typ(field.typ).codec == super::codec::Codec::Url
    };
    fields.iter().zip(values).any(unset)
}
