//! What a scalar means to Go's YAML library, rule by rule in its order.
//!
//! Talos decodes machine configs with go.yaml.in/yaml/v4 (Talos 1.11: gopkg.in/yaml.v3). Both mix YAML 1.1
//! and 1.2: `0777` is an octal number, `off` a string, `2001-12-14` a time. Every release of Talos may move
//! to another release of the library, so the few differences are named in [`Dialect`].

use super::node::{Document, Kind, NodeId, Style};

/// Which YAML library reads the scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// gopkg.in/yaml.v3 v3.0.1 (Talos 1.11).
    V3,
    /// go.yaml.in/yaml/v4 v4.0.0-rc.3 (Talos 1.12).
    V4Rc3,
    /// go.yaml.in/yaml/v4 v4.0.0-rc.4 (Talos 1.13).
    V4Rc4,
    /// go.yaml.in/yaml/v4 v4.0.0-rc.6 (Talos 1.14).
    V4Rc6,
}

/// The meaning of a scalar where no type is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `true`, `false`
    Bool(bool),
    /// `1.5`, `.inf`
    Float(f64),
    /// Fits 64 bits with sign.
    Int(i64),
    /// The merge key `<<`.
    Merge,
    /// Empty, `~`, `null`
    Null,
    /// Everything else.
    Str,
    /// A date, or a date with a time.
    Time(Timestamp),
    /// Fits 64 bits only without sign.
    Uint(u64),
}

impl Scalar {
    /// The tag that the library reports.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Bool(_) => "!!bool",
            Self::Float(_) => "!!float",
            Self::Int(_) | Self::Uint(_) => "!!int",
            Self::Merge => "!!merge",
            Self::Null => "!!null",
            Self::Str => "!!str",
            Self::Time(_) => "!!timestamp",
        }
    }
}

/// A scalar whose explicit tag does not fit its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagMismatch {
    /// What the text is.
    pub found: &'static str,
    /// What the tag asks for.
    pub wanted: Box<str>,
}

/// The meaning of a scalar node with its tag and style taken into account. Collections and unknown tags count
/// as strings.
///
/// # Errors
/// When an explicit tag such as `!!int` does not fit.
pub fn of_node(document: &Document, id: NodeId, dialect: Dialect) -> Result<Scalar, TagMismatch> {
    let node = document.node(id);
    let Kind::Scalar { text, style } = &node.kind else {
        return Ok(Scalar::Str);
    };
    match node.tag.as_deref() {
        None | Some("!") if *style != Style::Plain => Ok(Scalar::Str),
        // A lone `!` forces a string also in front of plain text, since the newest release.
        Some("!") if dialect == Dialect::V4Rc6 => Ok(Scalar::Str),
        Some("!!str" | "!!binary") => Ok(Scalar::Str),
        None | Some("!") => Ok(resolve(text, dialect)),
        Some(wanted @ ("!!bool" | "!!int" | "!!float" | "!!null" | "!!timestamp")) => {
            tagged(text, wanted, dialect)
        }
        Some("!!merge") => Ok(Scalar::Merge),
        Some(_) => Ok(Scalar::Str),
    }
}

fn tagged(text: &str, wanted: &str, dialect: Dialect) -> Result<Scalar, TagMismatch> {
    // A time is only looked for when nothing or a time is asked for.
    let scalar = match resolve(text, dialect) {
        Scalar::Time(_) if wanted != "!!timestamp" => number(text, dialect).unwrap_or(Scalar::Str),
        other => other,
    };
    match scalar {
        Scalar::Int(value) if wanted == "!!float" => Ok(Scalar::Float(to_float(value))),
        scalar if scalar.tag() == wanted => Ok(scalar),
        scalar => Err(TagMismatch { found: scalar.tag(), wanted: wanted.into() }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "Go converts the same way")]
fn to_float(value: i64) -> f64 {
    value as f64
}

/// The meaning of plain text.
pub fn resolve(text: &str, dialect: Dialect) -> Scalar {
    let Some(first) = text.bytes().next() else {
        return Scalar::Null;
    };
    match first {
        b'+' | b'-' | b'0'..=b'9' => {
            if let Some(value) = named(text, dialect) {
                return value;
            }
            if let Some(time) = Timestamp::parse(text) {
                return Scalar::Time(time);
            }
            number(text, dialect).unwrap_or(Scalar::Str)
        }
        b'.' => named(text, dialect).or_else(|| float(text).map(Scalar::Float)).unwrap_or(Scalar::Str),
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' | b'<' => {
            named(text, dialect).unwrap_or(Scalar::Str)
        }
        _ => Scalar::Str,
    }
}

fn named(text: &str, dialect: Dialect) -> Option<Scalar> {
    Some(match text {
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        "~" | "null" | "Null" | "NULL" => Scalar::Null,
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        "-0" | "-0.0" if dialect != Dialect::V3 => Scalar::Float(-0.0),
        "<<" => Scalar::Merge,
        _ => return None,
    })
}

fn number(text: &str, dialect: Dialect) -> Option<Scalar> {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(value) = go_int(&plain, 0) {
        return Some(Scalar::Int(value));
    }
    if let Some(value) = go_uint(&plain, 0) {
        return Some(Scalar::Uint(value));
    }
    if is_yaml_float(&plain)
        && let Some(value) = float(&plain)
    {
        return Some(Scalar::Float(value));
    }
    // yaml.v3 looks once more behind the prefix, and so takes a sign there.
    if dialect == Dialect::V3 {
        for (prefix, radix) in [("0b", 2), ("0o", 8)] {
            if let Some(rest) = plain.strip_prefix(prefix) {
                return go_int(rest, radix)
                    .map(Scalar::Int)
                    .or_else(|| go_uint(rest, radix).map(Scalar::Uint));
            }
        }
    }
    None
}

/// Go's `strconv.ParseInt(text, radix, 64)`; radix 0 looks at the prefix.
pub(crate) fn go_int(text: &str, radix: u32) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = go_uint(digits, radix)?;
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Go's `strconv.ParseUint(text, radix, 64)`: no sign.
pub(crate) fn go_uint(text: &str, radix: u32) -> Option<u64> {
    let (radix, digits) = match radix {
        0 => match text.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, &text[2..]),
            [b'0', b'b' | b'B', ..] => (2, &text[2..]),
            [b'0', b'o' | b'O', ..] => (8, &text[2..]),
            [b'0', _, ..] => (8, &text[1..]),
            _ => (10, text),
        },
        radix => (radix, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_yaml_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = digits(rest);
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if whole == 0 && count == 0 {
            return false;
        }
        rest = &fraction[count..];
    } else if whole == 0 {
        return false;
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        let count = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty()
}

/// Go's `strconv.ParseFloat`, which refuses what does not fit.
pub(crate) fn float(text: &str) -> Option<f64> {
    if text.contains(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')) {
        return None;
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// A point in time as Go's YAML library reads and writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    nanos: u32,
    /// Minutes east of Greenwich.
    offset: i16,
}

impl Timestamp {
    /// Reads the four layouts that the library knows: a date alone; with a time after a space and no zone; with
    /// `T` or `t`, a time and a zone.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() < 5 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
            return None;
        }
        let mut reader = Reader { rest: &text[5..] };
        let year: u16 = text[..4].parse().ok()?;
        let month = reader.one_or_two()?;
        reader.expect(b'-')?;
        let day = reader.one_or_two()?;
        let mut time = Self { year, month, day, hour: 0, minute: 0, second: 0, nanos: 0, offset: 0 };
        if !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
            return None;
        }
        if reader.rest.is_empty() {
            return Some(time);
        }
        let separator = reader.byte()?;
        if !matches!(separator, b'T' | b't' | b' ') {
            return None;
        }
        time.hour = reader.one_or_two().filter(|hour| *hour < 24)?;
        reader.expect(b':')?;
        time.minute = reader.one_or_two().filter(|minute| *minute < 60)?;
        reader.expect(b':')?;
        time.second = reader.one_or_two().filter(|second| *second < 60)?;
        time.nanos = reader.fraction()?;
        if separator != b' ' {
            time.offset = reader.zone()?;
        }
        reader.rest.is_empty().then_some(time)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { year, month, day, hour, minute, second, nanos, offset } = *self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if nanos != 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        if offset == 0 {
            return f.write_str("Z");
        }
        let sign = if offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", offset.unsigned_abs() / 60, offset.unsigned_abs() % 60)
    }
}

fn days_in(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.rest.as_bytes().first().filter(|byte| byte.is_ascii())?;
        self.rest = &self.rest[1..];
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.byte()? == byte).then_some(())
    }

    fn digit(&mut self) -> Option<u8> {
        let digit = *self.rest.as_bytes().first().filter(|byte| byte.is_ascii_digit())?;
        self.rest = &self.rest[1..];
        Some(digit - b'0')
    }

    fn one_or_two(&mut self) -> Option<u8> {
        let first = self.digit()?;
        Some(self.digit().map_or(first, |second| first * 10 + second))
    }

    /// Up to nine digits after a point or a comma; none is fine.
    fn fraction(&mut self) -> Option<u32> {
        if !matches!(self.rest.as_bytes(), [b'.' | b',', b'0'..=b'9', ..]) {
            return Some(0);
        }
        self.byte()?;
        let mut nanos = 0;
        for place in 0..9 {
            let Some(digit) = self.digit() else {
                return Some(nanos * 10u32.pow(9 - place));
            };
            nanos = nanos * 10 + u32::from(digit);
        }
        Some(nanos)
    }

    fn zone(&mut self) -> Option<i16> {
        let sign = match self.byte()? {
            b'Z' => return Some(0),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.digit()? * 10 + self.digit()?;
        self.expect(b':')?;
        let minutes = self.digit()? * 10 + self.digit()?;
        (hours <= 24 && minutes < 60).then(|| sign * (i16::from(hours) * 60 + i16::from(minutes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Scalar {
        resolve(text, Dialect::V4Rc6)
    }

    #[test]
    fn numbers_follow_go_and_not_yaml() {
        assert_eq!(v4("017"), Scalar::Int(15));
        assert_eq!(v4("0777"), Scalar::Int(511));
        assert_eq!(v4("09"), Scalar::Float(9.0));
        assert_eq!(v4("0x1F"), Scalar::Int(31));
        assert_eq!(v4("1_000"), Scalar::Int(1000));
        assert_eq!(v4("18446744073709551615"), Scalar::Uint(u64::MAX));
        assert_eq!(v4("18446744073709551616"), Scalar::Float(18_446_744_073_709_551_616.0));
        assert_eq!(v4("1e999"), Scalar::Str);
        assert_eq!(resolve("0b-11", Dialect::V3), Scalar::Int(-3));
        assert_eq!(v4("0b-11"), Scalar::Str);
    }

    #[test]
    fn words_of_yaml_1_1_are_strings() {
        for word in ["off", "on", "yes", "no", "y", "n"] {
            assert_eq!(v4(word), Scalar::Str, "{word}");
        }
    }

    #[test]
    fn dates_are_times_and_print_as_go_prints_them() {
        let Scalar::Time(date) = v4("2001-12-14") else { panic!("no time") };
        assert_eq!(date.to_string(), "2001-12-14T00:00:00Z");
        let Scalar::Time(time) = v4("2001-12-14t21:59:43.10-05:00") else { panic!("no time") };
        assert_eq!(time.to_string(), "2001-12-14T21:59:43.1-05:00");
        assert_eq!(v4("2001-02-30"), Scalar::Str);
    }
}
