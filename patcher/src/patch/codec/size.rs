//! Sizes and durations, as Go's standard library and `go-humanize` read and print them.

use crate::machine::scalar::float;

const UNITS: [(&str, u64); 7] = [
    ("b", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("p", 1_000_000_000_000_000),
    ("e", 1_000_000_000_000_000_000),
];

/// Reads `10`, `1.5 GB`, `100MiB`, `1,000k`.
///
/// # Errors
/// When there is no number, an unknown unit, or too much.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the same conversions as in Go"
)]
pub(crate) fn parse_human_bytes(text: &str) -> Result<u64, String> {
    let digits = text.chars().take_while(|c| c.is_numeric() || matches!(c, '.' | ',')).count();
    let split = text.char_indices().nth(digits).map_or(text.len(), |(index, _)| index);
    let number = text[..split].replace(',', "");
    let value = float(&number).ok_or_else(|| format!("invalid number {number:?}"))?;
    let unit = text[split..].trim().to_lowercase();
    let factor = unit_factor(&unit).ok_or_else(|| format!("unhandled size name: {unit}"))?;
    let bytes = value * factor as f64;
    if bytes >= u64::MAX as f64 { Err(format!("too large: {text}")) } else { Ok(bytes as u64) }
}

fn unit_factor(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let base = unit.strip_suffix('b').unwrap_or(unit);
    let binary = base.strip_suffix('i');
    let (index, (_, decimal)) =
        UNITS.iter().enumerate().skip(1).find(|(_, (name, _))| *name == binary.unwrap_or(base))?;
    Some(if binary.is_some() { 1 << (10 * index) } else { *decimal })
}

/// Prints a size for humans when that says it exactly; as a number otherwise.
#[expect(clippy::cast_precision_loss, reason = "the same conversions as in Go")]
pub(crate) fn human_bytes(size: u64) -> Option<String> {
    if !size.is_multiple_of(1000) {
        return None;
    }
    let text = if size < 10 {
        format!("{size} B")
    } else {
        let exponent = ((size as f64).ln() / 1000f64.ln()).floor();
        let scaled = ((size as f64 / 1000f64.powf(exponent)) * 10.0 + 0.5).floor() / 10.0;
        let unit = match exponent {
            e if e < 1.0 => "B",
            e if e < 2.0 => "kB",
            e if e < 3.0 => "MB",
            e if e < 4.0 => "GB",
            e if e < 5.0 => "TB",
            e if e < 6.0 => "PB",
            _ => "EB",
        };
        if scaled < 10.0 { format!("{scaled:.1} {unit}") } else { format!("{scaled:.0} {unit}") }
    };
    (parse_human_bytes(&text) == Ok(size)).then_some(text)
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let factor: u64 = match &after[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut part = whole.checked_mul(factor)?;
        part = part.checked_add(fraction_of(fraction, factor))?;
        total = total.checked_add(part)?;
        rest = &after[end..];
    }
    let limit = if negative { 1 << 63 } else { (1 << 63) - 1 };
    if total > limit {
        return None;
    }
    if negative { 0i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "Go goes through a float here as well"
)]
fn fraction_of(digits: &str, factor: u64) -> u64 {
    let (mut value, mut scale) = (0u64, 1f64);
    for digit in digits.bytes() {
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit - b'0'))) else {
            break;
        };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (factor as f64 / scale)) as u64
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Go's `Duration.String`.
pub(crate) fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000_000_000 {
        let (unit, digits) = match nanos {
            0..1_000 => ("ns", 0),
            1_000..1_000_000 => ("µs", 3),
            _ => ("ms", 6),
        };
        return format!("{sign}{}{unit}", with_fraction(nanos, digits));
    }
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let seconds = with_fraction(seconds % 60 * 1_000_000_000 + rest, 9);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn with_fraction(value: u64, digits: usize) -> String {
    if digits == 0 {
        return value.to_string();
    }
    let power = 10u64.pow(u32::try_from(digits).unwrap_or(0));
    let fraction = format!("{:0digits$}", value % power);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { (value / power).to_string() } else { format!("{}.{fraction}", value / power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, printed) in [
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("1us", "1µs"),
            ("0", "0s"),
            ("-2m", "-2m0s"),
            ("1h1ns", "1h0m0.000000001s"),
        ] {
            assert_eq!(duration_text(parse_duration(text).unwrap()), printed, "{text}");
        }
        for text in ["", "1", "s", "1d", ".", "1.s.", "9999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print_as_in_go() {
        assert_eq!(parse_human_bytes("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse_human_bytes("1,000k"), Ok(1_000_000));
        assert!(parse_human_bytes("GB").is_err());
        assert!(parse_human_bytes("1XB").is_err());
        assert_eq!(human_bytes(100_000_000).as_deref(), Some("100 MB"));
        assert_eq!(human_bytes(1_500_000).as_deref(), Some("1.5 MB"));
        assert_eq!(human_bytes(1_073_741_824), None);
        assert_eq!(human_bytes(1_234_000), None);
    }
}
