//! One direction of a shaped link: when does which frame arrive? Time and chance come from outside.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::protocol::ShapeCounters;
use crate::topology::Shape;

const ETHERNET_HEADER: usize = 14;

/// One direction.
pub(super) struct Line {
    pub(super) shape: Shape,
    pub(super) counters: ShapeCounters,
    chance: ChaCha8Rng,
    /// Frames that are on the way, by arrival; those of the same instant in the order in which they came.
    on_the_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    bytes: usize,
    count: u64,
    /// Until when the sender is busy with what it has taken.
    busy_until: Option<Instant>,
    /// When the last frame arrives that is not to be overtaken.
    last_arrival: Option<Instant>,
}

impl Line {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            counters: ShapeCounters::default(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            on_the_way: BinaryHeap::new(),
            bytes: 0,
            count: 0,
            busy_until: None,
            last_arrival: None,
        }
    }

    /// A frame comes in at `now`.
    pub(super) fn offer(&mut self, now: Instant, frame: &[u8]) {
        let shape = self.shape;
        let packet = frame.len().saturating_sub(ETHERNET_HEADER);
        if shape.silent_mtu.is_some_and(|mtu| packet > usize::from(mtu)) {
            self.counters.oversized += 1;
            return;
        }
        if self.happens(shape.loss) {
            self.counters.lost += 1;
            return;
        }
        let mut frame = frame.to_vec();
        if self.happens(shape.congestion) && mark_congestion(&mut frame) {
            self.counters.marked += 1;
        }
        if self.happens(shape.duplicate) {
            self.counters.duplicated += 1;
            self.send(now, frame.clone());
        }
        self.send(now, frame);
    }

    /// The next frame that has arrived by `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, frame)) = self.on_the_way.pop()?;
        self.bytes -= frame.len();
        self.counters.forwarded += 1;
        Some(frame)
    }

    /// When the next frame arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse((at, ..))| *at)
    }

    fn send(&mut self, now: Instant, frame: Vec<u8>) {
        let shape = self.shape;
        if self.bytes + frame.len() > shape.queue {
            self.counters.overflowed += 1;
            return;
        }
        let mut sent = now;
        if shape.rate > 0 {
            let begin = self.busy_until.map_or(now, |until| until.max(now));
            sent = begin + Duration::from_secs_f64(frame.len() as f64 * 8.0 / shape.rate as f64);
            self.busy_until = Some(sent);
        }
        let arrival = if self.happens(shape.reorder) {
            sent
        } else {
            let jitter = shape.jitter_ms * self.unit();
            let arrival = sent + Duration::from_secs_f64((shape.delay_ms + jitter) / 1000.0);
            let arrival = self.last_arrival.map_or(arrival, |last| arrival.max(last));
            self.last_arrival = Some(arrival);
            arrival
        };
        self.count += 1;
        self.bytes += frame.len();
        self.on_the_way.push(Reverse((arrival, self.count, frame)));
    }

    fn happens(&mut self, share: f64) -> bool {
        // Chance is used up only where it decides something: a link without loss repeats whatever the others do.
        share > 0.0 && self.unit() < share
    }

    /// Evenly spread from 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        f64::from(self.chance.next_u32()) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Sets "congestion experienced" in a packet whose transport understands it; whether it does.
fn mark_congestion(frame: &mut [u8]) -> bool {
    let Some((header, packet)) = frame.split_at_mut_checked(ETHERNET_HEADER) else { return false };
    match header[12..] {
        [0x08, 0x00] if packet.len() >= 20 => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            if matches!(old & 3, 0 | 3) {
                return false;
            }
            packet[1] |= 3;
            // What the checksum covers changed in one place (RFC 1624, equation 3).
            let sum = !u16::from_be_bytes([packet[10], packet[11]]);
            let sum = u32::from(sum) + u32::from(!old) + u32::from(old | 3);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            true
        }
        [0x86, 0xdd] if packet.len() >= 40 => {
            let capable = !matches!(packet[1] >> 4 & 3, 0 | 3);
            if capable {
                packet[1] |= 0x30;
            }
            capable
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// What arrives of `count` frames of 1,000 bytes that come in every millisecond: their numbers, by arrival.
    fn pass(shape: Shape, count: u32) -> (Vec<(Duration, u32)>, ShapeCounters) {
        let mut line = Line::new(shape, 7);
        let start = Instant::now();
        let mut arrived = Vec::new();
        for step in 0..u64::from(count) + 1000 {
            let now = start + ms(step);
            if let Ok(n) = u32::try_from(step)
                && n < count
            {
                let mut frame = n.to_be_bytes().to_vec();
                frame.resize(1000, 0);
                line.offer(now, &frame);
            }
            while let Some(frame) = line.take(now) {
                let n = u32::from_be_bytes(frame[..4].try_into().unwrap());
                arrived.push((ms(step), n));
            }
        }
        (arrived, line.counters)
    }

    #[test]
    fn a_link_that_does_nothing_does_nothing() {
        let (arrived, counters) = pass(Shape::default(), 100);
        assert_eq!(arrived, (0..100).map(|n| (ms(n.into()), n)).collect::<Vec<_>>());
        assert_eq!(counters, ShapeCounters { forwarded: 100, ..ShapeCounters::default() });
    }

    #[test]
    fn delay_delays_and_jitter_keeps_the_order() {
        let (arrived, _) = pass(Shape { delay_ms: 10.0, jitter_ms: 20.0, ..Shape::default() }, 500);
        assert_eq!(arrived.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
        for (at, n) in &arrived {
            let on_the_way = *at - ms((*n).into());
            assert!((ms(10)..=ms(31)).contains(&on_the_way), "{on_the_way:?}");
        }
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_asked() {
        let (arrived, counters) = pass(Shape { loss: 0.1, duplicate: 0.05, ..Shape::default() }, 10_000);
        assert!((900..1100).contains(&counters.lost), "{counters:?}");
        assert!((380..520).contains(&counters.duplicated), "{counters:?}");
        assert_eq!(arrived.len() as u64, 10_000 - counters.lost + counters.duplicated);
    }

    #[test]
    fn overtaking_happens_only_where_asked_for() {
        let (arrived, _) = pass(Shape { delay_ms: 5.0, reorder: 0.1, ..Shape::default() }, 1000);
        assert_eq!(arrived.len(), 1000);
        assert!(arrived.windows(2).any(|pair| pair[0].1 > pair[1].1));
    }

    #[test]
    fn a_rate_spreads_packets_and_a_full_queue_loses_them() {
        // A megabyte per second is one frame per millisecond; half of it, and the queue fills.
        let slow = Shape { rate: 4_000_000, queue: 20_000, ..Shape::default() };
        let (arrived, counters) = pass(slow, 200);
        assert!(counters.overflowed > 80, "{counters:?}");
        for pair in arrived.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= ms(2));
        }
    }

    #[test]
    fn long_packets_vanish_silently() {
        let (arrived, counters) = pass(Shape { silent_mtu: Some(985), ..Shape::default() }, 10);
        assert_eq!((arrived.len(), counters.oversized), (0, 10));
        let (arrived, _) = pass(Shape { silent_mtu: Some(986), ..Shape::default() }, 10);
        assert_eq!(arrived.len(), 10);
    }

    /// The Internet checksum of a correct IPv4 header is zero (RFC 1071).
    fn sum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    fn ipv4(ecn: u8) -> Vec<u8> {
        let mut frame = [vec![0; 12], vec![0x08, 0x00], vec![0x45, ecn, 0, 20], vec![0x11; 16]].concat();
        frame[24..26].fill(0);
        let sum = sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn congestion_is_marked_where_it_is_understood() {
        for (ecn, marked) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut frame = ipv4(ecn);
            assert_eq!(mark_congestion(&mut frame), marked, "{ecn}");
            assert_eq!(frame[15] & 3, if marked { 3 } else { ecn });
            assert_eq!(sum(&frame[14..34]), 0, "the checksum stays right");
            let mut frame = [vec![0; 12], vec![0x86, 0xdd], vec![0x60, ecn << 4], vec![0; 38]].concat();
            assert_eq!(mark_congestion(&mut frame), marked, "{ecn}");
            assert_eq!(frame[15] >> 4, if marked { 3 } else { ecn });
        }
        assert!(!mark_congestion(&mut [0; 10]));
    }

    #[test]
    fn the_same_seed_gives_the_same_chance() {
        let shape = Shape { loss: 0.3, jitter_ms: 3.0, ..Shape::default() };
        assert_eq!(pass(shape, 300), pass(shape, 300));
    }
}
