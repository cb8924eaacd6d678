//! Probes: small programs that tests run inside nodes, for packets that no ordinary socket sends or shows.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use ichor_lab::{Child, Lab, LabError, Node, Topology};
use ichor_mesh::gate::MAC_LEN;
use ichor_mesh::key::PublicKey;
use ichor_mesh::wire::INITIATION_LEN;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::boots::{self, Boots};
use crate::outgoing;

/// `ETH_P_ALL` (`linux/if_ether.h`).
const EVERY_PROTOCOL: u16 = 3;
/// Longest packet.
const MAX_LEN: usize = 65_536;

/// Initiations of a flood that are sent at once, and the time between: 25,000 a second at most.
const FLOOD_BURST: u64 = 500;
const FLOOD_PAUSE: Duration = Duration::from_millis(20);

/// What a probe is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Job {
    Send { packets: Vec<String> },
    Capture { from: IpAddr, count: usize, limit: Duration },
    Flood { to: SocketAddr, key: [u8; 32] },
    Knock { to: SocketAddr, datagrams: Vec<String>, limit: Duration },
    Outgoing,
    HoldLab,
    Boots(Boots),
}

/// Sends IP packets as they are from `node`, to where their headers say.
///
/// # Errors
/// [`LabError::Failed`] if the kernel does not take one.
pub async fn send(node: &Node, packets: &[Vec<u8>]) -> Result<(), LabError> {
    let packets = packets.iter().map(|packet| to_hex(packet)).collect();
    node.own_command([argument(&Job::Send { packets })]).success().await.map(drop)
}

/// Packets that are being collected in a node.
#[derive(Debug)]
pub struct Capture(Child);

impl Capture {
    /// Begins to collect packets with the source address `from` on any interface of `node`: until there are
    /// `count`, or the time is over.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn start(node: &Node, from: IpAddr, count: usize, limit: Duration) -> Result<Self, LabError> {
        let mut child = node.own_command([argument(&Job::Capture { from, count, limit })]).spawn().await?;
        match child.line().await? {
            Some(_ready) => Ok(Self(child)),
            None => Err(failed("capture packets", child.output().await?.stderr)),
        }
    }

    /// The packets, in the order in which they came.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn packets(self) -> Result<Vec<Vec<u8>>, LabError> {
        let output = self.0.output().await?;
        let packets = serde_json::from_str::<Vec<String>>(&output.stdout).ok();
        let packets = packets.and_then(|packets| packets.iter().map(|hex| from_hex(hex)).collect());
        packets.ok_or_else(|| failed("capture packets", output.stderr))
    }
}

/// Begins to send thousands of handshake initiations a second from `node` to `to`, that only who looks inside can
/// tell from real ones: mac1 is right for the public key `key`. It ends when what is returned is dropped.
///
/// # Errors
/// [`LabError::Failed`].
pub async fn flood(node: &Node, to: SocketAddr, key: &str) -> Result<Child, LabError> {
    let key: PublicKey = key.parse().map_err(|error| LabError::failed("read a public key", error))?;
    let key = *key.as_bytes();
    let mut child = node.own_command([argument(&Job::Flood { to, key })]).spawn().await?;
    match child.line().await? {
        Some(_ready) => Ok(child),
        None => Err(failed("flood a node", child.output().await?.stderr)),
    }
}

/// Sends UDP datagrams from one socket in `node` to `to`, one after the other, and returns what comes back until a first
/// answer to the last of them, which must be one that is answered: then all were looked at.
///
/// # Errors
/// [`LabError::Failed`] if nothing comes back in time.
pub async fn knock(node: &Node, to: SocketAddr, datagrams: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, LabError> {
    let datagrams = datagrams.iter().map(|datagram| to_hex(datagram)).collect();
    let job = Job::Knock { to, datagrams, limit: Duration::from_secs(10) };
    let output = node.own_command([argument(&job)]).success().await?;
    let answers = serde_json::from_str::<Vec<String>>(&output.stdout).ok();
    let answers = answers.and_then(|answers| answers.iter().map(|hex| from_hex(hex)).collect());
    answers.ok_or_else(|| failed("knock", output.stderr))
}

fn failed(what: &str, cause: String) -> LabError {
    LabError::Failed { what: what.to_owned(), cause }
}

fn argument(job: &Job) -> String {
    serde_json::to_string(job).unwrap_or_default()
}

/// Runs a probe: its job is the only argument.
#[expect(clippy::print_stderr, reason = "stderr is the way by which a probe says why it failed")]
pub fn main(args: &[OsString]) -> ExitCode {
    let job = args.first().and_then(|job| serde_json::from_str(job.to_str()?).ok());
    let result = match job {
        None => Err(io::ErrorKind::InvalidInput.into()),
        Some(Job::Send { packets }) => send_all(&packets),
        Some(Job::Capture { from, count, limit }) => capture(from, count, limit),
        Some(Job::Flood { to, key }) => send_initiations(to, &key),
        Some(Job::Knock { to, datagrams, limit }) => send_and_listen(to, &datagrams, limit),
        Some(Job::Outgoing) => outgoing::main(),
        Some(Job::HoldLab) => hold_lab(),
        Some(Job::Boots(boots)) => boots::main(&boots),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn send_and_listen(to: SocketAddr, datagrams: &[String], limit: Duration) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    for datagram in datagrams {
        let datagram = from_hex(datagram).ok_or(io::ErrorKind::InvalidInput)?;
        socket.send_to(&datagram, to)?;
    }
    let mut answers = Vec::new();
    let mut answer = vec![0; MAX_LEN];
    socket.set_read_timeout(Some(limit))?;
    while answers.is_empty() {
        let (len, _) = socket.recv_from(&mut answer)?;
        answers.push(to_hex(&answer[..len]));
    }
    // Whatever else is there already.
    socket.set_nonblocking(true)?;
    while let Ok((len, _)) = socket.recv_from(&mut answer) {
        answers.push(to_hex(&answer[..len]));
    }
    serde_json::to_writer(io::stdout(), &answers)?;
    Ok(())
}

/// The argument by which the agent makes a lab, says so, and keeps it until it is killed.
pub fn hold_lab_argument() -> String {
    argument(&Job::HoldLab)
}

/// The argument by which the agent counts what a node sends.
pub(crate) fn outgoing_argument() -> String {
    argument(&Job::Outgoing)
}

/// The argument by which the agent starts ichord again and again.
pub(crate) fn boots_argument(boots: Boots) -> String {
    argument(&Job::Boots(boots))
}

fn hold_lab() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let lab = Lab::builder().topology(Topology::demo()).up().await.map_err(io::Error::other)?;
        let mut stdout = io::stdout();
        stdout.write_all(b"ready\n")?;
        stdout.flush()?;
        std::future::pending::<()>().await;
        drop(lab);
        Ok(())
    })
}

fn send_all(packets: &[String]) -> io::Result<()> {
    // With this protocol number what is written is a whole packet, header and all (raw(7)).
    let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255)));
    let (v4, v6) = (raw(Domain::IPV4)?, raw(Domain::IPV6)?);
    for packet in packets {
        let packet = from_hex(packet).ok_or(io::ErrorKind::InvalidInput)?;
        let to = address(&packet, Side::Destination).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = if to.is_ipv4() { &v4 } else { &v6 };
        socket.send_to(&packet, &SocketAddr::new(to, 0).into()).map_err(|error| {
            io::Error::new(error.kind(), format!("{error} for the packet {}", to_hex(&packet)))
        })?;
    }
    Ok(())
}

/// Sends initiations until killed. The layout is that of the WireGuard paper, section 5.4.2.
fn send_initiations(to: SocketAddr, key: &[u8; 32]) -> io::Result<()> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = std::net::UdpSocket::bind(any)?;
    let mac1_key = Blake2s256::new().chain_update(b"mac1----").chain_update(key).finalize();
    let mut random = ChaCha12Rng::seed_from_u64(1);
    let mut message = [0; INITIATION_LEN];
    let signed = INITIATION_LEN - 2 * MAC_LEN;
    let mut stdout = io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    // In bursts that fill any queue, and few enough to leave the machine some time.
    for number in 1_u64.. {
        if number.is_multiple_of(FLOOD_BURST) {
            std::thread::sleep(FLOOD_PAUSE);
        }
        random.fill_bytes(&mut message[4..signed]);
        message[0] = 1;
        let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&mac1_key).map_err(io::Error::other)?;
        let mac = mac.chain_update(&message[..signed]).finalize().into_bytes();
        message[signed..signed + MAC_LEN].copy_from_slice(&mac);
        match socket.send_to(&message, to) {
            Ok(_) => {}
            // Nobody listens yet, or the kernel has had enough for a moment.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn capture(from: IpAddr, count: usize, limit: Duration) -> io::Result<()> {
    let every = i32::from(EVERY_PROTOCOL.to_be());
    // Without a link-layer header, and not bound to one interface.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every)))?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_nonblocking(true)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    let end = Instant::now() + limit;
    let (mut packets, mut buffer) = (Vec::new(), vec![0; MAX_LEN]);
    while packets.len() < count {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _)) => {
                let packet = &buffer[..len];
                if address(packet, Side::Source) == Some(from) {
                    packets.push(to_hex(packet));
                }
            }
            Err(rustix::io::Errno::AGAIN) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
                match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    serde_json::to_writer(&mut stdout, &packets)?;
    stdout.flush()
}

/// One of the addresses of a packet.
#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// An address of an IP packet; `None` for anything else.
fn address(packet: &[u8], side: Side) -> Option<IpAddr> {
    let second = matches!(side, Side::Destination);
    match packet.first()? >> 4 {
        4 => {
            let at = if second { 16 } else { 12 };
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(bytes.into())
        }
        6 => {
            let at = if second { 24 } else { 8 };
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(bytes.into())
        }
        _ => None,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(from_hex(&to_hex(&[0, 1, 0xfe])), Some(vec![0, 1, 0xfe]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }

    #[test]
    fn addresses_are_found_in_both_families() {
        let mut v4 = vec![0x45; 20];
        v4[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(address(&v4, Side::Source), Some([10, 0, 0, 1].into()));
        assert_eq!(address(&v4, Side::Destination), Some([10, 0, 0, 2].into()));
        assert_eq!(address(&[0x60; 39], Side::Destination), None);
        assert_eq!(address(&[], Side::Source), None);
    }
}
