//! The configuration file of `ichord run`, read once into types that are valid.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ichor_mesh::key::PublicKey;
use ichor_mesh::record::name::Name;
use ipnet::IpNet;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::dns::ZoneName;

/// Where Talos mounts the file.
pub const TALOS_PATH: &str = "/usr/local/etc/ichor/ichord.yaml";
/// Where it is on other systems.
pub const LINUX_PATH: &str = "/etc/ichor/ichord.yaml";
/// Where keys and what was learned are kept, unless the file says otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/ichor";

/// Longest file: 4 MiB are some ten thousand peers.
const MAX_LEN: u64 = 4 << 20;

/// What the daemon is to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Name of the interface.
    #[serde(default = "defaults::interface")]
    pub interface: InterfaceName,
    /// UDP port of everything.
    #[serde(default = "defaults::listen_port")]
    pub listen_port: u16,
    /// MTU of the interface in bytes.
    #[serde(default = "defaults::mtu")]
    pub mtu: Mtu,
    /// TCP port of the metrics, on the loopback and the mesh addresses. 0 for none.
    #[serde(default = "defaults::metrics_port")]
    pub metrics_port: u16,
    /// Mark of outgoing datagrams, for policy routing. 0 for none.
    #[serde(default)]
    pub fwmark: u32,
    /// Where keys and what was learned are kept.
    #[serde(default = "defaults::state_directory")]
    pub state_directory: PathBuf,
    /// Peers that are listed by hand.
    #[serde(default, rename = "static")]
    pub static_mesh: Option<StaticMesh>,
    /// The network to be a member of.
    #[serde(default)]
    pub mesh: Option<MeshConfig>,
}

/// Membership of a network.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct MeshConfig {
    /// The join string. Not needed any more once the node is a member.
    #[serde(default)]
    pub join: Option<Zeroizing<String>>,
    /// The name that this node wants, where its token is for a pool. Without it the host's name.
    #[serde(default, deserialize_with = "from_optional_text")]
    pub name: Option<Name>,
    /// Prefixes behind this node that members may use. Its token must permit them.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Where this node may be reached beside its own addresses: a forwarded port, for example.
    #[serde(default)]
    pub endpoints: Vec<SocketAddr>,
    /// Days after which this node makes another WireGuard key. 0 for never.
    #[serde(default = "defaults::key_days")]
    pub key_days: u16,
    /// Whether, and how, questions about the names of members are answered.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
}

impl MeshConfig {
    /// After how many days a WireGuard key changes, if nothing else is configured.
    pub const DEFAULT_KEY_DAYS: u16 = 30;
}

/// Answers to DNS questions, on port 53 of this node's mesh addresses only. Nothing of the host's resolver is touched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct DnsConfig {
    /// The zone: members are NAME.ZONE.
    pub zone: ZoneName,
}

impl fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The join string is as secret as a key.
        f.debug_struct("MeshConfig")
            .field("name", &self.name)
            .field("routes", &self.routes)
            .field("endpoints", &self.endpoints)
            .field("key_days", &self.key_days)
            .field("dns", &self.dns)
            .finish_non_exhaustive()
    }
}

/// A mesh whose members are listed by hand, the same as any WireGuard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct StaticMesh {
    /// File with the private key in base64. Without it a key is made in the state directory.
    #[serde(default)]
    pub private_key_file: Option<PathBuf>,
    /// Addresses of the interface, with the prefix that is directly reachable.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// The others.
    #[serde(default)]
    pub peers: Vec<StaticPeer>,
}

/// A peer that is listed by hand.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct StaticPeer {
    /// Its name in status and logs.
    pub name: String,
    /// Its key.
    #[serde(deserialize_with = "from_text")]
    pub public_key: PublicKey,
    /// File with a pre-shared key in base64.
    #[serde(default)]
    pub preshared_key_file: Option<PathBuf>,
    /// Where to find it, unless it comes to us.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// The addresses behind it.
    #[serde(default, rename = "allowedIPs")]
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between empty packets that keep a NAT binding. 0 or nothing for none.
    #[serde(default)]
    pub persistent_keepalive: u16,
}

impl StaticPeer {
    /// The persistent keepalive, if there is one.
    pub fn keepalive(&self) -> Option<Duration> {
        (self.persistent_keepalive > 0).then(|| Duration::from_secs(self.persistent_keepalive.into()))
    }
}

/// An address and port, or a name that must be looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Known as it stands.
    Address(SocketAddr),
    /// To be looked up, again and again.
    Name {
        /// The host name.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadEndpoint)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(BadEndpoint)?;
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            });
        if !is_name {
            return Err(BadEndpoint);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// A text that is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an endpoint: expected address:port, [IPv6 address]:port or name:port")]
pub struct BadEndpoint;

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = BadInterfaceName;

    fn from_str(text: &str) -> Result<Self, BadInterfaceName> {
        // It becomes part of a path, too: only what the kernel takes (`dev_valid_name` in net/core/dev.c).
        let valid = (1..16).contains(&text.len())
            && !matches!(text, "." | "..")
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'));
        if valid { Ok(Self(text.to_owned())) } else { Err(BadInterfaceName) }
    }
}

impl<'de> Deserialize<'de> for InterfaceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// A text that is no interface name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an interface name: expected 1 to 15 characters without space, slash or colon")]
pub struct BadInterfaceName;

/// The MTU of the interface: from the least that IPv4 hosts must take (RFC 791) to the most that TUN does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtu(u16);

impl Mtu {
    /// In bytes.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl serde::de::Visitor<'_> for Bytes {
            type Value = Mtu;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an MTU of 576 to 65535")
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Mtu, E> {
                let valid = u16::try_from(bytes).ok().filter(|bytes| *bytes >= 576);
                let found = serde::de::Unexpected::Unsigned(bytes);
                valid.map(Mtu).ok_or_else(|| E::invalid_value(found, &self))
            }
        }

        deserializer.deserialize_u64(Bytes)
    }
}

/// Why a configuration cannot be used. The text names file, line and key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is longer than any real one.
    #[error("{path} is longer than {MAX_LEN} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not YAML, or not of this form.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Key, problem and line.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<(Self, String), ConfigError> {
        let read_failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(read_failed)?;
        let mut text = String::new();
        file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(read_failed)?;
        if text.len() as u64 > MAX_LEN {
            return Err(ConfigError::TooLong { path: path.to_owned() });
        }
        let config =
            Self::parse(&text).map_err(|problem| ConfigError::Invalid { path: path.to_owned(), problem })?;
        Ok((config, text))
    }

    /// Reads and checks `text`.
    ///
    /// # Errors
    /// What is wrong, with key and line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = if text.trim().is_empty() {
            return Err("the file is empty".to_owned());
        } else {
            yaml_serde::from_str(text).map_err(|error| {
                let problem = error.to_string();
                // The parser leaves out the place of the very first key.
                if problem.contains(" at line ") { problem } else { format!("{problem} at line 1") }
            })?
        };
        config.check(text)?;
        Ok(config)
    }

    /// What only the whole shows: things that must not occur twice.
    fn check(&self, text: &str) -> Result<(), String> {
        if self.mesh.is_some() && self.static_mesh.is_some() {
            return Err("mesh: a node has static peers or is a member of a network, not both".to_owned());
        }
        let Some(mesh) = &self.static_mesh else { return Ok(()) };
        let mut names = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mut nets = BTreeSet::new();
        for (n, peer) in mesh.peers.iter().enumerate() {
            let twice = |key: &str, value: &str| {
                let line = line_of_second(text, value);
                format!("static.peers[{n}].{key}: {value} occurs twice{line}")
            };
            if peer.name.is_empty() {
                return Err(format!("static.peers[{n}].name: must not be empty"));
            }
            if !names.insert(&peer.name) {
                return Err(twice("name", &peer.name));
            }
            if !keys.insert(peer.public_key) {
                return Err(twice("publicKey", &peer.public_key.to_string()));
            }
            for net in &peer.allowed_ips {
                if !nets.insert(net.trunc()) {
                    return Err(twice("allowedIPs", &net.to_string()));
                }
            }
        }
        Ok(())
    }
}

/// ` at line N`, where `value` occurs the second time; nothing if it is written in another way there.
fn line_of_second(text: &str, value: &str) -> String {
    let has_value = |line: &str| {
        line.split(|c: char| c.is_whitespace() || ",[]{}\"'".contains(c)).any(|part| part == value)
    };
    let mut lines = text.lines().enumerate().filter(|(_, line)| has_value(line));
    lines.nth(1).map_or_else(String::new, |(n, _)| format!(" at line {}", n + 1))
}

/// Reads a value from its text form. The error is made inside the visitor: only then does the parser add the
/// place of the value rather than that of the mapping around it.
fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(std::marker::PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(std::marker::PhantomData))
}

/// The same for a value that may be missing.
fn from_optional_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    from_text(deserializer).map(Some)
}

mod defaults {
    use super::{InterfaceName, Mtu, PathBuf};

    pub(super) fn interface() -> InterfaceName {
        InterfaceName("ichor0".to_owned())
    }

    pub(super) fn listen_port() -> u16 {
        51840
    }

    pub(super) fn metrics_port() -> u16 {
        51841
    }

    pub(super) fn key_days() -> u16 {
        super::MeshConfig::DEFAULT_KEY_DAYS
    }

    /// 1500 less the IPv6 and UDP headers and those of WireGuard.
    pub(super) fn mtu() -> Mtu {
        Mtu(1420)
    }

    pub(super) fn state_directory() -> PathBuf {
        PathBuf::from(super::STATE_DIRECTORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY_A: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const KEY_B: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

    fn example() -> String {
        format!(
            "interface: ichor0\nlistenPort: 51840\nstatic:\n  addresses: [10.213.0.1/16, 'fd00:1::1/48']\n  \
             peers:\n    - name: b\n      publicKey: {KEY_A}\n      endpoint: 192.0.2.1:51840\n      \
             allowedIPs: [10.213.0.2/32]\n      persistentKeepalive: 25\n    - name: c\n      \
             publicKey: {KEY_B}\n      endpoint: node-c.example.com:51840\n      allowedIPs:\n        \
             - 10.213.0.3/32\n"
        )
    }

    #[test]
    fn the_example_is_right_and_shows_every_key() {
        let text = include_str!("../../docs/examples/ichord.yaml");
        // A new field does not compile here until the example shows it.
        let Config {
            interface: _,
            listen_port,
            mtu: _,
            metrics_port: _,
            fwmark: _,
            state_directory: _,
            static_mesh,
            mesh,
        } = Config::parse(text).unwrap();
        assert!(mesh.is_none(), "static peers exclude it; docs/examples/ichord-mesh.yaml shows it");
        assert_eq!(listen_port, 51840);
        let StaticMesh { private_key_file, addresses, peers } = static_mesh.unwrap();
        assert!(private_key_file.is_some() && !addresses.is_empty());
        let StaticPeer {
            name: _,
            public_key: _,
            preshared_key_file,
            endpoint,
            allowed_ips,
            persistent_keepalive,
        } = &peers[0];
        assert!(preshared_key_file.is_some() && endpoint.is_some() && !allowed_ips.is_empty());
        assert_eq!(*persistent_keepalive, 25);
        for key in ["interface", "listenPort", "mtu", "metricsPort", "fwmark", "stateDirectory"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{key}:"))), "{key}");
        }
    }

    #[test]
    fn the_example_of_a_member_is_right_and_shows_every_key() {
        let text = include_str!("../../docs/examples/ichord-mesh.yaml");
        let MeshConfig { join, name, routes, endpoints, key_days, dns } =
            Config::parse(text).unwrap().mesh.unwrap();
        assert_eq!(key_days, 30);
        let DnsConfig { zone } = dns.unwrap();
        assert_eq!(format!("{zone:?}"), "home.internal.");
        assert!(join.is_some() && name.is_some() && !routes.is_empty() && !endpoints.is_empty());
    }

    #[test]
    fn a_join_string_is_not_shown() {
        let config = Config::parse("mesh:\n  join: ichor1-secret\n").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn static_peers_and_membership_exclude_each_other() {
        let text = format!("{}mesh: {{}}\n", example());
        assert!(Config::parse(&text).unwrap_err().contains("not both"));
    }

    #[test]
    fn reads_a_static_mesh() {
        let config = Config::parse(&example()).unwrap();
        assert_eq!(config.mtu.get(), 1420);
        let mesh = config.static_mesh.unwrap();
        assert_eq!(mesh.addresses.len(), 2);
        assert_eq!(mesh.peers[0].keepalive(), Some(Duration::from_secs(25)));
        assert_eq!(mesh.peers[1].keepalive(), None);
        assert_eq!(
            mesh.peers[1].endpoint,
            Some(Endpoint::Name { host: "node-c.example.com".into(), port: 51840 })
        );
    }

    #[test]
    fn errors_name_key_and_line() {
        let cases = [
            (example().replace("listenPort: 51840", "listenPort: 70000"), "listenPort", "line 2"),
            (example().replace("interface:", "intreface:"), "intreface", "line 1"),
            (example().replace(KEY_A, "abc"), "static.peers[0].publicKey", "line 7"),
            (example().replace("10.213.0.2/32", "10.213.0.2/99"), "static.peers[0].allowedIPs[0]", "line 9"),
            (example().replace("192.0.2.1:51840", "192.0.2.1"), "static.peers[0].endpoint", "line 8"),
            (example().replace("name: c", "name: b"), "static.peers[1].name", "line 11"),
            (example().replace(KEY_B, KEY_A), "static.peers[1].publicKey", "line 12"),
            (example().replace("10.213.0.3", "10.213.0.2"), "static.peers[1].allowedIPs", "line 15"),
            ("interface: [".to_owned(), "interface", "line 1"),
            ("mtu: 100\n".to_owned(), "mtu", "line 1"),
        ];
        for (text, key, line) in cases {
            let problem = Config::parse(&text).unwrap_err();
            assert!(problem.contains(key) && problem.contains(line), "{problem:?} has {key} and {line}");
        }
    }

    #[test]
    fn an_empty_file_says_so() {
        assert_eq!(Config::parse(" \n"), Err("the file is empty".to_owned()));
    }

    #[test]
    fn a_file_without_a_mesh_is_valid() {
        assert_eq!(Config::parse("listenPort: 1\n").unwrap().static_mesh, None);
    }

    #[test]
    fn endpoints_are_addresses_or_names_with_a_port() {
        for good in ["1.2.3.4:5", "[::1]:5", "[fe80::1%2]:5", "a.example:1", "localhost:65535"] {
            let endpoint: Endpoint = good.parse().unwrap();
            assert_eq!(endpoint.to_string(), good);
        }
        for bad in
            ["", ":5", "host", "host:", "host:0", "host:65536", "a b:1", "::1:5:", "a..b:1", "http://x:1"]
        {
            assert_eq!(bad.parse::<Endpoint>(), Err(BadEndpoint), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = Config::parse(&text);
        }
    }
}
