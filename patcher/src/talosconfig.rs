//! The client configuration of Talos: which clusters there are, how to reach them, and with which keys.
//!
//! The file is YAML. [`TalosConfig`] keeps it as it was read, so that keys of newer versions survive a rewrite,
//! and [`Context`] is one of its contexts, checked and decoded. `search` says where the file is, `credentials`
//! decodes the PEM blocks, `edit` changes and saves.
//! Source of the format: Talos, pkg/machinery/client/config.

mod credentials;
mod edit;
mod search;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use yaml_serde::{Mapping, Value};
use zeroize::Zeroize;

pub use credentials::{ClientIdentity, Credentials};
pub use edit::{NewContext, Rename};
pub use search::{Environment, Location};

/// Larger files are refused unread: a talosconfig has a few kilobytes per context.
const MAX_BYTES: u64 = 4 << 20;

/// A talosconfig file.
pub struct TalosConfig {
    root: Mapping,
    location: Option<Location>,
}

/// One context, decoded: everything that is needed to talk to a cluster.
#[derive(Debug, Default)]
pub struct Context {
    /// Its name in the file.
    pub name: String,
    /// Where to connect: hosts, hosts with ports, or URLs. May be empty.
    pub endpoints: Vec<String>,
    /// The nodes that commands without `--nodes` are for. May be empty.
    pub nodes: Vec<String>,
    /// CA and client certificate.
    pub credentials: Credentials,
    /// User and password that go with each call, for proxies.
    pub basic_auth: Option<BasicAuth>,
    /// Name of the cluster, for proxies that serve several.
    pub cluster: Option<String>,
    /// How to reach the endpoints.
    pub proxy: Option<ProxySetting>,
}

/// User and password of HTTP basic authentication.
pub struct BasicAuth {
    /// User name.
    pub username: String,
    password: String,
}

/// The `proxy-url` of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxySetting {
    /// No proxy, whatever the environment says.
    Direct,
    /// The proxy at this URL, whatever the environment says.
    Url(String),
}

/// Why a talosconfig cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TalosConfigError {
    /// The file that was named is not there. It is not created.
    #[error("there is no talosconfig at {}", path.display())]
    Missing {
        /// The path that was given.
        path: PathBuf,
    },
    /// No file was named and none of the usual places has one.
    #[error("there is no talosconfig in any of {}", list(searched))]
    NotFound {
        /// The places, in order.
        searched: Vec<PathBuf>,
    },
    /// The file cannot be read.
    #[error("failed to read talosconfig {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("failed to write talosconfig {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is mounted into a pod and belongs to the cluster.
    #[error("talosconfig {} is read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Not YAML.
    #[error("talosconfig is not valid YAML")]
    Syntax {
        /// What the parser said.
        source: yaml_serde::Error,
    },
    /// A key has a value of the wrong kind.
    #[error("talosconfig has {key}, which must be {expected}")]
    Shape {
        /// Path of the key, with dots.
        key: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// Nothing in it.
    #[error("talosconfig has no contexts")]
    Empty,
    /// No `context` is chosen.
    #[error("talosconfig has no current context (there are {})", names(known))]
    NoCurrent {
        /// The contexts that there are.
        known: Vec<String>,
    },
    /// The context is not in the file.
    #[error("context {name:?} is not defined (there are {})", names(known))]
    UnknownContext {
        /// The name that was asked for.
        name: String,
        /// The contexts that there are.
        known: Vec<String>,
    },
    /// The context signs its requests with PGP keys, as Omni wants it.
    #[error("context {name:?} uses SideroV1 authentication (Omni), which is not supported")]
    SideroV1 {
        /// The context.
        name: String,
    },
    /// Certificate or key cannot be decoded.
    #[error("context {name:?} has {key}, which {problem}")]
    Credential {
        /// The context.
        name: String,
        /// `ca`, `crt` or `key`.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl TalosConfig {
    /// Reads the file at `explicit`, or the first that exists of the usual places.
    ///
    /// # Errors
    ///
    /// [`TalosConfigError::Missing`] and [`TalosConfigError::NotFound`] when there is none, and those of reading
    /// and parsing.
    pub fn open(explicit: Option<&Path>, environment: &Environment) -> Result<Self, TalosConfigError> {
        let location = search::locate(explicit, environment)?;
        let text = crate::files::read_bounded(&location.path, MAX_BYTES)
            .map_err(|source| TalosConfigError::Read { path: location.path.clone(), source })?;
        let mut text = zeroize::Zeroizing::new(text);
        let mut config = Self::parse(&text)?;
        text.zeroize();
        config.location = Some(location);
        Ok(config)
    }

    /// Reads as [`TalosConfig::open`] does, and starts an empty one where there is none yet, for commands that add
    /// to it. Nothing is written before [`TalosConfig::save`].
    ///
    /// # Errors
    ///
    /// Those of reading and parsing.
    pub fn open_or_new(explicit: Option<&Path>, environment: &Environment) -> Result<Self, TalosConfigError> {
        match Self::open(explicit, environment) {
            Err(TalosConfigError::Missing { path }) => Ok(Self::empty(Location::writable(path))),
            Err(TalosConfigError::NotFound { searched }) => match search::first_writable(environment) {
                Some(path) => Ok(Self::empty(Location::writable(path))),
                None => Err(TalosConfigError::NotFound { searched }),
            },
            other => other,
        }
    }

    /// Parses the text of a talosconfig.
    ///
    /// # Errors
    ///
    /// When it is not YAML, or a known key has a value of the wrong kind.
    pub fn parse(text: &str) -> Result<Self, TalosConfigError> {
        let root: Value = yaml_serde::from_str(text).map_err(|source| TalosConfigError::Syntax { source })?;
        let root = match root {
            Value::Mapping(root) => root,
            Value::Null => Mapping::new(),
            _ => return Err(TalosConfigError::Shape { key: "a document".into(), expected: "a map" }),
        };
        let mut config = Self { root, location: None };
        config.check_shape()?;
        config.adopt_targets();
        Ok(config)
    }

    /// Where it was read from.
    pub const fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Name of the current context. Empty counts as none.
    pub fn current(&self) -> Option<&str> {
        self.root.get("context").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// Names of all contexts, sorted.
    pub fn context_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.contexts().into_iter().flat_map(Mapping::keys).filter_map(Value::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Endpoints and nodes of a context, without looking at its keys and certificates.
    pub fn addresses(&self, name: &str) -> Option<(Vec<String>, Vec<String>)> {
        let context = self.contexts()?.get(name)?;
        Some((strings(context.get("endpoints")), strings(context.get("nodes"))))
    }

    /// The `proxy-url` of a context, or of the current one, as it is written there.
    ///
    /// # Errors
    ///
    /// When there is no such context.
    pub fn proxy_url(&self, name: Option<&str>) -> Result<Option<&str>, TalosConfigError> {
        Ok(self.find(name)?.1.get("proxy-url").and_then(Value::as_str))
    }

    /// Decodes the context `name`, or the current one.
    ///
    /// # Errors
    ///
    /// When there is no such context, when it needs SideroV1 authentication, and when its certificates or keys
    /// cannot be decoded.
    pub fn context(&self, name: Option<&str>) -> Result<Context, TalosConfigError> {
        let (name, context) = self.find(name)?;
        let text = |key: &str| context.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let auth = context.get("auth");
        if auth.and_then(|auth| auth.get("siderov1")).is_some_and(|value| !value.is_null()) {
            return Err(TalosConfigError::SideroV1 { name: name.to_owned() });
        }
        let credential =
            |(key, problem)| TalosConfigError::Credential { name: name.to_owned(), key, problem };
        let credentials = Credentials::decode(text("ca"), text("crt"), text("key")).map_err(credential)?;
        Ok(Context {
            name: name.to_owned(),
            endpoints: strings(context.get("endpoints")),
            nodes: strings(context.get("nodes")),
            credentials,
            basic_auth: auth.and_then(|auth| auth.get("basic")).and_then(BasicAuth::from_value),
            cluster: text("cluster").map(str::to_owned),
            proxy: text("proxy-url").map(ProxySetting::new),
        })
    }

    fn empty(location: Location) -> Self {
        Self { root: Mapping::new(), location: Some(location) }
    }

    fn contexts(&self) -> Option<&Mapping> {
        self.root.get("contexts").and_then(Value::as_mapping)
    }

    fn find(&self, name: Option<&str>) -> Result<(&str, &Value), TalosConfigError> {
        let known = || self.context_names().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let name = match name.or(self.current()) {
            Some(name) => name,
            None if known().is_empty() => return Err(TalosConfigError::Empty),
            None => return Err(TalosConfigError::NoCurrent { known: known() }),
        };
        let entry =
            self.contexts().and_then(|contexts| contexts.iter().find(|(key, _)| key.as_str() == Some(name)));
        match entry {
            Some((key, value)) => Ok((key.as_str().unwrap_or_default(), value)),
            None => Err(TalosConfigError::UnknownContext { name: name.to_owned(), known: known() }),
        }
    }

    /// Known keys have values of the right kind, so that readers may skip what is absent.
    fn check_shape(&self) -> Result<(), TalosConfigError> {
        expect(self.root.get("context"), "context", "a string", Value::is_string)?;
        expect(self.root.get("contexts"), "contexts", "a map", Value::is_mapping)?;
        for (name, context) in self.contexts().into_iter().flatten() {
            let Some(name) = name.as_str() else {
                return Err(TalosConfigError::Shape { key: "contexts".into(), expected: "a map of strings" });
            };
            let path = |key: &str| format!("contexts.{name}.{key}");
            expect(Some(context), &format!("contexts.{name}"), "a map", Value::is_mapping)?;
            for key in ["endpoints", "nodes"] {
                expect(context.get(key), &path(key), "a list of strings", is_string_list)?;
            }
            for key in ["target", "ca", "crt", "key", "cluster", "proxy-url"] {
                expect(context.get(key), &path(key), "a string", Value::is_string)?;
            }
            expect(context.get("auth"), &path("auth"), "a map", Value::is_mapping)?;
            let basic = context.get("auth").and_then(|auth| auth.get("basic"));
            expect(basic, &path("auth.basic"), "a map", Value::is_mapping)?;
            for key in ["username", "password"] {
                let value = basic.and_then(|basic| basic.get(key));
                expect(value, &path(&format!("auth.basic.{key}")), "a string", Value::is_string)?;
            }
        }
        Ok(())
    }

    /// `target` is the endpoint of a time before there were several.
    fn adopt_targets(&mut self) {
        let Some(contexts) = self.root.get_mut("contexts").and_then(Value::as_mapping_mut) else { return };
        for context in contexts.values_mut().filter_map(Value::as_mapping_mut) {
            let target = match context.shift_remove("target") {
                Some(target) if target.as_str().is_some_and(|text| !text.is_empty()) => target,
                _ => continue,
            };
            match context.get_mut("endpoints").and_then(Value::as_sequence_mut) {
                Some(endpoints) => endpoints.push(target),
                None => {
                    context.insert("endpoints".into(), Value::Sequence(vec![target]));
                }
            }
        }
    }
}

impl fmt::Debug for TalosConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TalosConfig")
            .field("location", &self.location)
            .field("current", &self.current())
            .field("contexts", &self.context_names())
            .finish_non_exhaustive()
    }
}

impl Drop for TalosConfig {
    fn drop(&mut self) {
        self.root.values_mut().for_each(wipe);
    }
}

impl BasicAuth {
    /// The value of the `authorization` header, which is as secret as the password.
    pub fn expose_header(&self) -> zeroize::Zeroizing<String> {
        use base64::Engine as _;
        let pair = zeroize::Zeroizing::new(format!("{}:{}", self.username, self.password));
        let encoded =
            zeroize::Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()));
        zeroize::Zeroizing::new(format!("Basic {}", *encoded))
    }

    fn from_value(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        value.is_mapping().then(|| Self { username: text("username"), password: text("password") })
    }
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Drop for BasicAuth {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl ProxySetting {
    fn new(text: &str) -> Self {
        if text == "direct" { Self::Direct } else { Self::Url(text.to_owned()) }
    }
}

fn expect(
    value: Option<&Value>,
    key: &str,
    expected: &'static str,
    is_right: impl Fn(&Value) -> bool,
) -> Result<(), TalosConfigError> {
    match value {
        Some(value) if !value.is_null() && !is_right(value) => {
            Err(TalosConfigError::Shape { key: key.to_owned(), expected })
        }
        _ => Ok(()),
    }
}

fn is_string_list(value: &Value) -> bool {
    value.as_sequence().is_some_and(|list| list.iter().all(Value::is_string))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_sequence);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Sequence(list) => list.iter_mut().for_each(wipe),
        Value::Mapping(map) => map.values_mut().for_each(wipe),
        Value::Tagged(tagged) => wipe(&mut tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn names(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

#[cfg(test)]
mod tests;
