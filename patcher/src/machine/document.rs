//! The documents of a machine config: where each stands in the text, and what it is called.

use std::fmt;
use std::ops::Range;

use super::node::{Document, Kind, NodeId};
use super::parse::{ParseError, parse_partial};
use super::scalar::Dialect;

/// What tells one document of a machine config from another.
///
/// Talos: the legacy document has neither apiVersion nor kind and counts as `v1alpha1`; a name is only there
/// for kinds that can occur more than once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentId {
    /// `v1alpha1`, or empty for the legacy document.
    pub api_version: String,
    /// Its kind; `v1alpha1` for the legacy document.
    pub kind: String,
    /// Its name, or empty.
    pub name: String,
}

impl DocumentId {
    /// The document without a kind, which holds `machine` and `cluster`.
    pub fn legacy() -> Self {
        Self { api_version: String::new(), kind: "v1alpha1".into(), name: String::new() }
    }

    /// A document of this kind; the name is empty for kinds that occur once.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { api_version: "v1alpha1".into(), kind: kind.into(), name: name.into() }
    }

    /// Whether this is the document without a kind.
    pub fn is_legacy(&self) -> bool {
        self.kind == "v1alpha1"
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.api_version, self.kind, self.name)
    }
}

/// One document of a stream.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is called, by its `apiVersion`, `kind` and `name`.
    pub id: DocumentId,
    /// Its tree. Offsets count from the start of the whole text.
    pub tree: Document,
    /// The bytes that belong to it, its separator line included.
    pub span: Range<usize>,
    /// Byte offset of its `---`, when one was written. Comments and directives may come before it.
    pub marker: Option<usize>,
}

impl Part {
    /// Whether there is nothing in it: only comments, or `null`.
    pub fn is_empty(&self) -> bool {
        self.tree.text(self.tree.root()).is_some_and(|text| matches!(text, "" | "~" | "null"))
    }

    /// Line of its first value, from 1.
    pub fn line(&self) -> usize {
        self.tree.node(self.tree.root()).line
    }
}

/// A machine config as text and trees.
#[derive(Clone)]
pub struct MachineConfig {
    text: String,
    parts: Vec<Part>,
}

impl fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.parts.iter().map(|part| part.id.to_string());
        f.debug_struct("MachineConfig")
            .field("len", &self.text.len())
            .field("documents", &ids.collect::<Vec<_>>())
            .finish()
    }
}

impl Drop for MachineConfig {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.text);
    }
}

impl MachineConfig {
    /// Splits a text into documents.
    ///
    /// # Errors
    /// When it is not YAML, or exceeds a bound of [`super::parse()`].
    pub fn parse(text: &[u8], dialect: Dialect) -> Result<Self, ParseError> {
        match Self::parse_partial(text, dialect) {
            (config, None) => Ok(config),
            (_, Some(error)) => Err(error),
        }
    }

    /// As [`Self::parse`], with the documents in front of the first error.
    pub fn parse_partial(text: &[u8], dialect: Dialect) -> (Self, Option<ParseError>) {
        let (parsed, error) = parse_partial(text, dialect);
        let text = String::from_utf8_lossy(text).into_owned();
        let ends: Vec<usize> = parsed.iter().skip(1).map(|next| next.start).chain([text.len()]).collect();
        let mut parts = Vec::with_capacity(parsed.len());
        let mut start = 0;
        for (document, end) in parsed.into_iter().zip(ends) {
            let id = identify(&document.tree);
            let span = start..end;
            start = end;
            parts.push(Part { id, tree: document.tree, span, marker: document.marker });
        }
        (Self { text, parts }, error)
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its documents in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The first document with this identity.
    pub fn find(&self, id: &DocumentId) -> Option<&Part> {
        self.parts.iter().find(|part| part.id == *id)
    }

    /// The first document that repeats the identity of an earlier one, as Talos refuses it.
    pub fn duplicate(&self) -> Option<&Part> {
        let mut seen = std::collections::HashSet::new();
        self.parts.iter().filter(|part| !part.is_empty()).find(|part| !seen.insert(&part.id))
    }
}

/// Reads the identity the way Talos does: by the text of the first key of that name.
pub fn identify(tree: &Document) -> DocumentId {
    let root = tree.root();
    let value = |key| find_value(tree, root, key).unwrap_or_default().to_owned();
    let mut id = DocumentId { api_version: value("apiVersion"), kind: value("kind"), name: value("name") };
    if id.kind.is_empty() {
        id.kind = "v1alpha1".into();
    }
    id
}

/// The text of the first entry with this key. A collection has no text, which counts as empty.
pub(crate) fn find_value<'a>(tree: &'a Document, mapping: NodeId, key: &str) -> Option<&'a str> {
    let value = tree.get(mapping, key)?;
    Some(match &tree.node(value).kind {
        Kind::Scalar { text, .. } => text,
        // The text of an alias is the name of its anchor.
        Kind::Alias(target) => tree.node(*target).anchor.as_deref().unwrap_or_default(),
        Kind::Mapping(_) | Kind::Sequence(_) => "",
    })
}
