//! Durations as Go writes them, which is what users of talosctl type and read: `1h2m3s`, `1.5h`, `300ms`.

use std::fmt::Write as _;
use std::time::Duration;

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write 90s, 5m or 1h30m")]
pub struct DurationError(String);

/// Units from large to small, in nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("s", 1_000_000_000),
];

/// Parses a duration that is not negative.
///
/// # Errors
///
/// When it is none.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let (number, tail) = rest.split_at(end);
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(refuse)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(refuse());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| refuse())? };
        let mut part = u128::from(whole) * u128::from(*nanos);
        let mut weight = u128::from(*nanos);
        for digit in fraction.chars() {
            weight /= 10;
            part += u128::from(digit.to_digit(10).ok_or_else(refuse)?) * weight;
        }
        let part = u64::try_from(part).map_err(|_| refuse())?;
        total = total.checked_add(Duration::from_nanos(part)).ok_or_else(refuse)?;
        rest = &tail[unit.len()..];
    }
    if text.is_empty() { Err(refuse()) } else { Ok(total) }
}

/// Shows a duration in whole seconds, as `1h2m3s`.
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_millis() >= 500);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match (hours, minutes) {
        (0, 0) => write!(text, "{seconds}s"),
        (0, _) => write!(text, "{minutes}m{seconds}s"),
        _ => write!(text, "{hours}h{minutes}m{seconds}s"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_go_parses_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1m0.25s", 60_250),
            ("300ms", 300),
            ("2000us", 2),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1d", "1.s.", "99999999999999999h", "1m 2s", "."] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_in_seconds() {
        let show = |millis| show(Duration::from_millis(millis));
        assert_eq!([show(0), show(499), show(59_500), show(3_661_000)], ["0s", "0s", "1m0s", "1h1m1s"]);
    }
}
