//! Credentials for registries, from the configuration of docker.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::files::read_bounded;

/// The largest configuration that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What docker keeps its own registry's credentials under.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The user name by which helpers say that the secret is a token.
const TOKEN_USER: &str = "<token>";

/// A user's credentials for one registry. They are not shown by `Debug`.
#[derive(Clone)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token that is exchanged for others.
    Identity(Zeroizing<String>),
}

/// The configuration of docker.
#[derive(Default)]
pub struct DockerConfig {
    auths: BTreeMap<String, Auth>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// Credentials that cannot be found out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not understood. What the parser said could hold secrets and is left out.
    #[error("failed to read {path}: it is no docker configuration (line {line})")]
    Parse {
        /// The file.
        path: String,
        /// Where.
        line: usize,
    },
    /// An entry is not understood.
    #[error("failed to read the credentials of {0}: they are not base64 of USER:PASSWORD")]
    Entry(String),
    /// A helper with a name that is no name.
    #[error("{0:?} is no name of a credential helper")]
    HelperName(String),
    /// A helper failed.
    #[error("failed to ask {helper} for the credentials of {host}")]
    Helper {
        /// The program.
        helper: String,
        /// The registry.
        host: String,
        /// What went wrong.
        source: io::Error,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default, deserialize_with = "secret")]
    auth: Zeroizing<String>,
    #[serde(default, rename = "identitytoken", deserialize_with = "secret")]
    identity: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Helped {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret", deserialize_with = "secret")]
    secret: Zeroizing<String>,
}

/// A text that is wiped when it is dropped.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfig").field("registries", &self.auths.len()).finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads `config.json` in `$DOCKER_CONFIG`, or in `~/.docker`. Without a file nobody is known.
    ///
    /// # Errors
    ///
    /// When there is a file that cannot be read.
    pub fn open() -> Result<Self, DockerConfigError> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home);
        match directory {
            Some(directory) => Self::read(&directory.join("config.json")),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file; none when it is not there.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> Result<Self, DockerConfigError> {
        let text = match read_bounded(path, MAX_BYTES) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(DockerConfigError::Read { path: path.display().to_string(), source }),
        };
        let file: File = serde_json::from_str(&text).map_err(|error| DockerConfigError::Parse {
            path: path.display().to_string(),
            line: error.line(),
        })?;
        Ok(Self { auths: file.auths, helpers: file.helpers, store: file.store })
    }

    /// The credentials for a registry, if there are any. May start a helper program and wait for it.
    ///
    /// # Errors
    ///
    /// When there are some that are not understood, or a helper fails.
    pub fn credentials(&self, host: &str) -> Result<Option<Credentials>, DockerConfigError> {
        if let Some(helper) = self.helpers.get(host) {
            return ask(helper, host);
        }
        let plain = |name: &str| {
            let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
            name.split('/').next().unwrap_or(name).to_owned()
        };
        let is_host = |name: &str| plain(name) == host || (host == "docker.io" && name == DOCKER_HUB);
        let entry = self
            .auths
            .get(host)
            .or_else(|| self.auths.iter().find(|(name, _)| is_host(name)).map(|(_, entry)| entry));
        match entry {
            Some(entry) if !entry.identity.is_empty() => {
                Ok(Some(Credentials::Identity(entry.identity.clone())))
            }
            Some(entry) if !entry.auth.is_empty() => decode(&entry.auth, host).map(Some),
            _ => match &self.store {
                Some(helper) => ask(helper, host),
                None => Ok(None),
            },
        }
    }
}

fn decode(auth: &str, host: &str) -> Result<Credentials, DockerConfigError> {
    let refuse = || DockerConfigError::Entry(host.to_owned());
    let bytes = Zeroizing::new(STANDARD.decode(auth.trim()).map_err(|_| refuse())?);
    let text = str::from_utf8(&bytes).map_err(|_| refuse())?;
    let (user, password) = text.split_once(':').ok_or_else(refuse)?;
    // Docker fills up with zero bytes.
    let password = Zeroizing::new(password.trim_end_matches('\0').to_owned());
    Ok(Credentials::Basic { user: user.to_owned(), password })
}

/// Asks `docker-credential-NAME get`. That it knows nothing is not told from that it fails, so its failure means that
/// there are no credentials.
fn ask(name: &str, host: &str) -> Result<Option<Credentials>, DockerConfigError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(DockerConfigError::HelperName(name.to_owned()));
    }
    let helper = format!("docker-credential-{name}");
    let failed = |source| DockerConfigError::Helper { helper: helper.clone(), host: host.to_owned(), source };
    let mut child = Command::new(&helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(host.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    let stdout = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Ok(None);
    }
    let helped: Helped = serde_json::from_slice(&stdout)
        .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "the answer is not understood")))?;
    Ok(Some(match &*helped.user {
        TOKEN_USER => Credentials::Identity(helped.secret),
        _ => Credentials::Basic { user: helped.user, password: helped.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        DockerConfig::read(&path).unwrap()
    }

    #[test]
    fn an_entry_is_found_by_host_with_or_without_scheme_and_path() {
        let auth = STANDARD.encode("me:pass:word\0\0");
        for name in
            ["registry.example:5000", "https://registry.example:5000/v2/", "http://registry.example:5000"]
        {
            let config = config(&format!(r#"{{"auths": {{"{name}": {{"auth": "{auth}"}}}}}}"#));
            let Some(Credentials::Basic { user, password }) =
                config.credentials("registry.example:5000").unwrap()
            else {
                panic!("{name}")
            };
            assert_eq!((&*user, &**password), ("me", "pass:word"));
            assert!(config.credentials("registry.example").unwrap().is_none());
        }
    }

    #[test]
    fn a_missing_file_means_that_nobody_is_known_and_secrets_are_not_shown() {
        let config = DockerConfig::read(Path::new("/nonexistent/config.json")).unwrap();
        assert!(config.credentials("a.b").unwrap().is_none());
        let secret = Credentials::Identity(Zeroizing::new("hunter2".into()));
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn a_helper_is_a_name_and_not_a_path() {
        let config = config(r#"{"credsStore": "../../tmp/x"}"#);
        assert!(matches!(config.credentials("a.b"), Err(DockerConfigError::HelperName(_))));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"auths": {"a.b": {"auth": hunter2}}}"#).unwrap();
        let error = DockerConfig::read(&path).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
