//! Applies loaded patches to a config, document by document, and keeps the text of what does not change.

use super::decode::decode;
use super::delete::{Selector, delete};
use super::document::{Doc, Entry, check_together, is_legacy, load_config};
use super::emit::{Layout, block};
use super::encode::encode;
use super::error::{Class, PatchError};
use super::json6902::{self, written};
use super::line::TalosLine;
use super::load::{Patch, Strategic};
use super::merge::merge;
use super::schema::{Schema, Shape, TypeId};
use super::splice::splice_checked;
use super::tree::Tree;
use super::value::{Key, Value};
use crate::machine::document::Part;
use crate::machine::{Dialect, Document, DocumentId, MachineConfig, parse};

/// A piece of the config: a document, or text that holds none.
pub(super) struct Piece {
    /// Its bytes, its separator included.
    text: String,
    doc: Option<Doc>,
    /// What the text says, where the document says something else by now.
    before: Option<Tree>,
}

/// A config on its way through the patches.
pub(super) struct State {
    line: TalosLine,
    pieces: Vec<Piece>,
    /// Deletes of documents that are not there. Up to 1.13 the official tool keeps them like documents.
    ghosts: Vec<Selector>,
}

/// Applies the patches in order.
///
/// # Errors
/// What the official library refuses, in its order.
pub fn apply(config: &str, patches: &[Patch], line: TalosLine) -> Result<String, PatchError> {
    let mut text = config.to_owned();
    let mut state: Option<State> = None;
    for patch in patches {
        match patch {
            Patch::Strategic(patch) => {
                let mut loaded = match state.take() {
                    Some(state) => state,
                    None => State::load(&text, line)?,
                };
                loaded.merge(patch)?;
                state = Some(loaded);
            }
            Patch::Json(patch) => {
                let patched = match state.take() {
                    Some(state) => {
                        let patched = json6902::patch_state(&state, patch)?;
                        text = state.finish()?;
                        patched
                    }
                    None => {
                        json6902::patch_text(&MachineConfig::parse(text.as_bytes(), line.dialect())?, patch)?
                    }
                };
                text = rewrite(&text, &patched.before, &patched.after, line.dialect(), |tree| {
                    json6902::literal(tree, tree.root()) == patched.after
                });
            }
        }
    }
    match state {
        Some(state) => state.finish(),
        None => Ok(text),
    }
}

impl State {
    fn load(text: &str, line: TalosLine) -> Result<Self, PatchError> {
        let (config, docs) = load_config(text.as_bytes(), line)?;
        let mut docs = docs.into_iter().peekable();
        let piece = |(index, part): (usize, &Part)| Piece {
            text: config.text()[part.span.clone()].to_owned(),
            doc: docs.next_if(|doc| doc.part == index),
            before: None,
        };
        let pieces = config.parts().iter().enumerate().map(piece).collect();
        Ok(Self { line, pieces, ghosts: Vec::new() })
    }

    /// The documents in the order of the official encoder: the legacy one first.
    pub(super) fn docs(&self) -> impl Iterator<Item = &Doc> {
        let docs = || self.pieces.iter().filter_map(|piece| piece.doc.as_ref());
        docs().filter(|doc| doc.id.is_legacy()).chain(docs().filter(|doc| !doc.id.is_legacy()))
    }

    /// How many documents the official encoder would write.
    pub(super) fn count(&self) -> usize {
        self.docs().count() + self.ghosts.len()
    }

    pub(super) fn line(&self) -> TalosLine {
        self.line
    }

    fn merge(&mut self, patch: &Strategic) -> Result<(), PatchError> {
        for doc in self.docs() {
            check_copy(self.line, doc)?;
        }
        // Up to 1.13, what a patch adds is only seen by the patches after it.
        let known = (self.pieces.len(), self.ghosts.len());
        let newest = self.line >= TalosLine::V1_14;
        for entry in &patch.entries {
            let (pieces, ghosts) = if newest { (self.pieces.len(), self.ghosts.len()) } else { known };
            match entry {
                Entry::Delete(selector) => self.delete(selector, pieces, ghosts)?,
                Entry::Merge(doc) => self.merge_document(patch, doc, pieces, ghosts)?,
            }
        }
        check_together(self.docs(), self.line)
    }

    fn find(&self, id: &DocumentId, named: bool, known: usize) -> Option<usize> {
        let known = known.min(self.pieces.len());
        self.pieces[..known]
            .iter()
            .position(|piece| piece.doc.as_ref().is_some_and(|doc| doc.id == *id && doc.named == named))
    }

    fn delete(&mut self, selector: &Selector, pieces: usize, ghosts: usize) -> Result<(), PatchError> {
        if let Some(index) = self.find(&selector.id, selector.named, pieces) {
            if selector.path.is_empty() {
                self.pieces.remove(index);
                return Ok(());
            }
            let line = self.line;
            let piece = &mut self.pieces[index];
            piece.remember(line);
            if let Some(doc) = &mut piece.doc {
                delete(line.schema(), line, doc.typ, &mut doc.value, selector)?;
            }
            return Ok(());
        }
        let ghost = self.ghosts.iter().take(ghosts).position(|ghost| ghost.id == selector.id);
        match ghost {
            Some(index) if selector.path.is_empty() => {
                self.ghosts.remove(index);
            }
            Some(_) => {
                let error = PatchError::new(Class::DeleteLookup, "patch delete: lookup failed");
                return Err(error.at(selector.path.join(".")).in_document(&selector.id));
            }
            None if self.line >= TalosLine::V1_14 => {}
            None => self.ghosts.push(selector.clone()),
        }
        Ok(())
    }

    fn merge_document(
        &mut self,
        patch: &Strategic,
        doc: &Doc,
        pieces: usize,
        ghosts: usize,
    ) -> Result<(), PatchError> {
        if let Some(index) = self.find(&doc.id, doc.named, pieces) {
            let line = self.line;
            let piece = &mut self.pieces[index];
            piece.remember(line);
            if let Some(left) = &mut piece.doc {
                merge(line.schema(), line, left.typ, &mut left.value, &doc.value)
                    .map_err(|error| error.in_document(&doc.id))?;
            }
            return Ok(());
        }
        if self.ghosts.iter().take(ghosts).any(|ghost| ghost.id == doc.id) {
            return Err(PatchError::new(Class::Merge, "merge type mismatch").in_document(&doc.id));
        }
        if self.line >= TalosLine::V1_14 {
            check_copy(self.line, doc)?;
        }
        let mut piece = Piece { text: String::new(), doc: Some(doc.clone()), before: None };
        let part = patch.config.parts().get(doc.part).filter(|_| !doc.cut);
        match part.and_then(|part| without_separator(patch.config.text(), part)) {
            Some(text) => piece.text = text,
            None => piece.text = block(&piece.tree(self.line), Layout::TALOS, 0),
        }
        self.pieces.push(piece);
        Ok(())
    }

    fn finish(self) -> Result<String, PatchError> {
        if let Some(ghost) = self.ghosts.first() {
            let message = "patch delete: there is no such document";
            return Err(PatchError::new(Class::DeleteMissingDocument, message)
                .in_document(&ghost.id)
                .on_line(ghost.line));
        }
        let mut out = String::new();
        let line = self.line;
        for piece in self.pieces {
            let text = piece.finish(line);
            let separated = text.starts_with("---") || text.starts_with('%');
            if !out.is_empty() && !separated {
                if !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str("---\n");
            } else if !out.is_empty() && !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&text);
        }
        Ok(out)
    }
}

impl Piece {
    fn tree(&self, line: TalosLine) -> Tree {
        match &self.doc {
            Some(doc) => encode(line.schema(), doc.typ, &doc.value),
            None => Tree::Null,
        }
    }

    /// Notes what the text says, before the document changes for the first time.
    fn remember(&mut self, line: TalosLine) {
        if self.before.is_none() {
            self.before = Some(self.tree(line));
        }
    }

    fn finish(self, line: TalosLine) -> String {
        let Some(before) = &self.before else { return self.text };
        let after = self.tree(line);
        if *before == after {
            return self.text;
        }
        rewrite(&self.text, before, &after, line.dialect(), |tree| {
            self.doc.as_ref().is_some_and(|doc| {
                // The legacy document is known by its sections: one of them must be left.
                if doc.id.is_legacy() && !is_legacy(tree) {
                    return false;
                }
                let read = decode(line.schema(), line.dialect(), tree, doc.typ);
                read.is_ok_and(|value| written(&encode(line.schema(), doc.typ, &value)) == written(&after))
            })
        })
    }
}

/// Changes the text of a document from one tree to another, by edits where they are read back as they should, and
/// else by writing it anew.
fn rewrite(
    text: &str,
    before: &Tree,
    after: &Tree,
    dialect: Dialect,
    is_right: impl Fn(&Document) -> bool,
) -> String {
    if before == after {
        return text.to_owned();
    }
    if let Some(spliced) = splice_checked(text, before, after, dialect, is_right) {
        return spliced;
    }
    // What stands in front of the first value stays: the separator and comments.
    let start = parse(text.as_bytes(), dialect).ok().and_then(|documents| {
        let tree = &documents.first()?.tree;
        let start = tree.node(tree.root()).start;
        let line = text[..start].rfind('\n').map_or(0, |index| index + 1);
        text[line..start].trim().is_empty().then_some(line)
    });
    let head = start.map_or(if text.starts_with("---") { "---\n" } else { "" }, |start| &text[..start]);
    format!("{head}{}", block(after, Layout::TALOS, 0))
}

/// The library copies a config before it merges anything into it, and fails on some free-form values.
fn check_copy(line: TalosLine, doc: &Doc) -> Result<(), PatchError> {
    let schema = line.schema();
    let shared =
        schema.shared.iter().filter(|(kind, _)| *kind == doc.id.kind).map(|(_, path)| path.as_slice());
    let mut walk = CopyWalk { schema, shared: shared.collect(), path: Vec::new() };
    match walk.uncopyable(doc.typ, &doc.value) {
        None => Ok(()),
        Some(what) => {
            let message = format!("cannot deep copy {what} in a free-form value: quote it");
            Err(PatchError::new(Class::Merge, message).in_document(&doc.id))
        }
    }
}

struct CopyWalk<'a> {
    schema: &'a Schema,
    shared: Vec<&'a [String]>,
    path: Vec<&'a str>,
}

impl<'a> CopyWalk<'a> {
    /// A time, or a map with other keys than text, in a free-form value.
    fn uncopyable(&mut self, typ: TypeId, value: &Value) -> Option<&'static str> {
        match (&self.schema.typ(typ).shape, value) {
            (Shape::Any, value) => uncopyable_any(value).filter(|_| !self.is_shared()),
            (Shape::Pointer(inner), Value::Pointer(value)) => self.uncopyable(*inner, value),
            (Shape::List(item), Value::List(items)) => {
                self.path.push("[]");
                let found = items.iter().find_map(|value| self.uncopyable(*item, value));
                self.path.pop();
                found
            }
            (Shape::Map(item), Value::Map(map)) => {
                let free = matches!(self.schema.typ(*item).shape, Shape::Any);
                if !free {
                    self.path.push("*");
                }
                let found = map.values().find_map(|value| self.uncopyable(*item, value));
                if !free {
                    self.path.pop();
                }
                found
            }
            (Shape::Struct(fields), Value::Struct(values)) => {
                fields.iter().zip(values).find_map(|(field, value)| {
                    if !field.inline {
                        self.path.push(&field.key);
                    }
                    let found = self.uncopyable(field.typ, value);
                    if !field.inline {
                        self.path.pop();
                    }
                    found
                })
            }
            _ => None,
        }
    }

    fn is_shared(&self) -> bool {
        self.shared.iter().any(|shared| shared.iter().map(String::as_str).eq(self.path.iter().copied()))
    }
}

fn uncopyable_any(value: &Value) -> Option<&'static str> {
    match value {
        Value::Time(_) => Some("time.Time"),
        Value::List(items) => items.iter().find_map(uncopyable_any),
        Value::Map(map) if map.keys().any(|key| matches!(key, Key::Other(_))) => {
            Some("map[interface {}]interface {}")
        }
        Value::Map(map) => map.values().find_map(uncopyable_any),
        _ => None,
    }
}

/// The text of a document of a patch as it stands in a config of its own: with its comments, without what
/// separates it. Nothing when directives or an end marker belong to it.
fn without_separator(text: &str, part: &Part) -> Option<String> {
    let own = &text[part.span.clone()];
    let ends = own.lines().any(|line| line == "..." || line.starts_with("... ") || line.starts_with('%'));
    if ends {
        return None;
    }
    let Some(marker) = part.marker else { return Some(own.to_owned()) };
    let (before, after) = own.split_at(marker - part.span.start);
    let after = after.strip_prefix("---")?;
    let rest = after.trim_start_matches([' ', '\t']);
    let rest = rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\r\n")).unwrap_or(rest);
    Some(format!("{before}{rest}"))
}
