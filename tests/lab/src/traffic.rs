//! The built-in traffic generator: it runs inside nodes, as this program again, and reports in JSON.
//!
//! - [`ping`]: echo requests to many addresses of both families.
//! - [`tcp`]: one stream, for its throughput or until a number of bytes has arrived intact.
//! - [`udp`]: numbered datagrams, for loss, reordering, duplicates, damage and latency.
//!
//! All nodes share the machine's clock, so latency is one-way.

mod datagram;
mod histogram;
mod icmp;
mod stream;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Attempt as _, LabError};
use crate::node::{Child, Command, Node};
use crate::reentry::{LAB, TRAFFIC};

pub use histogram::Latency;

/// Time that a generator needs beyond what it was asked to take, on a machine that is busy.
const SLACK: Duration = Duration::from_secs(20);

/// What a generator process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Job {
    Ping(Ping),
    TcpReceive { bind: SocketAddr, seed: Option<u64> },
    TcpSend { to: SocketAddr, tcp: Tcp },
    UdpReceive { bind: SocketAddr, udp: Udp },
    UdpSend { to: SocketAddr, udp: Udp },
}

/// Echo requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Whom to ask.
    pub targets: Vec<IpAddr>,
    /// A target is asked again until it has answered so many requests.
    pub replies: u32,
    /// Time between two requests to a target.
    pub interval: Duration,
    /// When to give up.
    pub limit: Duration,
}

impl Ping {
    /// Asks each target until it answers once.
    pub fn once(targets: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            replies: 1,
            interval: Duration::from_millis(200),
            limit: Duration::from_secs(10),
        }
    }
}

/// What a target of [`ping`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinged {
    /// Who was asked.
    pub target: IpAddr,
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// The shortest time of a round trip, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_us: Option<u64>,
}

/// A TCP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// Ends after this many bytes.
    pub bytes: Option<u64>,
    /// Ends after this time.
    pub time: Duration,
    /// With a seed the content is made from it, and checked by the receiver.
    pub seed: Option<u64>,
}

impl Tcp {
    /// As much as possible for `time`.
    pub fn throughput(time: Duration) -> Self {
        Self { bytes: None, time, seed: None }
    }

    /// `bytes`, checked.
    pub fn checked(bytes: u64, seed: u64) -> Self {
        Self { bytes: Some(bytes), time: Duration::from_secs(30), seed: Some(seed) }
    }
}

/// What became of a TCP stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpReport {
    /// Bytes received.
    pub bytes: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Where the content was not what was sent, if it was checked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub damaged_at: Option<u64>,
}

impl TcpReport {
    /// Bits per second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 * 8.0 / self.seconds } else { 0.0 }
    }
}

/// Numbered datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    /// How many.
    pub count: u64,
    /// Datagrams per second.
    pub rate: u64,
    /// Bytes of content of each, at least [`Udp::MIN_SIZE`].
    pub size: usize,
    /// The receiver ends when nothing has arrived for this long.
    pub quiet: Duration,
}

impl Udp {
    /// What number, time and a check need.
    pub const MIN_SIZE: usize = datagram::HEADER;

    /// How long sending takes.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.count as f64 / self.rate.max(1) as f64)
    }
}

/// What became of numbered datagrams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UdpReport {
    /// Sent.
    pub sent: u64,
    /// Those that the sending kernel refused at first, and took later.
    pub retried: u64,
    /// Different ones received.
    pub received: u64,
    /// Received again.
    pub duplicates: u64,
    /// Received after one with a higher number.
    pub reordered: u64,
    /// Received with another content than was sent.
    pub damaged: u64,
    /// Lost in the receiver's socket buffer, so not on the way.
    pub overrun: u64,
    /// The longest time without any, in microseconds, between the first and the last.
    pub longest_gap_us: u64,
    /// One-way latency.
    pub latency: Latency,
}

impl UdpReport {
    /// Sent and never received, and not the fault of the receiver.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received + self.overrun)
    }
}

/// The two halves of a [`UdpReport`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct UdpSent {
    sent: u64,
    retried: u64,
}

/// A receiver's first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Listening {
    address: SocketAddr,
}

/// Asks addresses for echoes, from `node`. Whether all answered is in the result.
///
/// # Errors
/// [`LabError`] if the generator cannot run.
pub async fn ping(node: &Node, ping: Ping) -> Result<Vec<Pinged>, LabError> {
    let limit = ping.limit + SLACK;
    let output = generator(node, &Job::Ping(ping))?.limit(limit).success().await?;
    read(&output.stdout)
}

/// Sends a TCP stream from `from` to the address `ip` of `to`.
///
/// # Errors
/// [`LabError`] if the stream breaks.
pub async fn tcp(from: &Node, to: &Node, ip: IpAddr, tcp: Tcp) -> Result<TcpReport, LabError> {
    let limit = tcp.time + SLACK;
    let receive = Job::TcpReceive { bind: SocketAddr::new(ip, 0), seed: tcp.seed };
    let (receiver, address) = receiver(to, &receive).await?;
    let send = generator(from, &Job::TcpSend { to: address, tcp })?.limit(limit);
    send.success().await?;
    finish(receiver, limit).await
}

/// Sends numbered datagrams from `from` to the address `ip` of `to`.
///
/// # Errors
/// [`LabError`] if a generator cannot run.
pub async fn udp(from: &Node, to: &Node, ip: IpAddr, udp: Udp) -> Result<UdpReport, LabError> {
    let limit = udp.duration() + udp.quiet + SLACK;
    let (receiver, address) = receiver(to, &Job::UdpReceive { bind: SocketAddr::new(ip, 0), udp }).await?;
    let send = generator(from, &Job::UdpSend { to: address, udp })?.limit(limit);
    let sent: UdpSent = read(&send.success().await?.stdout)?;
    let report: UdpReport = finish(receiver, limit).await?;
    Ok(UdpReport { sent: sent.sent, retried: sent.retried, ..report })
}

fn generator(node: &Node, job: &Job) -> Result<Command, LabError> {
    let json = serde_json::to_string(job).attempt(|| "write a job".to_owned())?;
    Ok(node.own_command([LAB, TRAFFIC, &json]))
}

/// Starts a receiver, and waits until it listens.
async fn receiver(node: &Node, job: &Job) -> Result<(Child, SocketAddr), LabError> {
    let mut child = generator(node, job)?.spawn().await?;
    match child.line().await? {
        Some(line) => {
            let listening: Listening = read(&line)?;
            Ok((child, listening.address))
        }
        None => {
            let said = child.output().await?.stderr;
            Err(LabError::Failed { what: "start a receiver".to_owned(), cause: said.trim().to_owned() })
        }
    }
}

async fn finish<T: serde::de::DeserializeOwned>(receiver: Child, limit: Duration) -> Result<T, LabError> {
    let output = crate::lab::within(limit, "the end of a receiver", receiver.output()).await?;
    if !output.exit.success() {
        let cause = format!("{}; {}", output.exit, output.stderr.trim());
        return Err(LabError::Failed { what: "receive traffic".to_owned(), cause });
    }
    read(&output.stdout)
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, LabError> {
    serde_json::from_str(json).attempt(|| format!("read the report {json:?}"))
}

/// Runs a generator process: its job is the only argument, its report goes to stdout.
#[expect(clippy::print_stderr, reason = "stderr is the way by which a generator says why it failed")]
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let job = args.first().and_then(|job| serde_json::from_str(job.to_str()?).ok());
    let result = match job {
        None => Err(std::io::Error::from(std::io::ErrorKind::InvalidInput)),
        Some(Job::Ping(ping)) => icmp::ping(&ping).and_then(|pinged| report(&pinged)),
        Some(Job::TcpReceive { bind, seed }) => {
            stream::receive(bind, seed, listening).and_then(|received| report(&received))
        }
        Some(Job::TcpSend { to, tcp }) => stream::send(to, tcp),
        Some(Job::UdpReceive { bind, udp }) => {
            datagram::receive(bind, udp, listening).and_then(|received| report(&received))
        }
        Some(Job::UdpSend { to, udp }) => datagram::send(to, udp).and_then(|sent| report(&sent)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn listening(address: SocketAddr) -> std::io::Result<()> {
    report(&Listening { address })
}

fn report(value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
