//! From typed values to what the official encoder writes: fields in their order, zero values left out where
//! the types say so, maps sorted.

use super::codec::{Codec, human_bytes, to_base64};
use super::schema::{Field, Schema, Shape, TypeId};
use super::tree::Tree;
use super::value::{Key, Value};

/// Encodes a value of the type.
pub(super) fn encode(schema: &Schema, typ: TypeId, value: &Value) -> Tree {
    let definition = schema.typ(typ);
    if let Some(tree) = encode_custom(&definition.codec, value) {
        return tree;
    }
    match (&definition.shape, value) {
        (Shape::Pointer(target), Value::Pointer(inner)) => encode(schema, *target, inner),
        (Shape::List(item), Value::List(items)) => {
            Tree::List(items.iter().map(|value| encode(schema, *item, value)).collect())
        }
        (Shape::List(_), Value::Nil) => Tree::List(Vec::new()),
        (Shape::Map(item), Value::Map(map)) => {
            Tree::Map(map.iter().map(|(key, value)| (key.clone(), encode(schema, *item, value))).collect())
        }
        (Shape::Map(_), Value::Nil) => Tree::Map(Vec::new()),
        (Shape::Struct(fields), Value::Struct(values)) => {
            let mut entries = Vec::new();
            encode_fields(schema, fields, values, &mut entries);
            Tree::Map(entries)
        }
        _ => encode_untyped(value),
    }
}

fn encode_fields(schema: &Schema, fields: &[Field], values: &[Value], out: &mut Vec<(Key, Tree)>) {
    for (field, value) in fields.iter().zip(values).filter(|(field, _)| !field.hidden) {
        if field.inline {
            match (encode(schema, field.typ, value), value) {
                (_, Value::Nil) => {}
                (Tree::Map(entries), _) => out.extend(entries),
                _ => {}
            }
            continue;
        }
        if field.key.is_empty() || (field.omit_empty && is_empty(schema, field.typ, value)) {
            continue;
        }
        out.push((Key::Str(field.key.clone()), encode(schema, field.typ, value)));
    }
}

fn encode_custom(codec: &Codec, value: &Value) -> Option<Tree> {
    if let Some(text) = codec.to_text(value) {
        return Some(Tree::Str(text));
    }
    Some(match (codec, value) {
        (Codec::Args, Value::Map(map)) => {
            // Arguments are written without the quotes that keep YAML 1.1 readers from seeing a bool.
            let plain = |value: &Value| match value {
                Value::Str(text) if is_old_bool(text) => Tree::Raw(text.clone()),
                other => encode_untyped(other),
            };
            let arg = |value: &Value| match value {
                Value::Str(text) if text.is_empty() => Tree::Null,
                Value::List(items) => Tree::List(items.iter().map(plain).collect()),
                other => plain(other),
            };
            Tree::Map(map.iter().map(|(key, value)| (key.clone(), arg(value))).collect())
        }
        (Codec::DiskSize, Value::Uint(size)) => human_bytes(*size).map_or(Tree::Uint(*size), Tree::Str),
        (Codec::FileMode, Value::Uint(mode)) => Tree::Raw(format!("0o{mode:o}")),
        (Codec::PortRange, Value::Struct(ends)) => match ends.as_slice() {
            [Value::Uint(low), Value::Uint(high)] if low == high => Tree::Uint(*low),
            [Value::Uint(low), Value::Uint(high)] => Tree::Str(format!("{low}-{high}")),
            _ => return None,
        },
        (Codec::PemCertificate, Value::Struct(parts)) => encode_pem(&["crt"], parts),
        (Codec::PemCertificateAndKey, Value::Struct(parts)) => encode_pem(&["crt", "key"], parts),
        (Codec::PemKey, Value::Struct(parts)) => encode_pem(&["key"], parts),
        _ => return None,
    })
}

/// A word that YAML 1.1 takes for a bool and YAML 1.2 for a string.
pub(super) fn is_old_bool(text: &str) -> bool {
    old_bool(text).is_some()
}

/// The bool that a word is in YAML 1.1 only.
pub(super) fn old_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn encode_pem(keys: &[&str], parts: &[Value]) -> Tree {
    let text = |key: &str, part: &Value| match part {
        Value::Bytes(bytes) if key == "key" && keys.len() == 2 && bytes == b"******" => "******".into(),
        Value::Bytes(bytes) => to_base64(bytes),
        _ => String::new(),
    };
    let entry = |(key, part): (&&str, &Value)| (Key::Str((*key).to_owned()), Tree::Str(text(key, part)));
    Tree::Map(keys.iter().zip(parts).map(entry).collect())
}

/// Encodes a value by what it is.
pub(super) fn encode_untyped(value: &Value) -> Tree {
    match value {
        Value::Nil => Tree::Null,
        Value::Bool(value) => Tree::Bool(*value),
        Value::Bytes(bytes) => Tree::Str(String::from_utf8_lossy(bytes).into_owned()),
        Value::Float(value) => Tree::Float(*value),
        Value::Int(value) => Tree::Int(*value),
        Value::List(items) | Value::Struct(items) => Tree::List(items.iter().map(encode_untyped).collect()),
        Value::Map(map) => {
            Tree::Map(map.iter().map(|(key, value)| (key.clone(), encode_untyped(value))).collect())
        }
        Value::Pointer(inner) => encode_untyped(inner),
        Value::Str(text) | Value::Text(text) => Tree::Str(text.clone()),
        Value::Time(time) => Tree::Time(*time),
        Value::Uint(value) => Tree::Uint(*value),
        Value::Url(url) => Tree::Str(url.to_string()),
    }
}

/// Whether the encoder leaves the value out of a field with `omitempty`.
pub(super) fn is_empty(schema: &Schema, typ: TypeId, value: &Value) -> bool {
    let definition = schema.typ(typ);
    match (&definition.codec, value) {
        (Codec::Size, Value::Struct(parts)) => {
            return parts.iter().all(|part| match part {
                Value::Text(text) => text.is_empty(),
                _ => true,
            });
        }
        (Codec::Kind, _) => {}
        (_, Value::Nil) => return true,
        (_, Value::Url(_)) => return false,
        (Codec::Args, Value::Map(map)) => return map.is_empty(),
        (_, Value::Bytes(bytes)) => return bytes.is_empty(),
        (_, Value::List(items)) => return items.is_empty(),
        (_, Value::Struct(parts)) => {
            return parts.iter().all(|part| match part {
                Value::Bytes(bytes) => bytes.is_empty(),
                other => other.is_zero(),
            });
        }
        _ => return value.is_zero(),
    }
    match (&definition.shape, value) {
        // Tells an empty list, which clears the domains, from none.
        (_, Value::List(_)) if definition.says_zero && definition.name.ends_with(".SearchDomainList") => {
            false
        }
        (Shape::Struct(fields), Value::Struct(values))
            if definition.says_zero && definition.name.ends_with(".EncryptionSpec") =>
        {
            // The library looks at two of the fields only.
            let counts = |field: &Field| matches!(field.key.as_str(), "provider" | "keys");
            fields
                .iter()
                .zip(values)
                .filter(|(field, _)| counts(field))
                .all(|(field, value)| is_empty(schema, field.typ, value))
        }
        (Shape::Struct(fields), Value::Struct(values)) => fields
            .iter()
            .zip(values)
            .filter(|(field, _)| !field.hidden)
            .all(|(field, value)| is_empty(schema, field.typ, value)),
        (_, Value::List(items)) => items.is_empty(),
        (_, Value::Map(map)) => map.is_empty(),
        (_, Value::Bytes(bytes)) => bytes.is_empty(),
        _ => value.is_zero(),
    }
}
