//! What an edit wants: a value, a place in a document, and what must be so there.

use std::fmt;

use super::super::tree::Tree;
use super::super::value::Key;
use crate::machine::DocumentId;

/// A value that an edit wants to see.
#[derive(Clone, PartialEq)]
pub enum Setting {
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Items in order.
    List(Vec<Self>),
    /// Entries in order.
    Map(Vec<(String, Self)>),
    /// Text; quoted where it needs to be.
    Text(String),
}

impl Setting {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Self::text).collect())
    }

    /// A mapping.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    pub(super) fn tree(&self) -> Tree {
        match self {
            Self::Bool(value) => Tree::Raw(value.to_string()),
            Self::Int(value) => Tree::Raw(value.to_string()),
            Self::List(items) => Tree::List(items.iter().map(Self::tree).collect()),
            Self::Map(entries) => {
                let entry = |(key, value): &(String, Self)| (Key::Str(key.clone()), value.tree());
                Tree::Map(entries.iter().map(entry).collect())
            }
            Self::Text(text) => Tree::Str(text.clone()),
        }
    }
}

/// A text may be a key or a token, so only its size is shown.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Map(entries) => {
                f.debug_map().entries(entries.iter().map(|(key, value)| (key, value))).finish()
            }
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

/// A step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The value of a key; the mapping around it is made when it is missing.
    Key(String),
    /// The item of a list whose `key` has this text; made when there is none.
    Item {
        /// The key that tells the items apart.
        key: String,
        /// Its text.
        text: String,
    },
}

/// Where in a document a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place(pub(super) Vec<Step>);

impl Place {
    /// A way along keys, written with dots: `machine.kubelet.nodeIP`. For keys that hold dots use [`Self::key`].
    pub fn at(keys: &str) -> Self {
        Self(keys.split('.').map(|key| Step::Key(key.to_owned())).collect())
    }

    /// One key further.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.push(Step::Key(key.into()));
        self
    }

    /// Into the item of a list that has this text for its key.
    #[must_use]
    pub fn item(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.0.push(Step::Item { key: key.into(), text: text.into() });
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item { key, text } => write!(f, "[{key}={text}]")?,
            }
        }
        Ok(())
    }
}

/// What must be so.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// Nothing stands at this place.
    Absent(Place),
    /// The list has these items, in whatever place; missing ones are added at its end.
    Contains(Place, Vec<Setting>),
    /// The document does not exist.
    DocumentAbsent,
    /// The document exists and has these entries; others are left alone.
    DocumentHas(Vec<(String, Setting)>),
    /// The document exists and has exactly these entries besides its identity.
    DocumentIs(Vec<(String, Setting)>),
    /// The value at this place is this one.
    Is(Place, Setting),
}

/// One wish about one document, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The document.
    pub document: DocumentId,
    /// What must be so.
    pub wish: Wish,
    /// Why, in one sentence for the operator.
    pub reason: String,
}
