//! Changes the text of a document from one tree to another, and only where they differ.
//!
//! ```text
//! before --\
//!           differ: a walk along the tree of the text -> edits (byte range, new text) -> text
//! after  --/
//! ```
//! Everything outside the edits stays byte for byte: comments, order, quoting, what is not understood. Callers
//! read the new text again and compare; where an edit did not do what it should, the document is written anew.

use std::ops::Range;

use super::emit::{self, Layout};
use super::tree::Tree;
use super::value::Key;
use crate::machine::scalar::{self, Dialect, Scalar};
use crate::machine::{Document, Kind, NodeId, Style, parse};

/// The text of a document changed from `before`, which is what it says, to `after`. First by the smallest edits,
/// then by writing whole entries of the outermost mapping anew. What comes out is read again and judged; nothing
/// when neither way is right.
pub(super) fn splice_checked(
    text: &str,
    before: &Tree,
    after: &Tree,
    dialect: Dialect,
    is_right: impl Fn(&Document) -> bool,
) -> Option<String> {
    splice_tree(text, &only(text, dialect)?, before, after, dialect, is_right).map(|(text, _)| text)
}

/// As [`splice_checked`], of a document that was read before; what comes out is returned with its tree.
pub(super) fn splice_tree(
    text: &str,
    tree: &Document,
    before: &Tree,
    after: &Tree,
    dialect: Dialect,
    is_right: impl Fn(&Document) -> bool,
) -> Option<(String, Document)> {
    let attempt = |coarse| {
        let mut splicer = Splicer { text, tree, layout: layout_of(tree), edits: Vec::new(), coarse };
        splicer.change(tree.root(), before, after, Place::Root)?;
        let spliced = splicer.finish().map(|spliced| end_like(text, spliced))?;
        let tree = only(&spliced, dialect).filter(&is_right)?;
        Some((spliced, tree))
    };
    attempt(false).or_else(|| attempt(true))
}

/// The tree of a text that is one document.
pub(super) fn only(text: &str, dialect: Dialect) -> Option<Document> {
    match parse(text.as_bytes(), dialect) {
        Ok(mut documents) if documents.len() == 1 => documents.pop().map(|document| document.tree),
        _ => None,
    }
}

/// Ends the last line where the old text ended it: another document may follow.
fn end_like(old: &str, mut new: String) -> String {
    if old.ends_with('\n') && !new.ends_with('\n') {
        new.push_str(if old.ends_with("\r\n") { "\r\n" } else { "\n" });
    }
    new
}

/// How a document is written, told from its first nested collections.
pub(super) fn layout_of(tree: &Document) -> Layout {
    let mut layout = Layout::TALOS;
    let (mut step, mut lists) = (false, false);
    let mut open = vec![tree.root()];
    while let Some(id) = open.pop() {
        if step && lists {
            break;
        }
        for (key, value) in tree.entries(id) {
            let (key, value_node) = (tree.node(*key), tree.node(*value));
            match value_node.kind {
                Kind::Mapping(_) if !value_node.flow && value_node.line > key.line && !step => {
                    step = true;
                    layout.step = value_node.column.saturating_sub(key.column).clamp(1, 8);
                }
                Kind::Sequence(_) if !value_node.flow && !lists => {
                    lists = true;
                    layout.indent_lists = value_node.column > key.column;
                }
                _ => {}
            }
            open.push(*value);
        }
        open.extend(tree.items(id));
    }
    layout
}

/// What a value stands behind.
#[derive(Clone, Copy)]
enum Place {
    /// A key of a mapping.
    Entry(NodeId),
    /// The dash of a list, or a bracket.
    Item,
    Root,
}

struct Edit {
    range: Range<usize>,
    text: String,
}

struct Splicer<'a> {
    text: &'a str,
    tree: &'a Document,
    layout: Layout,
    edits: Vec<Edit>,
    /// Values below the outermost mapping are written anew as a whole.
    coarse: bool,
}

impl Splicer<'_> {
    fn edit(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.edits.push(Edit { range, text: text.into() });
    }

    fn finish(mut self) -> Option<String> {
        // Stable: what was found first at a place is written first.
        self.edits.sort_by_key(|edit| edit.range.start);
        let crlf = self.text.contains("\r\n");
        let mut out = String::with_capacity(self.text.len() + 256);
        let mut done = 0;
        for edit in self.edits {
            out.push_str(self.text.get(done..edit.range.start)?);
            if crlf {
                out.push_str(&edit.text.replace('\n', "\r\n"));
            } else {
                out.push_str(&edit.text);
            }
            done = edit.range.end;
        }
        out.push_str(self.text.get(done..)?);
        Some(out)
    }

    fn change(&mut self, id: NodeId, before: &Tree, after: &Tree, place: Place) -> Option<()> {
        if before == after {
            return Some(());
        }
        if self.coarse && !matches!(place, Place::Root) {
            return self.replace(id, after, place);
        }
        match (&self.tree.node(id).kind, before, after) {
            (Kind::Mapping(_), Tree::Map(old), Tree::Map(new)) => self.change_map(id, old, new, place),
            (Kind::Sequence(items), Tree::List(old), Tree::List(new)) if items.len() == old.len() => {
                self.change_list(id, old, new, place)
            }
            _ => self.replace(id, after, place),
        }
    }

    fn source_entry(&self, id: NodeId, key: &Key) -> Option<(NodeId, NodeId)> {
        self.tree.entries(id).iter().copied().find(|(name, _)| self.key(*name) == Some(key.clone()))
    }

    fn key(&self, id: NodeId) -> Option<Key> {
        let text = self.tree.text(self.tree.target(id))?.to_owned();
        let plain = matches!(self.tree.node(id).kind, Kind::Scalar { style: Style::Plain, .. });
        Some(match scalar::of_node(self.tree, id, Dialect::V4Rc6) {
            Ok(Scalar::Str) => Key::Str(text),
            Ok(Scalar::Merge) if !plain => Key::Str(text),
            _ => Key::Other(text),
        })
    }

    /// Typed maps have text for keys, whatever the text looks like.
    fn same_key(&self, id: NodeId, key: &Key) -> bool {
        self.tree.text(self.tree.target(id)) == Some(key.text())
    }

    fn entry(&self, id: NodeId, key: &Key) -> Option<(NodeId, NodeId)> {
        let exact = self.source_entry(id, key);
        exact.or_else(|| self.tree.entries(id).iter().copied().find(|(name, _)| self.same_key(*name, key)))
    }

    fn change_map(
        &mut self,
        id: NodeId,
        old: &[(Key, Tree)],
        new: &[(Key, Tree)],
        place: Place,
    ) -> Option<()> {
        let find = |list: &[(Key, Tree)], key: &Key| list.iter().position(|(name, _)| name == key);
        let gone: Vec<(NodeId, NodeId)> = old
            .iter()
            .filter(|(key, _)| find(new, key).is_none())
            .filter_map(|(key, _)| self.entry(id, key))
            .collect();
        let added: Vec<&(Key, Tree)> = new.iter().filter(|(key, _)| self.entry(id, key).is_none()).collect();
        let added: Vec<&(Key, Tree)> = added
            .into_iter()
            .filter(|(key, value)| find(old, key).is_none_or(|at| old[at].1 != *value))
            .collect();
        let left = self.tree.entries(id).len() - gone.len() + added.len();
        if left == 0 || (self.tree.entries(id).len() == gone.len() && !self.tree.node(id).flow) {
            return self.replace(id, &Tree::Map(new.to_vec()), place);
        }
        for (key, value) in new {
            let Some((key_id, value_id)) = self.entry(id, key) else { continue };
            match find(old, key) {
                Some(at) => self.change(value_id, &old[at].1, value, Place::Entry(key_id))?,
                // The text has the key, but it stood for nothing.
                None => self.replace(value_id, value, Place::Entry(key_id))?,
            }
        }
        if self.tree.node(id).flow {
            return self.change_flow(id, &gone, &added);
        }
        self.remove_entries(id, &gone)?;
        for (key, value) in added {
            self.insert_entry(id, new, key, value, &gone)?;
        }
        Some(())
    }

    /// Behind the nearest entry that comes before it in the order of the type; else behind the last one.
    fn insert_entry(
        &mut self,
        id: NodeId,
        order: &[(Key, Tree)],
        key: &Key,
        value: &Tree,
        gone: &[(NodeId, NodeId)],
    ) -> Option<()> {
        let at = order.iter().position(|(name, _)| name == key)?;
        let stays = |entry: &(NodeId, NodeId)| !gone.contains(entry);
        let before = order[..at].iter().rev().find_map(|(name, _)| self.entry(id, name).filter(stays));
        let neighbour = match before {
            Some(entry) => entry,
            None => *self.tree.entries(id).iter().rev().find(|entry| stays(entry))?,
        };
        let column = self.tree.node(self.tree.entries(id).first()?.0).column;
        let text = emit::entry(key, value, self.layout, column);
        let end = self.content_end(neighbour.1).max(self.tree.node(neighbour.0).end);
        self.insert_line(end, column, &text);
        Some(())
    }

    /// Writes lines behind the line on which `end` stands.
    fn insert_line(&mut self, end: usize, column: usize, text: &str) {
        let pad = " ".repeat(column);
        let text = text.strip_suffix('\n').unwrap_or(text);
        if end > 0 && self.text.as_bytes().get(end - 1) == Some(&b'\n') {
            self.edit(end..end, format!("{pad}{text}\n"));
        } else {
            let at = self.line_end(end);
            self.edit(at..at, format!("\n{pad}{text}"));
        }
    }

    /// Takes out entries of a block mapping that keeps at least one.
    fn remove_entries(&mut self, id: NodeId, gone: &[(NodeId, NodeId)]) -> Option<()> {
        let entries = self.tree.entries(id).to_vec();
        for (index, entry) in entries.iter().enumerate() {
            if !gone.contains(entry) {
                continue;
            }
            let start = self.tree.node(entry.0).start;
            let line = self.line_start(start);
            if self.text[line..start].trim().is_empty() {
                let end = self.after_line(self.content_end(entry.1).max(self.tree.node(entry.0).end));
                self.edit(line..end, "");
            } else {
                // The first entry of an item stands behind the dash; the next one moves up.
                let next = entries.get(index + 1).filter(|next| !gone.contains(next))?;
                self.edit(start..self.tree.node(next.0).start, "");
            }
        }
        Some(())
    }

    fn change_flow(&mut self, id: NodeId, gone: &[(NodeId, NodeId)], added: &[&(Key, Tree)]) -> Option<()> {
        let entries = self.tree.entries(id).to_vec();
        let spans: Vec<Range<usize>> = entries
            .iter()
            .map(|(key, value)| {
                self.tree.node(*key).start..self.content_end(*value).max(self.tree.node(*key).end)
            })
            .collect();
        let drop: Vec<bool> = entries.iter().map(|entry| gone.contains(entry)).collect();
        let added =
            added.iter().map(|(key, value)| emit::flow(&Tree::Map(vec![(key.clone(), value.clone())])));
        let added: Vec<String> = added.map(|text| text[1..text.len() - 1].to_owned()).collect();
        self.change_flow_parts(id, &spans, &drop, &added)
    }

    /// Takes parts out of brackets and adds others at the end.
    fn change_flow_parts(
        &mut self,
        id: NodeId,
        spans: &[Range<usize>],
        drop: &[bool],
        added: &[String],
    ) -> Option<()> {
        let node = self.tree.node(id);
        let close = node.end.checked_sub(1)?;
        let mut kept = 0;
        for (index, span) in spans.iter().enumerate() {
            if !drop[index] {
                kept += 1;
                continue;
            }
            let range = match spans.get(index + 1) {
                Some(next) => span.start..next.start,
                // The last one goes with the comma before it.
                None if kept > 0 => spans.get(index.checked_sub(1)?)?.end..span.end,
                None => span.clone(),
            };
            // Two that go at the end would overlap.
            if drop.get(index + 1) != Some(&true) || spans.len() > index + 2 || kept == 0 {
                self.edit(range, "");
            } else {
                return None;
            }
        }
        if added.is_empty() {
            return Some(());
        }
        let list = added.join(", ");
        match spans.iter().zip(drop).rev().find(|(_, drop)| !**drop) {
            Some((last, _)) => self.edit(last.end..last.end, format!(", {list}")),
            None => self.edit(close..close, list),
        }
        Some(())
    }

    fn change_list(&mut self, id: NodeId, old: &[Tree], new: &[Tree], place: Place) -> Option<()> {
        let items = self.tree.items(id).to_vec();
        let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let tail = old[same..].iter().rev().zip(new[same..].iter().rev());
        let tail = tail.take_while(|(old, new)| old == new).count();
        let (old_middle, new_middle) = (&old[same..old.len() - tail], &new[same..new.len() - tail]);
        if new.is_empty() || (old.is_empty() && !self.tree.node(id).flow) {
            return self.replace(id, &Tree::List(new.to_vec()), place);
        }
        let both = old_middle.len().min(new_middle.len());
        for index in 0..both {
            self.change(items[same + index], &old_middle[index], &new_middle[index], Place::Item)?;
        }
        let gone = &items[same + both..same + old_middle.len()];
        let added = &new_middle[both..];
        if self.tree.node(id).flow {
            if !added.is_empty() && tail > 0 {
                return self.replace(id, &Tree::List(new.to_vec()), place);
            }
            let span = |id: &NodeId| self.tree.node(*id).start..self.content_end(*id);
            let spans: Vec<Range<usize>> = items.iter().map(span).collect();
            let drop: Vec<bool> = items.iter().map(|item| gone.contains(item)).collect();
            let added: Vec<String> = added.iter().map(emit::flow).collect();
            return self.change_flow_parts(id, &spans, &drop, &added);
        }
        let column = self.tree.node(id).column;
        for item in gone {
            let dash = self.dash(*item)?;
            let end = self.after_line(self.content_end(*item).max(dash + 1));
            self.edit(self.line_start(dash)..end, "");
        }
        for value in added {
            let text = emit::item(value, self.layout, column);
            match (same + both).checked_sub(1) {
                Some(index) => {
                    let end = self.content_end(items[index]).max(self.dash(items[index])? + 1);
                    self.insert_line(end, column, &text);
                }
                None => {
                    let at = self.line_start(self.dash(*items.first()?)?);
                    self.edit(at..at, format!("{}{text}", " ".repeat(column)));
                }
            }
        }
        Some(())
    }

    /// Where the dash of an item stands; nothing when it is not the first on its line.
    fn dash(&self, item: NodeId) -> Option<usize> {
        let start = self.tree.node(item).start;
        let dash = self.text[..start].rfind('-')?;
        let line = self.line_start(dash);
        self.text[line..dash].trim().is_empty().then_some(dash)
    }

    /// Writes a value anew.
    fn replace(&mut self, id: NodeId, after: &Tree, place: Place) -> Option<()> {
        let node = self.tree.node(id);
        let (start, end) = (node.start, self.content_end(id));
        let in_flow = self.in_flow(id);
        let old_text = self.text.get(start..end)?;
        let inline = after.is_inline() && !matches!(after, Tree::Str(text) if text.contains('\n'));
        if in_flow {
            let space = if start == end { " " } else { "" };
            self.edit(start..end, format!("{space}{}", emit::flow(after)));
            return Some(());
        }
        // The line break behind a block scalar belongs to it, and is needed by what comes next.
        let line_break = if old_text.ends_with('\n') { "\n" } else { "" };
        match place {
            Place::Root => None,
            Place::Item => {
                let column = if start == end { self.tree.node(id).column + 1 } else { node.column };
                let text = emit::block(after, self.layout, column);
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let space = if start == end { " " } else { "" };
                self.edit(start..end, format!("{space}{text}{line_break}"));
                Some(())
            }
            Place::Entry(key) => {
                let key_node = self.tree.node(key);
                let colon = self.colon(key)?;
                let same_line = start == end || node.line == key_node.line;
                if inline {
                    let text = emit::flow(after);
                    if start == end {
                        self.edit(colon..colon, format!(" {text}"));
                    } else if same_line {
                        self.edit(start..end, format!("{text}{line_break}"));
                    } else {
                        self.edit(colon..colon, format!(" {text}"));
                        self.edit(self.line_end(colon)..self.content_line_end(end), "");
                    }
                    return Some(());
                }
                let entry = emit::entry(&Key::Str("k".into()), after, self.layout, key_node.column);
                // Behind `k:` comes either a line break, or a blank and the head of a block scalar.
                let body = entry.strip_prefix("k:")?;
                let body = body.strip_suffix('\n').unwrap_or(body);
                if !same_line {
                    if body.starts_with('\n') {
                        let text = emit::block(after, self.layout, node.column);
                        let text = text.strip_suffix('\n').unwrap_or(&text);
                        self.edit(start..end, format!("{text}{line_break}"));
                    } else {
                        self.edit(colon..self.content_line_end(end), body);
                    }
                    return Some(());
                }
                let rest = self.text.get(end..self.line_end(end))?;
                if !line_break.is_empty() {
                    self.edit(colon..end, format!("{body}\n"));
                } else if rest.trim().is_empty() || !body.starts_with('\n') {
                    self.edit(colon..self.line_end(end), body);
                } else {
                    // A comment stays on the line of its key.
                    self.edit(colon..end, "");
                    let at = self.line_end(end);
                    self.edit(at..at, body);
                }
                Some(())
            }
        }
    }

    /// Behind the colon of a key.
    fn colon(&self, key: NodeId) -> Option<usize> {
        let end = self.tree.node(key).end;
        let rest = self.text.get(end..)?;
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        rest[blanks..].starts_with(':').then_some(end + blanks + 1)
    }

    /// Where the last character of a value stands, comments and empty lines behind it left out.
    fn content_end(&self, id: NodeId) -> usize {
        let node = self.tree.node(id);
        match &node.kind {
            Kind::Mapping(entries) if !node.flow => entries.last().map_or(node.start, |(key, value)| {
                self.content_end(*value).max(self.tree.node(*key).end + 1)
            }),
            Kind::Sequence(items) if !node.flow => {
                items.last().map_or(node.start, |item| self.content_end(*item))
            }
            Kind::Scalar { style: Style::Literal | Style::Folded, .. } => {
                self.block_scalar_end(node.start, node.end)
            }
            _ => node.end,
        }
    }

    /// Empty lines behind a block scalar are only part of it when it says so.
    fn block_scalar_end(&self, start: usize, end: usize) -> usize {
        let text = &self.text[start..end];
        let keeps = text.lines().next().is_some_and(|head| head.contains('+'));
        if keeps {
            return end;
        }
        let trimmed = text.trim_end();
        match text[trimmed.len()..].find('\n') {
            Some(at) => start + trimmed.len() + at + 1,
            None => start + trimmed.len(),
        }
    }

    fn in_flow(&self, id: NodeId) -> bool {
        let node = self.tree.node(id);
        let inside = |other: &crate::machine::Node| {
            other.flow && other.start < node.start && node.end <= other.end.saturating_sub(1)
        };
        self.tree.nodes().any(inside)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |index| index + 1)
    }

    /// The end of the line, its line break left out.
    fn line_end(&self, at: usize) -> usize {
        // The reader may count a line break that is missing at the end of the text.
        let at = at.min(self.text.len());
        let rest = self.text.get(at..).unwrap_or_default();
        let end = rest.find('\n').map_or(self.text.len(), |index| at + index);
        if end > at && self.text.as_bytes()[end - 1] == b'\r' { end - 1 } else { end }
    }

    /// As [`Self::line_end`], for an end of content that may stand behind a line break.
    fn content_line_end(&self, end: usize) -> usize {
        let end = end.min(self.text.len());
        match self.text[..end].strip_suffix('\n') {
            Some(before) => before.strip_suffix('\r').unwrap_or(before).len(),
            None => self.line_end(end),
        }
    }

    /// The start of the line behind the one on which the content ends.
    fn after_line(&self, end: usize) -> usize {
        if end > 0 && self.text.as_bytes()[end - 1] == b'\n' {
            return end;
        }
        self.text[end..].find('\n').map_or(self.text.len(), |index| end + index + 1)
    }
}
