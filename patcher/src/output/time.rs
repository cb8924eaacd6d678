//! Times as Go prints them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::duration;

/// A timestamp as RFC 3339 in whole seconds, or nothing where there is none.
pub fn rfc3339(timestamp: Option<&Timestamp>) -> String {
    let moment = timestamp.and_then(|timestamp| OffsetDateTime::from_unix_timestamp(timestamp.seconds).ok());
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Seconds since the Unix epoch as RFC 3339.
pub fn date(seconds: u64) -> String {
    rfc3339(Some(&timestamp(seconds)))
}

/// Seconds since the Unix epoch as a timestamp.
pub fn timestamp(seconds: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

/// How long ago a timestamp was, as `1h2m3s`. The future counts as now.
pub fn age(timestamp: Option<&Timestamp>, now: SystemTime) -> String {
    let then = timestamp.and_then(|timestamp| SystemTime::try_from(*timestamp).ok());
    then.map(|then| duration::show(now.duration_since(then).unwrap_or(Duration::ZERO))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        let timestamp = Timestamp { seconds: 1_767_225_600, nanos: 5 };
        assert_eq!(rfc3339(Some(&timestamp)), "2026-01-01T00:00:00Z");
        assert_eq!(rfc3339(None), "");
        assert_eq!(rfc3339(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })), "");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + 125);
        assert_eq!(age(Some(&timestamp), now), "2m5s");
        assert_eq!(age(Some(&timestamp), SystemTime::UNIX_EPOCH), "0s");
        assert_eq!(age(None, now), "");
    }
}
