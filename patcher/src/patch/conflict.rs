//! What validation refuses although it can be loaded: settings of the legacy document beside the documents that
//! replace them, and documents for control planes on workers.
//!
//! `talosctl machineconfig patch` does not look at this; the node does when it is given the config.

use std::collections::BTreeSet;

use super::document::{Doc, load_config};
use super::error::PatchError;
use super::line::TalosLine;
use super::schema::{Conflict, Shape, TypeId};
use super::value::{Key, Value};
use crate::machine::DocumentId;

/// A contradiction in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The document that does not fit.
    pub document: DocumentId,
    /// The setting of the legacy document that it contradicts.
    pub path: String,
    /// The official text.
    pub message: String,
}

/// Finds the contradictions of a config.
///
/// # Errors
/// When the config cannot be loaded at all.
pub fn contradictions(config: &str, line: TalosLine) -> Result<Vec<Contradiction>, PatchError> {
    let (_, docs) = load_config(config.as_bytes(), line)?;
    let mut found = Vec::new();
    let legacy = docs.iter().find(|doc| doc.id.is_legacy());
    if let Some(legacy) = legacy {
        for doc in docs.iter().filter(|doc| !doc.id.is_legacy()) {
            found.extend(first_conflict(line, legacy, doc));
        }
    }
    found.extend(misplaced(line, legacy, &docs));
    Ok(found)
}

/// The library names the first conflict of a document only.
fn first_conflict(line: TalosLine, legacy: &Doc, doc: &Doc) -> Option<Contradiction> {
    let rules = line.schema().conflicts.iter().filter(|rule| rule.kind == doc.id.kind);
    let rule = rules.into_iter().find(|rule| applies(line, rule, legacy, doc))?;
    Some(Contradiction { document: doc.id.clone(), path: rule.path.join("."), message: rule.text.clone() })
}

fn applies(line: TalosLine, rule: &Conflict, legacy: &Doc, doc: &Doc) -> bool {
    let Some(setting) = look_up(line, legacy.typ, &legacy.value, &rule.path) else { return false };
    let set = match setting {
        Value::Nil => false,
        value if rule.nonzero => is_something(value),
        _ => true,
    };
    let own = match &rule.only_with {
        None => true,
        Some(field) => look_up(line, doc.typ, &doc.value, std::slice::from_ref(field))
            .is_some_and(|value| !value.is_zero()),
    };
    set && own
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Pointer(inner) => !inner.is_zero(),
        Value::List(items) => !items.is_empty(),
        Value::Map(map) => !map.is_empty(),
        Value::Bytes(bytes) => !bytes.is_empty(),
        Value::Struct(fields) => fields.iter().any(is_something),
        other => !other.is_zero(),
    }
}

fn look_up<'v>(line: TalosLine, typ: TypeId, value: &'v Value, path: &[String]) -> Option<&'v Value> {
    let schema = line.schema();
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match (&schema.typ(typ).shape, value) {
        (Shape::Pointer(target), Value::Pointer(inner)) => look_up(line, *target, inner, path),
        (Shape::Struct(fields), Value::Struct(_)) => {
            let (way, typ) = super::decode::find_field(schema, fields, first)?;
            let inner = way.into_iter().try_fold(value, |value, index| match value {
                Value::Struct(values) => values.get(index),
                _ => None,
            });
            look_up(line, typ, inner?, rest)
        }
        (Shape::Map(item), Value::Map(map)) => look_up(line, *item, map.get(&Key::Str(first.clone()))?, rest),
        _ => None,
    }
}

/// Documents that only control planes may have, on any other machine.
fn misplaced(line: TalosLine, legacy: Option<&Doc>, docs: &[Doc]) -> Option<Contradiction> {
    let path = ["machine".to_owned(), "type".to_owned()];
    let role = legacy.and_then(|doc| look_up(line, doc.typ, &doc.value, &path));
    if matches!(role, Some(Value::Str(role)) if matches!(role.as_str(), "controlplane" | "init")) {
        return None;
    }
    let kinds = &line.schema().kinds;
    let only = |doc: &&Doc| kinds.get(&doc.id.kind).is_some_and(|info| info.control_plane);
    let first = docs.iter().find(only)?;
    let names: BTreeSet<&str> = docs.iter().filter(only).map(|doc| doc.id.kind.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let message = format!(
        "the following document kinds are only allowed on control plane machines: [{}]",
        names.join(" ")
    );
    Some(Contradiction { document: first.id.clone(), path: path.join("."), message })
}
