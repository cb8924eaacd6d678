//! Between YAML and JSON, as `ghodss/yaml` converts: read by yaml.v2, whose `yes` and `off` are bools.

use std::collections::BTreeMap;

use super::super::emit;
use super::{Json, Node, PatchError, Tree, Value, refuse, text_key};
use crate::machine::scalar::{self, Dialect, Scalar};
use crate::machine::{Document, Kind, NodeId, Style};
use crate::patch::encode::old_bool;
use crate::patch::error::Class;
use crate::patch::value::Key;

/// Most values that aliases may grow a document to.
const MAX_VALUES: usize = 1_000_000;

/// Reads a document as yaml.v2 does.
pub(super) fn of_document(tree: &Document) -> Result<Json, PatchError> {
    Reader { tree, open: Vec::new(), values: 0 }.node(tree.root())
}

struct Reader<'a> {
    tree: &'a Document,
    open: Vec<NodeId>,
    values: usize,
}

impl Reader<'_> {
    fn node(&mut self, id: NodeId) -> Result<Json, PatchError> {
        self.values += 1;
        let line = self.tree.node(id).line;
        if self.values > MAX_VALUES {
            return Err(PatchError::new(Class::Alias, "document contains excessive aliasing").on_line(line));
        }
        match &self.tree.node(id).kind {
            Kind::Alias(target) => {
                if self.open.contains(target) {
                    return Err(PatchError::new(Class::Alias, "anchor value contains itself").on_line(line));
                }
                self.open.push(*target);
                let value = self.node(*target);
                self.open.pop();
                value
            }
            Kind::Scalar { .. } => of_scalar(self.tree, id).map_err(|error| error.on_line(line)),
            Kind::Sequence(items) => {
                let items: Result<Vec<Json>, PatchError> =
                    items.iter().map(|item| self.node(*item)).collect();
                Ok(Some(Node::Array(items?)))
            }
            Kind::Mapping(_) => {
                let mut map = BTreeMap::new();
                self.entries(id, &mut map)?;
                Ok(Some(Node::Object(map)))
            }
        }
    }

    fn entries(&mut self, id: NodeId, out: &mut BTreeMap<String, Json>) -> Result<(), PatchError> {
        for &(key, value) in self.tree.entries(id) {
            let key_id = self.tree.target(key);
            if is_merge(self.tree, key) {
                // yaml.v2 merges where the sign stands: what follows it overwrites.
                self.merge(value, out)?;
                continue;
            }
            let key = key_of(self.tree, key_id)?;
            let value = self.node(value)?;
            out.insert(key, value);
        }
        Ok(())
    }

    fn merge(&mut self, id: NodeId, out: &mut BTreeMap<String, Json>) -> Result<(), PatchError> {
        let target = self.tree.target(id);
        match &self.tree.node(target).kind {
            Kind::Mapping(_) => {
                if self.open.contains(&target) {
                    return Err(PatchError::new(Class::Alias, "anchor value contains itself"));
                }
                self.open.push(target);
                let result = self.entries(target, out);
                self.open.pop();
                result
            }
            Kind::Sequence(items) => {
                // The first one wins.
                for item in items.iter().rev() {
                    self.merge(*item, out)?;
                }
                Ok(())
            }
            Kind::Alias(_) | Kind::Scalar { .. } => {
                Err(refuse("map merge requires map or sequence of maps as the value"))
            }
        }
    }
}

fn is_merge(tree: &Document, id: NodeId) -> bool {
    let node = tree.node(id);
    let plain = matches!(&node.kind, Kind::Scalar { text, style: Style::Plain } if &**text == "<<");
    plain && matches!(node.tag.as_deref(), None | Some("!" | "!!merge"))
}

fn key_of(tree: &Document, id: NodeId) -> Result<String, PatchError> {
    let bad = || refuse("unsupported map key").on_line(tree.node(id).line);
    let text = tree.text(id).ok_or_else(bad)?;
    Ok(match meaning(tree, id)? {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        // The library has no text for these.
        Scalar::Null | Scalar::Uint(_) => return Err(bad()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "keys are written with the precision of a float32"
        )]
        Scalar::Float(value) => emit::float(f64::from(value as f32)),
        Scalar::Merge | Scalar::Str | Scalar::Time(_) => text.to_owned(),
    })
}

/// The meaning of a scalar to yaml.v2.
fn meaning(tree: &Document, id: NodeId) -> Result<Scalar, PatchError> {
    let node = tree.node(id);
    let Kind::Scalar { text, style } = &node.kind else { return Ok(Scalar::Str) };
    let untagged = matches!(node.tag.as_deref(), None | Some("!"));
    if untagged
        && *style == Style::Plain
        && let Some(value) = old_bool(text)
    {
        return Ok(Scalar::Bool(value));
    }
    scalar::of_node(tree, id, Dialect::V3).map_err(|mismatch| {
        let message = format!("cannot decode {} as a {}", mismatch.found, mismatch.wanted);
        PatchError::new(Class::WrongType, message).on_line(node.line)
    })
}

fn of_scalar(tree: &Document, id: NodeId) -> Result<Json, PatchError> {
    let text = tree.text(id).unwrap_or_default();
    Ok(match meaning(tree, id)? {
        Scalar::Null => None,
        Scalar::Bool(value) => Some(Node::Scalar(value.to_string())),
        Scalar::Int(value) => Some(Node::Scalar(value.to_string())),
        Scalar::Uint(value) => Some(Node::Scalar(value.to_string())),
        Scalar::Float(value) => Some(Node::Scalar(json_float(value)?)),
        Scalar::Merge | Scalar::Str | Scalar::Time(_) => Some(Node::Scalar(json_string(text))),
    })
}

/// A string as Go's `encoding/json` writes it, which escapes for HTML.
fn json_string(text: &str) -> String {
    let plain = serde_json::to_string(text).unwrap_or_default();
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A float as Go's `encoding/json` writes it.
fn json_float(value: f64) -> Result<String, PatchError> {
    if !value.is_finite() {
        return Err(refuse("json: unsupported value"));
    }
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        return Ok(match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
            _ => text,
        });
    }
    Ok(format!("{value}"))
}

/// JSON of an untyped value, as an operation of a patch in YAML holds it.
pub(super) fn of_value(value: &Value) -> Result<Json, PatchError> {
    Ok(match value {
        // Not nothing, as in a patch in JSON, but the text of a null.
        Value::Nil => Some(Node::Scalar("null".into())),
        Value::Bool(value) => Some(Node::Scalar(value.to_string())),
        Value::Int(value) => Some(Node::Scalar(value.to_string())),
        Value::Uint(value) => Some(Node::Scalar(value.to_string())),
        Value::Float(value) => Some(Node::Scalar(json_float(*value)?)),
        Value::Str(text) | Value::Text(text) => Some(Node::Scalar(json_string(text))),
        Value::Time(time) => Some(Node::Scalar(json_string(&time.to_string()))),
        Value::List(items) | Value::Struct(items) => {
            let items: Result<Vec<Json>, PatchError> = items.iter().map(of_value).collect();
            Some(Node::Array(items?))
        }
        Value::Map(map) => {
            let mut entries = BTreeMap::new();
            for (key, value) in map {
                let Key::Str(key) = key else {
                    return Err(refuse("json: unsupported type: map[interface {}]interface {}"));
                };
                entries.insert(key.clone(), of_value(value)?);
            }
            Some(Node::Object(entries))
        }
        Value::Bytes(_) | Value::Pointer(_) | Value::Url(_) => None,
    })
}

/// JSON of what the encoder writes: through its text, which yaml.v2 reads.
pub(super) fn of_tree(tree: &Tree) -> Result<Json, PatchError> {
    Ok(match tree {
        Tree::Null => None,
        Tree::Bool(value) => Some(Node::Scalar(value.to_string())),
        Tree::Int(value) => Some(Node::Scalar(value.to_string())),
        Tree::Uint(value) => Some(Node::Scalar(value.to_string())),
        Tree::Float(value) => Some(Node::Scalar(json_float(*value)?)),
        Tree::Str(text) => Some(Node::Scalar(json_string(text))),
        Tree::Time(time) => Some(Node::Scalar(json_string(&time.to_string()))),
        Tree::Raw(text) => Some(Node::Scalar(match (old_bool(text), scalar::resolve(text, Dialect::V3)) {
            (Some(value), _) => value.to_string(),
            (None, Scalar::Int(value)) => value.to_string(),
            _ => json_string(text),
        })),
        Tree::List(items) => {
            let items: Result<Vec<Json>, PatchError> = items.iter().map(of_tree).collect();
            Some(Node::Array(items?))
        }
        Tree::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| Ok((key.text().to_owned(), of_tree(value)?)));
            Some(Node::Object(entries.collect::<Result<_, PatchError>>()?))
        }
    })
}

/// The tree of the YAML that is made of JSON: strings are strings, anything else is its text.
pub(super) fn to_tree(json: &Json) -> Tree {
    match json {
        None => Tree::Null,
        Some(Node::Scalar(raw)) if raw == "null" => Tree::Null,
        Some(Node::Array(items)) => Tree::List(items.iter().map(to_tree).collect()),
        Some(Node::Object(map)) => {
            Tree::Map(map.iter().map(|(key, value)| (text_key(key), to_tree(value))).collect())
        }
        Some(Node::Scalar(raw)) if raw.starts_with('"') => {
            Tree::Str(serde_json::from_str(raw).unwrap_or_default())
        }
        Some(Node::Scalar(raw)) => Tree::Raw(match scalar::resolve(raw, Dialect::V3) {
            Scalar::Int(value) => value.to_string(),
            Scalar::Uint(value) => value.to_string(),
            Scalar::Float(value) => emit::float(value),
            _ => raw.clone(),
        }),
    }
}

/// The tree of what the encoder writes, for comparison with [`to_tree`].
pub(in crate::patch) fn written(tree: &Tree) -> Tree {
    match tree {
        Tree::Bool(value) => Tree::Raw(value.to_string()),
        Tree::Float(value) => Tree::Raw(emit::float(*value)),
        Tree::Int(value) => Tree::Raw(value.to_string()),
        Tree::Uint(value) => Tree::Raw(value.to_string()),
        Tree::Time(time) => Tree::Raw(time.to_string()),
        Tree::List(items) => Tree::List(items.iter().map(written).collect()),
        Tree::Map(entries) => {
            Tree::Map(entries.iter().map(|(key, value)| (key.clone(), written(value))).collect())
        }
        Tree::Null | Tree::Raw(_) | Tree::Str(_) => tree.clone(),
    }
}

/// The tree of a YAML text for comparison with [`to_tree`]: strings are strings, null is null, anything else is
/// its text, aliases are what they stand for.
pub(in crate::patch) fn literal(tree: &Document, id: NodeId) -> Tree {
    let mut budget = MAX_VALUES;
    literal_within(tree, id, 0, &mut budget)
}

fn literal_within(tree: &Document, id: NodeId, depth: usize, budget: &mut usize) -> Tree {
    *budget = budget.saturating_sub(1);
    if depth > 2 * crate::machine::parse::MAX_DEPTH || *budget == 0 {
        return Tree::Null;
    }
    match &tree.node(id).kind {
        Kind::Alias(target) => literal_within(tree, *target, depth + 1, budget),
        Kind::Sequence(items) => {
            Tree::List(items.iter().map(|item| literal_within(tree, *item, depth + 1, budget)).collect())
        }
        Kind::Mapping(entries) => {
            let entry = |(key, value): &(NodeId, NodeId)| {
                let text = tree.text(tree.target(*key)).unwrap_or_default().to_owned();
                let key = match scalar::of_node(tree, tree.target(*key), Dialect::V4Rc6) {
                    Ok(Scalar::Str) if !is_merge(tree, *key) => Key::Str(text),
                    _ => Key::Other(text),
                };
                (key, literal_within(tree, *value, depth + 1, budget))
            };
            Tree::Map(entries.iter().map(entry).collect())
        }
        Kind::Scalar { text, .. } => match scalar::of_node(tree, id, Dialect::V4Rc6) {
            Ok(Scalar::Null) => Tree::Null,
            Ok(Scalar::Str) => Tree::Str(text.to_string()),
            _ => Tree::Raw(text.to_string()),
        },
    }
}
