//! How one direction between two nodes treats datagrams.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Whether anything passes.
    pub up: bool,
    /// Time on the way.
    pub delay: Duration,
    /// Random time added to it, evenly spread from zero: datagrams overtake each other.
    pub jitter: Duration,
    /// Datagrams lost, in a million.
    pub loss_ppm: u32,
    /// Datagrams that arrive twice, in a million.
    pub duplicate_ppm: u32,
}

impl Link {
    /// A link that is only a little slow.
    pub const fn perfect(delay: Duration) -> Self {
        Self { up: true, delay, jitter: Duration::ZERO, loss_ppm: 0, duplicate_ppm: 0 }
    }

    /// When the copies of one datagram arrive, counted from now; none if it is lost.
    pub(super) fn arrivals(&self, rng: &mut ChaCha12Rng) -> Vec<Duration> {
        if !self.up || chance(rng, self.loss_ppm) {
            return Vec::new();
        }
        let copies = 1 + usize::from(chance(rng, self.duplicate_ppm));
        (0..copies).map(|_| self.delay + self.jitter.mul_f64(unit(rng))).collect()
    }
}

/// True `ppm` times in a million.
pub(super) fn chance(rng: &mut ChaCha12Rng, ppm: u32) -> bool {
    ppm > 0 && rng.next_u32() % 1_000_000 < ppm
}

fn unit(rng: &mut ChaCha12Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX)
}
