//! Where the talosconfig is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::TalosConfigError;

/// Where Talos mounts the credentials of a pod that has a `ServiceAccount` of the Talos API.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/talos.dev";

/// What of the process's surroundings decides about connections: a value, so that nothing below reads variables.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `TALOSCONFIG`.
    pub talosconfig: Option<PathBuf>,
    /// `TALOS_HOME`; counts only when absolute.
    pub talos_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// Directory of a pod's credentials.
    pub service_account: PathBuf,
    /// `HTTPS_PROXY` or `https_proxy`.
    pub https_proxy: Option<String>,
    /// `NO_PROXY` or `no_proxy`.
    pub no_proxy: Option<String>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn from_process() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// Reads variables through `get`. Empty ones count as absent.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |upper: &str, lower: &str| {
            value(upper).or_else(|| value(lower)).map(|value| value.to_string_lossy().into_owned())
        };
        Self {
            talosconfig: value("TALOSCONFIG").map(PathBuf::from),
            talos_home: value("TALOS_HOME").map(PathBuf::from),
            home: value("HOME").map(PathBuf::from),
            service_account: PathBuf::from(SERVICE_ACCOUNT),
            https_proxy: text("HTTPS_PROXY", "https_proxy"),
            no_proxy: text("NO_PROXY", "no_proxy"),
        }
    }

    /// The usual places in order, and whether they may be written to.
    fn places(&self) -> Vec<(PathBuf, bool)> {
        let talos_home = self.talos_home.clone().filter(|path| path.is_absolute());
        let directory = talos_home.or_else(|| self.home.as_ref().map(|home| home.join(".talos")));
        let own = self.talosconfig.iter().cloned().chain(directory.map(|path| path.join("config")));
        let mut places: Vec<_> = own.map(|path| (path, true)).collect();
        places.push((self.service_account.join("config"), false));
        places
    }
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its path.
    pub path: PathBuf,
    /// False for the credentials of a pod.
    pub writable: bool,
    /// What `TALOSCONFIG` names, when that is not there and something else was taken: worth a warning.
    pub passed_over: Option<PathBuf>,
}

impl Location {
    pub(super) const fn writable(path: PathBuf) -> Self {
        Self { path, writable: true, passed_over: None }
    }
}

pub(super) fn locate(
    explicit: Option<&Path>,
    environment: &Environment,
) -> Result<Location, TalosConfigError> {
    if let Some(path) = explicit {
        return match path.exists() {
            true => Ok(Location::writable(path.to_owned())),
            false => Err(TalosConfigError::Missing { path: path.to_owned() }),
        };
    }
    let places = environment.places();
    match places.iter().find(|(path, _)| path.exists()) {
        Some((path, writable)) => Ok(Location {
            path: path.clone(),
            writable: *writable,
            passed_over: environment.talosconfig.clone().filter(|named| named != path),
        }),
        None => {
            Err(TalosConfigError::NotFound { searched: places.into_iter().map(|(path, _)| path).collect() })
        }
    }
}

pub(super) fn first_writable(environment: &Environment) -> Option<PathBuf> {
    environment.places().into_iter().find(|(_, writable)| *writable).map(|(path, _)| path)
}
