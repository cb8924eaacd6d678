//! The tokens that hold text: scalars, anchors, tags, directives.

use super::{
    Mark, ParseError, Scanner, Style, TokenKind, break_len, is_blank_or_end, is_break_or_end, problem,
};
use crate::machine::scalar::Dialect;

/// Line breaks and blanks that stand between two pieces of a folded scalar.
#[derive(Default)]
struct Gap {
    blanks: String,
    first_break: String,
    more_breaks: String,
    /// A line has ended; what follows are blanks at the start of a line.
    at_line_start: bool,
}

impl Gap {
    /// Writes what the gap stands for: its blanks, or its folded line breaks.
    fn join(&mut self, out: &mut String) {
        if self.at_line_start {
            if !self.first_break.starts_with('\n') {
                out.push_str(&self.first_break);
                out.push_str(&self.more_breaks);
            } else if self.more_breaks.is_empty() {
                out.push(' ');
            } else {
                out.push_str(&self.more_breaks);
            }
        } else {
            out.push_str(&self.blanks);
        }
        *self = Self::default();
    }
}

/// Bytes that neither end nor change a scalar once it has begun: most of all texts, and all of base64.
const fn is_ordinary(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'/' | b'+' | b'=' | b'_')
}

impl Scanner<'_> {
    /// One character that is no line break.
    pub(super) fn skip(&mut self) {
        let width = match self.byte(0) {
            0..=0x7F => 1,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            _ => 4,
        };
        self.at.offset = (self.at.offset + width).min(self.source.len());
        self.at.column += 1;
    }

    fn read(&mut self, out: &mut String) {
        let start = self.at.offset;
        self.skip();
        out.push_str(std::str::from_utf8(&self.source[start..self.at.offset]).unwrap_or_default());
    }

    /// One character of a scalar that is no line break, or as many ordinary ones as stand here.
    fn read_text(&mut self, out: &mut String) {
        let rest = self.source.get(self.at.offset..).unwrap_or_default();
        let run = rest.iter().take_while(|byte| is_ordinary(**byte)).count();
        if run == 0 {
            return self.read(out);
        }
        out.push_str(std::str::from_utf8(&rest[..run]).unwrap_or_default());
        self.at.offset += run;
        self.at.column += run;
    }

    fn here(&self) -> usize {
        break_len(self.source, self.at.offset)
    }

    fn skip_break(&mut self) {
        self.at.offset += self.here();
        self.at.column = 0;
        self.at.line += 1;
    }

    /// Takes a line break; CR, CRLF and NEL count as LF.
    fn read_break(&mut self, out: &mut String) {
        let start = self.at.offset;
        match self.here() {
            0 => return,
            3 => out.push_str(std::str::from_utf8(&self.source[start..start + 3]).unwrap_or_default()),
            _ => out.push('\n'),
        }
        self.skip_break();
    }

    fn is_blank(&self) -> bool {
        matches!(self.byte(0), b' ' | b'\t')
    }

    fn at_end(&self) -> bool {
        self.at.offset >= self.source.len()
    }

    /// Skips white space and comments. A tab does not count as white space where it would indent a key.
    pub(super) fn skip_to_token(&mut self) {
        loop {
            while self.byte(0) == b' ' || (self.byte(0) == b'\t' && (self.flow() > 0 || !self.key_allowed)) {
                self.skip();
            }
            if self.byte(0) == b'#' {
                self.skip_line();
            }
            if self.here() == 0 {
                return;
            }
            self.skip_break();
            if self.flow() == 0 {
                self.key_allowed = true;
            }
        }
    }

    fn skip_line(&mut self) {
        while !is_break_or_end(self.source, self.at.offset) {
            self.skip();
        }
    }

    /// Blanks and a comment, then the end of the line or of the text.
    fn skip_rest_of_line(&mut self) -> Result<(), ParseError> {
        while self.is_blank() {
            self.skip();
        }
        if self.byte(0) == b'#' {
            self.skip_line();
        }
        if !is_break_or_end(self.source, self.at.offset) {
            return self.error("did not find expected comment or line break");
        }
        if self.here() > 0 {
            self.skip_break();
        }
        Ok(())
    }

    /// Takes blanks and line breaks between two pieces of a quoted or plain scalar.
    fn read_gap(&mut self, gap: &mut Gap) {
        if self.is_blank() {
            if gap.at_line_start {
                self.skip();
            } else {
                self.read(&mut gap.blanks);
            }
        } else if gap.at_line_start {
            self.read_break(&mut gap.more_breaks);
        } else {
            gap.blanks.clear();
            self.read_break(&mut gap.first_break);
            gap.at_line_start = true;
        }
    }

    pub(super) fn scan_plain(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        let mut end = start;
        let mut out = String::new();
        let mut gap = Gap::default();
        loop {
            if self.is_marker(b'-') || self.is_marker(b'.') || self.byte(0) == b'#' {
                break;
            }
            while !is_blank_or_end(self.source, self.at.offset) && !self.plain_ends() {
                gap.join(&mut out);
                self.read_text(&mut out);
                end = self.at;
            }
            if !self.is_blank() && self.here() == 0 {
                break;
            }
            while self.is_blank() || self.here() > 0 {
                let shallow = self.at.column.cast_signed() < self.indent + 1;
                if gap.at_line_start && shallow && self.byte(0) == b'\t' {
                    return self.error("found a tab character that violates indentation");
                }
                self.read_gap(&mut gap);
            }
            if self.flow() == 0 && self.at.column.cast_signed() < self.indent + 1 {
                break;
            }
        }
        if gap.at_line_start {
            self.key_allowed = true;
        }
        let after = std::mem::replace(&mut self.at, end);
        self.push(TokenKind::Scalar(out, Style::Plain), start);
        self.at = after;
        Ok(())
    }

    fn plain_ends(&self) -> bool {
        let next_blank = is_blank_or_end(self.source, self.at.offset + 1);
        match (self.byte(0), self.flow() > 0) {
            (b':', false) => next_blank,
            (b',' | b'[' | b']' | b'{' | b'}', true) => true,
            (b'?', true) => self.dialect == Dialect::V3 || next_blank,
            (b':', true) => {
                next_blank || (self.dialect == Dialect::V4Rc6 && matches!(self.byte(1), b',' | b']' | b'}'))
            }
            _ => false,
        }
    }

    pub(super) fn scan_quoted(&mut self, single: bool) -> Result<(), ParseError> {
        let start = self.at;
        let quote = self.byte(0);
        self.skip();
        let mut out = String::new();
        loop {
            if self.is_marker(b'-') || self.is_marker(b'.') {
                return self.error("found unexpected document indicator");
            }
            if self.at_end() {
                return self.error("found unexpected end of stream");
            }
            let mut gap = Gap::default();
            while !is_blank_or_end(self.source, self.at.offset) {
                match self.byte(0) {
                    b'\'' if single && self.byte(1) == b'\'' => {
                        out.push('\'');
                        self.skip();
                        self.skip();
                    }
                    byte if byte == quote => break,
                    b'\\' if !single && break_len(self.source, self.at.offset + 1) > 0 => {
                        self.skip();
                        self.skip_break();
                        gap.at_line_start = true;
                        break;
                    }
                    b'\\' if !single => self.read_escape(&mut out)?,
                    _ => self.read_text(&mut out),
                }
            }
            if self.byte(0) == quote && !gap.at_line_start {
                break;
            }
            // An escaped line break leaves nothing behind, so the gap begins with no break.
            let escaped = gap.at_line_start;
            while self.is_blank() || self.here() > 0 {
                self.read_gap(&mut gap);
            }
            if escaped {
                out.push_str(&gap.more_breaks);
            } else {
                gap.join(&mut out);
            }
            if escaped && self.byte(0) == quote {
                break;
            }
        }
        self.skip();
        let style = if single { Style::SingleQuoted } else { Style::DoubleQuoted };
        self.push(TokenKind::Scalar(out, style), start);
        Ok(())
    }

    fn read_escape(&mut self, out: &mut String) -> Result<(), ParseError> {
        let length = match self.byte(1) {
            b'x' => 2,
            b'u' => 4,
            b'U' => 8,
            other => {
                out.push(match other {
                    b'0' => '\0',
                    b'a' => '\x07',
                    b'b' => '\x08',
                    b't' | b'\t' => '\t',
                    b'n' => '\n',
                    b'v' => '\x0B',
                    b'f' => '\x0C',
                    b'r' => '\r',
                    b'e' => '\x1B',
                    b' ' => ' ',
                    b'"' => '"',
                    b'/' if self.dialect == Dialect::V3 => '/',
                    b'\'' => '\'',
                    b'\\' => '\\',
                    b'N' => '\u{85}',
                    b'_' => '\u{A0}',
                    b'L' => '\u{2028}',
                    b'P' => '\u{2029}',
                    _ => return self.error("found unknown escape character"),
                });
                0
            }
        };
        self.skip();
        self.skip();
        if length == 0 {
            return Ok(());
        }
        let mut value: u32 = 0;
        for ahead in 0..length {
            let Some(digit) = char::from(self.byte(ahead)).to_digit(16) else {
                return self.error("did not find expected hexadecimal number");
            };
            value = (value << 4) | digit;
        }
        let Some(character) = char::from_u32(value) else {
            return self.error("found invalid Unicode character escape code");
        };
        out.push(character);
        for _ in 0..length {
            self.skip();
        }
        Ok(())
    }

    pub(super) fn scan_block_scalar(&mut self, literal: bool) -> Result<(), ParseError> {
        let start = self.at;
        self.skip();
        let (mut chomp, mut increment) = (None, 0u8);
        for _ in 0..2 {
            match self.byte(0) {
                sign @ (b'+' | b'-') if chomp.is_none() => chomp = Some(sign),
                b'0' if increment == 0 => return self.error("found an indentation indicator equal to 0"),
                digit @ b'1'..=b'9' if increment == 0 => increment = digit - b'0',
                _ => break,
            }
            self.skip();
        }
        self.skip_rest_of_line()?;
        let mut end = self.at;
        let mut indent = match increment {
            0 => None,
            more => Some(usize::try_from(self.indent).unwrap_or(0) + usize::from(more)),
        };
        let (mut out, mut first_break, mut more_breaks) = (String::new(), String::new(), String::new());
        let mut column = self.read_block_breaks(&mut indent, &mut more_breaks, &mut end)?;
        let mut leading_blank = false;
        while self.at.column == column && !self.at_end() {
            let blank = self.is_blank();
            if !literal && first_break.starts_with('\n') && !leading_blank && !blank {
                if more_breaks.is_empty() {
                    out.push(' ');
                }
                first_break.clear();
            } else {
                out.push_str(&first_break);
                first_break.clear();
            }
            out.push_str(&more_breaks);
            more_breaks.clear();
            leading_blank = blank;
            while !is_break_or_end(self.source, self.at.offset) {
                self.read_text(&mut out);
            }
            self.read_break(&mut first_break);
            column = self.read_block_breaks(&mut indent, &mut more_breaks, &mut end)?;
        }
        if chomp != Some(b'-') {
            out.push_str(&first_break);
        }
        if chomp == Some(b'+') {
            out.push_str(&more_breaks);
        }
        let style = if literal { Style::Literal } else { Style::Folded };
        let after = std::mem::replace(&mut self.at, end);
        self.push(TokenKind::Scalar(out, style), start);
        self.at = after;
        Ok(())
    }

    /// Takes indentation and empty lines of a block scalar; finds its indentation when it is not known yet.
    fn read_block_breaks(
        &mut self,
        indent: &mut Option<usize>,
        breaks: &mut String,
        end: &mut Mark,
    ) -> Result<usize, ParseError> {
        *end = self.at;
        let mut deepest = 0;
        loop {
            let indenting = |column: usize| indent.is_none_or(|indent| column < indent);
            while self.byte(0) == b' ' && indenting(self.at.column) {
                self.skip();
            }
            deepest = deepest.max(self.at.column);
            if self.byte(0) == b'\t' && indenting(self.at.column) {
                return self.error("found a tab character where an indentation space is expected");
            }
            if self.here() == 0 {
                break;
            }
            self.read_break(breaks);
            *end = self.at;
        }
        let least = usize::try_from(self.indent + 1).unwrap_or(0);
        let floor = usize::from(self.dialect != Dialect::V4Rc6);
        Ok(*indent.get_or_insert(deepest.max(least).max(floor)))
    }

    pub(super) fn scan_anchor(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        let alias = self.byte(0) == b'*';
        self.skip();
        let mut name = String::new();
        while self.is_anchor_char() {
            self.read(&mut name);
        }
        let ends = is_blank_or_end(self.source, self.at.offset)
            || matches!(self.byte(0), b'?' | b':' | b',' | b']' | b'}' | b'%' | b'@' | b'`');
        if name.is_empty() || !ends {
            return self.error("did not find expected alphabetic or numeric character");
        }
        self.push(if alias { TokenKind::Alias(name) } else { TokenKind::Anchor(name) }, start);
        Ok(())
    }

    fn is_anchor_char(&self) -> bool {
        match (self.byte(0), self.dialect) {
            (byte, Dialect::V3) => is_word(byte),
            (b':' | b',' | b'[' | b']' | b'{' | b'}', _) => false,
            (byte, _) => (0x21..=0x7E).contains(&byte),
        }
    }

    pub(super) fn scan_tag(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        let (handle, suffix) = if self.byte(1) == b'<' {
            self.skip();
            self.skip();
            let uri = self.read_tag_uri("", true)?;
            if self.byte(0) != b'>' {
                return self.error("did not find the expected '>'");
            }
            self.skip();
            (String::new(), uri)
        } else {
            let handle = self.read_tag_handle(false)?;
            if handle.len() > 1 && handle.ends_with('!') {
                let suffix = self.read_tag_uri("", false)?;
                (handle, suffix)
            } else {
                let suffix = self.read_tag_uri(&handle, false)?;
                if suffix.is_empty() { (String::new(), "!".into()) } else { ("!".into(), suffix) }
            }
        };
        if !is_blank_or_end(self.source, self.at.offset) {
            return self.error("did not find expected whitespace or line break");
        }
        self.push(TokenKind::Tag(handle, suffix), start);
        Ok(())
    }

    fn read_tag_handle(&mut self, directive: bool) -> Result<String, ParseError> {
        if self.byte(0) != b'!' {
            return self.error("did not find expected '!'");
        }
        let mut handle = String::new();
        self.read(&mut handle);
        while is_word(self.byte(0)) {
            self.read(&mut handle);
        }
        if self.byte(0) == b'!' {
            self.read(&mut handle);
        } else if directive && handle != "!" {
            return self.error("did not find expected '!'");
        }
        Ok(handle)
    }

    fn read_tag_uri(&mut self, head: &str, verbatim: bool) -> Result<String, ParseError> {
        let mut uri: Vec<u8> = head.bytes().skip(1).collect();
        let mut found = !head.is_empty();
        loop {
            match self.byte(0) {
                b'%' => uri.push(self.read_uri_escape()?),
                b',' | b'[' | b']' => {
                    if !verbatim && !self.is_old() {
                        break;
                    }
                    uri.push(self.byte(0));
                    self.skip();
                }
                b'{' | b'}' if verbatim && !self.is_old() => {
                    uri.push(self.byte(0));
                    self.skip();
                }
                byte if is_word(byte) || b";/?:@&=+$.!~*'()".contains(&byte) => {
                    uri.push(byte);
                    self.skip();
                }
                _ => break,
            }
            found = true;
        }
        if !found {
            return self.error("did not find expected tag URI");
        }
        String::from_utf8(uri).or_else(|_| self.error("found an incorrect trailing UTF-8 octet"))
    }

    /// The releases in which the grammar is still the one of libyaml in C.
    fn is_old(&self) -> bool {
        matches!(self.dialect, Dialect::V3 | Dialect::V4Rc3)
    }

    fn read_uri_escape(&mut self) -> Result<u8, ParseError> {
        let digit = |ahead| char::from(self.byte(ahead)).to_digit(16);
        let (Some(high), Some(low)) = (digit(1), digit(2)) else {
            return self.error("did not find URI escaped octet");
        };
        for _ in 0..3 {
            self.skip();
        }
        u8::try_from(high * 16 + low).or_else(|_| self.error("did not find URI escaped octet"))
    }

    pub(super) fn scan_directive(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        self.skip();
        let mut name = String::new();
        while is_word(self.byte(0)) {
            self.read(&mut name);
        }
        if name.is_empty() {
            return self.error("could not find expected directive name");
        }
        if !is_blank_or_end(self.source, self.at.offset) {
            return self.error("found unexpected non-alphabetical character");
        }
        let kind = match name.as_str() {
            "YAML" => {
                self.skip_blanks();
                let major = self.read_version_number()?;
                if self.byte(0) != b'.' {
                    return self.error("did not find expected digit or '.' character");
                }
                self.skip();
                TokenKind::VersionDirective(major, self.read_version_number()?)
            }
            "TAG" => {
                self.skip_blanks();
                let handle = self.read_tag_handle(true)?;
                if !self.is_blank() {
                    return self.error("did not find expected whitespace");
                }
                self.skip_blanks();
                let prefix = self.read_tag_uri("", true)?;
                if !is_blank_or_end(self.source, self.at.offset) {
                    return self.error("did not find expected whitespace or line break");
                }
                TokenKind::TagDirective(handle, prefix)
            }
            _ => return Err(problem(self.at, "found unknown directive name")),
        };
        let end = self.at;
        self.skip_rest_of_line()?;
        let after = std::mem::replace(&mut self.at, end);
        self.push(kind, start);
        self.at = after;
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while self.is_blank() {
            self.skip();
        }
    }

    fn read_version_number(&mut self) -> Result<u8, ParseError> {
        let mut digits = 0;
        let mut value: u8 = 0;
        while self.byte(0).is_ascii_digit() {
            digits += 1;
            if digits > 2 {
                return self.error("found extremely long version number");
            }
            value = value * 10 + (self.byte(0) - b'0');
            self.skip();
        }
        if digits == 0 {
            return self.error("did not find expected version number");
        }
        Ok(value)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
