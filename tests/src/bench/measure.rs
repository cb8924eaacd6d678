//! What is measured of each contender.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::arena::Arena;
use super::contender::Contender;
use super::processes;
use crate::shell::output;

/// Port of iperf3.
const PORT: u16 = 5201;
/// Pings of one flood.
const PINGS: &str = "20000";
/// Pings of the idle run, and the pause between two, in seconds.
const IDLE_PINGS: (&str, &str) = ("200", "0.01");

/// One round of one contender.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Round {
    /// One TCP stream, Gbit/s.
    pub stream: f64,
    /// One TCP stream the other way, Gbit/s.
    pub reverse: f64,
    /// Four TCP streams, Gbit/s.
    pub streams: f64,
    /// CPU seconds of both daemons per 10^9 bytes of the one stream.
    pub cpu_per_gb: f64,
    /// CPU seconds that the whole machine was busy per 10^9 bytes of the one stream.
    pub machine_per_gb: f64,
    /// UDP datagrams of 100 bytes that arrived per second.
    pub datagrams: f64,
    /// Average round trip of a ping every 10 ms, in ms.
    pub idle_ping: f64,
    /// Longest of those, in ms.
    pub idle_ping_max: f64,
    /// Average round trip of back-to-back pings, in ms.
    pub flood_ping: f64,
    /// Resident memory of all processes of one end, in MiB.
    pub rss: f64,
}

/// Runs everything once.
///
/// # Errors
/// When the contender does not work or a tool fails.
pub fn round(contender: &Contender, seconds: u32) -> Result<Round> {
    let arena = Arena::up(contender)?;
    let (idle_ping, idle_ping_max) = ping(&arena, &["-i", IDLE_PINGS.1, "-c", IDLE_PINGS.0])?;
    let (flood_ping, _) = ping(&arena, &["-f", "-c", PINGS])?;
    let pids = arena.processes();
    let (daemons, machine) = (processes::cpu(&pids), processes::machine());
    let stream = iperf(&arena, seconds, &[])?;
    let gigabytes = stream.bytes / 1e9;
    let spent = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() / gigabytes;
    let (cpu_per_gb, machine_per_gb) =
        (spent(processes::cpu(&pids), daemons), spent(processes::machine(), machine));
    let reverse = iperf(&arena, seconds, &["-R"])?;
    let streams = iperf(&arena, seconds, &["-P", "4"])?;
    let small = iperf(&arena, seconds, &["-u", "-l", "100", "-b", "0"])?;
    Ok(Round {
        stream: stream.gigabits(),
        reverse: reverse.gigabits(),
        streams: streams.gigabits(),
        cpu_per_gb,
        machine_per_gb,
        datagrams: small.datagrams / small.seconds,
        idle_ping,
        idle_ping_max,
        flood_ping,
        rss: processes::rss(&arena.processes()) as f64 / 2.0 / 1024.0 / 1024.0,
    })
}

struct Transfer {
    bytes: f64,
    seconds: f64,
    datagrams: f64,
}

impl Transfer {
    fn gigabits(&self) -> f64 {
        self.bytes * 8.0 / self.seconds / 1e9
    }
}

/// From the first end to the second.
fn iperf(arena: &Arena, seconds: u32, arguments: &[&str]) -> Result<Transfer> {
    let mut server = arena.command(1, "iperf3");
    server.args(["-s", "-1"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = server.spawn().context("failed to start iperf3")?;
    wait_for_listener(arena)?;
    let mut client = arena.command(0, "iperf3");
    client.args(["-c", arena.target, "-J", "-t", &seconds.to_string()]).args(arguments);
    let said = output(&mut client);
    if said.is_err() {
        let _ = server.kill();
    }
    server.wait()?;
    let report: Value = serde_json::from_str(&said?).context("iperf3 printed no JSON")?;
    let end = &report["end"];
    let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    let number = |value: &Value| value.as_f64().with_context(|| format!("iperf3 gave no figure in {sum}"));
    let datagrams = match end["sum"]["packets"].as_f64() {
        Some(sent) => sent - number(&end["sum"]["lost_packets"])?,
        None => 0.0,
    };
    Ok(Transfer { bytes: number(&sum["bytes"])?, seconds: number(&sum["seconds"])?, datagrams })
}

fn wait_for_listener(arena: &Arena) -> Result<()> {
    let port = format!(":{PORT:04X}");
    for _ in 0..500 {
        let mut table = arena.command(1, "cat");
        table.args(["/proc/net/tcp", "/proc/net/tcp6"]);
        // State 0A is LISTEN (include/net/tcp_states.h).
        if output(&mut table)?.lines().any(|line| line.contains(&port) && line.contains(" 0A ")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("iperf3 does not listen")
}

/// Average and longest round trip, in ms.
fn ping(arena: &Arena, arguments: &[&str]) -> Result<(f64, f64)> {
    let mut ping = arena.command(0, "ping");
    let said = output(ping.args(["-q", arena.target]).args(arguments))?;
    // rtt min/avg/max/mdev = 0.012/0.020/0.110/0.009 ms
    let figures: Vec<f64> = said
        .rsplit_once(" = ")
        .map(|(_, figures)| figures.split(['/', ' ']).map_while(|figure| figure.parse().ok()).collect())
        .unwrap_or_default();
    match figures[..] {
        [_, average, longest, ..] => Ok((average, longest)),
        _ => bail!("ping printed no figures: {said}"),
    }
}
