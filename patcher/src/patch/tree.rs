//! Values on their way to text: untyped, in the order in which they are written.

use super::value::Key;
use crate::machine::scalar::Timestamp;

/// An untyped value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Bool(bool),
    Float(f64),
    Int(i64),
    List(Vec<Self>),
    Map(Vec<(Key, Self)>),
    Null,
    /// Plain text that is neither quoted nor read again, such as `0o644`.
    Raw(String),
    Str(String),
    Time(Timestamp),
    Uint(u64),
}

impl Tree {
    /// The entry of a map.
    pub(crate) fn get(&self, key: &Key) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Whether nothing is in it that takes a line of its own.
    pub(crate) fn is_inline(&self) -> bool {
        match self {
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            _ => true,
        }
    }
}
