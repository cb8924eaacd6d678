//! What the daemon shows of itself: the status file, the status socket.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The directory of the status file and socket.
pub const RUNTIME_DIRECTORY: &str = "/var/run/ichor";

/// The status file in `directory`.
pub fn file(directory: &Path) -> PathBuf {
    directory.join("status.json")
}

/// The status socket in `directory`.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("ichord.sock")
}

/// The state of the daemon as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Just started.
    Starting,
    /// There is no usable configuration: waiting for one.
    Idle,
    /// Something of the configuration is not in effect; see the problems.
    Degraded,
    /// All is as configured.
    Running,
}

impl State {
    /// A stable name for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Degraded => "degraded",
            Self::Running => "running",
        }
    }
}

/// A snapshot of the daemon. Contains no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Status {
    /// The version of the daemon.
    pub version: String,
    /// How it is.
    pub state: State,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
    /// Seconds since the Unix epoch when this was written.
    pub written_at: u64,
    /// SHA-256 of the configuration file that is in effect, as `sha256sum` prints it.
    #[serde(rename = "configSHA256", skip_serializing_if = "Option::is_none", default)]
    pub config_sha256: Option<String>,
    /// Name of the interface.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub interface: Option<String>,
    /// UDP port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub listen_port: Option<u16>,
    /// Our public key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<String>,
    /// The network that this node is a member of, or wants to be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network: Option<Network>,
    /// Addresses of the interface.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The peers, by name.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Packets dropped, by reason; only reasons that occurred.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The part that it is about: `config`, `identity`, `device`, `socket`, `membership`, `member`, `peers`, `path`, `network`,
    /// `services`, `state`.
    pub part: String,
    /// What is wrong and why.
    pub cause: String,
}

/// A network, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The name of this node in it; nothing while it is no member.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub member: Option<String>,
    /// The key that makes this node this member.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<String>,
    /// The id of this node's record: what a token names that may replace it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incarnation: Option<String>,
    /// The id of the token that let this node in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<String>,
    /// How many members it has, this node included.
    pub members: usize,
    /// The MTU of the interface in bytes: how long the packets are that are proven to pass between members.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtu: Option<u16>,
    /// Members that claim what others have, or that were let in once too often: an owner decides.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub conflicts: Vec<Conflict>,
    /// Who decides about members, most senior first; also those that do not any more.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub owners: Vec<Owner>,
    /// The public half of the key that strangers with a join string, and owners, speak to: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hello_key: Option<String>,
    /// A sum of all removals that are known: 16 hexadecimal digits. Two members with the same one know the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tombstones: Option<String>,
}

/// A member that is not installed, and why an owner should look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Conflict {
    /// The key that it has.
    pub identity: String,
    /// The id of its record.
    pub incarnation: String,
    /// The name that it claims.
    pub name: String,
    /// The IPv4 address that it claims.
    pub address: String,
    /// The id of the token that let it in.
    pub token: String,
    /// The identity of the member that has the name or address; nothing if the token was used too often.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub with: Option<String>,
}

/// An owner of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Owner {
    /// Its public key: 64 hexadecimal digits.
    pub key: String,
    /// The addresses that it gives out.
    pub range: String,
    /// `active`, `retired`, or `void` when its key was stolen.
    pub standing: String,
    /// Who added it, unless it was there from the beginning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added_by: Option<String>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub public_key: String,
    /// The key that makes it this member; only members have one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<String>,
    /// The id of its record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incarnation: Option<String>,
    /// Where traffic to it goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<SocketAddr>,
    /// Whether it could be sent a packet now.
    pub connected: bool,
    /// Seconds since the Unix epoch when keys were last agreed upon.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_handshake: Option<u64>,
    /// Its addresses.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<String>,
    /// The id of the token that let it in; only members have one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<String>,
    /// The version of its daemon; only members say it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Microseconds of the last round trip to it that was measured, through the tunnel and the daemons.
    #[serde(rename = "rttMicros", skip_serializing_if = "Option::is_none", default)]
    pub rtt_micros: Option<u64>,
    /// Whether packets of full size pass to it and back in one piece, as was last proven; nothing while that is not
    /// known, or it is no member or of a version that does not take part in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full_size: Option<bool>,
    /// Seconds since the Unix epoch since when it is there, or is not any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<u64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

impl Status {
    /// The status of a daemon that has done nothing yet.
    pub fn starting() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: State::Starting,
            problems: Vec::new(),
            written_at: seconds(SystemTime::now()),
            config_sha256: None,
            interface: None,
            listen_port: None,
            public_key: None,
            network: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            drops: BTreeMap::new(),
        }
    }

    /// The snapshot as JSON, ending with a line feed.
    pub fn to_json(&self) -> String {
        // All keys are strings, so serializing cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Seconds since the Unix epoch; 0 for dates before.
pub(crate) fn seconds(date: SystemTime) -> u64 {
    date.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Replaces the status file; readers see the old or the new one.
pub(crate) fn write_file(directory: &Path, json: &str) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = directory.join(".status.json.new");
    // No fsync: the directory is on a tmpfs, and a status does not outlive a reboot.
    std::fs::File::create(&temporary)?.write_all(json.as_bytes())?;
    std::fs::rename(temporary, file(directory))
}

/// Asks the daemon behind the socket in `directory` for its status.
///
/// # Errors
/// Those of connecting: nobody answers when no daemon runs.
pub fn ask(directory: &Path) -> io::Result<String> {
    let stream = std::os::unix::net::UnixStream::connect(socket(directory))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    io::read_to_string(stream)
}

/// The SHA-256 of a configuration file, as [`Status::config_sha256`] has it.
pub fn sha256(file: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, file);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
