//! The types that read YAML in their own way.

use super::{Class, Decoder, Dialect, Fatal, Kind, NodeId, Scalar, TypeId, Value};
use crate::patch::codec::{Codec, from_base64, parse_human_bytes};
use crate::patch::schema::Shape;
use crate::patch::url::Url;

impl Decoder<'_> {
    pub(super) fn custom(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let schema = self.schema;
        match &schema.typ(typ).codec {
            Codec::ArgValue => self.arg_value(id, out),
            Codec::InlineManifests => self.inline_manifests(id, typ, out),
            Codec::PemCertificate => self.pem(id, &["crt"], out),
            Codec::PemCertificateAndKey => self.pem(id, &["crt", "key"], out),
            Codec::PemKey => self.pem(id, &["key"], out),
            Codec::PortRange => self.port_range(id, out),
            codec => {
                let Some(text) = self.string(id)? else { return Ok(false) };
                match from_string(codec, &text, out) {
                    Ok(value) => {
                        *out = value;
                        Ok(true)
                    }
                    Err(message) => self.invalid(id, message),
                }
            }
        }
    }

    /// A node as a string field takes it; nothing when it was refused.
    fn string(&mut self, id: NodeId) -> Fatal<Option<String>> {
        let Kind::Scalar { text, .. } = &self.tree.node(id).kind else {
            let found = self.tag(id);
            self.report(id, Class::WrongType, format!("cannot decode {found} into string"));
            return Ok(None);
        };
        match self.scalar(id) {
            Ok(Scalar::Time(_)) if self.dialect == Dialect::V4Rc6 => {
                self.report(id, Class::WrongType, "cannot decode !!timestamp into string");
                Ok(None)
            }
            Ok(_) => Ok(Some(text.to_string())),
            // What stops the decoder is only an error to a type that asks for its value.
            Err(error) if self.dialect != Dialect::V3 => {
                self.report(id, error.class, error.message.clone());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn arg_value(&mut self, id: NodeId, out: &mut Value) -> Fatal<bool> {
        let value = match &self.tree.node(id).kind {
            Kind::Scalar { .. } => self.arg_text(id).map(Value::Str),
            Kind::Sequence(items) => {
                let items =
                    items.iter().map(|item| self.tree.target(*item)).filter(|item| !self.is_null(*item));
                let list: Option<Vec<Value>> =
                    items.map(|item| self.arg_text(item).map(Value::Str)).collect();
                list.map(Value::List)
            }
            Kind::Alias(_) | Kind::Mapping(_) => None,
        };
        match value {
            Some(value) => {
                *out = value;
                Ok(true)
            }
            None => self.invalid(id, "arg value must be a string or list of strings".into()),
        }
    }

    fn arg_text(&self, id: NodeId) -> Option<String> {
        let text = self.tree.text(id)?;
        let scalar = self.scalar(id).ok()?;
        let time = matches!(scalar, Scalar::Time(_)) && self.dialect == Dialect::V4Rc6;
        (!time).then(|| text.to_owned())
    }

    fn port_range(&mut self, id: NodeId, out: &mut Value) -> Fatal<bool> {
        if let Kind::Scalar { .. } = self.tree.node(id).kind {
            let port = self.scalar(id).ok();
            let port = port.and_then(|scalar| super::number::uint_of(&scalar, 16, self.dialect));
            if let Some(port) = port {
                *out = Value::Struct(vec![Value::Uint(port), Value::Uint(port)]);
                return Ok(true);
            }
        }
        let Some(text) = self.string(id)? else { return Ok(false) };
        let range = text.split_once('-').and_then(|(low, high)| Some((port(low)?, port(high)?)));
        match range {
            Some((low, high)) => {
                *out = Value::Struct(vec![Value::Uint(low), Value::Uint(high)]);
                Ok(true)
            }
            None => self.invalid(id, "invalid port range".into()),
        }
    }

    fn inline_manifests(&mut self, id: NodeId, typ: TypeId, out: &mut Value) -> Fatal<bool> {
        let mut result = Value::Nil;
        let errors = self.errors;
        if matches!(self.tree.node(id).kind, Kind::Sequence(_)) {
            self.construct_sequence(id, typ, &mut result)?;
        } else {
            self.wrong_type(id, typ);
        }
        if self.errors > errors {
            return Ok(false);
        }
        let contents = match &self.schema.typ(typ).shape {
            Shape::List(item) => match &self.schema.typ(*item).shape {
                Shape::Struct(fields) => fields.iter().position(|field| field.key == "contents"),
                _ => None,
            },
            _ => None,
        };
        if let (Value::List(items), Some(contents)) = (&mut result, contents) {
            for item in items {
                if let Value::Struct(fields) = item
                    && let Some(Value::Str(text)) = fields.get_mut(contents)
                {
                    let cut = text.trim_start_matches(['\t', '\n', '\u{b}', '\u{c}', '\r']);
                    *text = cut.to_owned();
                }
            }
        }
        *out = result;
        Ok(true)
    }

    fn pem(&mut self, id: NodeId, keys: &[&str], out: &mut Value) -> Fatal<bool> {
        if !matches!(self.tree.node(id).kind, Kind::Mapping(_)) {
            let found = self.tag(id);
            return Ok(self.report(
                id,
                Class::WrongType,
                format!("cannot decode {found} into a certificate"),
            ));
        }
        if !self.keys_are_unique(id) {
            return Ok(false);
        }
        let mut parts = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.tree.get(id, key).map(|value| self.tree.target(value));
            let text = match value {
                Some(value) if !self.is_null(value) => {
                    self.path.push((*key).to_owned());
                    let text = self.string(value);
                    self.path.pop();
                    match text? {
                        Some(text) => text,
                        None => return Ok(false),
                    }
                }
                _ => String::new(),
            };
            let bytes = match from_base64(&text) {
                // A redacted key is kept as it is.
                _ if *key == "key" && keys.len() == 2 && text == "******" => text.into_bytes(),
                Ok(bytes) => bytes,
                Err(message) => return self.invalid(id, message),
            };
            parts.push(Value::Bytes(bytes));
        }
        *out = Value::Struct(parts);
        Ok(true)
    }
}

fn port(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse::<u16>().ok()).flatten().map(u64::from)
}

fn from_string(codec: &Codec, text: &str, old: &Value) -> Result<Value, String> {
    match codec {
        Codec::Base64 => from_base64(text).map(Value::Bytes),
        Codec::Url if text.is_empty() => Ok(old.clone()),
        Codec::Endpoint | Codec::Url => Ok(Value::Url(Box::new(Url::parse(text)?))),
        Codec::DiskSize => parse_human_bytes(text).map(Value::Uint),
        Codec::DiskMatcher => {
            let text = text.trim();
            let size =
                [">=", "<=", ">", "<", "=="].iter().find_map(|op| text.strip_prefix(op)).unwrap_or(text);
            parse_human_bytes(size.trim())?;
            Ok(Value::Text(text.to_owned()))
        }
        _ => Err("this type is not read from a string".into()),
    }
}
