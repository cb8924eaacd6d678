//! From text to YAML tokens, in the way of libyaml and its Go port.
//!
//! Talos reads configs with Go's port of libyaml, whose grammar is neither YAML 1.1 nor 1.2 to the letter. What
//! it takes and refuses is the rule here, not the YAML specification. Comments and white space make no tokens.

use std::collections::VecDeque;

use super::node::Style;
use super::parse::{MAX_DEPTH, ParseError};
use super::scalar::Dialect;

mod text;

/// A place in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// In bytes.
    pub(super) offset: usize,
    /// From 1.
    pub(super) line: usize,
    /// From 0, in characters.
    pub(super) column: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    Alias(String),
    Anchor(String),
    BlockEnd,
    BlockEntry,
    BlockMappingStart,
    BlockSequenceStart,
    DocumentEnd,
    DocumentStart,
    FlowEntry,
    FlowMappingEnd,
    FlowMappingStart,
    FlowSequenceEnd,
    FlowSequenceStart,
    Key,
    Scalar(String, Style),
    StreamEnd,
    /// Handle and rest.
    Tag(String, String),
    /// `%TAG`: handle and prefix.
    TagDirective(String, String),
    Value,
    /// `%YAML`: major and minor.
    VersionDirective(u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: Mark,
    pub(super) end: Mark,
}

/// Where a key without `?` may have begun; a `:` on the same line will tell.
#[derive(Debug, Clone, Copy)]
struct PossibleKey {
    /// Number of the token that would be the key, counted from the start of the text.
    token: usize,
    mark: Mark,
    /// At the indentation of its mapping: there must be a key.
    required: bool,
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    source: &'a [u8],
    dialect: Dialect,
    at: Mark,
    tokens: VecDeque<Token>,
    /// How many tokens have been handed out.
    taken: usize,
    ended: bool,
    /// Column of the innermost block collection; -1 outside of all.
    indent: isize,
    indents: Vec<isize>,
    /// One per open flow collection, and one for the block context below them.
    keys: Vec<Option<PossibleKey>>,
    key_allowed: bool,
    /// The kind of the last token, however far it has been handed out.
    after_flow_sequence_sign: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &'a str, dialect: Dialect) -> Self {
        let mut at = Mark { offset: 0, line: 1, column: 0 };
        if source.starts_with('\u{feff}') {
            at.offset = '\u{feff}'.len_utf8();
        }
        Self {
            source: source.as_bytes(),
            dialect,
            at,
            tokens: VecDeque::new(),
            taken: 0,
            ended: false,
            indent: -1,
            indents: Vec::new(),
            keys: vec![None],
            key_allowed: true,
            after_flow_sequence_sign: false,
        }
    }

    /// The next token, left in place.
    pub(super) fn peek(&mut self) -> Result<&Token, ParseError> {
        while !self.ended && (self.tokens.is_empty() || self.key_may_come_first()?) {
            self.fetch()?;
        }
        self.tokens.front().ok_or(ParseError::Syntax { line: 0, problem: "unexpected end" })
    }

    /// The next token, taken.
    pub(super) fn next(&mut self) -> Result<Token, ParseError> {
        self.peek()?;
        self.taken += 1;
        self.tokens.pop_front().ok_or(ParseError::Syntax { line: 0, problem: "unexpected end" })
    }

    /// Whether the token at the head may still turn out to be a key.
    fn key_may_come_first(&mut self) -> Result<bool, ParseError> {
        self.drop_stale_keys()?;
        Ok(self.keys.iter().flatten().any(|key| key.token == self.taken))
    }

    /// A key without `?` stands on one line, and libyaml looks 1024 characters far at most.
    fn drop_stale_keys(&mut self) -> Result<(), ParseError> {
        let at = self.at;
        let bounded = matches!(self.dialect, Dialect::V3 | Dialect::V4Rc3 | Dialect::V4Rc4);
        for key in &mut self.keys {
            let Some(possible) = *key else { continue };
            if possible.mark.line < at.line || (bounded && possible.mark.offset + 1024 < at.offset) {
                if possible.required {
                    return Err(problem(at, "could not find expected ':'"));
                }
                *key = None;
            }
        }
        Ok(())
    }

    fn flow(&self) -> usize {
        self.keys.len() - 1
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.source.get(self.at.offset + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, text: &'static str) -> Result<T, ParseError> {
        Err(problem(self.at, text))
    }

    fn push(&mut self, kind: TokenKind, start: Mark) {
        self.after_flow_sequence_sign = matches!(kind, TokenKind::FlowSequenceStart | TokenKind::FlowEntry);
        self.tokens.push_back(Token { kind, start, end: self.at });
    }

    /// Reads the next token, or several where blocks end.
    fn fetch(&mut self) -> Result<(), ParseError> {
        self.skip_to_token();
        self.drop_stale_keys()?;
        self.close_blocks(self.at.column.cast_signed());
        let first = self.byte(0);
        if self.at.offset >= self.source.len() {
            return self.fetch_stream_end();
        }
        if self.at.column == 0 {
            if first == b'%' {
                self.close_blocks(-1);
                self.forget_key()?;
                self.key_allowed = false;
                return self.scan_directive();
            }
            for (sign, kind) in [(b'-', TokenKind::DocumentStart), (b'.', TokenKind::DocumentEnd)] {
                if self.is_marker(sign) {
                    return self.fetch_marker(kind);
                }
            }
        }
        let blank_follows = is_blank_or_end(self.source, self.at.offset + 1);
        match first {
            b'[' => self.open_flow(TokenKind::FlowSequenceStart),
            b'{' => self.open_flow(TokenKind::FlowMappingStart),
            b']' => self.close_flow(TokenKind::FlowSequenceEnd),
            b'}' => self.close_flow(TokenKind::FlowMappingEnd),
            b',' => {
                self.forget_key()?;
                self.key_allowed = true;
                self.sign(TokenKind::FlowEntry, 1)
            }
            b'-' if blank_follows => self.fetch_block_entry(),
            b'?' if blank_follows || (self.dialect == Dialect::V3 && self.flow() > 0) => self.fetch_key(),
            b':' if blank_follows || self.value_in_flow() => self.fetch_value(),
            b'*' | b'&' => {
                self.remember_key()?;
                self.key_allowed = false;
                self.scan_anchor()
            }
            b'!' => {
                self.remember_key()?;
                self.key_allowed = false;
                self.scan_tag()
            }
            b'|' | b'>' if self.flow() == 0 => {
                self.forget_key()?;
                self.key_allowed = true;
                self.scan_block_scalar(first == b'|')
            }
            b'\'' | b'"' => {
                self.remember_key()?;
                self.key_allowed = false;
                self.scan_quoted(first == b'\'')
            }
            b'-' if !matches!(self.byte(1), b' ' | b'\t') => self.fetch_plain(),
            b'?' | b':' if !blank_follows => self.fetch_plain(),
            b'-' | b'?' | b':' | b'#' | b'|' | b'>' | b'%' | b'@' | b'`' | b' ' | b'\t' | 0 => {
                self.error("found character that cannot start any token")
            }
            _ => self.fetch_plain(),
        }
    }

    /// Whether a `:` inside brackets makes a value though no blank follows.
    fn value_in_flow(&self) -> bool {
        if self.flow() == 0 {
            return false;
        }
        match self.dialect {
            Dialect::V3 | Dialect::V4Rc3 => true,
            Dialect::V4Rc4 | Dialect::V4Rc6 => !self.after_flow_sequence_sign,
        }
    }

    fn is_marker(&self, sign: u8) -> bool {
        self.at.column == 0
            && (0..3).all(|ahead| self.byte(ahead) == sign)
            && is_blank_or_end(self.source, self.at.offset + 3)
    }

    fn sign(&mut self, kind: TokenKind, bytes: usize) -> Result<(), ParseError> {
        let start = self.at;
        for _ in 0..bytes {
            self.skip();
        }
        self.push(kind, start);
        Ok(())
    }

    fn fetch_stream_end(&mut self) -> Result<(), ParseError> {
        self.close_blocks(-1);
        self.forget_key()?;
        self.key_allowed = false;
        self.ended = true;
        self.sign(TokenKind::StreamEnd, 0)
    }

    fn fetch_marker(&mut self, kind: TokenKind) -> Result<(), ParseError> {
        self.close_blocks(-1);
        self.forget_key()?;
        self.key_allowed = false;
        self.sign(kind, 3)
    }

    fn open_flow(&mut self, kind: TokenKind) -> Result<(), ParseError> {
        self.remember_key()?;
        if self.keys.len() > MAX_DEPTH {
            return Err(ParseError::TooDeep { line: self.at.line });
        }
        self.keys.push(None);
        self.key_allowed = true;
        self.sign(kind, 1)
    }

    fn close_flow(&mut self, kind: TokenKind) -> Result<(), ParseError> {
        self.forget_key()?;
        if self.keys.len() > 1 {
            self.keys.pop();
        }
        self.key_allowed = false;
        self.sign(kind, 1)
    }

    fn fetch_block_entry(&mut self) -> Result<(), ParseError> {
        if self.flow() == 0 {
            if !self.key_allowed {
                return self.error("block sequence entries are not allowed in this context");
            }
            self.open_block(self.at, None, TokenKind::BlockSequenceStart)?;
        }
        self.forget_key()?;
        self.key_allowed = true;
        self.sign(TokenKind::BlockEntry, 1)
    }

    fn fetch_key(&mut self) -> Result<(), ParseError> {
        if self.flow() == 0 {
            if !self.key_allowed {
                return self.error("mapping keys are not allowed in this context");
            }
            self.open_block(self.at, None, TokenKind::BlockMappingStart)?;
        }
        self.forget_key()?;
        self.key_allowed = self.flow() == 0;
        self.sign(TokenKind::Key, 1)
    }

    fn fetch_value(&mut self) -> Result<(), ParseError> {
        if let Some(key) = self.keys.last_mut().and_then(Option::take) {
            let token = Token { kind: TokenKind::Key, start: key.mark, end: key.mark };
            self.tokens.insert(key.token - self.taken, token);
            self.open_block(key.mark, Some(key.token), TokenKind::BlockMappingStart)?;
            self.key_allowed = false;
        } else {
            if self.flow() == 0 {
                if !self.key_allowed {
                    return self.error("mapping values are not allowed in this context");
                }
                self.open_block(self.at, None, TokenKind::BlockMappingStart)?;
            }
            self.key_allowed = self.flow() == 0;
        }
        self.sign(TokenKind::Value, 1)
    }

    fn fetch_plain(&mut self) -> Result<(), ParseError> {
        self.remember_key()?;
        self.key_allowed = false;
        self.scan_plain()
    }

    /// Notes that a key may begin here.
    fn remember_key(&mut self) -> Result<(), ParseError> {
        if self.key_allowed {
            self.forget_key()?;
            let required = self.flow() == 0 && self.indent == self.at.column.cast_signed();
            let key = PossibleKey { token: self.taken + self.tokens.len(), mark: self.at, required };
            if let Some(slot) = self.keys.last_mut() {
                *slot = Some(key);
            }
        }
        Ok(())
    }

    fn forget_key(&mut self) -> Result<(), ParseError> {
        if let Some(slot) = self.keys.last_mut()
            && slot.take().is_some_and(|key| key.required)
        {
            return self.error("could not find expected ':'");
        }
        Ok(())
    }

    /// Opens a block collection when the column lies deeper than the innermost one. `before` is the number of
    /// the token in front of which it starts.
    fn open_block(&mut self, mark: Mark, before: Option<usize>, kind: TokenKind) -> Result<(), ParseError> {
        let column = mark.column.cast_signed();
        if self.flow() > 0 || self.indent >= column {
            return Ok(());
        }
        if self.indents.len() >= MAX_DEPTH {
            return Err(ParseError::TooDeep { line: mark.line });
        }
        self.indents.push(self.indent);
        self.indent = column;
        let token = Token { kind, start: mark, end: mark };
        match before {
            Some(number) => self.tokens.insert(number - self.taken, token),
            None => self.tokens.push_back(token),
        }
        Ok(())
    }

    /// Ends the block collections that lie deeper than the column.
    fn close_blocks(&mut self, column: isize) {
        if self.flow() > 0 {
            return;
        }
        while self.indent > column {
            self.push(TokenKind::BlockEnd, self.at);
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }
}

pub(super) fn problem(mark: Mark, problem: &'static str) -> ParseError {
    ParseError::Syntax { line: mark.line, problem }
}

/// Length of the line break here; 0 when there is none. Besides CR and LF also NEL, LS and PS.
fn break_len(source: &[u8], offset: usize) -> usize {
    match source.get(offset..).unwrap_or_default() {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        [0xC2, 0x85, ..] => 2,
        [0xE2, 0x80, 0xA8 | 0xA9, ..] => 3,
        _ => 0,
    }
}

fn is_break_or_end(source: &[u8], offset: usize) -> bool {
    offset >= source.len() || break_len(source, offset) > 0
}

fn is_blank_or_end(source: &[u8], offset: usize) -> bool {
    matches!(source.get(offset), Some(b' ' | b'\t')) || is_break_or_end(source, offset)
}
