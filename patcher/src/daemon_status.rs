//! What the daemon of a node says of itself. Every field may be missing: the daemon may be of another version.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::api::NodeClient;

/// The daemon's status file on a node.
const PATH: &str = "/var/run/ichor/status.json";
/// Longest status that is read.
const MAX_LEN: usize = 16 << 20;

/// A snapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Which config it runs with.
    #[serde(rename = "configSHA256")]
    pub config_sha256: Option<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// The network that it is a member of.
    pub network: Option<Network>,
    /// Addresses of its interface.
    pub addresses: Vec<String>,
    /// The others.
    pub peers: Vec<Peer>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The part that it is about.
    pub part: String,
    /// What is wrong and why.
    pub cause: String,
}

/// A network, as a node sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The name of the node in it.
    pub member: Option<String>,
    /// The key that makes the node this member.
    pub identity: Option<String>,
    /// The id of the node's record.
    pub incarnation: Option<String>,
    /// The id of the token that let the node in.
    pub token: Option<String>,
    /// The length of packets that the daemon proves to pass to members; it does not tell if it cannot.
    pub mtu: Option<u16>,
    /// Members that an owner must decide about.
    pub conflicts: Vec<Conflict>,
    /// The public half of the present hello key, in hexadecimal digits.
    pub hello_key: Option<String>,
    /// The sum of all removals that are known, in hexadecimal digits.
    pub tombstones: Option<String>,
}

/// A member that is not installed, and why an owner should look at it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
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
    pub with: Option<String>,
}

/// A peer of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The key that makes it this member.
    pub identity: Option<String>,
    /// The id of its record.
    pub incarnation: Option<String>,
    /// Where traffic to it goes.
    pub endpoint: Option<SocketAddr>,
    /// Whether it could be sent a packet now.
    pub connected: bool,
    /// Seconds since the Unix epoch when keys were last agreed upon.
    pub last_handshake: Option<u64>,
    /// Its addresses.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<String>,
    /// The id of the token that let it in.
    pub token: Option<String>,
    /// The version of its daemon.
    pub version: Option<String>,
    /// Microseconds of the last round trip to it that was measured.
    #[serde(rename = "rttMicros")]
    pub rtt_micros: Option<u64>,
    /// Whether packets as long as the MTU pass to it and back; nothing while, or where, that is not proven.
    pub full_size: Option<bool>,
    /// Seconds since the Unix epoch since when it is there, or is not any more.
    pub since: Option<u64>,
}

/// Reads what `ichord status` printed into a file; `-` is standard input.
///
/// # Errors
///
/// When the file cannot be read, or is no status.
pub fn from_file(path: &Path) -> anyhow::Result<DaemonStatus> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no status of ichord", path.display()))
}

/// Asks the daemon of a node.
///
/// # Errors
///
/// When the file cannot be read (no daemon runs, or never did), is too long or no status.
pub async fn read(client: &NodeClient) -> anyhow::Result<DaemonStatus> {
    let mut stream = client.read(PATH).await?;
    let mut bytes = Vec::new();
    while let Some(data) = stream.next().await? {
        stream.check(&data)?;
        bytes.extend_from_slice(&data.bytes);
        anyhow::ensure!(bytes.len() <= MAX_LEN, "its status file is too long");
    }
    Ok(serde_json::from_slice(&bytes)?)
}
