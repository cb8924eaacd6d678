//! Values as Go holds them after decoding: typed, with zero values where nothing was written.

use std::collections::BTreeMap;

use zeroize::Zeroize;

use super::url::Url;
use crate::machine::scalar::Timestamp;

/// A Go value. Which variant stands for a type is decided by its [`super::schema::Shape`] and codec.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// A nil pointer, list, map or interface.
    #[default]
    Nil,
    /// `bool`
    Bool(bool),
    /// `[]byte`, not nil.
    Bytes(Vec<u8>),
    /// `float64`
    Float(f64),
    /// Any signed integer.
    Int(i64),
    /// A list that is not nil.
    List(Vec<Self>),
    /// A map that is not nil. In untyped values keys may be other than text; see [`Key`].
    Map(BTreeMap<Key, Self>),
    /// A pointer that is not nil.
    Pointer(Box<Self>),
    /// `string`
    Str(String),
    /// Fields in order.
    Struct(Vec<Self>),
    /// A type with a text form that is kept as it is written out; empty is zero.
    Text(String),
    /// `time.Time` in an untyped value.
    Time(Timestamp),
    /// Any unsigned integer; `uint64` in an untyped value.
    Uint(u64),
    /// A parsed URL.
    Url(Box<Url>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Text; the only kind of key in typed maps and in `map[string]any`.
    Str(String),
    /// Something else, as it is written: `1`, `true`, `1.5`. Makes the map a `map[any]any`.
    Other(String),
}

impl Key {
    /// The text of the key.
    pub fn text(&self) -> &str {
        match self {
            Self::Str(text) | Self::Other(text) => text,
        }
    }
}

impl Value {
    /// Whether Go's reflection calls it zero.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Nil => true,
            Self::Bool(value) => !value,
            Self::Float(value) => value.to_bits() == 0,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Str(text) | Self::Text(text) => text.is_empty(),
            Self::Struct(fields) => fields.iter().all(Self::is_zero),
            Self::Bytes(_)
            | Self::List(_)
            | Self::Map(_)
            | Self::Pointer(_)
            | Self::Time(_)
            | Self::Url(_) => false,
        }
    }

    /// The name of the dynamic type of an untyped value; two values merge only when it is the same.
    pub fn dynamic_type(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Float(_) => "float64",
            Self::Int(_) => "int",
            Self::List(_) => "[]interface {}",
            Self::Map(map) if map.keys().any(|key| matches!(key, Key::Other(_))) => {
                "map[interface {}]interface {}"
            }
            Self::Map(_) => "map[string]interface {}",
            Self::Str(_) => "string",
            Self::Time(_) => "time.Time",
            Self::Uint(_) => "uint64",
            Self::Nil
            | Self::Bytes(_)
            | Self::Pointer(_)
            | Self::Struct(_)
            | Self::Text(_)
            | Self::Url(_) => "",
        }
    }

    /// Overwrites all text, for values that may hold secrets.
    pub fn wipe(&mut self) {
        match self {
            Self::Bytes(bytes) => bytes.zeroize(),
            Self::Str(text) | Self::Text(text) => text.zeroize(),
            Self::List(items) | Self::Struct(items) => items.iter_mut().for_each(Self::wipe),
            Self::Map(map) => map.values_mut().for_each(Self::wipe),
            Self::Pointer(target) => target.wipe(),
            Self::Nil
            | Self::Bool(_)
            | Self::Float(_)
            | Self::Int(_)
            | Self::Time(_)
            | Self::Uint(_)
            | Self::Url(_) => {}
        }
    }
}
