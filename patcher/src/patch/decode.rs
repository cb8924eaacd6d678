//! From a YAML tree to typed values, with every rule and refusal of Go's decoder.
//!
//! Errors do not stop the decoder where they do not stop Go's: the first one is reported, the rest only count.

use super::codec::Codec;
use super::error::{Class, PatchError};
use super::schema::{Field, Schema, Shape, TypeId};
use super::value::{Key, Value};
use crate::machine::scalar::{self, Scalar};
use crate::machine::{Dialect, Document, Kind, NodeId, Style};

mod custom;
mod dynamic;
mod number;
mod strict;

/// Most values that one document may grow to with its aliases expanded.
const MAX_VALUES: usize = 2_000_000;

/// Decodes a document into the type, as strictly as the line does.
///
/// # Errors
/// The first refusal, with its place.
pub(super) fn decode(
    schema: &Schema,
    dialect: Dialect,
    tree: &Document,
    typ: TypeId,
) -> Result<Value, PatchError> {
    let mut decoder = Decoder::new(schema, dialect, tree);
    let mut value = decoder.zero(typ);
    decoder.construct(tree.root(), typ, &mut value)?;
    if let Some(error) = decoder.first_error.take() {
        return Err(error);
    }
    strict::check_unknown_keys(&decoder, tree.root(), typ)?;
    if dialect == Dialect::V4Rc6 {
        strict::check_null_elements(&decoder, tree.root(), typ)?;
    }
    Ok(value)
}

/// Decodes a node without asking for a type.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_untyped(dialect: Dialect, tree: &Document, id: NodeId) -> Result<Value, PatchError> {
    // An empty table: nothing of it is looked at.
    let schema = Schema::parse("");
    let mut decoder = Decoder::new(&schema, dialect, tree);
    let mut value = Value::Nil;
    decoder.construct_any(id, &mut value)?;
    match decoder.first_error.take() {
        Some(error) => Err(error),
        None => Ok(value),
    }
}

/// The zero value of a type.
pub(super) fn zero(schema: &Schema, typ: TypeId) -> Value {
    let typ = schema.typ(typ);
    if let Some(value) = typ.codec.zero() {
        return value;
    }
    match &typ.shape {
        Shape::Any | Shape::Bytes | Shape::List(_) | Shape::Map(_) | Shape::Opaque | Shape::Pointer(_) => {
            Value::Nil
        }
        Shape::Bool => Value::Bool(false),
        Shape::Float => Value::Float(0.0),
        Shape::Int(_) => Value::Int(0),
        Shape::Str => Value::Str(String::new()),
        Shape::Struct(fields) => Value::Struct(fields.iter().map(|field| zero(schema, field.typ)).collect()),
        Shape::Uint(_) => Value::Uint(0),
    }
}

/// Finds the field with this key, also in structs that are inlined; the way to it as indexes.
pub(super) fn find_field(schema: &Schema, fields: &[Field], key: &str) -> Option<(Vec<usize>, TypeId)> {
    if let Some(index) = fields.iter().position(|field| field.key == key && !field.hidden && !field.inline) {
        return Some((vec![index], fields[index].typ));
    }
    for (index, field) in fields.iter().enumerate().filter(|(_, field)| field.inline) {
        if let Shape::Struct(inner) = &schema.typ(field.typ).shape
            && let Some((mut path, typ)) = find_field(schema, inner, key)
        {
            path.insert(0, index);
            return Some((path, typ));
        }
    }
    None
}

/// The inlined map that takes every key, when the struct has one.
pub(super) fn inline_map(schema: &Schema, fields: &[Field]) -> Option<(usize, TypeId)> {
    fields.iter().enumerate().filter(|(_, field)| field.inline).find_map(|(index, field)| {
        match schema.typ(field.typ).shape {
            Shape::Map(value) => Some((index, value)),
            _ => None,
        }
    })
}

pub(super) struct Decoder<'a> {
    pub(super) schema: &'a Schema,
    pub(super) dialect: Dialect,
    pub(super) tree: &'a Document,
    first_error: Option<PatchError>,
    errors: usize,
    path: Vec<String>,
    open_aliases: Vec<NodeId>,
    values: usize,
    aliased: usize,
}

type Fatal<T> = Result<T, PatchError>;

impl<'a> Decoder<'a> {
    fn new(schema: &'a Schema, dialect: Dialect, tree: &'a Document) -> Self {
        Self {
            schema,
            dialect,
            tree,
            first_error: None,
            errors: 0,
            path: Vec::new(),
            open_aliases: Vec::new(),
            values: 0,
            aliased: 0,
        }
    }

    fn zero(&self, typ: TypeId) -> Value {
        zero(self.schema, typ)
    }

    fn path(&self) -> String {
        let mut out = String::new();
        for part in &self.path {
            if !out.is_empty() && !part.starts_with('[') {
                out.push('.');
            }
            out.push_str(part);
        }
        out
    }

    fn error_at(&self, id: NodeId, class: Class, message: impl Into<String>) -> PatchError {
        PatchError::new(class, message).at(self.path()).on_line(self.tree.node(id).line)
    }

    /// Notes an error that does not stop the decoder. Always false, as the value was not decoded.
    fn report(&mut self, id: NodeId, class: Class, message: impl Into<String>) -> bool {
        if self.first_error.is_none() {
            self.first_error = Some(self.error_at(id, class, message));
        }
        self.errors += 1;
        false
    }

    /// The value has not the type that is needed.
    fn wrong_type(&mut self, id: NodeId, typ: TypeId) -> bool {
        let found = self.tag(id);
        let name = &self.schema.typ(typ).name;
        let message = format!("cannot decode {found} into {name}");
        self.report(id, Class::WrongType, message)
    }

    /// An error of a type that reads itself. yaml.v3 stops at those.
    fn invalid(&mut self, id: NodeId, message: String) -> Fatal<bool> {
        if self.dialect == Dialect::V3 {
            return Err(self.error_at(id, Class::InvalidValue, message));
        }
        Ok(self.report(id, Class::InvalidValue, message))
    }

    fn scalar(&self, id: NodeId) -> Fatal<Scalar> {
        scalar::of_node(self.tree, id, self.dialect).map_err(|mismatch| {
            let message = format!("cannot decode {} as a {}", mismatch.found, mismatch.wanted);
            self.error_at(id, Class::WrongType, message)
        })
    }

    fn tag(&self, id: NodeId) -> String {
        let node = self.tree.node(id);
        match (&node.kind, node.tag.as_deref()) {
            (_, Some(tag)) if tag != "!" => tag.to_owned(),
            (Kind::Alias(target), _) => self.tag(*target),
            (Kind::Mapping(_), _) => "!!map".into(),
            (Kind::Sequence(_), _) => "!!seq".into(),
            (Kind::Scalar { .. }, _) => self.scalar(id).map_or("!!str", |scalar| scalar.tag()).into(),
        }
    }

    pub(super) fn is_null(&self, id: NodeId) -> bool {
        let id = self.tree.target(id);
        matches!(self.tree.node(id).kind, Kind::Scalar { .. }) && matches!(self.scalar(id), Ok(Scalar::Null))
    }

    /// `<<` as a key, written plain.
    fn is_merge(&self, id: NodeId) -> bool {
        let node = self.tree.node(id);
        match &node.kind {
            Kind::Scalar { text, style } => {
                &**text == "<<" && *style == Style::Plain && matches!(self.scalar(id), Ok(Scalar::Merge))
            }
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Sequence(_) => false,
        }
    }

    /// Counts a step, and refuses texts that live from their aliases.
    fn count(&mut self, id: NodeId) -> Fatal<()> {
        self.values += 1;
        if !self.open_aliases.is_empty() {
            self.aliased += 1;
        }
        let excessive = self.aliased > 100 && self.values > 1000 && self.aliased * 100 > self.values * 99;
        if excessive || self.values > MAX_VALUES {
            return Err(self.error_at(id, Class::Alias, "document contains excessive aliasing"));
        }
        Ok(())
    }

    fn enter_alias(&mut self, id: NodeId) -> Fatal<()> {
        if self.open_aliases.contains(&id) {
            return Err(self.error_at(id, Class::Alias, "anchor value contains itself"));
        }
        self.open_aliases.push(id);
        Ok(())
    }

    /// Decodes a node into a value of the type; whether that went well.
    fn construct(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        self.count(id)?;
        if let Kind::Alias(target) = self.tree.node(id).kind {
            self.enter_alias(id)?;
            let good = self.construct(target, typ, out);
            self.open_aliases.pop();
            return good;
        }
        let null = self.is_null(id);
        if null {
            return Ok(self.null(typ, out));
        }
        let definition = self.schema.typ(typ);
        if let Shape::Pointer(target) = definition.shape
            && definition.codec == Codec::Kind
        {
            if !matches!(out, Value::Pointer(_)) {
                *out = Value::Pointer(Box::new(self.zero(target)));
            }
            let Value::Pointer(inner) = out else { return Ok(false) };
            return self.construct_pointed(id, target, inner);
        }
        self.construct_pointed(id, typ, out)
    }

    /// As [`Self::construct`], behind all pointers.
    fn construct_pointed(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let definition = self.schema.typ(typ);
        if let Shape::Pointer(_) = definition.shape {
            return self.construct(id, typ, out);
        }
        if definition.codec.reads_yaml() {
            return self.custom(id, typ, out);
        }
        let is_scalar = matches!(self.tree.node(id).kind, Kind::Scalar { .. });
        let strict_text = matches!(self.dialect, Dialect::V4Rc4 | Dialect::V4Rc6);
        if definition.codec.reads_text() && !is_scalar && strict_text {
            return Ok(self.wrong_type(id, typ));
        }
        match &self.tree.node(id).kind {
            Kind::Scalar { text, .. } => self.construct_scalar(id, text, typ, out),
            Kind::Mapping(_) => self.construct_mapping(id, typ, out),
            Kind::Sequence(_) => self.construct_sequence(id, typ, out),
            Kind::Alias(_) => Ok(false),
        }
    }

    /// Takes a null: only what can be nil becomes nil, anything else stays as it is.
    fn null(&self, typ: TypeId, out: &mut Value) -> bool {
        let definition = self.schema.typ(typ);
        let nillable = match definition.shape {
            Shape::Any | Shape::Bytes | Shape::List(_) | Shape::Map(_) | Shape::Pointer(_) => true,
            Shape::Bool
            | Shape::Float
            | Shape::Int(_)
            | Shape::Opaque
            | Shape::Str
            | Shape::Struct(_)
            | Shape::Uint(_) => false,
        };
        if nillable {
            *out = Value::Nil;
        }
        nillable
    }

    fn construct_scalar(&mut self, id: NodeId, text: &str, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let scalar = self.scalar(id)?;
        let definition = self.schema.typ(typ);
        if definition.codec.reads_text() {
            let signed = matches!(self.dialect, Dialect::V4Rc4 | Dialect::V4Rc6);
            return match definition.codec.read_text(text, out, signed) {
                Ok(value) => {
                    *out = value;
                    Ok(true)
                }
                Err(message) => self.invalid(id, message),
            };
        }
        // The newest release knows a merge sign as a value no more.
        if scalar == Scalar::Merge && self.dialect == Dialect::V4Rc6 {
            return Ok(false);
        }
        let value = match &definition.shape {
            Shape::Any => Some(dynamic::of_scalar(&scalar, text)),
            Shape::Bool => number::bool_of(&scalar, text).map(Value::Bool),
            Shape::Float => number::float_of(&scalar).map(Value::Float),
            Shape::Int(_) if definition.codec == Codec::Duration => {
                number::duration_of(&scalar, text, self.dialect).map(Value::Int)
            }
            Shape::Int(bits) => number::int_of(&scalar, *bits, self.dialect).map(Value::Int),
            Shape::Uint(bits) => number::uint_of(&scalar, *bits, self.dialect).map(Value::Uint),
            Shape::Str if matches!(scalar, Scalar::Time(_)) && self.dialect == Dialect::V4Rc6 => None,
            Shape::Str => Some(Value::Str(text.to_owned())),
            Shape::Bytes
            | Shape::List(_)
            | Shape::Map(_)
            | Shape::Opaque
            | Shape::Pointer(_)
            | Shape::Struct(_) => None,
        };
        match value {
            Some(value) => {
                *out = value;
                Ok(true)
            }
            None => Ok(self.wrong_type(id, typ)),
        }
    }

    fn construct_sequence(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let item_type = match self.schema.typ(typ).shape {
            Shape::List(item) => item,
            Shape::Bytes => return self.construct_bytes(id, typ, out),
            Shape::Any => return self.construct_any(id, out),
            _ => return Ok(self.wrong_type(id, typ)),
        };
        let mut items = Vec::new();
        for (index, item) in self.tree.items(id).iter().enumerate() {
            let mut value = self.zero(item_type);
            self.path.push(format!("[{index}]"));
            let good = self.construct(*item, item_type, &mut value);
            self.path.pop();
            if good? {
                items.push(value);
            }
        }
        *out = Value::List(items);
        Ok(true)
    }

    /// Bytes written as a list of numbers.
    fn construct_bytes(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let mut bytes = Vec::new();
        for item in self.tree.items(id) {
            let target = self.tree.target(*item);
            if self.is_null(target) {
                continue;
            }
            let byte = match self.tree.node(target).kind {
                Kind::Scalar { .. } => number::uint_of(&self.scalar(target)?, 8, self.dialect),
                _ => None,
            };
            match byte.and_then(|byte| u8::try_from(byte).ok()) {
                Some(byte) => bytes.push(byte),
                None => {
                    self.wrong_type(*item, typ);
                }
            }
        }
        *out = Value::Bytes(bytes);
        Ok(true)
    }

    /// Reports keys that occur twice; whether there were none.
    fn keys_are_unique(&mut self, id: NodeId) -> bool {
        let mut seen = std::collections::HashMap::new();
        let mut unique = true;
        for (key, _) in self.tree.entries(id) {
            // Go compares kind and text; collections have no text.
            let node = self.tree.node(*key);
            let (kind, text) = match &node.kind {
                Kind::Scalar { text, .. } => (0, &**text),
                Kind::Alias(target) => (1, self.tree.node(*target).anchor.as_deref().unwrap_or_default()),
                Kind::Mapping(_) => (2, ""),
                Kind::Sequence(_) => (3, ""),
            };
            if let Some(line) = seen.insert((kind, text), node.line) {
                let text = text.to_owned();
                self.path.push(text);
                unique = self.report(
                    *key,
                    Class::DuplicateKey,
                    format!("mapping key already defined at line {line}"),
                );
                self.path.pop();
            }
        }
        unique
    }

    fn construct_mapping(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        if !self.keys_are_unique(id) {
            return Ok(false);
        }
        match &self.schema.typ(typ).shape {
            Shape::Struct(fields) => {
                let mut seen = Vec::new();
                self.construct_struct(id, fields, out, &mut seen)
            }
            Shape::Map(value) => {
                let value = *value;
                let mut seen = Vec::new();
                self.construct_map(id, value, out, &mut seen)
            }
            Shape::Any => self.construct_any(id, out),
            _ => Ok(self.wrong_type(id, typ)),
        }
    }

    /// Reads a key as text. Other than text it may be any scalar, as its text; null is skipped.
    fn key(&mut self, id: NodeId) -> Fatal<Option<String>> {
        let target = self.tree.target(id);
        if self.is_null(target) {
            return Ok(None);
        }
        match &self.tree.node(target).kind {
            Kind::Scalar { text, .. } => {
                let scalar = self.scalar(target)?;
                if matches!(scalar, Scalar::Time(_)) && self.dialect == Dialect::V4Rc6 {
                    self.report(id, Class::WrongType, "cannot decode !!timestamp into string");
                    return Ok(None);
                }
                Ok(Some(text.to_string()))
            }
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Sequence(_) => {
                let found = self.tag(target);
                self.report(id, Class::WrongType, format!("cannot decode {found} into string"));
                Ok(None)
            }
        }
    }

    /// `seen` holds the keys that must not be set again: those of the mapping that merges this one.
    fn construct_map(
        &mut self,
        id: NodeId,
        value_type: TypeId,
        out: &mut Value,
        seen: &mut Vec<String>,
    ) -> Fatal<bool> {
        let new = !matches!(out, Value::Map(_));
        if new {
            *out = Value::Map(Default::default());
        }
        let merging = !seen.is_empty();
        let mut merge = None;
        for &(key, value) in self.tree.entries(id) {
            if self.is_merge(key) {
                merge = Some(value);
                continue;
            }
            let Some(name) = self.key(key)? else { continue };
            if merging && seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let mut decoded = self.zero(value_type);
            self.path.push(name.clone());
            let good = self.construct(value, value_type, &mut decoded);
            self.path.pop();
            let good = good?;
            let Value::Map(map) = out else { return Ok(false) };
            let name = Key::Str(name);
            if good || (self.is_null(value) && (new || !map.contains_key(&name))) {
                map.insert(name, decoded);
            }
        }
        if let Some(merge) = merge {
            self.merge_key(merge, &mut |decoder, mapping| {
                decoder.construct_map(mapping, value_type, out, seen).map(|_| ())
            })?;
        }
        Ok(true)
    }

    fn construct_struct(
        &mut self,
        id: NodeId,
        fields: &'a [Field],
        out: &mut Value,
        seen: &mut Vec<String>,
    ) -> Fatal<bool> {
        let merging = !seen.is_empty();
        let mut merge = None;
        for &(key, value) in self.tree.entries(id) {
            if self.is_merge(key) {
                merge = Some(value);
                continue;
            }
            let Some(name) = self.key(key)? else { continue };
            if merging && seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            self.path.push(name.clone());
            let result = self.construct_field(fields, &name, value, out);
            self.path.pop();
            result?;
        }
        if let Some(merge) = merge {
            self.merge_key(merge, &mut |decoder, mapping| {
                decoder.construct_struct(mapping, fields, out, seen).map(|_| ())
            })?;
        }
        Ok(true)
    }

    fn construct_field(
        &mut self,
        fields: &'a [Field],
        name: &str,
        node: NodeId,
        out: &mut Value,
    ) -> Fatal<()> {
        if let Some((way, typ)) = find_field(self.schema, fields, name) {
            let mut slot = out;
            for index in way {
                let Value::Struct(values) = slot else { return Ok(()) };
                let Some(next) = values.get_mut(index) else { return Ok(()) };
                slot = next;
            }
            self.construct(node, typ, slot)?;
        } else if let Some((index, value_type)) = inline_map(self.schema, fields) {
            let mut decoded = self.zero(value_type);
            self.construct(node, value_type, &mut decoded)?;
            let Value::Struct(values) = out else { return Ok(()) };
            let Some(slot) = values.get_mut(index) else { return Ok(()) };
            if !matches!(slot, Value::Map(_)) {
                *slot = Value::Map(Default::default());
            }
            if let Value::Map(map) = slot {
                map.insert(Key::Str(name.to_owned()), decoded);
            }
        }
        Ok(())
    }

    /// Follows the value of `<<`: one mapping or a list of them, by alias or in place.
    fn merge_key(&mut self, id: NodeId, take: &mut dyn FnMut(&mut Self, NodeId) -> Fatal<()>) -> Fatal<()> {
        let mut one = |decoder: &mut Self, id: NodeId| {
            let target = decoder.tree.target(id);
            if !matches!(decoder.tree.node(target).kind, Kind::Mapping(_)) {
                let message = "map merge requires map or sequence of maps as the value";
                return Err(decoder.error_at(id, Class::WrongType, message));
            }
            let alias = target != id;
            if alias {
                decoder.enter_alias(id)?;
            }
            decoder.count(id)?;
            let unique = decoder.keys_are_unique(target);
            let result = if unique { take(decoder, target) } else { Ok(()) };
            if alias {
                decoder.open_aliases.pop();
            }
            result
        };
        match &self.tree.node(id).kind {
            Kind::Sequence(items) => {
                for item in items {
                    one(self, *item)?;
                }
                Ok(())
            }
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Scalar { .. } => one(self, id),
        }
    }
}
