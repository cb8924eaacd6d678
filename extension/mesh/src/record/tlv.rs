//! Fields of a record's body: tag (1), length (2, little-endian), value. Tags rise strictly, so a body has one
//! encoding of its fields. A tag that a version does not know is passed over, unless its high bit says that it
//! must be understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::RecordError;

/// Tags with this bit must be understood by whoever reads the record.
const CRITICAL: u8 = 0x80;
/// Highest tag that is used.
const MAX_TAG: usize = 32;

/// Writes fields.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    last: u8,
}

impl Writer {
    /// A writer that does not move what it holds until it is longer than `capacity`: a secret leaves no copies behind.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), last: 0 }
    }

    /// Adds a field. Tags must rise.
    #[must_use]
    pub fn field(mut self, tag: u8, value: &[u8]) -> Self {
        debug_assert!(tag > self.last && value.len() <= usize::from(u16::MAX), "tags rise, values are short");
        self.last = tag;
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// Adds a field unless there is no value for it.
    #[must_use]
    pub fn optional(self, tag: u8, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.field(tag, value),
            None => self,
        }
    }

    /// The body.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The fields of a body, by tag.
#[derive(Debug)]
pub struct Fields<'a>([Option<&'a [u8]>; MAX_TAG]);

impl<'a> Fields<'a> {
    /// Splits `body` into fields, of which `known` are understood.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] or [`RecordError::Unknown`].
    pub fn read(body: &'a [u8], known: u8) -> Result<Self, RecordError> {
        let mut fields = [None; MAX_TAG];
        let (mut rest, mut last) = (body, 0);
        while let Some((head, tail)) = rest.split_first_chunk::<3>() {
            let (tag, len) = (head[0], usize::from(u16::from_le_bytes([head[1], head[2]])));
            if tag <= last || tail.len() < len {
                return Err(RecordError::Malformed);
            }
            last = tag;
            let (value, next) = tail.split_at(len);
            rest = next;
            if tag <= known {
                if let Some(field) = fields.get_mut(usize::from(tag)) {
                    *field = Some(value);
                }
            } else if tag & CRITICAL != 0 {
                return Err(RecordError::Unknown(tag));
            }
        }
        if rest.is_empty() { Ok(Self(fields)) } else { Err(RecordError::Malformed) }
    }

    /// The value of a field that may be missing.
    pub fn get(&self, tag: u8) -> Option<&'a [u8]> {
        self.0.get(usize::from(tag)).copied().flatten()
    }

    /// The value of a field that must be there.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn required(&self, tag: u8) -> Result<&'a [u8], RecordError> {
        self.get(tag).ok_or(RecordError::Field(tag))
    }

    /// A field of a fixed length.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn array<const N: usize>(&self, tag: u8) -> Result<[u8; N], RecordError> {
        self.required(tag)?.try_into().map_err(|_| RecordError::Field(tag))
    }

    /// A field of a fixed length that may be missing.
    ///
    /// # Errors
    /// [`RecordError::Field`] if it has another length.
    pub fn optional_array<const N: usize>(&self, tag: u8) -> Result<Option<[u8; N]>, RecordError> {
        self.get(tag).map(|value| value.try_into().map_err(|_| RecordError::Field(tag))).transpose()
    }

    /// A little-endian number of 1, 2, 4 or 8 bytes, `default` if it is missing.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn number(&self, tag: u8, default: u64) -> Result<u64, RecordError> {
        let Some(value) = self.get(tag) else { return Ok(default) };
        if !matches!(value.len(), 1 | 2 | 4 | 8) {
            return Err(RecordError::Field(tag));
        }
        Ok(value.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A text.
    ///
    /// # Errors
    /// [`RecordError::Field`] if it is missing or not UTF-8.
    pub fn text(&self, tag: u8) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.required(tag)?).map_err(|_| RecordError::Field(tag))
    }
}

/// Writes prefixes one after the other: family (4 or 6), prefix length, address.
pub fn write_nets(nets: &[IpNet]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for net in nets {
        match net {
            IpNet::V4(net) => {
                bytes.extend_from_slice(&[4, net.prefix_len()]);
                bytes.extend_from_slice(&net.addr().octets());
            }
            IpNet::V6(net) => {
                bytes.extend_from_slice(&[6, net.prefix_len()]);
                bytes.extend_from_slice(&net.addr().octets());
            }
        }
    }
    bytes
}

/// Reads what [`write_nets`] wrote. Host bits must be zero, so that a prefix has one form.
pub fn read_nets(mut bytes: &[u8]) -> Option<Vec<IpNet>> {
    let mut nets = Vec::new();
    while let [family, prefix_len, rest @ ..] = bytes {
        let (address, rest) = read_ip(*family, rest)?;
        let net = match address {
            IpAddr::V4(address) => IpNet::V4(Ipv4Net::new(address, *prefix_len).ok()?),
            IpAddr::V6(address) => IpNet::V6(Ipv6Net::new(address, *prefix_len).ok()?),
        };
        if net != net.trunc() {
            return None;
        }
        nets.push(net);
        bytes = rest;
    }
    bytes.is_empty().then_some(nets)
}

/// Writes addresses with ports one after the other: family (4 or 6), address, port (big-endian).
pub fn write_sockets(sockets: &[SocketAddr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for socket in sockets {
        match socket.ip() {
            IpAddr::V4(address) => {
                bytes.push(4);
                bytes.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(6);
                bytes.extend_from_slice(&address.octets());
            }
        }
        bytes.extend_from_slice(&socket.port().to_be_bytes());
    }
    bytes
}

/// Reads what [`write_sockets`] wrote.
pub fn read_sockets(mut bytes: &[u8]) -> Option<Vec<SocketAddr>> {
    let mut sockets = Vec::new();
    while let [family, rest @ ..] = bytes {
        let (address, rest) = read_ip(*family, rest)?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        sockets.push(SocketAddr::new(address, u16::from_be_bytes(*port)));
        bytes = rest;
    }
    bytes.is_empty().then_some(sockets)
}

fn read_ip(family: u8, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        4 => bytes.split_first_chunk::<4>().map(|(octets, rest)| (Ipv4Addr::from(*octets).into(), rest)),
        6 => bytes.split_first_chunk::<16>().map(|(octets, rest)| (Ipv6Addr::from(*octets).into(), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_back() {
        let body =
            Writer::default().field(1, b"one").optional(2, None).field(7, &5u32.to_le_bytes()).finish();
        let fields = Fields::read(&body, 10).unwrap();
        assert_eq!(fields.text(1), Ok("one"));
        assert_eq!(fields.number(7, 0), Ok(5));
        assert_eq!(fields.number(2, 9), Ok(9));
        assert_eq!(fields.required(2), Err(RecordError::Field(2)));
        assert_eq!(fields.array::<3>(7), Err(RecordError::Field(7)));
    }

    #[test]
    fn unknown_fields_are_passed_over_unless_critical() {
        let body = Writer::default().field(1, b"one").field(20, b"new").finish();
        assert!(Fields::read(&body, 10).is_ok());
        let body = Writer::default().field(1, b"one").field(0x81, b"new").finish();
        assert_eq!(Fields::read(&body, 10).unwrap_err(), RecordError::Unknown(0x81));
    }

    #[test]
    fn fields_out_of_order_twice_or_cut_are_refused() {
        let twice = [1, 0, 0, 1, 0, 0];
        let falling = [2, 0, 0, 1, 0, 0];
        let cut = [1, 5, 0, 1, 2];
        let tail = [1, 0, 0, 9];
        for body in [&twice[..], &falling, &cut, &tail] {
            assert_eq!(Fields::read(body, 10).unwrap_err(), RecordError::Malformed, "{body:?}");
        }
    }

    #[test]
    fn prefixes_with_host_bits_are_refused() {
        assert_eq!(read_nets(&[4, 8, 10, 0, 0, 1]), None);
        assert_eq!(read_nets(&[4, 33, 10, 0, 0, 1]), None);
        assert_eq!(read_nets(&[4, 8, 10, 0, 0]), None);
        assert_eq!(read_nets(&[5, 8, 10, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Fields::read(&bytes, 10);
            if let Some(nets) = read_nets(&bytes) {
                prop_assert_eq!(write_nets(&nets), bytes.clone());
            }
            if let Some(sockets) = read_sockets(&bytes) {
                prop_assert_eq!(write_sockets(&sockets), bytes);
            }
        }
    }
}
