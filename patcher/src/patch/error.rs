//! Why a patch was refused.

use std::fmt;
use std::ops::Deref;

use crate::machine::{DocumentId, ParseError};

/// The kind of a refusal. Ours and the official library's agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// The text uses aliases to grow without bound, or an anchor contains itself.
    Alias,
    /// Two documents that cannot stand side by side.
    ConflictingDocuments,
    /// `$patch: delete` names something that is not there.
    DeleteLookup,
    /// `$patch: delete` names a document that is not there. Talos up to 1.13 writes a broken config instead.
    DeleteMissingDocument,
    /// `$patch: delete` stands where it cannot be carried out.
    DeleteSyntax,
    /// A document occurs twice.
    DuplicateDocument,
    /// A key occurs twice in a mapping.
    DuplicateKey,
    /// A value that its type does not take: no address, no known name, no base64.
    InvalidValue,
    /// A JSON patch could not be applied.
    JsonPatch,
    /// A JSON patch for a config that is not exactly one document.
    JsonPatchDocuments,
    /// Something exceeds a bound of this program.
    Limit,
    /// Two values at one place cannot be merged.
    Merge,
    /// A document without `apiVersion`.
    MissingApiVersion,
    /// A document without `kind` that is not the legacy document either.
    MissingKind,
    /// No document at all.
    NoConfig,
    /// A document that is no mapping.
    NotADocument,
    /// A `null` where an item is needed.
    NullElement,
    /// The text is no YAML.
    Syntax,
    /// A key that the type does not have.
    UnknownKeys,
    /// A kind that this Talos line does not have.
    UnknownKind,
    /// A patch file cannot be read.
    Unreadable,
    /// A value of a type other than the one needed.
    WrongType,
}

/// A refused config or patch. One word wide, because nearly every function of the engine may return it; its
/// fields are those of [`Refused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchError(Box<Refused>);

/// What was refused, where, and why in the words of the official tool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The kind of refusal.
    pub class: Class,
    /// The document that it is about.
    pub document: Option<DocumentId>,
    /// Key path inside the document, such as `machine.kubelet.nodeIP`; empty when it is about the whole.
    pub path: String,
    /// Line in the text that was refused, from 1.
    pub line: Option<usize>,
    /// What is wrong. Never holds a value that could be a secret.
    pub message: String,
}

impl Deref for PatchError {
    type Target = Refused;

    fn deref(&self) -> &Refused {
        &self.0
    }
}

impl std::error::Error for PatchError {}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = &self.document {
            write!(f, "document {document}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        Ok(())
    }
}

impl PatchError {
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Refused { class, document: None, path: String::new(), line: None, message }))
    }

    pub(crate) fn of_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    pub(crate) fn at(mut self, path: impl Into<String>) -> Self {
        self.0.path = path.into();
        self
    }

    pub(crate) fn on_line(mut self, line: usize) -> Self {
        self.0.line = Some(line);
        self
    }

    pub(crate) fn in_document(mut self, id: &DocumentId) -> Self {
        self.0.document = Some(id.clone());
        self
    }
}

impl From<ParseError> for PatchError {
    fn from(error: ParseError) -> Self {
        let class = match error {
            ParseError::TooDeep { .. } | ParseError::TooLarge { .. } | ParseError::TooManyNodes => {
                Class::Limit
            }
            ParseError::NotUtf8 { .. } | ParseError::Syntax { .. } | ParseError::UnknownAnchor { .. } => {
                Class::Syntax
            }
        };
        let message = match &error {
            // The line is told apart from the text.
            ParseError::Syntax { problem, .. } => (*problem).to_owned(),
            other => other.to_string(),
        };
        let refused = Self::new(class, message);
        match error.line() {
            Some(line) => refused.on_line(line),
            None => refused,
        }
    }
}
