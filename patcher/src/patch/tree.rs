//! Values on their way to text: untyped, in the order in which they are written.

use super::value::Key;
use crate::machine::scalar::Timestamp;

/// An untyped value. Maps are equal when their entries are, in whatever order.
#[derive(Debug, Clone)]
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

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Float(left), Self::Float(right)) => left.to_bits() == right.to_bits(),
            (Self::Int(left), Self::Int(right)) => left == right,
            (Self::List(left), Self::List(right)) => left == right,
            (Self::Map(left), Self::Map(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|((key, value), (at, beside))| {
                        // Mostly the order is the same as well.
                        if key == at { value == beside } else { other.get(key) == Some(value) }
                    })
            }
            (Self::Null, Self::Null) => true,
            (Self::Raw(left), Self::Raw(right)) | (Self::Str(left), Self::Str(right)) => left == right,
            (Self::Time(left), Self::Time(right)) => left == right,
            (Self::Uint(left), Self::Uint(right)) => left == right,
            _ => false,
        }
    }
}
