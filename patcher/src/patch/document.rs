//! Documents loaded strictly: what a node, or a patch, is allowed to hold at all.

use std::collections::{HashMap, HashSet};

use super::decode::{decode, find_field};
use super::delete::{Selector, take_deletes};
use super::error::{Class, PatchError};
use super::line::TalosLine;
use super::schema::{Shape, TypeId};
use super::value::Value;
use crate::machine::document::{Part, identify};
use crate::machine::{Document, DocumentId, Kind, MachineConfig, NodeId};

/// A decoded document.
#[derive(Debug, Clone)]
pub(super) struct Doc {
    /// Its identity; the name is empty for kinds without one.
    pub(super) id: DocumentId,
    /// Whether its kind has names.
    pub(super) named: bool,
    pub(super) typ: TypeId,
    pub(super) value: Value,
    /// Index of its part in the text it came from.
    pub(super) part: usize,
    /// Whether deletes were taken out, so that its text is not what it says.
    pub(super) cut: bool,
}

/// What a patch consists of.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Delete(Selector),
    Merge(Box<Doc>),
}

/// Loads the documents of a machine config.
///
/// # Errors
/// Whatever the official loader of the line refuses.
pub(super) fn load_config(text: &[u8], line: TalosLine) -> Result<(MachineConfig, Vec<Doc>), PatchError> {
    let (config, broken) = MachineConfig::parse_partial(text, line.dialect());
    let mut docs = Vec::new();
    let mut seen = HashSet::new();
    for (index, part) in config.parts().iter().enumerate() {
        if let Some(doc) = load_document(&part.tree, index, line, Some(&mut seen))? {
            docs.push(doc);
        }
    }
    if let Some(error) = broken {
        return Err(error.into());
    }
    if docs.is_empty() {
        return Err(PatchError::new(Class::NoConfig, "config not found"));
    }
    check_together(docs.iter(), line)?;
    Ok((config, docs))
}

/// Loads the documents of a strategic patch, in the order in which the line applies them.
///
/// # Errors
/// Whatever the official loader of the line refuses in a patch.
pub(super) fn load_patch(text: &[u8], line: TalosLine) -> Result<(MachineConfig, Vec<Entry>), PatchError> {
    let (patch, broken) = MachineConfig::parse_partial(text, line.dialect());
    let repeats = line >= TalosLine::V1_14;
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (index, part) in patch.parts().iter().enumerate() {
        let Part { tree, .. } = part;
        let mut tree = tree.clone();
        let (selectors, nothing_left) = take_deletes(&mut tree)?;
        let cut = !selectors.is_empty();
        entries.extend(selectors.into_iter().map(Entry::Delete));
        if nothing_left {
            continue;
        }
        let seen = if repeats { None } else { Some(&mut seen) };
        if let Some(mut doc) = load_document(&tree, index, line, seen)? {
            doc.cut = cut;
            entries.push(Entry::Merge(Box::new(doc)));
        }
    }
    if let Some(error) = broken {
        return Err(error.into());
    }
    if entries.is_empty() {
        return Err(PatchError::new(Class::NoConfig, "config not found"));
    }
    if !repeats {
        check_together(merges(&entries), line)?;
    }
    // Deletes in the legacy document come first; up to 1.13 the legacy document follows.
    entries.sort_by_key(|entry| match entry {
        Entry::Delete(selector) if selector.id.is_legacy() => 0,
        Entry::Merge(doc) if doc.id.is_legacy() && !repeats => 1,
        Entry::Delete(_) | Entry::Merge(_) => 2,
    });
    Ok((patch, entries))
}

fn merges(entries: &[Entry]) -> impl Iterator<Item = &Doc> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Merge(doc) => Some(&**doc),
        Entry::Delete(_) => None,
    })
}

fn load_document(
    tree: &Document,
    part: usize,
    line: TalosLine,
    seen: Option<&mut HashSet<DocumentId>>,
) -> Result<Option<Doc>, PatchError> {
    let root = tree.root();
    let at = tree.node(root).line;
    match &tree.node(root).kind {
        Kind::Mapping(_) => {}
        Kind::Scalar { text, .. }
            if matches!(&**text, "" | "~" | "null" | "Null" | "NULL") && is_plain(tree) =>
        {
            if line == TalosLine::V1_11 {
                return Err(PatchError::new(Class::NotADocument, "expected a mapping node").on_line(at));
            }
            return Ok(None);
        }
        Kind::Alias(_) | Kind::Scalar { .. } | Kind::Sequence(_) => {
            return Err(PatchError::new(Class::NotADocument, "expected a YAML document").on_line(at));
        }
    }
    let id = identify(tree);
    if let Some(seen) = seen
        && !seen.insert(id.clone())
    {
        let message = format!("duplicate document {id} is not allowed");
        return Err(PatchError::new(Class::DuplicateDocument, message).on_line(at).in_document(&id));
    }
    let in_document = |error: PatchError| {
        let line = error.line.unwrap_or(at);
        error.in_document(&id).on_line(line)
    };
    decode_document(tree, part, line).map(Some).map_err(in_document)
}

fn is_plain(tree: &Document) -> bool {
    let node = tree.node(tree.root());
    let plain = matches!(node.kind, Kind::Scalar { style: crate::machine::Style::Plain, .. });
    plain && matches!(node.tag.as_deref(), None | Some("!!null"))
}

fn decode_document(tree: &Document, part: usize, line: TalosLine) -> Result<Doc, PatchError> {
    let (version, kind) = version_and_kind(tree)?;
    let schema = line.schema();
    let name = match (kind.as_str(), version.as_str()) {
        ("", "v1alpha1") => "v1alpha1",
        ("", _) => return Err(PatchError::new(Class::MissingKind, "missing kind")),
        (_, "") if line >= TalosLine::V1_12 => {
            return Err(PatchError::new(Class::MissingApiVersion, "missing apiVersion"));
        }
        (kind, _) => kind,
    };
    let info = schema.kinds.get(name).filter(|_| version == "v1alpha1" || name == "v1alpha1");
    let Some(info) = info else {
        let message = format!("{kind:?} {version:?}: not registered");
        return Err(PatchError::new(Class::UnknownKind, message));
    };
    let value = decode(schema, line.dialect(), tree, info.typ)?;
    let text = |key: &str| member_text(line, info.typ, &value, key);
    let id = if name == "v1alpha1" {
        DocumentId::legacy()
    } else {
        let given = if info.named { text("name") } else { String::new() };
        DocumentId { api_version: text("apiVersion"), kind: text("kind"), name: given }
    };
    Ok(Doc { id, named: info.named, typ: info.typ, value, part, cut: false })
}

/// The library looks at every key *and* value of the document for these words, and takes what comes next.
fn version_and_kind(tree: &Document) -> Result<(String, String), PatchError> {
    let flat: Vec<NodeId> =
        tree.entries(tree.root()).iter().flat_map(|(key, value)| [*key, *value]).collect();
    let (mut version, mut kind) = (String::new(), String::new());
    for (index, id) in flat.iter().enumerate() {
        let slot = match tree.text(*id) {
            Some("kind") => &mut kind,
            Some("apiVersion") => &mut version,
            Some("machine" | "cluster" | "debug" | "persist") => {
                version = "v1alpha1".into();
                continue;
            }
            _ => continue,
        };
        let Some(next) = flat.get(index + 1).map(|next| tree.target(*next)) else {
            return Err(PatchError::new(Class::NotADocument, "missing manifest content"));
        };
        match &tree.node(next).kind {
            Kind::Scalar { text, .. } => {
                if !matches!(&**text, "" | "~" | "null" | "Null" | "NULL") {
                    *slot = text.to_string();
                }
            }
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Sequence(_) => {
                let error = PatchError::new(Class::WrongType, "not a string");
                return Err(error.on_line(tree.node(next).line));
            }
        }
    }
    Ok((version, kind))
}

/// Whether the official reader takes a document for the legacy one.
pub(super) fn is_legacy(tree: &Document) -> bool {
    version_and_kind(tree).is_ok_and(|(version, kind)| version == "v1alpha1" && kind.is_empty())
}

/// The text of a field of a document.
pub(super) fn member_text(line: TalosLine, typ: TypeId, value: &Value, key: &str) -> String {
    match member(line, typ, value, key) {
        Some(Value::Str(text)) => text.clone(),
        _ => String::new(),
    }
}

fn member<'v>(line: TalosLine, typ: TypeId, value: &'v Value, key: &str) -> Option<&'v Value> {
    let schema = line.schema();
    let Shape::Struct(fields) = &schema.typ(typ).shape else { return None };
    let (way, _) = find_field(schema, fields, key)?;
    way.into_iter().try_fold(value, |value, index| match value {
        Value::Struct(values) => values.get(index),
        _ => None,
    })
}

/// Refuses documents that cannot stand beside each other: repeated ones, two kinds for one link.
pub(super) fn check_together<'d>(
    docs: impl Iterator<Item = &'d Doc>,
    line: TalosLine,
) -> Result<(), PatchError> {
    let mut seen = HashSet::new();
    let mut barred: HashMap<(String, String), DocumentId> = HashMap::new();
    let mut links: HashMap<String, DocumentId> = HashMap::new();
    let mut legacy = false;
    let mut rest = Vec::new();
    for doc in docs {
        if !doc.id.is_legacy() {
            rest.push(doc);
        } else if std::mem::replace(&mut legacy, true) {
            let error = PatchError::new(Class::DuplicateDocument, "duplicate v1alpha1.Config");
            return Err(error.in_document(&doc.id));
        }
    }
    for doc in rest {
        let own = (doc.id.kind.clone(), doc.id.name.clone());
        if !seen.insert(own.clone()) {
            let error =
                PatchError::new(Class::DuplicateDocument, format!("duplicate document: {}", short(&doc.id)));
            return Err(error.in_document(&doc.id));
        }
        let conflict = |other: &DocumentId| {
            let message = format!("conflicting documents: {} and {}", short(other), short(&doc.id));
            PatchError::new(Class::ConflictingDocuments, message).in_document(&doc.id)
        };
        if let Some(other) = barred.get(&own) {
            return Err(conflict(other));
        }
        let Some(info) = line.schema().kinds.get(&doc.id.kind) else { continue };
        for kind in &info.conflicts {
            let other = (kind.clone(), doc.id.name.clone());
            if seen.contains(&other) {
                return Err(conflict(&DocumentId::new(&*other.0, &*other.1)));
            }
            barred.insert(other, doc.id.clone());
        }
        if line >= TalosLine::V1_14 && info.link {
            let peer = peer_name(line, doc);
            for name in std::iter::once(doc.id.name.clone()).chain(peer) {
                if let Some(owner) = links.get(&name) {
                    let message = format!(
                        "conflicting link configurations: {} and {} both configure {name:?}",
                        short(owner),
                        short(&doc.id)
                    );
                    let error = PatchError::new(Class::ConflictingDocuments, message);
                    return Err(error.in_document(&doc.id));
                }
                links.insert(name, doc.id.clone());
            }
        }
    }
    Ok(())
}

/// The second link that a document configures: the other end of a pair.
fn peer_name(line: TalosLine, doc: &Doc) -> Option<String> {
    if doc.id.kind != "VethConfig" {
        return None;
    }
    let schema = line.schema();
    let Shape::Struct(fields) = &schema.typ(doc.typ).shape else { return None };
    let (_, typ) = find_field(schema, fields, "peer")?;
    let peer = member(line, doc.typ, &doc.value, "peer")?;
    Some(member_text(line, typ, peer, "name"))
}

fn short(id: &DocumentId) -> String {
    format!("{}/{}", id.kind, id.name)
}
