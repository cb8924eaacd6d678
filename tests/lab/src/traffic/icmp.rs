//! Echo requests (RFC 792, RFC 4443) over raw sockets.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Ping, Pinged};

const HEADER: usize = 8;
const PAYLOAD: usize = 56;

struct Target {
    report: Pinged,
    due: Instant,
}

/// Asks all targets, side by side, until each has answered often enough or the time is over.
pub(super) fn ping(ping: &Ping) -> io::Result<Vec<Pinged>> {
    let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    v4.set_nonblocking(true)?;
    v6.set_nonblocking(true)?;
    let start = Instant::now();
    let end = start + ping.limit;
    let id = (std::process::id() & 0xffff) as u16;
    let mut targets: Vec<Target> = ping
        .targets
        .iter()
        .map(|target| Target {
            report: Pinged { target: *target, sent: 0, received: 0, rtt_us: None },
            due: start,
        })
        .collect();
    // What each sequence number was sent for, and when.
    let mut asked: HashMap<u16, (usize, Instant)> = HashMap::new();
    let mut sequence = 0u16;
    loop {
        let now = Instant::now();
        let mut next = end;
        for (n, target) in targets.iter_mut().enumerate() {
            if target.report.received >= ping.replies {
                continue;
            }
            if target.due <= now {
                sequence = sequence.wrapping_add(1);
                let ip = target.report.target;
                let socket = if ip.is_ipv4() { &v4 } else { &v6 };
                // What cannot be sent now may be later: the route may be on its way.
                let _ = socket.send_to(&request(ip, id, sequence), &SocketAddr::new(ip, 0).into());
                asked.insert(sequence, (n, now));
                target.report.sent += 1;
                target.due = now + ping.interval;
            }
            next = next.min(target.due);
        }
        if now >= end || targets.iter().all(|target| target.report.received >= ping.replies) {
            return Ok(targets.into_iter().map(|target| target.report).collect());
        }
        wait([&v4, &v6], next.saturating_duration_since(Instant::now()))?;
        for (socket, is_v4) in [(&v4, true), (&v6, false)] {
            while let Some((from, reply)) = receive(socket, is_v4, id)? {
                let Some((n, sent)) = asked.get(&reply).copied() else { continue };
                let report = &mut targets[n].report;
                if report.target == from && report.received < ping.replies {
                    asked.remove(&reply);
                    report.received += 1;
                    let rtt = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                    report.rtt_us = Some(report.rtt_us.map_or(rtt, |best| best.min(rtt)));
                }
            }
        }
    }
}

fn wait(sockets: [&Socket; 2], limit: Duration) -> io::Result<()> {
    let mut waiting = sockets.map(|socket| PollFd::new(socket, PollFlags::IN));
    match poll(&mut waiting, Some(&Timespec::try_from(limit).unwrap_or_default())) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn request(to: IpAddr, id: u16, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0x69; HEADER + PAYLOAD];
    packet[..4].copy_from_slice(&if to.is_ipv4() { [8, 0, 0, 0] } else { [128, 0, 0, 0] });
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if to.is_ipv4() {
        // For ICMPv6 the kernel fills it in: it knows the source address.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The next reply to one of our requests: who sent it, and its sequence number.
fn receive(socket: &Socket, is_v4: bool, id: u16) -> io::Result<Option<(IpAddr, u16)>> {
    loop {
        let mut buffer = [0; 2048];
        let (len, from) = match rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _, from)) => (len, from),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = &buffer[..len.min(buffer.len())];
        // IPv4 raw sockets give the IP header as well.
        let header = if is_v4 { usize::from(bytes.first().unwrap_or(&0) & 0xf) * 4 } else { 0 };
        let Some(icmp) = bytes.get(header..).filter(|icmp| icmp.len() >= HEADER) else { continue };
        let is_reply = icmp[0] == if is_v4 { 0 } else { 129 };
        if !is_reply || icmp[4..6] != id.to_be_bytes() {
            continue;
        }
        if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
            return Ok(Some((from.ip(), u16::from_be_bytes([icmp[6], icmp[7]]))));
        }
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}
