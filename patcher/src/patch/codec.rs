//! Types that Talos reads and writes in their own way, one variant per way.
//!
//! Text goes in and comes out exactly as the official types take and print it; merging and deleting only need
//! to know which values count as zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::value::Value;

mod size;
pub(crate) use size::{duration_text, human_bytes, parse_duration, parse_human_bytes};

/// How a type is read and written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Codec {
    /// `netip.Addr`
    Address,
    /// `netip.AddrPort`
    AddressPort,
    /// Arguments by name, each a text or a list.
    Args,
    /// One argument of [`Self::Args`].
    ArgValue,
    /// Bytes in base64.
    Base64,
    /// A size such as `10GiB`, kept as written.
    ByteSize,
    /// A CEL expression, kept as written and compiled by validation only.
    Cel,
    /// A condition such as `>= 10GB`.
    DiskMatcher,
    /// A size of a partition: read and written for humans.
    DiskSize,
    /// `time.Duration`
    Duration,
    /// A URL that may be empty.
    Endpoint,
    /// A number with names.
    Enum(Vec<(u64, String)>),
    /// An enum that also takes its numbers and no text at all.
    FailOverMac,
    /// File permissions, written in octal.
    FileMode,
    /// A MAC address.
    HardwareAddress,
    /// Manifests, whose leading line breaks are cut off.
    InlineManifests,
    /// By the kind of its Go type.
    #[default]
    Kind,
    /// A certificate in base64.
    PemCertificate,
    /// A certificate and a key in base64.
    PemCertificateAndKey,
    /// A key in base64.
    PemKey,
    /// `50%`, kept as written.
    Percentage,
    /// `80` or `80-90`
    PortRange,
    /// `netip.Prefix`
    Prefix,
    /// A byte size or a percentage.
    Size,
    /// A URL; empty text leaves it unset.
    Url,
}

impl Codec {
    /// The codec of a named type.
    pub(super) fn of(name: &str, flags: &[&str]) -> Self {
        let (package, short) = name.split_once('.').unwrap_or(("", name));
        let special = flags.iter().any(|flag| matches!(*flag, "text" | "yaml" | "merge" | "marshal-yaml"));
        match short {
            "Duration" if package == "time" => Self::Duration,
            _ if !special => Self::Kind,
            "Addr" => Self::Address,
            "AddrPort" => Self::AddressPort,
            "Args" => Self::Args,
            "ArgValue" => Self::ArgValue,
            "Base64Bytes" => Self::Base64,
            "ByteSize" => Self::ByteSize,
            "ClusterInlineManifests" => Self::InlineManifests,
            "DiskSize" => Self::DiskSize,
            "Endpoint" => Self::Endpoint,
            "EtcFileMode" | "FileMode" => Self::FileMode,
            "Expression" => Self::Cel,
            "HardwareAddr" => Self::HardwareAddress,
            "InstallDiskSizeMatcher" => Self::DiskMatcher,
            "PEMEncodedCertificate" => Self::PemCertificate,
            "PEMEncodedCertificateAndKey" => Self::PemCertificateAndKey,
            "PEMEncodedKey" => Self::PemKey,
            "PercentageSize" => Self::Percentage,
            "PortRange" => Self::PortRange,
            "Prefix" => Self::Prefix,
            "Size" => Self::Size,
            "URL" if package == "meta" => Self::Url,
            _ => Self::Kind,
        }
    }

    /// The codec of an enum, from `VALUE=NAME` words.
    pub(super) fn enumeration(name: &str, values: &[&str]) -> Self {
        if name.ends_with("FailOverMAC") {
            return Self::FailOverMac;
        }
        let named = values.iter().filter_map(|word| {
            let (number, name) = word.split_once('=').unwrap_or((word, word));
            Some((number.parse().ok()?, name.to_owned()))
        });
        Self::Enum(named.collect())
    }

    /// Whether the type implements `encoding.TextUnmarshaler`: any scalar is read, as its text.
    pub(super) fn reads_text(&self) -> bool {
        matches!(
            self,
            Self::Address
                | Self::AddressPort
                | Self::ByteSize
                | Self::Cel
                | Self::Enum(_)
                | Self::FailOverMac
                | Self::HardwareAddress
                | Self::Percentage
                | Self::Prefix
                | Self::Size
        )
    }

    /// Whether the type implements `yaml.Unmarshaler`.
    pub(super) fn reads_yaml(&self) -> bool {
        matches!(
            self,
            Self::ArgValue
                | Self::Base64
                | Self::DiskMatcher
                | Self::DiskSize
                | Self::Endpoint
                | Self::InlineManifests
                | Self::PemCertificate
                | Self::PemCertificateAndKey
                | Self::PemKey
                | Self::PortRange
                | Self::Url
        )
    }

    /// The zero value of a type with this codec; nothing when its kind decides.
    pub(super) fn zero(&self) -> Option<Value> {
        Some(match self {
            Self::Address
            | Self::AddressPort
            | Self::ByteSize
            | Self::Cel
            | Self::DiskMatcher
            | Self::Percentage
            | Self::Prefix => Value::Text(String::new()),
            Self::ArgValue => Value::Str(String::new()),
            Self::DiskSize | Self::Enum(_) | Self::FailOverMac | Self::FileMode => Value::Uint(0),
            Self::Duration => Value::Int(0),
            Self::PemCertificateAndKey => Value::Struct(vec![Value::Nil, Value::Nil]),
            Self::PemCertificate | Self::PemKey => Value::Struct(vec![Value::Nil]),
            Self::PortRange => Value::Struct(vec![Value::Uint(0), Value::Uint(0)]),
            Self::Size => Value::Struct(vec![Value::Nil, Value::Nil]),
            Self::Args
            | Self::Base64
            | Self::Endpoint
            | Self::HardwareAddress
            | Self::InlineManifests
            | Self::Url => Value::Nil,
            Self::Kind => return None,
        })
    }

    /// Reads text, for the types of [`Self::reads_text`]. `signed`: sizes may be negative, since 1.13.
    ///
    /// # Errors
    /// In words close to those of the official types.
    pub(super) fn read_text(&self, text: &str, old: &Value, signed: bool) -> Result<Value, String> {
        match self {
            Self::Address => address(text).map(Value::Text),
            Self::AddressPort => address_port(text).map(Value::Text),
            Self::Prefix => prefix(text).map(Value::Text),
            Self::Cel => Ok(if text.is_empty() { old.clone() } else { Value::Text(text.to_owned()) }),
            Self::ByteSize => byte_size(text, old, signed),
            Self::Percentage => percentage(text, signed).map(Value::Text),
            Self::Size if text.is_empty() => Ok(old.clone()),
            Self::Size => {
                let mut parts = match old {
                    Value::Struct(parts) => parts.clone(),
                    _ => vec![Value::Nil, Value::Nil],
                };
                if text.contains('%') {
                    parts[0] = Value::Text(percentage(text, signed)?);
                } else {
                    parts[1] = byte_size(text, &Value::Text(String::new()), signed)?;
                }
                Ok(Value::Struct(parts))
            }
            Self::HardwareAddress => {
                let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
                let digits = hex.iter().map(|byte| char::from(*byte).to_digit(16));
                let digits: Vec<u32> = digits.collect::<Option<_>>().ok_or("encoding/hex: invalid byte")?;
                if digits.len() % 2 == 1 {
                    return Err("encoding/hex: odd length hex string".into());
                }
                let bytes = digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(0));
                Ok(Value::Bytes(bytes.collect()))
            }
            Self::FailOverMac => match text {
                "" | "none" | "0" => Ok(Value::Uint(0)),
                "active" | "1" => Ok(Value::Uint(1)),
                "follow" | "2" => Ok(Value::Uint(2)),
                _ => Err(format!("invalid fail_over_mac value {text}")),
            },
            Self::Enum(values) => values
                .iter()
                .find(|(_, name)| name == text)
                .or_else(|| values.iter().find(|(_, name)| name.to_lowercase() == text.to_lowercase()))
                .map(|(number, _)| Value::Uint(*number))
                .ok_or_else(|| format!("{text} is none of the known values")),
            _ => Err("this type is not read from text".into()),
        }
    }

    /// The text of a value that is written as one string; nothing for values that are not.
    pub(super) fn to_text(&self, value: &Value) -> Option<String> {
        match (self, value) {
            (
                Self::Address
                | Self::AddressPort
                | Self::ByteSize
                | Self::Cel
                | Self::DiskMatcher
                | Self::Percentage
                | Self::Prefix,
                Value::Text(text),
            ) => Some(text.clone()),
            (Self::Enum(values), Value::Uint(number)) => {
                values.iter().find(|(known, _)| known == number).map(|(_, name)| name.clone())
            }
            (Self::FailOverMac, Value::Uint(number)) => {
                Some(["none", "active", "follow"].get(usize::try_from(*number).ok()?)?.to_string())
            }
            (Self::Duration, Value::Int(nanos)) => Some(duration_text(*nanos)),
            (Self::Endpoint | Self::Url, Value::Url(url)) => Some(url.to_string()),
            (Self::Url, Value::Nil) => Some(String::new()),
            (Self::Base64, Value::Bytes(bytes)) => Some(to_base64(bytes)),
            (Self::Base64 | Self::HardwareAddress, Value::Nil) => Some(String::new()),
            (Self::HardwareAddress, Value::Bytes(bytes)) => {
                let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Some(pairs.join(":"))
            }
            (Self::Size, Value::Struct(parts)) => match parts.as_slice() {
                [_, Value::Text(bytes)] => Some(bytes.clone()),
                [Value::Text(percent), _] => Some(percent.clone()),
                _ => Some(String::new()),
            },
            _ => None,
        }
    }
}

/// Go's standard base64: padded, line breaks ignored, left-over bits not looked at.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let engine = GeneralPurpose::new(&STANDARD, config);
    engine.decode(clean).map_err(|_| "illegal base64 data".to_owned())
}

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn byte_size(text: &str, old: &Value, signed: bool) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(old.clone());
    }
    parse_human_bytes(text.strip_prefix('-').filter(|_| signed).unwrap_or(text))?;
    Ok(Value::Text(text.to_owned()))
}

fn percentage(text: &str, signed: bool) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let Some(number) = text.strip_suffix('%') else {
        return Err("percentage must end with '%'".into());
    };
    let number = number.strip_prefix('-').filter(|_| signed).unwrap_or(number);
    let value: f64 = number.parse().map_err(|_| "invalid percentage value".to_owned())?;
    if (0.0..=100.0).contains(&value) {
        Ok(text.to_owned())
    } else {
        Err(format!("percentage must be between 0 and 100, got {value}"))
    }
}

/// Go's `netip.ParseAddr`, printed again; empty text is the zero address.
fn address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let bad = || format!("ParseAddr({text:?}): unable to parse IP");
    let (plain, zone) = match text.split_once('%') {
        Some((plain, zone)) => (plain, Some(zone)),
        None => (text, None),
    };
    let address: IpAddr = plain.parse().map_err(|_| bad())?;
    match (address, zone) {
        (_, None) => Ok(print_address(address)),
        (IpAddr::V6(_), Some(zone)) if !zone.is_empty() => Ok(format!("{}%{zone}", print_address(address))),
        _ => Err(bad()),
    }
}

/// As Go prints it: IPv4 in IPv6 keeps its dots.
fn print_address(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            format!("::ffff:{}", v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED))
        }
        // `::1.2.3.4` is hexadecimal in Go.
        IpAddr::V6(v6) => print_v6(v6),
        IpAddr::V4(v4) => v4.to_string(),
    }
}

fn print_v6(address: Ipv6Addr) -> String {
    let text = address.to_string();
    if !text.contains('.') {
        return text;
    }
    let [.., high, low] = address.segments();
    let head = &text[..text.rfind(':').map_or(0, |colon| colon + 1)];
    if high == 0 { format!("{head}{low:x}") } else { format!("{head}{high:x}:{low:x}") }
}

fn address_port(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let (host, port) = text.rsplit_once(':').ok_or("not an ip:port")?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} parsing {text:?}"));
    }
    let port: u16 = port.parse().map_err(|_| format!("invalid port {port:?} parsing {text:?}"))?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let parsed = address(bracketed.unwrap_or(host))?;
    let v6 = parsed.contains(':');
    if parsed.is_empty() || v6 != bracketed.is_some() {
        return Err(format!("invalid ip:port {text:?}"));
    }
    Ok(if v6 { format!("[{parsed}]:{port}") } else { format!("{parsed}:{port}") })
}

/// Go's `netip.ParsePrefix`, printed again: no zone, no sign, no leading zeros.
fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let bad = |why: &str| format!("netip.ParsePrefix({text:?}): {why}");
    let (host, bits) = text.rsplit_once('/').ok_or_else(|| bad("no '/'"))?;
    let address: IpAddr = host.parse().map_err(|_| bad("unable to parse IP"))?;
    let leading_zero = bits.len() > 1 && !matches!(bits.as_bytes()[0], b'1'..=b'9');
    if leading_zero || bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad("bad bits after slash"));
    }
    let bits: u32 = bits.parse().map_err(|_| bad("bad bits after slash"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most {
        return Err(bad("prefix length out of range"));
    }
    Ok(format!("{}/{bits}", print_address(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_go_prints_them() {
        assert_eq!(address("fd00:0:0::1").unwrap(), "fd00::1");
        assert_eq!(address("::ffff:1.2.3.4").unwrap(), "::ffff:1.2.3.4");
        assert_eq!(address("::1.2.3.4").unwrap(), "::102:304");
        assert_eq!(address("fe80::1%eth0").unwrap(), "fe80::1%eth0");
        assert!(address("1.2.3.04").is_err());
        assert_eq!(prefix("10.0.0.1/8").unwrap(), "10.0.0.1/8");
        assert!(prefix("10.0.0.0/08").is_err());
        assert!(prefix("10.0.0.0/33").is_err());
        assert_eq!(address_port("[fd00::1]:51820").unwrap(), "[fd00::1]:51820");
        assert!(address_port("fd00::1:51820").is_err());
    }
}
