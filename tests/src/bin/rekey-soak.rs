//! Figures that take minutes: what is lost while keys change under load, and how long a killed worker is missed.
//! Each run makes a lab and prints JSON.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use ichor_lab::traffic::{self, Udp, UdpReport};
use ichor_lab::{Addresses, Family, Lab, LabError, Nat, Node, NodeSpec, Site, StatusWatch};
use ichor_tests::netns::block_on;
use ichor_tests::peers::{self, Device, Implementation, OURS, THEIRS, Terms};
use serde::Serialize;

/// Bytes of content of each datagram.
const SIZE: usize = 1200;
/// The receiver of a stream ends when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(3);
/// The rate of the streams during which workers are killed, in datagrams per second.
const KILL_RATE: u64 = 5000;

#[derive(Debug, Parser)]
#[command(about = "Measure re-keys under load, and kills of a worker, in a lab of two nodes")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send numbered datagrams both ways at a fifth of the capacity while keys change every two minutes
    Soak {
        /// With whom
        #[arg(long, value_enum, default_value_t = With::Ichord)]
        with: With,
        /// For how long
        #[arg(long, default_value_t = 480)]
        seconds: u64,
        /// Datagrams per second each way; without it a fifth of what one direction carries at its best
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Kill the worker of an ichord again and again while datagrams flow both ways
    WorkerKill {
        /// How often
        #[arg(long, default_value_t = 10)]
        runs: usize,
        /// What tells the next worker where its peer is
        #[arg(long, value_enum, default_value_t = Knows::Configured)]
        endpoint: Knows,
    },
}

/// What tells a worker where its peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
enum Knows {
    /// Its configuration.
    Configured,
    /// Only what the worker before saved.
    Saved,
    /// Nothing: the peer must come to it.
    Nothing,
}

/// With whom an ichord is to exchange datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum With {
    Ichord,
    WireguardGo,
    WireguardGoNewest,
    Boringtun,
    Gotatun,
}

impl With {
    fn implementation(self) -> Option<Implementation> {
        match self {
            Self::Ichord => None,
            Self::WireguardGo => Some(peers::WIREGUARD_GO),
            Self::WireguardGoNewest => Some(peers::WIREGUARD_GO_NEWEST),
            Self::Boringtun => Some(peers::BORINGTUN),
            Self::Gotatun => Some(peers::GOTATUN),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = ichor_lab::reenter(&args) {
        return code;
    }
    let result = block_on(async {
        match Cli::parse().command {
            Command::Soak { with, seconds, rate } => print(&soak(with, seconds, rate).await?),
            Command::WorkerKill { runs, endpoint } => print(&worker_kill(runs, endpoint).await?),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &impl Serialize) -> Result<(), LabError> {
    let json =
        serde_json::to_string_pretty(report).map_err(|error| LabError::failed("write a report", error))?;
    writeln!(std::io::stdout(), "{json}").map_err(|error| LabError::failed("print a report", error))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Soak {
    with: String,
    seconds: u64,
    /// Datagrams that one direction carried per second at its best.
    capacity: Option<u64>,
    /// Datagrams sent per second, each way.
    rate: u64,
    /// New keys that the ichord at the near end agreed on while datagrams flowed.
    rekeys: usize,
    there: Direction,
    back: Direction,
    near: End,
    far: End,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Direction {
    /// Sent, never received, and not for want of room at the receiver's socket.
    lost: u64,
    #[serde(flatten)]
    report: UdpReport,
}

impl From<UdpReport> for Direction {
    fn from(report: UdpReport) -> Self {
        Self { lost: report.lost(), report }
    }
}

/// What was dropped at one end while datagrams flowed.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct End {
    /// By ichord, by reason.
    drops: Option<BTreeMap<String, u64>>,
    /// By the kernel, before the device was read.
    device_full: u64,
    /// By the kernel, because a UDP socket of the node was full.
    sockets_full: u64,
}

impl End {
    async fn now(node: &Node, interface: &str, ichord: bool) -> Result<Self, LabError> {
        let file = format!("/sys/class/net/{interface}/statistics/tx_dropped");
        let device = node.run(["cat", &file]).await?.stdout;
        let sockets = node.run(["cat", "/proc/net/snmp", "/proc/net/snmp6"]).await?.stdout;
        let drops = if ichord {
            let mut watch = node.watch_status().await?;
            let _of_some_seconds_ago = watch.next().await?;
            Some(watch.next().await?.drops)
        } else {
            None
        };
        Ok(Self {
            drops,
            device_full: device.trim().parse().unwrap_or(0),
            sockets_full: socket_overruns(&sockets),
        })
    }

    fn since(mut self, before: &Self) -> Self {
        if let (Some(drops), Some(before)) = (&mut self.drops, &before.drops) {
            for (reason, count) in drops.iter_mut() {
                *count -= before.get(reason).copied().unwrap_or(0).min(*count);
            }
            drops.retain(|_, count| *count > 0);
        }
        self.device_full = self.device_full.saturating_sub(before.device_full);
        self.sockets_full = self.sockets_full.saturating_sub(before.sockets_full);
        self
    }
}

/// The sum of `RcvbufErrors` of UDP over IPv4 and IPv6.
fn socket_overruns(text: &str) -> u64 {
    let mut rows = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let v4 = columns.find(|(name, _)| *name == "RcvbufErrors").map_or("0", |(_, value)| value);
    let v6 = text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")).unwrap_or("0");
    [v4, v6].iter().filter_map(|value| value.trim().parse::<u64>().ok()).sum()
}

/// Two ends that exchange datagrams.
struct Ends {
    lab: Lab,
    far: &'static str,
    far_interface: &'static str,
    far_mesh: Addresses,
    near_mesh: Addresses,
    _device: Option<Device>,
}

impl Ends {
    async fn of(with: With) -> Result<Self, LabError> {
        let far_interface = if with == With::Ichord { "ichor0" } else { "wg0" };
        let (lab, device) = match with.implementation() {
            None => {
                let mut sites = [OURS, THEIRS].map(|name| Site::new(format!("at-{name}"), Nat::None));
                sites[0].nodes.push(NodeSpec::new(OURS));
                sites[1].nodes.push(NodeSpec::new(THEIRS));
                let [ours, theirs] = sites;
                (Lab::builder().site(ours).site(theirs).up().await?, None)
            }
            Some(implementation) => {
                let lab = peers::pair().up().await?;
                let device = implementation.start(&lab.node(THEIRS)).await?;
                let terms = Terms { we_know: true, they_know: true, family: Family::V4, preshared: false };
                peers::introduce(&lab, &device, terms).await?;
                (lab, Some(device))
            }
        };
        let near_mesh = lab.node(OURS).view().await?.mesh;
        let far_mesh = lab.node(THEIRS).view().await?.mesh;
        let ends = Self { lab, far: THEIRS, far_interface, far_mesh, near_mesh, _device: device };
        let target = ends.far_mesh.ip(Family::V4);
        traffic::ping(&ends.near(), traffic::Ping::once([target])).await?;
        ends.near().until_connected(&[THEIRS]).await?;
        Ok(ends)
    }

    fn near(&self) -> Node {
        self.lab.node(OURS)
    }

    fn far(&self) -> Node {
        self.lab.node(self.far)
    }

    /// Sends both ways at once: over IPv4 there, and over IPv6 back.
    async fn exchange(&self, udp: Udp) -> Result<(UdpReport, UdpReport), LabError> {
        let (near, far) = (self.near(), self.far());
        let there = traffic::udp(&near, &far, self.far_mesh.ip(Family::V4), udp);
        let back = traffic::udp(&far, &near, self.near_mesh.ip(Family::V6), udp);
        tokio::try_join!(there, back)
    }

    async fn now(&self, with: With) -> Result<(End, End), LabError> {
        let near = End::now(&self.near(), "ichor0", true).await?;
        Ok((near, End::now(&self.far(), self.far_interface, with == With::Ichord).await?))
    }
}

async fn soak(with: With, seconds: u64, rate: Option<u64>) -> Result<Soak, LabError> {
    let ends = Ends::of(with).await?;
    let (capacity, rate) = match rate {
        Some(rate) => (None, rate),
        None => {
            let capacity = capacity(&ends).await?;
            (Some(capacity), (capacity / 5).max(1))
        }
    };
    let before = ends.now(with).await?;
    let udp = Udp { count: rate * seconds, rate, size: SIZE, quiet: QUIET };
    let mut watch = ends.near().watch_status().await?;
    let (mut rekeys, mut last) = (0, handshake(&mut watch).await?);
    let mut exchange = Box::pin(ends.exchange(udp));
    let (there, back) = loop {
        tokio::select! {
            done = &mut exchange => break done?,
            at = handshake(&mut watch) => {
                let at = at?;
                rekeys += usize::from(at != last);
                last = at;
            }
        }
    };
    drop(exchange);
    let after = ends.now(with).await?;
    ends.lab.down().await?;
    Ok(Soak {
        with: with.implementation().map_or("ichord", |other| other.name).to_owned(),
        seconds,
        capacity,
        rate,
        rekeys,
        there: there.into(),
        back: back.into(),
        near: after.0.since(&before.0),
        far: after.1.since(&before.1),
    })
}

/// When keys were last agreed upon, by the next status.
async fn handshake(watch: &mut StatusWatch) -> Result<Option<u64>, LabError> {
    let status = watch.next().await?;
    Ok(status.peers.iter().find(|peer| peer.name == THEIRS).and_then(|peer| peer.last_handshake))
}

/// Datagrams per second that arrive when far more are sent.
async fn capacity(ends: &Ends) -> Result<u64, LabError> {
    let udp = Udp { count: 300_000, rate: 10_000_000, size: SIZE, quiet: Duration::from_millis(500) };
    let to = ends.far_mesh.ip(Family::V4);
    let started = std::time::Instant::now();
    let report = traffic::udp(&ends.near(), &ends.far(), to, udp).await?;
    let took = started.elapsed().saturating_sub(udp.quiet).as_secs_f64();
    Ok((report.received as f64 / took.max(0.001)) as u64)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kills {
    /// Datagrams per second, each way.
    rate: u64,
    /// What told the next worker where its peer is.
    endpoint: Knows,
    median_ms: f64,
    max_ms: f64,
    runs: Vec<Kill>,
}

/// The longest time without a datagram, in milliseconds, and how many were lost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kill {
    to_killed_ms: f64,
    to_killed_lost: u64,
    from_killed_ms: f64,
    from_killed_lost: u64,
}

impl Kill {
    fn worse(&self) -> f64 {
        self.to_killed_ms.max(self.from_killed_ms)
    }
}

/// The longest gap of a stream, in milliseconds. One that never came back shows only in what was lost.
fn gap_ms(report: &UdpReport) -> f64 {
    let lost = report.lost() as f64 * 1000.0 / KILL_RATE as f64;
    lost.max(report.longest_gap_us as f64 / 1000.0)
}

async fn worker_kill(runs: usize, endpoint: Knows) -> Result<Kills, LabError> {
    let ends = Ends::of(With::Ichord).await?;
    let far = ends.far();
    if endpoint != Knows::Configured {
        let config = far.config().await?;
        let lines = config.lines().filter(|line| !line.trim().starts_with("endpoint:"));
        far.configure(&lines.map(|line| format!("{line}\n")).collect::<String>()).await?;
    }
    // Longer than a peer may take that has to find out by itself.
    let seconds = if endpoint == Knows::Nothing { 30 } else { 5 };
    let mut measured = Vec::new();
    for _ in 0..runs {
        // A worker that lived for less than ten seconds is replaced a little later, which is not what we measure.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let udp = Udp {
            count: seconds * KILL_RATE,
            rate: KILL_RATE,
            size: SIZE,
            quiet: QUIET.max(udp_pause(endpoint)),
        };
        let kill = async {
            // Well into the streams, of which nothing tells us the middle.
            tokio::time::sleep(Duration::from_secs(2)).await;
            if endpoint == Knows::Nothing {
                far.run(["rm", "-f", "/var/lib/ichor/endpoints"]).await?;
            }
            far.kill_worker().await
        };
        let ((there, back), ()) = tokio::try_join!(ends.exchange(udp), kill)?;
        measured.push(Kill {
            to_killed_ms: gap_ms(&there),
            to_killed_lost: there.lost(),
            from_killed_ms: gap_ms(&back),
            from_killed_lost: back.lost(),
        });
    }
    ends.lab.down().await?;
    let mut gaps: Vec<f64> = measured.iter().map(Kill::worse).collect();
    gaps.sort_by(f64::total_cmp);
    Ok(Kills {
        rate: KILL_RATE,
        endpoint,
        median_ms: gaps.get(gaps.len() / 2).copied().unwrap_or_default(),
        max_ms: gaps.last().copied().unwrap_or_default(),
        runs: measured,
    })
}

/// How long a stream may pause without being over.
fn udp_pause(endpoint: Knows) -> Duration {
    Duration::from_secs(if endpoint == Knows::Nothing { 28 } else { 0 })
}
