//! From trees to YAML text that every line reads back as the same values.

use std::fmt::Write;

use super::tree::Tree;
use super::value::Key;
use crate::machine::scalar::{Dialect, Scalar, resolve};

/// How a document is written: spaces per level, and whether the items of a list stand deeper than its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) step: usize,
    pub(super) indent_lists: bool,
}

impl Layout {
    /// What `talosctl gen config` writes.
    pub(super) const TALOS: Self = Self { step: 4, indent_lists: true };
}

/// Writes a tree as a block whose first line starts at the current column, which is `indent`. Ends with a line
/// break.
pub(super) fn block(tree: &Tree, layout: Layout, indent: usize) -> String {
    let mut out = String::new();
    write_block(&mut out, tree, layout, indent);
    out
}

/// Writes an entry of a mapping: `key: value`, from the column of its key on.
pub(super) fn entry(key: &Key, value: &Tree, layout: Layout, indent: usize) -> String {
    let mut out = String::new();
    write_entry(&mut out, key, value, layout, indent);
    out
}

/// Writes an item of a list: `- value`, from the column of its dash on.
pub(super) fn item(value: &Tree, layout: Layout, indent: usize) -> String {
    let mut out = String::new();
    write_item(&mut out, value, layout, indent);
    out
}

/// Writes a value that fits into a line: a scalar, or a collection in brackets.
pub(super) fn flow(tree: &Tree) -> String {
    match tree {
        Tree::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Tree::Map(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}: {}", key_text(key), flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        scalar => scalar_text(scalar),
    }
}

fn write_block(out: &mut String, tree: &Tree, layout: Layout, indent: usize) {
    match tree {
        Tree::Map(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                write_entry(out, key, value, layout, indent);
            }
        }
        Tree::List(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                write_item(out, value, layout, indent);
            }
        }
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
}

fn write_entry(out: &mut String, key: &Key, value: &Tree, layout: Layout, indent: usize) {
    out.push_str(&key_text(key));
    out.push(':');
    let deeper = match value {
        Tree::List(items) if !items.is_empty() => {
            Some(if layout.indent_lists { indent + layout.step } else { indent })
        }
        Tree::Map(entries) if !entries.is_empty() => Some(indent + layout.step),
        _ => None,
    };
    match deeper {
        Some(deeper) => {
            out.push('\n');
            pad(out, deeper);
            write_block(out, value, layout, deeper);
        }
        None => {
            out.push(' ');
            write_inline(out, value, indent + layout.step);
        }
    }
}

fn write_item(out: &mut String, value: &Tree, layout: Layout, indent: usize) {
    // What follows a dash stands two columns deeper, whatever the step is.
    out.push_str("- ");
    if value.is_inline() {
        write_inline(out, value, indent + 2);
    } else {
        write_block(out, value, layout, indent + 2);
    }
}

/// A value behind a key or a dash, on the same line or as a literal block below it.
fn write_inline(out: &mut String, value: &Tree, deeper: usize) {
    match value {
        Tree::Str(text) if fits_literal(text) => {
            let chomp = match (text.ends_with('\n'), text.ends_with("\n\n")) {
                (false, _) => "-",
                (true, false) => "",
                (true, true) => "+",
            };
            let _ = writeln!(out, "|{chomp}");
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    pad(out, deeper);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
}

/// Several lines of ordinary text, the first of which shows the indentation.
fn fits_literal(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && !text.trim_end_matches('\n').is_empty()
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        && !text.contains("\n\t")
}

fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{2028}' | '\u{2029}')
}

fn pad(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn key_text(key: &Key) -> String {
    match key {
        Key::Str(text) => string(text),
        Key::Other(text) => text.clone(),
    }
}

fn scalar_text(tree: &Tree) -> String {
    match tree {
        Tree::Bool(value) => value.to_string(),
        Tree::Float(value) => float(*value),
        Tree::Int(value) => value.to_string(),
        Tree::Null => "null".into(),
        Tree::Raw(text) => text.clone(),
        Tree::Str(text) => string(text),
        Tree::Time(time) => time.to_string(),
        Tree::Uint(value) => value.to_string(),
        Tree::List(_) | Tree::Map(_) => flow(tree),
    }
}

/// As Go's `strconv` writes a float with the fewest digits that read back the same.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return ".nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf".into() } else { "-.inf".into() };
    }
    let exponent = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if (-4.0..6.0).contains(&exponent) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let number: i32 = exponent.parse().unwrap_or(0);
            let sign = if number < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", number.abs())
        }
        None => text,
    }
}

/// A string, quoted where it would be read as something else.
pub(super) fn string(text: &str) -> String {
    if is_plain_safe(text) {
        return text.to_owned();
    }
    if text.chars().all(is_printable) {
        // Single quotes hold anything but need no escapes; double quotes read better around words.
        if !text.contains(['"', '\\']) {
            return format!("\"{text}\"");
        }
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Whether plain text is read back as this very string by every YAML library that Talos uses, the one of JSON
/// patches included, wherever it stands.
fn is_plain_safe(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let allowed = |c: char| is_printable(c) && !matches!(c, '{' | '}' | '[' | ']' | ',' | '"' | '\'' | '`');
    let begins = first.is_ascii_alphanumeric() || matches!(first, '/' | '_' | '.' | '(' | '^' | '+' | '-');
    if !begins || !text.chars().all(allowed) || text.ends_with([' ', ':']) || text.starts_with("- ") {
        return false;
    }
    if text.contains(": ") || text.contains(" #") || text == "-" || text == "---" || text == "..." {
        return false;
    }
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "="];
    if words.contains(&text.to_ascii_lowercase().as_str()) {
        return false;
    }
    // Numbers of YAML 1.1 that count in sixties are times of day to most readers.
    let sixties = text.contains(':') && text.chars().all(|c| c.is_ascii_digit() || ":._+-".contains(c));
    !sixties && [Dialect::V3, Dialect::V4Rc6].iter().all(|dialect| resolve(text, *dialect) == Scalar::Str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::parse;

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for text in
            ["", "off", "017", "1.5", "null", "a: b", "- x", "#x", "x #y", " x", "2001-12-14", "1:30", "*a"]
        {
            assert_ne!(string(text), text, "{text:?}");
        }
        for text in ["eth0", "10.0.0.0/8", "ichor0", "a#b", "k8s.io/x", "ghcr.io/siderolabs/kubelet:v1.33.1"]
        {
            assert_eq!(string(text), text);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let texts =
            ["a\nb", "a\nb\n", "a\n\nb\n\n", "\n", " a\nb", "x\ty", "\u{1}", "é\n", "'", "\"", "a\\b", "\t"];
        for text in texts {
            let tree = Tree::Map(vec![(Key::Str("k".into()), Tree::Str(text.into()))]);
            let written = block(&tree, Layout::TALOS, 0);
            let parsed = parse(written.as_bytes(), Dialect::V4Rc6).unwrap();
            let document = &parsed[0].tree;
            let value = document.get(document.root(), "k").unwrap();
            assert_eq!(document.text(value), Some(text), "{written}");
        }
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        for (value, text) in
            [(1.5, "1.5"), (1e21, "1e+21"), (1e-7, "1e-07"), (100000.0, "100000"), (1e6, "1e+06")]
        {
            assert_eq!(float(value), text);
        }
    }
}
