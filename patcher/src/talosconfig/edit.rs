//! Changes to a talosconfig. Whatever they do not name stays as it was.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yaml_serde::{Mapping, Value};
use zeroize::Zeroizing;

use super::{TalosConfig, TalosConfigError};

/// A context that got another name because its own was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Its name in the file that it came from.
    pub from: String,
    /// Its name here.
    pub to: String,
}

/// The PEM files of a new context.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewContext<'a> {
    /// CA certificates.
    pub ca: Option<&'a [u8]>,
    /// Client certificate and its key.
    pub client: Option<(&'a [u8], &'a [u8])>,
}

impl TalosConfig {
    /// Chooses the current context.
    ///
    /// # Errors
    ///
    /// When there is no such context.
    pub fn set_current(&mut self, name: &str) -> Result<(), TalosConfigError> {
        self.find(Some(name))?;
        self.root.insert("context".into(), name.into());
        Ok(())
    }

    /// Sets the endpoints of a context, or of the current one.
    ///
    /// # Errors
    ///
    /// When there is no such context.
    pub fn set_endpoints(
        &mut self,
        context: Option<&str>,
        endpoints: &[String],
    ) -> Result<(), TalosConfigError> {
        self.set(context, "endpoints", string_list(endpoints))
    }

    /// Sets the nodes of a context, or of the current one. None removes the key.
    ///
    /// # Errors
    ///
    /// When there is no such context.
    pub fn set_nodes(&mut self, context: Option<&str>, nodes: &[String]) -> Result<(), TalosConfigError> {
        self.set(context, "nodes", string_list(nodes))
    }

    /// Sets or, with an empty text, removes the `proxy-url` of a context, or of the current one.
    ///
    /// # Errors
    ///
    /// When there is no such context.
    pub fn set_proxy(&mut self, context: Option<&str>, url: &str) -> Result<(), TalosConfigError> {
        self.set(context, "proxy-url", if url.is_empty() { Value::Null } else { url.into() })
    }

    /// Adds a context, or replaces the one of that name. It does not become the current one.
    pub fn add(&mut self, name: &str, new: NewContext<'_>) {
        let encode = |pem: &[u8]| Value::String(STANDARD.encode(pem));
        let mut context = Mapping::new();
        context.insert("endpoints".into(), Value::Sequence(Vec::new()));
        if let Some(ca) = new.ca {
            context.insert("ca".into(), encode(ca));
        }
        if let Some((crt, key)) = new.client {
            context.insert("crt".into(), encode(crt));
            context.insert("key".into(), encode(key));
        }
        self.edit_contexts(|contexts| contexts.insert(name.into(), Value::Mapping(context)));
    }

    /// Removes a context. True when it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.edit_contexts(|contexts| contexts.shift_remove(name)).is_some()
    }

    /// Takes over all contexts of `other`, and its current context. Names that are taken get a number.
    pub fn merge(&mut self, other: &Self) -> Vec<Rename> {
        let mut renames = Vec::new();
        for name in other.context_names() {
            let Some(context) = other.contexts().and_then(|contexts| contexts.get(name)).cloned() else {
                continue;
            };
            let taken =
                |candidate: &str| self.contexts().is_some_and(|contexts| contexts.contains_key(candidate));
            let mut to = name.to_owned();
            for number in 1u32.. {
                if !taken(&to) {
                    break;
                }
                to = format!("{name}-{number}");
            }
            self.edit_contexts(|contexts| contexts.insert(to.clone().into(), context));
            if other.current() == Some(name) {
                self.root.insert("context".into(), to.clone().into());
            }
            if to != name {
                renames.push(Rename { from: name.to_owned(), to });
            }
        }
        renames
    }

    /// The text of the file. It holds the private keys.
    ///
    /// # Errors
    ///
    /// When a value cannot be written as YAML, which no value that was parsed is.
    pub fn expose_text(&self) -> Result<Zeroizing<String>, TalosConfigError> {
        let text = yaml_serde::to_string(&self.root).map_err(|source| TalosConfigError::Syntax { source })?;
        Ok(Zeroizing::new(text))
    }

    /// Writes the file back where it came from: all at once, mode 0600.
    ///
    /// # Errors
    ///
    /// [`TalosConfigError::ReadOnly`] for the credentials of a pod, and those of writing.
    pub fn save(&self) -> Result<(), TalosConfigError> {
        let Some(location) = &self.location else { return Err(TalosConfigError::Empty) };
        if !location.writable {
            return Err(TalosConfigError::ReadOnly { path: location.path.clone() });
        }
        crate::files::write_private(&location.path, self.expose_text()?.as_bytes())
            .map_err(|source| TalosConfigError::Write { path: location.path.clone(), source })
    }

    fn set(&mut self, context: Option<&str>, key: &str, value: Value) -> Result<(), TalosConfigError> {
        let name = self.find(context)?.0.to_owned();
        self.edit_contexts(|contexts| {
            let context = contexts.get_mut(name.as_str()).and_then(Value::as_mapping_mut);
            context.and_then(|context| match value {
                Value::Null => context.shift_remove(key),
                value => context.insert(key.into(), value),
            })
        });
        Ok(())
    }

    /// Changes the map of contexts in place, where there is one, so that the order of keys stays.
    fn edit_contexts<R>(&mut self, change: impl FnOnce(&mut Mapping) -> R) -> R {
        let slot = self.root.entry("contexts".into()).or_insert(Value::Null);
        let mut contexts = match std::mem::replace(slot, Value::Null) {
            Value::Mapping(contexts) => contexts,
            _ => Mapping::new(),
        };
        let result = change(&mut contexts);
        *slot = Value::Mapping(contexts);
        result
    }
}

fn string_list(items: &[String]) -> Value {
    if items.is_empty() {
        return Value::Null;
    }
    Value::Sequence(items.iter().map(|item| Value::String(item.clone())).collect())
}
