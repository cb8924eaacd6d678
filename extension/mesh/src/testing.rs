//! Shorthand for tests: instants without a clock in the test itself.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The instant at which every test begins.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "an origin is needed once; tests count from it")]
    *EPOCH.get_or_init(Instant::now)
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
