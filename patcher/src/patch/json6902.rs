//! JSON patches (RFC 6902) the way `evanphx/json-patch` applies them, with the detour that Talos takes:
//! YAML to JSON by a YAML 1.1 reader, the patch, JSON to YAML.
//!
//! The library departs from the RFC in many places (a `replace` may add, negative indexes count from the end,
//! `test` compares the bytes of scalars), so a JSON patch crate would have to be undone more than used.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::apply::State;
use super::decode::decode_untyped;
use super::encode::encode;
use super::error::{Class, PatchError};
use super::tree::Tree;
use super::value::{Key, Value};
use crate::machine::{Dialect, MachineConfig};

mod convert;
pub(super) use convert::{literal, written};

/// A JSON value whose scalars keep their text. `None` is null.
pub(super) type Json = Option<Node>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
    /// The text of a string, a number or a bool.
    Scalar(String),
}

/// Operations in order.
#[derive(Clone, Default)]
pub struct JsonPatch {
    operations: Vec<BTreeMap<String, Json>>,
}

/// Values may be secrets, so only the number of operations is shown.
impl std::fmt::Debug for JsonPatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JsonPatch({} operations)", self.operations.len())
    }
}

fn refuse(message: impl Into<String>) -> PatchError {
    PatchError::new(Class::JsonPatch, message)
}

impl JsonPatch {
    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.operations.extend(other.operations);
    }

    /// Reads a JSON list of operations; null is an empty one.
    pub(super) fn from_json(text: &[u8]) -> Result<Self, PatchError> {
        type Fields = BTreeMap<String, Box<RawValue>>;
        // The words of the JSON reader may quote a value, so only its place is told.
        let bad = |error: serde_json::Error| refuse("not a JSON list of operations").on_line(error.line());
        let list: Option<Vec<Option<Fields>>> = serde_json::from_slice(text).map_err(bad)?;
        let mut operations = Vec::new();
        for operation in list.unwrap_or_default() {
            let fields = operation.unwrap_or_default().into_iter();
            let fields = fields.map(|(key, raw)| Ok((key, Node::read(raw.get())?)));
            operations.push(fields.collect::<Result<_, serde_json::Error>>().map_err(bad)?);
        }
        Ok(Self { operations })
    }

    /// Reads a YAML list of operations; no document, or null, is an empty one.
    pub(super) fn from_yaml(text: &[u8], dialect: Dialect) -> Result<Result<Self, PatchError>, PatchError> {
        // Only the first document is looked at.
        let (config, broken) = MachineConfig::parse_partial(text, dialect);
        let Some(part) = config.parts().first() else {
            return broken.map_or(Ok(Ok(Self::default())), |error| Err(error.into()));
        };
        let list = match decode_untyped(dialect, &part.tree, part.tree.root())? {
            Value::Nil => Vec::new(),
            Value::List(list) => list,
            _ => return Err(refuse("not a list of operations")),
        };
        let mut operations = Vec::new();
        for operation in list {
            let map = match operation {
                // A null item of a list is dropped by the reader only where it has to be a map.
                Value::Nil => BTreeMap::new(),
                Value::Map(map) => map,
                _ => return Err(refuse("not a list of operations")),
            };
            let fields =
                map.iter().map(|(key, value)| Ok((key.text().to_owned(), convert::of_value(value)?)));
            match fields.collect::<Result<_, PatchError>>() {
                Ok(fields) => operations.push(fields),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(Self { operations }))
    }

    /// Applies the operations.
    pub(super) fn apply(&self, document: Json) -> Result<Json, PatchError> {
        let mut document = document.ok_or_else(|| refuse("the config is empty"))?;
        for operation in &self.operations {
            Operation { fields: operation }.apply(&mut document)?;
        }
        Ok(Some(document))
    }
}

impl Node {
    /// Reads JSON text.
    pub(super) fn read(text: &str) -> Result<Json, serde_json::Error> {
        let text = text.trim();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let map: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
                let entries = map.into_iter().map(|(key, raw)| Ok((key, Self::read(raw.get())?)));
                Some(Self::Object(entries.collect::<Result<_, serde_json::Error>>()?))
            }
            Some(b'[') => {
                let list: Vec<Box<RawValue>> = serde_json::from_str(text)?;
                let items = list.iter().map(|raw| Self::read(raw.get()));
                Some(Self::Array(items.collect::<Result<_, _>>()?))
            }
            Some(b'n') | None => None,
            Some(_) => Some(Self::Scalar(text.to_owned())),
        })
    }
}

struct Operation<'a> {
    fields: &'a BTreeMap<String, Json>,
}

impl Operation<'_> {
    fn text(&self, key: &str) -> Option<String> {
        match self.fields.get(key) {
            Some(Some(Node::Scalar(raw))) if raw == "null" => Some(String::new()),
            Some(Some(Node::Scalar(raw))) => serde_json::from_str(raw).ok(),
            _ => None,
        }
    }

    fn pointer(&self, key: &str) -> Result<String, PatchError> {
        self.text(key).ok_or_else(|| refuse(format!("operation has no {key}")))
    }

    fn value(&self) -> Json {
        self.fields.get("value").cloned().flatten()
    }

    fn apply(&self, document: &mut Node) -> Result<(), PatchError> {
        match self.text("op").as_deref() {
            Some("add") => {
                let path = self.pointer("path")?;
                add(document, &path, self.value())
            }
            Some("remove") => {
                let path = self.pointer("path")?;
                remove(document, &path).map(|_| ())
            }
            Some("replace") => {
                let path = self.pointer("path")?;
                self.replace(document, &path)
            }
            Some("move") => {
                let from = self.pointer("from")?;
                let value = remove(document, &from)?;
                let path = self.pointer("path")?;
                add(document, &path, value)
            }
            Some("copy") => {
                let from = self.pointer("from")?;
                let value = get(document, &from)?;
                let path = self.pointer("path")?;
                add(document, &path, value)
            }
            Some("test") => {
                let path = self.pointer("path")?;
                self.test(document, &path)
            }
            _ => Err(refuse("unexpected kind of operation")),
        }
    }

    fn replace(&self, document: &mut Node, path: &str) -> Result<(), PatchError> {
        if path.is_empty() {
            return match self.value() {
                Some(node @ (Node::Array(_) | Node::Object(_))) => {
                    *document = node;
                    Ok(())
                }
                _ => Err(refuse("replace operation value must be object or array")),
            };
        }
        let (container, key) = find(document, path)?;
        match container {
            // Also when the key is not there yet.
            Node::Object(map) => {
                map.insert(key, self.value());
                Ok(())
            }
            Node::Array(items) => {
                let index = existing_index(items.len(), &key).ok_or_else(|| missing(path))?;
                items[index] = self.value();
                Ok(())
            }
            Node::Scalar(_) => Err(missing(path)),
        }
    }

    fn test(&self, document: &mut Node, path: &str) -> Result<(), PatchError> {
        let failed = || Err(refuse("testing value failed").at(path));
        if path.is_empty() {
            return match self.value() {
                Some(value) if equal(document, &value) == Some(true) => Ok(()),
                _ => failed(),
            };
        }
        match (get(document, path)?, self.value()) {
            (None, None) => Ok(()),
            (Some(have), Some(want)) if equal(&have, &want) == Some(true) => Ok(()),
            _ => failed(),
        }
    }
}

fn missing(path: &str) -> PatchError {
    refuse("doc is missing path").at(path)
}

/// The container of what the pointer names, and the last part of the pointer. What stands in front of the first
/// slash is not looked at.
fn find<'d>(document: &'d mut Node, path: &str) -> Result<(&'d mut Node, String), PatchError> {
    let decode = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let Some(key) = parts.pop() else { return Err(missing(path)) };
    let mut node = document;
    for part in parts {
        let part = decode(part);
        let next = match node {
            Node::Object(map) => map.get_mut(&part),
            Node::Array(items) => existing_index(items.len(), &part).and_then(|index| items.get_mut(index)),
            Node::Scalar(_) => None,
        };
        node = next.and_then(Option::as_mut).ok_or_else(|| missing(path))?;
    }
    if matches!(node, Node::Scalar(_)) {
        return Err(missing(path));
    }
    Ok((node, decode(key)))
}

fn get(document: &mut Node, path: &str) -> Result<Json, PatchError> {
    let (container, key) = find(document, path)?;
    match container {
        Node::Object(map) => Ok(map.get(&key).cloned().flatten()),
        Node::Array(items) => match existing_index(items.len(), &key) {
            Some(index) => Ok(items[index].clone()),
            None => Err(missing(path)),
        },
        Node::Scalar(_) => Err(missing(path)),
    }
}

fn add(document: &mut Node, path: &str, value: Json) -> Result<(), PatchError> {
    let (container, key) = find(document, path)?;
    match container {
        Node::Object(map) => {
            map.insert(key, value);
            Ok(())
        }
        Node::Array(items) if key == "-" => {
            items.push(value);
            Ok(())
        }
        Node::Array(items) => {
            let index = existing_index(items.len() + 1, &key).ok_or_else(|| missing(path))?;
            items.insert(index, value);
            Ok(())
        }
        Node::Scalar(_) => Err(missing(path)),
    }
}

fn remove(document: &mut Node, path: &str) -> Result<Json, PatchError> {
    let (container, key) = find(document, path)?;
    match container {
        Node::Object(map) => map.remove(&key).ok_or_else(|| missing(path)),
        Node::Array(items) => match existing_index(items.len(), &key) {
            Some(index) => Ok(items.remove(index)),
            None => Err(missing(path)),
        },
        Node::Scalar(_) => Err(missing(path)),
    }
}

/// Go's `strconv.Atoi`, negative numbers counted from the end.
fn existing_index(len: usize, key: &str) -> Option<usize> {
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: isize = key.strip_prefix('+').unwrap_or(key).parse().ok()?;
    let index = if number < 0 { number.checked_add_unsigned(len)? } else { number };
    usize::try_from(index).ok().filter(|index| *index < len)
}

/// Whether two values are the same, scalars by their text. Nothing when the library gives up: on null in lists.
fn equal(left: &Node, right: &Node) -> Option<bool> {
    match (left, right) {
        (Node::Scalar(left), Node::Scalar(right)) => Some(left == right),
        // The text of a null reads as a collection without anything in it.
        (Node::Object(left), Node::Scalar(right)) if right == "null" => Some(left.is_empty()),
        (Node::Array(left), Node::Scalar(right)) if right == "null" => Some(left.is_empty()),
        (Node::Object(left), Node::Object(right)) => {
            if left.len() != right.len() {
                return Some(false);
            }
            for (key, left) in left {
                match (left, right.get(key)) {
                    (None, Some(None)) => {}
                    (Some(left), Some(Some(right))) => {
                        if !equal(left, right)? {
                            return Some(false);
                        }
                    }
                    _ => return Some(false),
                }
            }
            Some(true)
        }
        (Node::Array(left), Node::Array(right)) => {
            if left.len() != right.len() {
                return Some(false);
            }
            for (left, right) in left.iter().zip(right) {
                if !equal(left.as_ref()?, right.as_ref()?)? {
                    return Some(false);
                }
            }
            Some(true)
        }
        _ => Some(false),
    }
}

/// What a JSON patch makes of a config: the tree that its text stands for, and the tree that it must become.
pub(super) struct Patched {
    pub(super) before: Tree,
    pub(super) after: Tree,
}

fn check_count(count: usize) -> Result<(), PatchError> {
    if count == 1 {
        return Ok(());
    }
    let message = "JSON6902 patches are not supported for multi-document machine configuration";
    Err(PatchError::new(Class::JsonPatchDocuments, message))
}

/// Applies a patch to a config that was not looked into before.
pub(super) fn patch_text(config: &MachineConfig, patch: &JsonPatch) -> Result<Patched, PatchError> {
    check_count(config.parts().len())?;
    let tree = &config.parts()[0].tree;
    let document = convert::of_document(tree).map_err(|error| error.of_class(Class::JsonPatch))?;
    let patched = patch.apply(document)?;
    Ok(Patched { before: literal(tree, tree.root()), after: convert::to_tree(&patched) })
}

/// Applies a patch to what strategic patches have left, in the form in which the official tool writes it down.
pub(super) fn patch_state(state: &State, patch: &JsonPatch) -> Result<Patched, PatchError> {
    check_count(state.count())?;
    let Some(doc) = state.docs().next() else { return Err(refuse("the config is empty")) };
    let encoded = encode(state.line().schema(), doc.typ, &doc.value);
    let document = convert::of_tree(&encoded)?;
    let before = written(&encoded);
    let patched = patch.apply(document)?;
    Ok(Patched { before, after: convert::to_tree(&patched) })
}

/// A key of a JSON object.
fn text_key(key: &str) -> Key {
    Key::Str(key.to_owned())
}
