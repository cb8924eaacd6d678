//! What is known about a node before it is changed.

use std::net::IpAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::api::{Capabilities, Support, TalosVersion};
use crate::machine::MachineConfig;
use crate::patch::TalosLine;

use super::facts::Facts;

/// What is known about a node. From a file that is its config alone; a running node tells the rest.
pub struct Observation {
    /// Its name in the cluster file.
    pub node: String,
    /// The config that the plan starts from.
    pub config: Zeroizing<String>,
    /// Whether the config on its disk is another one than the active one.
    pub is_pending: bool,
    /// Its version of Talos; without one it is told from the config.
    pub version: Option<TalosVersion>,
    /// Its addresses with their links, in the order of Talos. Empty: not known.
    pub addresses: Vec<(IpNet, String)>,
    /// The addresses that its kubelet uses today. Empty: not known.
    pub node_ips: Vec<IpAddr>,
    /// The addresses that its etcd member advertises today. Empty: not known.
    pub etcd_ips: Vec<IpAddr>,
    /// Ports of WireGuard interfaces that are not ours, with their names.
    pub wireguard: Vec<(u16, String)>,
    /// Whether the extension is installed. None: not known.
    pub has_extension: Option<bool>,
}

impl std::fmt::Debug for Observation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observation")
            .field("node", &self.node)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Observation {
    /// What a config file alone says.
    pub fn of_config(
        node: impl Into<String>,
        config: Zeroizing<String>,
        version: Option<TalosVersion>,
    ) -> Self {
        let version = version.or_else(|| version_of(&config));
        Self {
            node: node.into(),
            config,
            is_pending: false,
            version,
            addresses: Vec::new(),
            node_ips: Vec::new(),
            etcd_ips: Vec::new(),
            wireguard: Vec::new(),
            has_extension: None,
        }
    }

    /// Whose rules apply: those of its version, else of the oldest line that knows all documents of the config.
    pub(super) fn line(&self) -> TalosLine {
        let told = self.version.as_ref().and_then(|version| TalosLine::of_version(&version.to_string()));
        told.unwrap_or_else(|| oldest_line(&self.config))
    }

    /// How well its version is known.
    pub(super) fn support(&self) -> Option<Support> {
        self.version.clone().map(|version| Capabilities::of(version).support)
    }
}

/// The image that the config installs.
pub(crate) fn installer_of(config: &str) -> Option<String> {
    let parsed = MachineConfig::parse(config.as_bytes(), TalosLine::NEWEST.dialect()).ok()?;
    Facts::of(&parsed).installer
}

/// The version that the config installs, when its image says one.
fn version_of(config: &str) -> Option<TalosVersion> {
    let image = installer_of(config)?;
    let tag = image.rsplit_once(':')?.1;
    let tag = tag.split('@').next()?;
    tag.starts_with('v').then(|| tag.parse().ok()).flatten()
}

fn oldest_line(config: &str) -> TalosLine {
    let Ok(parsed) = MachineConfig::parse(config.as_bytes(), TalosLine::NEWEST.dialect()) else {
        return TalosLine::NEWEST;
    };
    let knows = |line: &TalosLine| {
        let kinds = &line.schema().kinds;
        parsed.parts().iter().all(|part| part.id.is_legacy() || kinds.contains_key(&part.id.kind))
    };
    TalosLine::ALL.into_iter().find(|line| knows(line)).unwrap_or(TalosLine::NEWEST)
}
