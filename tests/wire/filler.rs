//! Random messages of any type.

use std::collections::HashMap;

use ichor_tests::random::Random;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// Some messages contain themselves.
const MAX_DEPTH: usize = 4;

/// Makes messages. The same seed gives the same ones.
pub(crate) struct Filler {
    random: Random,
}

impl Filler {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// A message with every field set, or with about half of them.
    pub(crate) fn message(&mut self, descriptor: MessageDescriptor, is_full: bool) -> DynamicMessage {
        self.message_at(descriptor, is_full, 0)
    }

    fn message_at(&mut self, descriptor: MessageDescriptor, is_full: bool, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let is_nested = field.kind().as_message().is_some() && !field.is_map();
            if (!is_full && self.random.chance(1, 2)) || (is_nested && depth >= MAX_DEPTH) {
                continue;
            }
            // The last of a oneof that is set wins; each of them must win at times.
            let rivals = field.containing_oneof().map_or(1, |oneof| oneof.fields().len());
            if rivals > 1 && !self.random.chance(1, 2) {
                continue;
            }
            let value = self.value(&field, is_full, depth);
            message.set_field(&field, value);
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, is_full: bool, depth: usize) -> Value {
        let count = 1 + self.random.below(3);
        if let Some(entry) = field.kind().as_message().filter(|_| field.is_map()) {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let mut entries = HashMap::new();
            for _ in 0..count {
                entries.insert(self.key(&key), self.single(&value, is_full, depth));
            }
            return Value::Map(entries);
        }
        match field.is_list() {
            true => Value::List((0..count).map(|_| self.single(&field.kind(), is_full, depth)).collect()),
            false => self.single(&field.kind(), is_full, depth),
        }
    }

    fn key(&mut self, kind: &Kind) -> MapKey {
        match self.single(kind, true, 0) {
            Value::String(text) => MapKey::String(text),
            Value::I32(number) => MapKey::I32(number),
            Value::I64(number) => MapKey::I64(number),
            Value::U32(number) => MapKey::U32(number),
            Value::U64(number) => MapKey::U64(number),
            Value::Bool(truth) => MapKey::Bool(truth),
            other => panic!("{other:?} is no key"),
        }
    }

    /// Never the zero value, which would not be seen on the wire; but for enums, whose zero is a value.
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any bits are good bits")]
    fn single(&mut self, kind: &Kind, is_full: bool, depth: usize) -> Value {
        let shift = self.random.below(60);
        let bits = (self.random.bits() >> shift) | 1;
        match kind {
            Kind::Bool => Value::Bool(true),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(bits as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bits as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(bits as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(bits),
            Kind::Float => Value::F32(f32::from(bits as i16) / 8.0),
            Kind::Double => Value::F64(f64::from(bits as i32) / 8.0),
            Kind::String => Value::String(format!("ü{bits:x}")),
            Kind::Bytes => Value::Bytes(vec![0xff, bits as u8, 0].into()),
            Kind::Enum(kind) => {
                let numbers: Vec<i32> = kind.values().map(|value| value.number()).collect();
                Value::EnumNumber(*self.random.pick(&numbers))
            }
            Kind::Message(descriptor) => {
                Value::Message(self.message_at(descriptor.clone(), is_full, depth + 1))
            }
        }
    }
}
