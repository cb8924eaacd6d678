//! Numbered datagrams.
//!
//! ```text
//!  0  number           (8, big endian)
//!  8  time of sending  (8, nanoseconds of CLOCK_MONOTONIC)
//! 16  content that follows from the number
//! ```

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

use super::histogram::Histogram;
use super::{Udp, UdpReport, UdpSent};

pub(super) const HEADER: usize = 16;
/// As large as the kernel lets us have it, up to this.
const BUFFER: usize = 16 << 20;
/// How long the first datagram may take.
const FIRST: Duration = Duration::from_secs(20);
/// How long the kernel may refuse to send.
const STALL: Duration = Duration::from_secs(10);

/// Sends datagrams, evenly spread over time.
pub(super) fn send(to: SocketAddr, udp: Udp) -> io::Result<UdpSent> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    SockRef::from(&socket).set_send_buffer_size(BUFFER)?;
    socket.connect(to)?;
    let mut datagram = vec![0; udp.size.max(HEADER)];
    let mut report = UdpSent::default();
    let start = Instant::now();
    for number in 0..udp.count {
        let due = start + Duration::from_secs_f64(number as f64 / udp.rate.max(1) as f64);
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        write(&mut datagram, number);
        let mut refused_since = None;
        while let Err(error) = socket.send(&datagram) {
            // A full queue, or an answer to an earlier datagram: a peer that is away for a moment.
            let transient = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            ) || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error());
            let since = *refused_since.get_or_insert_with(Instant::now);
            if !transient || since.elapsed() > STALL {
                return Err(error);
            }
            report.retried += 1;
            std::thread::yield_now();
        }
        report.sent += 1;
    }
    Ok(report)
}

/// Receives datagrams until all are there, or none has come for a while.
pub(super) fn receive(
    bind: SocketAddr,
    udp: Udp,
    listening: impl Fn(SocketAddr) -> io::Result<()>,
) -> io::Result<UdpReport> {
    let socket = UdpSocket::bind(bind)?;
    SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
    let local = socket.local_addr()?;
    listening(local)?;
    socket.set_read_timeout(Some(FIRST))?;
    let mut tally = Tally::new(udp.count);
    let mut buffer = vec![0; 65_536];
    loop {
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if tally.last.is_none() {
            socket.set_read_timeout(Some(udp.quiet.max(Duration::from_millis(1))))?;
        }
        tally.note(&buffer[..len], udp.size, now());
        if tally.report.received == udp.count {
            break;
        }
    }
    let mut report = tally.report;
    report.latency = tally.latency.latency();
    report.overrun = overrun(local)?;
    Ok(report)
}

/// What was received so far.
struct Tally {
    report: UdpReport,
    latency: Histogram,
    /// One bit for each number.
    seen: Vec<u64>,
    highest: Option<u64>,
    last: Option<u64>,
}

impl Tally {
    fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self {
            report: UdpReport {
                sent: 0,
                retried: 0,
                received: 0,
                duplicates: 0,
                reordered: 0,
                damaged: 0,
                overrun: 0,
                longest_gap_us: 0,
                latency: super::Latency::default(),
            },
            latency: Histogram::new(),
            seen: vec![0; words],
            highest: None,
            last: None,
        }
    }

    /// Notes a datagram that arrived at `now`.
    fn note(&mut self, datagram: &[u8], size: usize, now: u64) {
        if let Some(last) = self.last {
            self.report.longest_gap_us = self.report.longest_gap_us.max(now.saturating_sub(last) / 1000);
        }
        self.last = Some(now);
        let number = number_of(datagram).filter(|_| datagram.len() == size.max(HEADER));
        let Some((number, sent)) = number else {
            self.report.damaged += 1;
            return;
        };
        let word = usize::try_from(number / 64).ok().and_then(|word| self.seen.get_mut(word));
        let Some(word) = word else {
            self.report.damaged += 1;
            return;
        };
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            self.report.duplicates += 1;
            return;
        }
        *word |= bit;
        self.report.received += 1;
        self.latency.note(now.saturating_sub(sent) / 1000);
        if self.highest.is_some_and(|highest| highest > number) {
            self.report.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
    }
}

fn write(datagram: &mut [u8], number: u64) {
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    datagram[8..HEADER].copy_from_slice(&now().to_be_bytes());
    for (n, byte) in datagram[HEADER..].iter_mut().enumerate() {
        *byte = content(number, n);
    }
}

/// Number and time of a datagram whose content is what it should be.
fn number_of(datagram: &[u8]) -> Option<(u64, u64)> {
    let (number, rest) = datagram.split_first_chunk()?;
    let (sent, rest) = rest.split_first_chunk()?;
    let number = u64::from_be_bytes(*number);
    let intact = rest.iter().enumerate().all(|(n, byte)| *byte == content(number, n));
    intact.then(|| (number, u64::from_be_bytes(*sent)))
}

/// The byte at `at` of the content of datagram `number`: neighbours of both kinds differ.
fn content(number: u64, at: usize) -> u8 {
    (number.wrapping_mul(31) as u8).wrapping_add((at as u8).wrapping_mul(7)).wrapping_add((at >> 8) as u8)
}

/// Nanoseconds of the clock that all processes of the machine share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Datagrams for which the socket that is bound to `local` had no room (`drops` of `/proc/net/udp`).
fn overrun(local: SocketAddr) -> io::Result<u64> {
    let file = if local.is_ipv4() { "/proc/self/net/udp" } else { "/proc/self/net/udp6" };
    let port = format!(":{:04X}", local.port());
    let text = std::fs::read_to_string(file)?;
    let drops = text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let ours = words.nth(1)?.ends_with(&port);
        ours.then(|| words.next_back()?.parse::<u64>().ok()).flatten()
    });
    Ok(drops.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64) -> Vec<u8> {
        let mut datagram = vec![0; 100];
        write(&mut datagram, number);
        datagram
    }

    #[test]
    fn everything_that_happens_to_datagrams_is_counted() {
        let mut tally = Tally::new(10);
        for number in [0, 1, 3, 2, 2, 5] {
            tally.note(&datagram(number), 100, now());
        }
        let mut damaged = datagram(6);
        damaged[50] ^= 1;
        tally.note(&damaged, 100, now());
        tally.note(&datagram(7)[..99], 100, now());
        tally.note(&datagram(4000), 100, now());
        let report = UdpReport { sent: 10, ..tally.report };
        assert_eq!((report.received, report.duplicates, report.reordered, report.damaged), (5, 1, 1, 3));
        assert_eq!(report.lost(), 5);
    }

    #[test]
    fn a_loopback_loses_nothing() {
        let udp = Udp { count: 500, rate: 5000, size: 300, quiet: Duration::from_secs(5) };
        let (sender, addresses) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            receive("[::1]:0".parse().unwrap(), udp, |at| sender.send(at).map_err(io::Error::other)).unwrap()
        });
        let sent = send(addresses.recv().unwrap(), udp).unwrap();
        let report = receiver.join().unwrap();
        assert_eq!((sent.sent, report.received, report.damaged), (500, 500, 0));
    }
}
