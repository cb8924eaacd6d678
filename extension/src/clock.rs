//! The only place that reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, for everything that the core measures.
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since the Unix epoch, if the clock shows a time after it.
pub fn unix_seconds() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// One instant on both clocks, to show monotonic instants as dates.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    instant: Instant,
    system: SystemTime,
}

impl WallClock {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// When `instant` was, by today's wall clock: a clock that was set since then does not disturb the
    /// distance to now.
    pub fn date(&self, instant: Instant) -> SystemTime {
        match self.instant.checked_duration_since(instant) {
            Some(ago) => self.system.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            None => self.system + instant.duration_since(self.instant),
        }
    }
}
