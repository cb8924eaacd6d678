//! What a node sends: every frame on every interface but those without a link layer, which are tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use ichor_lab::{Child, LabError, Node};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::probe;

/// `ETH_P_ALL` (`linux/if_ether.h`).
const EVERY_PROTOCOL: u16 = 3;
const MAX_LEN: usize = 65_536 + ETHERNET_HEADER;
const ETHERNET_HEADER: usize = 14;
const RECEIVE_BUFFER: usize = 16 << 20;

/// What a node sent, without what went through a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Datagrams by where they went. No kernel sends any by itself.
    pub udp: BTreeMap<SocketAddr, u64>,
    /// What a kernel sends by itself, by its name: `ARP`, `IGMP`, `neighbour discovery`, `MLD`, `ICMP error`.
    pub kernel: BTreeMap<String, u64>,
    /// Anything else.
    pub other: BTreeMap<String, u64>,
}

/// A count that goes on.
#[derive(Debug)]
pub struct Counting(Child);

impl Counting {
    /// Begins to count what `node` sends.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn start(node: &Node) -> Result<Self, LabError> {
        let mut child = node.own_command([probe::outgoing_argument()]).spawn().await?;
        match child.line().await? {
            Some(_ready) => Ok(Self(child)),
            None => {
                let cause = child.output().await?.stderr;
                Err(LabError::Failed { what: "count what is sent".to_owned(), cause })
            }
        }
    }

    /// Ends the count.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn end(mut self) -> Result<Sent, LabError> {
        self.0.signal(Signal::TERM.as_raw()).await?;
        let output = self.0.output().await?;
        serde_json::from_str(&output.stdout).map_err(|error| LabError::Failed {
            what: "read what was sent".to_owned(),
            cause: format!("{error}; {}", output.stderr.trim()),
        })
    }
}

/// The same, in the node: counts until SIGTERM.
pub(crate) fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sent = runtime.block_on(count())?;
    serde_json::to_writer(io::stdout(), &sent)?;
    Ok(())
}

async fn count() -> io::Result<Sent> {
    let mut end = signal(SignalKind::terminate())?;
    // With link-layer headers, and not bound to one interface.
    let every = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    // To tokio it is something to be read like a pipe.
    let socket = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(socket))?;
    let mut stdout = io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    let (mut own, mut sent, mut buffer) = (BTreeSet::new(), Sent::default(), vec![0; MAX_LEN]);
    loop {
        let is_over = tokio::select! {
            ready = socket.readable() => ready.map(|()| false)?,
            _ = end.recv() => true,
        };
        // A node that moves has a new interface.
        own.extend(own_addresses());
        loop {
            match socket.try_read(&mut buffer) {
                Ok(len) => sent.add(&buffer[..len], &own),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An interface went away.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
        if is_over {
            return Ok(sent);
        }
    }
}

/// A hardware address.
type Mac = [u8; 6];

/// The hardware addresses of all interfaces that have one; that of the loopback is all zeros.
fn own_addresses() -> Vec<Mac> {
    // Whichever goes away meanwhile sends no more.
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    interfaces
        .filter_map(|interface| {
            let text = fs::read_to_string(interface.path().join("address")).ok()?;
            let mut bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16));
            let mut mac = Mac::default();
            for byte in &mut mac {
                *byte = bytes.next()?.ok()?;
            }
            Some(mac)
        })
        .collect()
}

impl Sent {
    fn add(&mut self, frame: &[u8], own: &BTreeSet<Mac>) {
        let source = frame.get(6..12).and_then(|source| Mac::try_from(source).ok());
        if !source.is_some_and(|source| own.contains(&source)) {
            return;
        }
        self.frames += 1;
        let (kernel, other) = (&mut self.kernel, &mut self.other);
        let count = |counts: &mut BTreeMap<String, u64>, what: String| *counts.entry(what).or_default() += 1;
        match describe(frame) {
            What::Udp(to) => *self.udp.entry(to).or_default() += 1,
            What::Kernel(name) => count(kernel, name.to_owned()),
            What::Other(what) => count(other, what),
        }
    }

    /// Datagrams to where `is_allowed` says no.
    pub fn udp_beside(&self, is_allowed: impl Fn(&SocketAddr) -> bool) -> BTreeMap<SocketAddr, u64> {
        self.udp.iter().filter(|(to, _)| !is_allowed(to)).map(|(to, count)| (*to, *count)).collect()
    }
}

/// What a frame is.
#[derive(Debug, PartialEq, Eq)]
enum What {
    Udp(SocketAddr),
    Kernel(&'static str),
    Other(String),
}

fn describe(frame: &[u8]) -> What {
    let other = |what: &str| What::Other(what.to_owned());
    let packet = frame.get(ETHERNET_HEADER..).unwrap_or_default();
    match frame.get(12..14) {
        Some([0x08, 0x00]) => describe_v4(packet).unwrap_or_else(|| other("a cut IPv4 packet")),
        Some([0x86, 0xdd]) => describe_v6(packet).unwrap_or_else(|| other("a cut IPv6 packet")),
        Some([0x08, 0x06]) => What::Kernel("ARP"),
        Some([high, low]) => What::Other(format!("ethertype {high:02x}{low:02x}")),
        _ => other("a cut frame"),
    }
}

fn describe_v4(packet: &[u8]) -> Option<What> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let to = IpAddr::from(Ipv4Addr::from(to));
    let payload = packet.get(header..)?;
    if u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff != 0 {
        return Some(What::Other(format!("a later fragment to {to}")));
    }
    Some(match *packet.get(9)? {
        2 => What::Kernel("IGMP"),
        17 => udp(to, payload)?,
        // Unreachable, time exceeded (RFC 792).
        1 if matches!(payload.first()?, 3 | 11) => What::Kernel("ICMP error"),
        number => What::Other(format!("IP protocol {number} to {to}")),
    })
}

fn describe_v6(packet: &[u8]) -> Option<What> {
    let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    let to = IpAddr::from(Ipv6Addr::from(to));
    let (mut next, mut payload) = (*packet.get(6)?, packet.get(40..)?);
    // Hop-by-hop options: MLD has them (RFC 3810 section 5).
    if next == 0 {
        next = *payload.first()?;
        payload = payload.get((usize::from(*payload.get(1)?) + 1) * 8..)?;
    }
    Some(match next {
        17 => udp(to, payload)?,
        // RFC 4443, RFC 4861, RFC 3810.
        58 => match *payload.first()? {
            1..=4 => What::Kernel("ICMP error"),
            133..=137 => What::Kernel("neighbour discovery"),
            130..=132 | 143 => What::Kernel("MLD"),
            kind => What::Other(format!("ICMPv6 type {kind} to {to}")),
        },
        number => What::Other(format!("IP protocol {number} to {to}")),
    })
}

fn udp(to: IpAddr, datagram: &[u8]) -> Option<What> {
    Some(What::Udp(SocketAddr::new(to, u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    fn frame(source: Mac, ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &source, &ethertype, packet].concat()
    }

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = [0x45; 20];
        packet[6..8].fill(0);
        packet[9] = protocol;
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        [&packet[..], payload].concat()
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = [0; 40];
        (packet[0], packet[6], packet[24], packet[39]) = (0x60, next, 0xfe, 9);
        [&packet[..], payload].concat()
    }

    #[test]
    fn only_frames_of_the_node_are_counted() {
        let mut sent = Sent::default();
        let own = BTreeSet::from([OWN]);
        let datagram = v4(17, &[0, 1, 0xca, 0x80, 0, 8, 0, 0]);
        sent.add(&frame(OWN, [8, 0], &datagram), &own);
        sent.add(&frame([9; 6], [8, 0], &datagram), &own);
        // As it comes from a tunnel: without a header of the link layer.
        sent.add(&datagram, &own);
        assert_eq!(sent.frames, 1);
        assert_eq!(sent.udp, BTreeMap::from([("10.0.0.2:51840".parse().unwrap(), 1)]));
    }

    #[test]
    fn what_a_kernel_says_by_itself_is_told_from_all_else() {
        let of = |ethertype, packet: &[u8]| describe(&frame(OWN, ethertype, packet));
        let (ip4, ip6) = ([0x08, 0x00], [0x86, 0xdd]);
        assert_eq!(of([8, 6], &[]), What::Kernel("ARP"));
        assert_eq!(of(ip4, &v4(2, &[0x22])), What::Kernel("IGMP"));
        assert_eq!(of(ip4, &v4(1, &[3, 3])), What::Kernel("ICMP error"));
        assert_eq!(of(ip4, &v4(1, &[8, 0])), What::Other("IP protocol 1 to 10.0.0.2".to_owned()));
        assert_eq!(of(ip4, &v4(6, &[0; 20])), What::Other("IP protocol 6 to 10.0.0.2".to_owned()));
        assert_eq!(of(ip6, &v6(58, &[135])), What::Kernel("neighbour discovery"));
        assert_eq!(of(ip6, &v6(0, &[58, 0, 5, 2, 0, 0, 1, 0, 143])), What::Kernel("MLD"));
        assert_eq!(of(ip6, &v6(17, &[0, 1, 0, 53])), What::Udp("[fe00::9]:53".parse().unwrap()));
        assert_eq!(of(ip4, &[0x45]), What::Other("a cut IPv4 packet".to_owned()));
        assert_eq!(describe(&[]), What::Other("a cut frame".to_owned()));
    }
}
