//! Sizes.

/// A number of bytes as talosctl shows it: `512 B`, `2.1 MB`, `20 MB`, with a thousand of one unit in the next.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut divisor: u64 = 1;
    while unit + 1 < UNITS.len() && count / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    // In tenths, rounded half up.
    let tenths = (u128::from(count) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    match tenths {
        0..100 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{} {}", (tenths + 5) / 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_or_more() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (2_097_152, "2.1 MB"),
            (20_000_000, "20 MB"),
            (9_960_000, "10 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
