//! Values for which no type is asked.

use super::{Decoder, Fatal, Kind, NodeId, Scalar, Value};
use crate::patch::value::Key;

/// The value of a scalar.
pub(super) fn of_scalar(scalar: &Scalar, text: &str) -> Value {
    match scalar {
        Scalar::Bool(value) => Value::Bool(*value),
        Scalar::Float(value) => Value::Float(*value),
        Scalar::Int(value) => Value::Int(*value),
        Scalar::Null => Value::Nil,
        Scalar::Merge | Scalar::Str => Value::Str(text.to_owned()),
        Scalar::Time(value) => Value::Time(*value),
        Scalar::Uint(value) => Value::Uint(*value),
    }
}

impl Decoder<'_> {
    /// Decodes a node into whatever it is.
    pub(super) fn construct_any(&mut self, id: NodeId, out: &mut Value) -> Fatal<bool> {
        match &self.tree.node(id).kind {
            Kind::Alias(target) => {
                self.enter_alias(id)?;
                self.count(id)?;
                let good = self.construct_any(*target, out);
                self.open_aliases.pop();
                good
            }
            Kind::Scalar { text, .. } => {
                let scalar = self.scalar(id)?;
                *out = of_scalar(&scalar, text);
                Ok(true)
            }
            Kind::Sequence(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    self.count(*item)?;
                    let mut value = Value::Nil;
                    self.path.push(format!("[{index}]"));
                    let good = self.construct_any(*item, &mut value);
                    self.path.pop();
                    if good? {
                        list.push(value);
                    }
                }
                *out = Value::List(list);
                Ok(true)
            }
            Kind::Mapping(_) => {
                if !self.keys_are_unique(id) {
                    return Ok(false);
                }
                *out = Value::Map(Default::default());
                self.construct_any_map(id, out, &mut Vec::new())?;
                Ok(true)
            }
        }
    }

    fn construct_any_map(&mut self, id: NodeId, out: &mut Value, seen: &mut Vec<Key>) -> Fatal<()> {
        let merging = !seen.is_empty();
        let mut merge = None;
        for &(key, value) in self.tree.entries(id) {
            self.count(key)?;
            if self.is_merge(key) {
                merge = Some(value);
                continue;
            }
            let Some(name) = self.any_key(key)? else { continue };
            if merging && seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let mut decoded = Value::Nil;
            self.path.push(name.text().to_owned());
            let good = self.construct_any(value, &mut decoded);
            self.path.pop();
            if good? && let Value::Map(map) = out {
                map.insert(name, decoded);
            }
        }
        if let Some(merge) = merge {
            self.merge_key(merge, &mut |decoder, mapping| decoder.construct_any_map(mapping, out, seen))?;
        }
        Ok(())
    }

    fn any_key(&mut self, id: NodeId) -> Fatal<Option<Key>> {
        let target = self.tree.target(id);
        let Kind::Scalar { text, .. } = &self.tree.node(target).kind else {
            let message = "cannot use a collection as a map key";
            return Err(self.error_at(id, crate::patch::error::Class::WrongType, message));
        };
        Ok(Some(match self.scalar(target)? {
            Scalar::Merge | Scalar::Str => Key::Str(text.to_string()),
            Scalar::Null => Key::Other("null".into()),
            Scalar::Bool(value) => Key::Other(value.to_string()),
            Scalar::Int(value) => Key::Other(value.to_string()),
            Scalar::Uint(value) => Key::Other(value.to_string()),
            Scalar::Float(_) | Scalar::Time(_) => Key::Other(text.to_string()),
        }))
    }
}
