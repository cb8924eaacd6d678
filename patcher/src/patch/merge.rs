//! The strategic merge of two typed values, as Talos' `config/merge` does it.
//!
//! What happens to a value is a question of its type: the rules that are not by kind stand in one table,
//! [`ListRule`], the rest follows from the shape and the flags of the field.

use super::codec::Codec;
use super::error::{Class, PatchError};
use super::line::TalosLine;
use super::schema::{Field, Schema, Shape, TypeId};
use super::value::Value;

/// Lists whose items are found by key instead of being appended.
struct ListRule {
    /// The Go type, without its package.
    name: &'static str,
    /// The keys that an item can be found by; the first that is set in the patch item counts.
    keys: &'static [&'static str],
    /// A found item is replaced as a whole.
    replace: bool,
}

const LIST_RULES: &[ListRule] = &[
    ListRule { name: "AdmissionPluginConfigList", keys: &["name"], replace: false },
    ListRule { name: "ConfigFileList", keys: &["mountPath"], replace: false },
    ListRule { name: "ImageVerificationRules", keys: &["image"], replace: true },
    ListRule { name: "NetworkDeviceList", keys: &["interface", "deviceSelector"], replace: false },
    ListRule { name: "VlanList", keys: &["vlanId"], replace: false },
];

/// Merges `right` into `left`; both are of the type.
///
/// # Errors
/// When two values cannot be merged. What was merged before stays merged.
pub(super) fn merge(
    schema: &Schema,
    line: TalosLine,
    typ: TypeId,
    left: &mut Value,
    right: &Value,
) -> Result<(), PatchError> {
    Merger { schema, line, path: Vec::new() }.merge(typ, left, right, false, false)
}

struct Merger<'a> {
    schema: &'a Schema,
    line: TalosLine,
    path: Vec<String>,
}

impl Merger<'_> {
    fn refuse(&self, message: String) -> PatchError {
        PatchError::new(Class::Merge, message).at(self.path.join("."))
    }

    /// Go cannot set what it reached through a field that is not exported.
    fn not_settable(&self) -> PatchError {
        self.refuse("merge not possible".into())
    }

    /// `replace`: the field says that the patch replaces. `overwrite`: reached through a pointer, so zero counts.
    fn merge(
        &mut self,
        typ: TypeId,
        left: &mut Value,
        right: &Value,
        replace: bool,
        overwrite: bool,
    ) -> Result<(), PatchError> {
        let definition = self.schema.typ(typ);
        match &definition.codec {
            Codec::Kind | Codec::InlineManifests => {}
            codec => return self.merge_custom(codec, definition.merges, left, right, overwrite),
        }
        if definition.merges {
            let short = definition.name.rsplit('.').next().unwrap_or_default();
            if let (Some(rule), Shape::List(item)) =
                (LIST_RULES.iter().find(|rule| rule.name == short), &definition.shape)
            {
                return self.merge_list_by_key(rule, *item, left, right);
            }
        }
        match &definition.shape {
            Shape::Pointer(target) => match (&mut *left, right) {
                (_, Value::Nil) => Ok(()),
                (Value::Pointer(left), Value::Pointer(right)) => {
                    let overwrite = self.line >= TalosLine::V1_12;
                    self.merge(*target, left, right, replace, overwrite)
                }
                _ => set(left, right),
            },
            Shape::Any => match (&*left, right) {
                (_, Value::Nil) => Ok(()),
                (Value::Nil, _) => set(left, right),
                (Value::Map(_), Value::Map(_)) => self.merge_any(left, right),
                _ => Err(self.not_settable()),
            },
            Shape::List(_) => merge_list(left, right, replace),
            Shape::Bytes => match right {
                Value::Nil => Ok(()),
                _ => set(left, right),
            },
            Shape::Map(item) => self.merge_map(*item, left, right, replace),
            Shape::Struct(fields) => self.merge_struct(fields, left, right, replace),
            Shape::Bool => set(left, right),
            Shape::Float | Shape::Int(_) | Shape::Str | Shape::Uint(_) => {
                if right.is_zero() && !overwrite {
                    Ok(())
                } else {
                    set(left, right)
                }
            }
            Shape::Opaque => Err(self.not_settable()),
        }
    }

    fn merge_custom(
        &mut self,
        codec: &Codec,
        merges: bool,
        left: &mut Value,
        right: &Value,
        overwrite: bool,
    ) -> Result<(), PatchError> {
        match codec {
            // These take over whatever the patch has, also nothing.
            Codec::ByteSize | Codec::Cel | Codec::Percentage => set(left, right),
            Codec::Address | Codec::AddressPort | Codec::Prefix if merges => {
                if right.is_zero() {
                    Ok(())
                } else {
                    set(left, right)
                }
            }
            // Until 1.13 the merge looks into the address itself, which it cannot set.
            Codec::Address | Codec::AddressPort | Codec::Prefix | Codec::DiskMatcher => {
                Err(self.not_settable())
            }
            Codec::Args => match (&mut *left, right) {
                (_, Value::Map(right)) if right.is_empty() => Ok(()),
                (Value::Map(left), Value::Map(right)) => {
                    left.extend(right.iter().map(|(key, value)| (key.clone(), value.clone())));
                    Ok(())
                }
                (_, Value::Map(_)) => set(left, right),
                _ => Ok(()),
            },
            Codec::Base64 | Codec::HardwareAddress | Codec::InlineManifests => match right {
                Value::Nil => Ok(()),
                _ => set(left, right),
            },
            Codec::Endpoint | Codec::Url => match (&mut *left, right) {
                (_, Value::Nil) => Ok(()),
                (Value::Url(left), Value::Url(right)) => {
                    left.merge(right).map_err(|part| self.refuse(format!("merge not possible: {part}")))
                }
                _ => set(left, right),
            },
            Codec::PemCertificate
            | Codec::PemCertificateAndKey
            | Codec::PemKey
            | Codec::PortRange
            | Codec::Size => {
                if let (Value::Struct(left), Value::Struct(right)) = (left, right) {
                    for (left, right) in left.iter_mut().zip(right) {
                        if !matches!(right, Value::Nil | Value::Uint(0)) {
                            *left = right.clone();
                        }
                    }
                }
                Ok(())
            }
            Codec::ArgValue
            | Codec::DiskSize
            | Codec::Duration
            | Codec::Enum(_)
            | Codec::FailOverMac
            | Codec::FileMode
            | Codec::Kind => {
                if right.is_zero() && !overwrite {
                    Ok(())
                } else {
                    set(left, right)
                }
            }
        }
    }

    fn merge_struct(
        &mut self,
        fields: &[Field],
        left: &mut Value,
        right: &Value,
        replace: bool,
    ) -> Result<(), PatchError> {
        if replace {
            return if right.is_zero() { Ok(()) } else { set(left, right) };
        }
        let (Value::Struct(left), Value::Struct(right)) = (left, right) else { return Ok(()) };
        for ((field, left), right) in fields.iter().zip(left).zip(right) {
            self.path.push(field.key.clone());
            if field.inline {
                self.path.pop();
            }
            if field.hidden {
                return Err(self.not_settable());
            }
            let result = self.merge(field.typ, left, right, field.replace, false);
            if !field.inline && result.is_ok() {
                self.path.pop();
            }
            result?;
        }
        Ok(())
    }

    fn merge_map(
        &mut self,
        item: TypeId,
        left: &mut Value,
        right: &Value,
        replace: bool,
    ) -> Result<(), PatchError> {
        let Value::Map(right) = right else { return Ok(()) };
        if replace || !matches!(left, Value::Map(_)) {
            *left = Value::Map(right.clone());
            return Ok(());
        }
        let Value::Map(left) = left else { return Ok(()) };
        let untyped = matches!(self.schema.typ(item).shape, Shape::Any);
        for (key, right) in right {
            match left.get_mut(key) {
                Some(left) if !matches!(left, Value::Nil) => {
                    self.path.push(key.text().to_owned());
                    if untyped {
                        self.merge_any(left, right)?;
                    } else {
                        self.merge(item, left, right, false, false)?;
                    }
                    self.path.pop();
                }
                _ => {
                    left.insert(key.clone(), right.clone());
                }
            }
        }
        Ok(())
    }

    /// Values of free-form maps: by what they are.
    fn merge_any(&mut self, left: &mut Value, right: &Value) -> Result<(), PatchError> {
        if left.dynamic_type() != right.dynamic_type() {
            let (left, right) = (left.dynamic_type(), right.dynamic_type());
            return Err(self.refuse(format!("merge type mismatch left {left} right {right}")));
        }
        match (left, right) {
            (Value::List(left), Value::List(right)) => {
                left.extend(right.iter().cloned());
                Ok(())
            }
            (Value::Map(left), Value::Map(right)) => {
                for (key, right) in right {
                    match left.get_mut(key) {
                        Some(left) if !matches!(left, Value::Nil) => {
                            self.path.push(key.text().to_owned());
                            self.merge_any(left, right)?;
                            self.path.pop();
                        }
                        _ => {
                            left.insert(key.clone(), right.clone());
                        }
                    }
                }
                Ok(())
            }
            (Value::Time(_), _) => Err(self.not_settable()),
            (left @ Value::Bool(_), right) => set(left, right),
            (left, right) => {
                if right.is_zero() {
                    Ok(())
                } else {
                    set(left, right)
                }
            }
        }
    }

    fn merge_list_by_key(
        &mut self,
        rule: &ListRule,
        item: TypeId,
        left: &mut Value,
        right: &Value,
    ) -> Result<(), PatchError> {
        let Value::List(right) = right else { return Ok(()) };
        if right.is_empty() {
            return Ok(());
        }
        if !matches!(left, Value::List(_)) {
            *left = Value::List(Vec::new());
        }
        let Value::List(left) = left else { return Ok(()) };
        let fields = item_fields(self.schema, item);
        let known = left.len();
        for (index, right) in right.iter().enumerate() {
            if self.falls_over_null(rule, fields, left, right) {
                return Err(self.refuse("null item".into()));
            }
            // A rule that replaces looks at what was there before the patch, and there at the last one.
            let found = if rule.replace {
                left[..known].iter().rposition(|left| same_item(rule, fields, left, right))
            } else {
                left.iter().position(|left| same_item(rule, fields, left, right))
            };
            match found {
                Some(at) if rule.replace => left[at] = right.clone(),
                Some(at) => {
                    self.path.push(format!("[{index}]"));
                    self.merge(item, &mut left[at], right, false, false)?;
                    self.path.pop();
                }
                None => left.push(right.clone()),
            }
        }
        Ok(())
    }

    /// Whether the library looks into a null while it searches the item; it crashes then.
    fn falls_over_null(&self, rule: &ListRule, fields: &[Field], left: &[Value], right: &Value) -> bool {
        let null = |item: &Value| matches!(item, Value::Nil);
        if null(right) {
            return rule.keys.len() > 1 || !left.is_empty();
        }
        // An item without any of several keys is not searched.
        let has_key = |key: &&str| member(fields, right, key).is_some_and(|value| !value.is_zero());
        let searched = rule.keys.len() == 1 || rule.keys.iter().any(has_key);
        searched
            && left.iter().take_while(|left| null(left) || !same_item(rule, fields, left, right)).any(null)
    }
}

fn item_fields(schema: &Schema, item: TypeId) -> &[Field] {
    let mut definition = schema.typ(item);
    if let Shape::Pointer(target) = definition.shape {
        definition = schema.typ(target);
    }
    match &definition.shape {
        Shape::Struct(fields) => fields,
        _ => &[],
    }
}

fn same_item(rule: &ListRule, fields: &[Field], left: &Value, right: &Value) -> bool {
    let single = rule.keys.len() == 1;
    for key in rule.keys {
        let (Some(left), Some(right)) = (member(fields, left, key), member(fields, right, key)) else {
            return false;
        };
        // With one key only, also an empty one is looked for.
        if single || !right.is_zero() {
            return match (left, right) {
                (Value::Pointer(left), Value::Pointer(right)) => equal_by_identity(left, right),
                _ => left == right && !matches!(left, Value::Pointer(_)),
            };
        }
    }
    false
}

/// Go compares structs field by field; pointers in them are never the same.
fn equal_by_identity(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Struct(left), Value::Struct(right)) => {
            left.iter().zip(right).all(|(left, right)| equal_by_identity(left, right))
        }
        (Value::Pointer(_), _) | (_, Value::Pointer(_)) => false,
        _ => left == right,
    }
}

fn member<'v>(fields: &[Field], item: &'v Value, key: &str) -> Option<&'v Value> {
    let item = match item {
        Value::Pointer(inner) => inner,
        other => other,
    };
    let Value::Struct(values) = item else { return None };
    values.get(fields.iter().position(|field| field.key == key)?)
}

fn set(left: &mut Value, right: &Value) -> Result<(), PatchError> {
    *left = right.clone();
    Ok(())
}

fn merge_list(left: &mut Value, right: &Value, replace: bool) -> Result<(), PatchError> {
    let Value::List(items) = right else { return Ok(()) };
    match left {
        Value::List(left) if !replace => left.extend(items.iter().cloned()),
        _ => *left = right.clone(),
    }
    Ok(())
}
