//! Making control characters visible.

use std::fmt::Write as _;

/// `text` on one line: control characters and what reverses the direction of writing are escaped.
pub fn escape(text: &str) -> String {
    escape_except(text, |_| false)
}

/// The same, but lines and tabs stay.
pub fn escape_lines(text: &str) -> String {
    escape_except(text, |c| matches!(c, '\n' | '\t'))
}

fn escape_except(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if keep(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_control() || is_directional(c) => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Characters that change the order in which others are shown (Unicode Annex 9), and line separators.
const fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_becomes_visible() {
        assert_eq!(escape("a\x1b[2Jb\r\n\tc"), "a\\u{1b}[2Jb\\r\\n\\tc");
        assert_eq!(escape_lines("a\n\tb\x07\u{9b}\u{7f}"), "a\n\tb\\u{7}\\u{9b}\\u{7f}");
        assert_eq!(escape("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(escape("Ἴχωρ 日本"), "Ἴχωρ 日本");
    }
}
