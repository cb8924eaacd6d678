//! Reading requests: text in, typed changes out. Nothing is applied unless all of it is valid.

use std::net::SocketAddr;
use std::time::Duration;

use ichor_mesh::key::{KEY_LEN, PresharedKey, PublicKey, SecretKey};
use ipnet::IpNet;
use zeroize::Zeroize as _;

/// A request of a client.
#[derive(Debug)]
pub enum Request {
    /// `get=1`: show everything.
    Get,
    /// `set=1`: change what is named.
    Set(Box<SetRequest>),
}

/// The changes of one `set`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SetRequest {
    /// New private key; all zeros removes it.
    pub private_key: Option<SecretKey>,
    /// New UDP port; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// New mark of outgoing datagrams; 0 removes it.
    pub fwmark: Option<u32>,
    /// Remove all peers first.
    pub replace_peers: bool,
    /// Changes to peers, in order.
    pub peers: Vec<PeerChange>,
}

/// The changes to one peer.
#[derive(Debug)]
#[non_exhaustive]
pub struct PeerChange {
    /// The peer.
    pub public_key: PublicKey,
    /// Remove it.
    pub remove: bool,
    /// Do nothing if there is no such peer.
    pub update_only: bool,
    /// New pre-shared key; all zeros removes it.
    pub preshared_key: Option<PresharedKey>,
    /// New endpoint.
    pub endpoint: Option<SocketAddr>,
    /// New persistent keepalive; zero turns it off.
    pub keepalive: Option<Duration>,
    /// Remove all allowed IPs first.
    pub replace_allowed_ips: bool,
    /// Allowed IPs to add (`true`) or take away (`false`), in order.
    pub allowed_ips: Vec<(IpNet, bool)>,
}

impl PeerChange {
    /// No changes yet.
    pub(crate) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// Why a request cannot be carried out. Values are not repeated: they may be secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// Neither `get=1` nor `set=1`, or not lines of `key=value`.
    #[error("not a request")]
    Malformed,
    /// A key that the protocol does not have, or not in this place.
    #[error("unknown key")]
    UnknownKey,
    /// A value that its key does not take.
    #[error("invalid value")]
    InvalidValue,
}

impl Request {
    /// Reads one request, without the empty line that ends it.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn parse(text: &str) -> Result<Self, BadRequest> {
        let mut lines = text.lines();
        match lines.next() {
            Some("get=1") if lines.next().is_none() => Ok(Self::Get),
            Some("set=1") => Ok(Self::Set(Box::new(parse_set(lines)?))),
            _ => Err(BadRequest::Malformed),
        }
    }
}

fn parse_set<'t>(lines: impl Iterator<Item = &'t str>) -> Result<SetRequest, BadRequest> {
    let mut set = SetRequest::default();
    for line in lines {
        let (key, value) = line.split_once('=').ok_or(BadRequest::Malformed)?;
        match (key, set.peers.last_mut()) {
            ("public_key", _) => set.peers.push(PeerChange::new(PublicKey::new(hex_key(value)?))),
            (_, Some(peer)) => parse_peer_key(peer, key, value)?,
            (_, None) => parse_device_key(&mut set, key, value)?,
        }
    }
    Ok(set)
}

fn parse_device_key(set: &mut SetRequest, key: &str, value: &str) -> Result<(), BadRequest> {
    match key {
        "private_key" => set.private_key = Some(SecretKey::new(hex_key(value)?)),
        "listen_port" => set.listen_port = Some(value.parse().map_err(|_| BadRequest::InvalidValue)?),
        "fwmark" => set.fwmark = Some(parse_mark(value)?),
        "replace_peers" => set.replace_peers = flag(value)?,
        _ => return Err(BadRequest::UnknownKey),
    }
    Ok(())
}

fn parse_peer_key(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), BadRequest> {
    match key {
        "remove" => peer.remove = flag(value)?,
        "update_only" => peer.update_only = flag(value)?,
        "preshared_key" => peer.preshared_key = Some(PresharedKey::new(hex_key(value)?)),
        "endpoint" => peer.endpoint = Some(value.parse().map_err(|_| BadRequest::InvalidValue)?),
        "persistent_keepalive_interval" => {
            let seconds: u16 = value.parse().map_err(|_| BadRequest::InvalidValue)?;
            peer.keepalive = Some(Duration::from_secs(seconds.into()));
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = flag(value)?,
        "allowed_ip" => {
            let (value, add) = value.strip_prefix('-').map_or((value, true), |rest| (rest, false));
            let net: IpNet = value.parse().map_err(|_| BadRequest::InvalidValue)?;
            peer.allowed_ips.push((net.trunc(), add));
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(BadRequest::InvalidValue),
        _ => return Err(BadRequest::UnknownKey),
    }
    Ok(())
}

fn flag(value: &str) -> Result<bool, BadRequest> {
    match value {
        "true" => Ok(true),
        _ => Err(BadRequest::InvalidValue),
    }
}

/// `wg` writes marks in decimal, but the tools also take hexadecimal.
fn parse_mark(value: &str) -> Result<u32, BadRequest> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| BadRequest::InvalidValue)
}

fn hex_key(text: &str) -> Result<[u8; KEY_LEN], BadRequest> {
    let digits = text.as_bytes();
    let mut key = [0; KEY_LEN];
    let mut valid = digits.len() == 2 * KEY_LEN;
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (hex_digit(pair[0]), hex_digit(pair[1]));
        valid &= high.is_some() && low.is_some();
        *byte = high.unwrap_or(0) << 4 | low.unwrap_or(0);
    }
    if !valid {
        key.zeroize();
        return Err(BadRequest::InvalidValue);
    }
    Ok(key)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";
    const PEER: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

    fn set(text: &str) -> SetRequest {
        match Request::parse(text).unwrap() {
            Request::Set(set) => *set,
            Request::Get => panic!("a set"),
        }
    }

    #[test]
    fn reads_every_key() {
        let set = set(&format!(
            "set=1\nprivate_key={KEY}\nlisten_port=12912\nfwmark=0xca6c\nreplace_peers=true\n\
             public_key={PEER}\nupdate_only=true\npreshared_key={KEY}\nendpoint=[abcd:23::33%2]:51820\n\
             persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=192.168.4.4/32\n\
             allowed_ip=-fd00::1/64\nprotocol_version=1\n\
             public_key={KEY}\nremove=true\n"
        ));
        assert_eq!(set.listen_port, Some(12912));
        assert_eq!(set.fwmark, Some(0xca6c));
        assert!(set.replace_peers);
        assert_eq!(set.private_key.unwrap().expose()[..2], [0xe8, 0x4b]);
        let [first, second] = &set.peers[..] else { panic!("two peers") };
        assert!(first.update_only && first.replace_allowed_ips && !first.remove);
        assert_eq!(first.endpoint, Some("[abcd:23::33%2]:51820".parse().unwrap()));
        assert_eq!(first.keepalive, Some(Duration::from_secs(25)));
        let nets: Vec<_> = first.allowed_ips.iter().map(|(net, add)| (net.to_string(), *add)).collect();
        assert_eq!(nets, [("192.168.4.4/32".to_owned(), true), ("fd00::/64".to_owned(), false)]);
        assert!(second.remove);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let cases = [
            ("", BadRequest::Malformed),
            ("get=2", BadRequest::Malformed),
            ("get=1\nx=y", BadRequest::Malformed),
            ("set=1\nnonsense", BadRequest::Malformed),
            ("set=1\nendpoint=1.2.3.4:5", BadRequest::UnknownKey),
            ("set=1\nprivate_key=abcd", BadRequest::InvalidValue),
            ("set=1\nreplace_peers=false", BadRequest::InvalidValue),
            ("set=1\nlisten_port=65536", BadRequest::InvalidValue),
        ];
        for (text, expected) in cases {
            assert_eq!(Request::parse(text).unwrap_err(), expected, "{text:?}");
        }
        let bad_hex = KEY.replace('e', "g");
        assert_eq!(
            Request::parse(&format!("set=1\nprivate_key={bad_hex}")).unwrap_err(),
            BadRequest::InvalidValue
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(set=1\n)?([a-z_]{1,30}=.{0,80}\n){0,8}") {
            let _ = Request::parse(&text);
        }
    }
}
