//! Latencies, counted in buckets that grow with them.

use serde::{Deserialize, Serialize};

/// Buckets of one power of two: values are known to within 1/32.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.ilog2();
/// Up to 2^40 microseconds.
const BUCKETS: usize = STEPS * 36;

/// Counts values in bounded memory.
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// A distribution of latencies, in microseconds; percentiles are exact to 3 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Half are not longer.
    pub p50_us: u64,
    /// 90 of 100 are not longer.
    pub p90_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub(super) fn note(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub(super) fn latency(&self) -> Latency {
        Latency {
            p50_us: self.percentile(50),
            p90_us: self.percentile(90),
            p99_us: self.percentile(99),
            max_us: self.max,
        }
    }

    /// The upper end of the bucket in which the value lies that so many of 100 do not exceed.
    fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (n, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(n).min(self.max);
            }
        }
        self.max
    }
}

/// The first values have a bucket each, then [`STEPS`] share the values of each power of two.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let base = usize::try_from(shift).unwrap_or_default() * STEPS;
    let step = usize::try_from(value >> shift).unwrap_or_default();
    (base + step).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let step = (bucket % STEPS + STEPS) as u64;
    ((step + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        for value in 1..=1000 {
            histogram.note(value);
        }
        let latency = histogram.latency();
        assert!((500..=515).contains(&latency.p50_us), "{latency:?}");
        assert!((990..=1000).contains(&latency.p99_us), "{latency:?}");
        assert_eq!(latency.max_us, 1000);
        assert_eq!(Histogram::new().latency(), Latency::default());
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_to_within_a_thirtysecond(value in 0u64..1 << 40) {
            let end = upper_end(bucket(value));
            prop_assert!(end >= value && end - value <= value / 32, "{value} is in the bucket up to {end}");
        }
    }
}
