//! Reads the YAML of an extension strictly: what Talos would pass over in silence is a fault.

use super::{Fault, Rule};
use crate::machine::{Dialect, Document, Kind, NodeId, Scalar, parse, scalar};

/// The largest file that is read, in bytes. Real ones have a few hundred.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// One file: its tree, and what is wrong with it so far.
pub(super) struct Reader<'a> {
    file: &'a str,
    tree: Document,
    pub(super) faults: Vec<Fault>,
}

/// The entries of one mapping, each key once.
pub(super) struct Fields {
    /// Where the mapping is in the file, for messages: empty at the top, `container.` below it.
    prefix: String,
    line: usize,
    entries: Vec<(String, NodeId)>,
}

impl<'a> Reader<'a> {
    /// Parses a file.
    pub(super) fn open(file: &'a str, text: &[u8]) -> Result<Self, Fault> {
        if text.len() > MAX_BYTES {
            let detail = format!("it has {} bytes, more than {MAX_BYTES}", text.len());
            return Err(Fault::new(file, Rule::Yaml, detail));
        }
        // All releases read what is left after the checks below in the same way; the newest is the strictest.
        let mut documents = parse(text, Dialect::V4Rc6).map_err(|error| {
            let fault = Fault::new(file, Rule::Yaml, error.to_string());
            match error.line() {
                Some(line) => fault.at(line),
                None => fault,
            }
        })?;
        if documents.len() > 1 {
            let detail = "it has several documents, and Talos reads the first one only";
            return Err(Fault::new(file, Rule::Yaml, detail));
        }
        let Some(document) = documents.pop() else {
            return Err(Fault::new(file, Rule::Yaml, "it is empty"));
        };
        let tree = document.tree;
        if let Some(node) = tree
            .nodes()
            .find(|node| node.anchor.is_some() || node.tag.is_some() || matches!(node.kind, Kind::Alias(_)))
        {
            return Err(
                Fault::new(file, Rule::Yaml, "anchors, aliases and tags are not used here").at(node.line)
            );
        }
        Ok(Self { file, tree, faults: Vec::new() })
    }

    /// The mapping at the top.
    pub(super) fn top(&mut self, known: &[&str]) -> Option<Fields> {
        self.mapping(self.tree.root(), "", known)
    }

    /// The mapping under `key`, if it is there.
    pub(super) fn section(&mut self, parent: &Fields, key: &str, known: &[&str]) -> Option<Fields> {
        let id = parent.get(key)?;
        self.mapping(id, &format!("{}{key}.", parent.prefix), known)
    }

    /// The mappings of the list under `key`.
    pub(super) fn sections(&mut self, parent: &Fields, key: &str, known: &[&str]) -> Vec<Fields> {
        let items = self.items(parent, key);
        let prefix = |index: usize| format!("{}{key}[{index}].", parent.prefix);
        let read = |(index, id)| self.mapping(id, &prefix(index), known);
        items.into_iter().enumerate().filter_map(read).collect()
    }

    /// The text under `key`, if it is there.
    pub(super) fn text(&mut self, parent: &Fields, key: &str) -> Option<String> {
        let id = parent.get(key)?;
        self.scalar_text(id, &format!("{}{key}", parent.prefix))
    }

    /// The text under `key`, which must be there and not be empty.
    pub(super) fn required(&mut self, parent: &Fields, key: &str) -> Option<String> {
        if parent.get(key).is_none() {
            let detail = format!("{}{key} is missing", parent.prefix);
            self.fault(parent.line, Rule::MissingKey, detail);
            return None;
        }
        let text = self.text(parent, key)?;
        if text.trim().is_empty() {
            let detail = format!("{}{key} is empty", parent.prefix);
            self.fault(parent.line_of(self, key), Rule::MissingKey, detail);
            return None;
        }
        Some(text)
    }

    /// The texts of the list under `key`.
    pub(super) fn texts(&mut self, parent: &Fields, key: &str) -> Vec<(String, usize)> {
        let name = format!("{}{key}", parent.prefix);
        let items = self.items(parent, key).into_iter();
        items.filter_map(|id| Some((self.scalar_text(id, &name)?, self.tree.node(id).line))).collect()
    }

    /// The boolean under `key`; false when it is not there.
    pub(super) fn flag(&mut self, parent: &Fields, key: &str) -> bool {
        let Some(id) = parent.get(key) else { return false };
        if let Ok(Scalar::Bool(value)) = scalar::of_node(&self.tree, id, Dialect::V4Rc6)
            && matches!(self.tree.node(id).kind, Kind::Scalar { .. })
        {
            return value;
        }
        let detail = format!("{}{key} must be true or false", parent.prefix);
        self.fault(self.tree.node(id).line, Rule::WrongType, detail);
        false
    }

    /// Notes that something is wrong.
    pub(super) fn fault(&mut self, line: usize, rule: Rule, detail: impl Into<String>) {
        self.faults.push(Fault::new(self.file, rule, detail).at(line));
    }

    fn items(&mut self, parent: &Fields, key: &str) -> Vec<NodeId> {
        let Some(id) = parent.get(key) else { return Vec::new() };
        if let Kind::Sequence(items) = &self.tree.node(id).kind {
            return items.clone();
        }
        let detail = format!("{}{key} must be a list", parent.prefix);
        self.fault(self.tree.node(id).line, Rule::WrongType, detail);
        Vec::new()
    }

    fn mapping(&mut self, id: NodeId, prefix: &str, known: &[&str]) -> Option<Fields> {
        let line = self.tree.node(id).line;
        let Kind::Mapping(entries) = &self.tree.node(id).kind else {
            let name = if prefix.is_empty() { "the document" } else { prefix.trim_end_matches('.') };
            self.fault(line, Rule::WrongType, format!("{name} must be a mapping"));
            return None;
        };
        let mut fields = Fields { prefix: prefix.to_owned(), line, entries: Vec::new() };
        for (key, value) in entries.clone() {
            let line = self.tree.node(key).line;
            match self.tree.text(key).map(str::to_owned) {
                Some(name) if fields.get(&name).is_some() => {
                    self.fault(line, Rule::DuplicateKey, format!("{prefix}{name} stands there twice"));
                }
                Some(name) if known.contains(&&*name) => fields.entries.push((name, value)),
                name => {
                    let name = name.unwrap_or_else(|| "a key that is no text".to_owned());
                    let detail = format!("{prefix}{name} is not a key that every supported Talos line knows");
                    self.fault(line, Rule::UnknownKey, detail);
                }
            }
        }
        Some(fields)
    }

    /// Talos decodes these into strings, which keeps numbers as they are written.
    fn scalar_text(&mut self, id: NodeId, name: &str) -> Option<String> {
        let resolved = scalar::of_node(&self.tree, id, Dialect::V4Rc6);
        match (self.tree.text(id), resolved) {
            (Some(text), Ok(Scalar::Str | Scalar::Int(_) | Scalar::Uint(_) | Scalar::Float(_))) => {
                Some(text.to_owned())
            }
            _ => {
                let detail = format!("{name} must be text");
                self.fault(self.tree.node(id).line, Rule::WrongType, detail);
                None
            }
        }
    }
}

impl Fields {
    /// The value under `key`.
    pub(super) fn get(&self, key: &str) -> Option<NodeId> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, id)| *id)
    }

    /// The keys that are there.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| &**name)
    }

    /// The line of the mapping.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The line of the value under `key`, or that of the mapping.
    pub(super) fn line_of(&self, reader: &Reader<'_>, key: &str) -> usize {
        self.get(key).map_or(self.line, |id| reader.tree.node(id).line)
    }
}
