//! A schematic as the factory writes it, and its id: the SHA-256 of exactly that text.
//!
//! The factory decodes a schematic and encodes it again with Go's YAML library. Which values that library quotes, and
//! how, is its own business; values where that is not certain are refused rather than guessed.

use std::fmt::Write as _;

use super::{Overlay, Schematic};
use crate::image::Digest;
use crate::machine::{Dialect, Scalar, scalar};

/// A value whose quoting is not certain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to compute the schematic: how a factory writes the {what} {value:?} is not certain; \
     POST the schematic to the factory and take the id that it answers"
)]
pub struct QuotingError {
    /// What the value is.
    pub what: &'static str,
    /// The value, shortened.
    pub value: String,
}

/// Words that YAML 1.1 took for booleans or nothing. Go reads most of them as text and quotes them all the same.
const OLD_WORDS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nil"];

/// The longest value that is written, in bytes.
const MAX_VALUE: usize = 4096;

/// The text of a schematic, four blanks per level, empty fields left out.
///
/// # Errors
///
/// When a value needs quotes, or could.
pub fn canonical(schematic: &Schematic) -> Result<String, QuotingError> {
    let mut text = String::new();
    if let Some(owner) = &schematic.owner {
        line(&mut text, 0, "owner", plain("owner", owner)?);
    }
    if let Some(Overlay { image, name }) = &schematic.overlay {
        text.push_str("overlay:\n");
        line(&mut text, 1, "image", plain("overlay image", image)?);
        line(&mut text, 1, "name", plain("overlay name", name)?);
    }
    let customization = customization(schematic)?;
    if customization.is_empty() {
        text.push_str("customization: {}\n");
    } else {
        text.push_str("customization:\n");
        text.push_str(&customization);
    }
    Ok(text)
}

/// The id of a schematic.
///
/// # Errors
///
/// As [`canonical`].
pub fn id(schematic: &Schematic) -> Result<String, QuotingError> {
    Ok(Digest::of(canonical(schematic)?.as_bytes()).hex())
}

/// In the order of the factory's own struct.
fn customization(schematic: &Schematic) -> Result<String, QuotingError> {
    let mut text = String::new();
    if !schematic.kernel_args.is_empty() {
        text.push_str("    extraKernelArgs:\n");
        for argument in &schematic.kernel_args {
            item(&mut text, 2, plain("kernel argument", argument)?);
        }
    }
    if !schematic.meta.is_empty() {
        text.push_str("    meta:\n");
        for meta in &schematic.meta {
            item(&mut text, 2, &format!("key: {}", meta.key));
            // Beside its key, behind the dash.
            let _ = writeln!(text, "          value: {}", plain("META value", &meta.value)?);
        }
    }
    if !schematic.extensions.is_empty() {
        text.push_str("    systemExtensions:\n        officialExtensions:\n");
        for extension in &schematic.extensions {
            item(&mut text, 3, plain("extension", extension)?);
        }
    }
    if let Some(bootloader) = &schematic.bootloader {
        line(
            &mut text,
            1,
            "bootloader",
            chosen("boot loader", bootloader, &["dual-boot", "grub", "sd-boot"])?,
        );
    }
    if schematic.enroll_keys.is_some() || schematic.well_known_certificates {
        text.push_str("    secureboot:\n");
        if let Some(keys) = &schematic.enroll_keys {
            let known = ["force", "if-safe", "manual"];
            line(&mut text, 2, "enrollKeys", chosen("way to enrol keys", keys, &known)?);
        }
        if schematic.well_known_certificates {
            line(&mut text, 2, "includeWellKnownCertificates", "true");
        }
    }
    if let Some(size) = schematic.sector_size.filter(|size| *size != 0) {
        text.push_str("    diskImage:\n");
        line(&mut text, 2, "sectorSize", &size.to_string());
    }
    Ok(text)
}

// Writing to a String does not fail.

fn line(text: &mut String, level: usize, key: &str, value: &str) {
    let _ = writeln!(text, "{:1$}{key}: {value}", "", 4 * level);
}

fn item(text: &mut String, level: usize, value: &str) {
    let _ = writeln!(text, "{:1$}- {value}", "", 4 * level);
}

/// One of the values that are not the default: whether a default is written or left out is up to the factory.
fn chosen<'a>(what: &'static str, value: &'a str, known: &[&str]) -> Result<&'a str, QuotingError> {
    if known.contains(&value) { plain(what, value) } else { Err(uncertain(what, value)) }
}

/// A value that every release of Go's YAML library writes without quotes.
fn plain<'a>(what: &'static str, value: &'a str) -> Result<&'a str, QuotingError> {
    let inner = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_' | b'/' | b'=' | b',' | b'+' | b'-' | b':' | b'@')
    };
    let first = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_');
    let is_text = [Dialect::V3, Dialect::V4Rc3, Dialect::V4Rc4, Dialect::V4Rc6]
        .into_iter()
        .all(|dialect| matches!(scalar::resolve(value, dialect), Scalar::Str));
    let is_certain = value.len() <= MAX_VALUE
        && value.bytes().next().is_some_and(first)
        && value.bytes().all(inner)
        && !value.ends_with(':')
        // Digits around colons were numbers to the base 60, and times are times.
        && !(value.contains(':') && value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'_' | b'-' | b'+')))
        && !OLD_WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
        && is_text;
    if is_certain { Ok(value) } else { Err(uncertain(what, value)) }
}

fn uncertain(what: &'static str, value: &str) -> QuotingError {
    QuotingError { what, value: value.chars().take(100).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::{Meta, parse};
    use super::*;

    fn with_extensions(extensions: &[&str]) -> Schematic {
        Schematic { extensions: extensions.iter().map(|&it| it.to_owned()).collect(), ..Schematic::default() }
    }

    /// Known ids: the first seven are the factory's own test values or in wide public use.
    fn vectors() -> Vec<(Schematic, &'static str)> {
        let args = |args: &[&str]| Schematic {
            kernel_args: args.iter().map(|&it| it.to_owned()).collect(),
            ..Schematic::default()
        };
        let overlay = Overlay { image: "siderolabs/sbc-raspberrypi".into(), name: "rpi_generic".into() };
        vec![
            (Schematic::default(), "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"),
            (
                args(&["noapic", "nolapic"]),
                "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c",
            ),
            (
                Schematic { meta: vec![Meta { key: 10, value: "foo".into() }], ..Schematic::default() },
                "d308a2a5ee2277bed5fbaa104fcbc8d59122abfa737df987a95b4ca763459a7f",
            ),
            (
                Schematic { well_known_certificates: true, ..Schematic::default() },
                "fa8e05f142a851d3ee568eb0a8e5841eaf6b0ebc8df9a63df16ac5ed2c04f3e6",
            ),
            (
                Schematic { sector_size: Some(4096), ..Schematic::default() },
                "92833e9ddd9bb9e11b2464fa5525429f01866306d52ebd882ee08d7918f6d1ea",
            ),
            (
                Schematic { overlay: Some(overlay), ..Schematic::default() },
                "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9",
            ),
            (
                with_extensions(&["siderolabs/tailscale"]),
                "4a0d65c669d46663f377e7161e50cfd570c401f26fd9e7bda34a0216b6f1922b",
            ),
            (
                with_extensions(&["example/ichor"]),
                "480907166bccce7ffc301775419749b91a1fe565ce4b4d8eedc8894f61ead99f",
            ),
            (
                with_extensions(&["example/ichor", "siderolabs/iscsi-tools"]),
                "3f8685f82639569887d211f9717b546c7d4422ca2dd16be4bb566c02832bd8d8",
            ),
            (
                with_extensions(&["siderolabs/iscsi-tools", "example/ichor"]),
                "61735bfbc3b36bcbedce5a5d9310cba12a236605598f59e4887edc236271f1be",
            ),
            (
                Schematic { extensions: vec!["example/ichor".into()], ..args(&["net.ifnames=0"]) },
                "40f215d0d70e5d5bb07eb96fc14b788274ba3101773eddcb3ee53507d8acbb3f",
            ),
        ]
    }

    #[test]
    fn ids_are_those_of_the_factory() {
        for (schematic, wanted) in vectors() {
            assert_eq!(id(&schematic).unwrap(), wanted, "{schematic:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (schematic, _) in vectors() {
            assert_eq!(parse(canonical(&schematic).unwrap().as_bytes()).unwrap(), schematic);
        }
    }

    #[test]
    fn values_that_may_need_quotes_are_refused() {
        for value in [
            "",
            " a",
            "a ",
            "a b",
            "yes",
            "NO",
            "y",
            "true",
            "null",
            "~",
            "1",
            "017",
            "1e3",
            "0x1f",
            "1_000",
            ".5",
            "2001-12-14",
            "12:30:45",
            "1:2",
            "a:",
            "a: b",
            "a#b",
            "- a",
            "-a",
            "*a",
            "&a",
            "!a",
            "'a'",
            "\"a\"",
            "a\nb",
            "ä",
            "{a}",
            "[a]",
            "<<",
            "=",
            "%a",
            "@a",
            "`a`",
            "a\t",
            ".inf",
            "0b1",
            "1.",
            "+1",
        ] {
            let schematic = Schematic { kernel_args: vec![value.to_owned()], ..Schematic::default() };
            assert!(id(&schematic).is_err(), "{value:?}");
        }
        for value in [
            "net.ifnames=0",
            "console=ttyS0,115200n8",
            "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off",
            "/dev/sda",
            "a-b_c",
            "talos.config=http://a.b/c.yaml",
            "panic=0",
        ] {
            let schematic = Schematic { kernel_args: vec![value.to_owned()], ..Schematic::default() };
            assert!(id(&schematic).is_ok(), "{value:?}");
        }
    }
}
