//! From text to trees, with bounds on everything that a hostile text could grow.

use std::collections::HashMap;
use std::str;

use thiserror::Error;

use super::node::{Document, Kind, Node, NodeId, Style};
use super::scalar::Dialect;
use super::scan::{Mark, Scanner, Token, TokenKind, problem};

/// Longest text that is parsed, in bytes. Real machine configs stay below 1 MB.
pub const MAX_BYTES: usize = 8 << 20;
/// Most nodes of one text.
pub const MAX_NODES: usize = 500_000;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 200;

/// Why a text is not YAML, or not within bounds.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Bytes that are no text.
    #[error("not UTF-8 text: invalid byte at offset {offset}")]
    NotUtf8 {
        /// Of the first bad byte.
        offset: usize,
    },
    /// The YAML grammar was violated.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong, in the words of libyaml.
        problem: &'static str,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("line {line}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Where the limit was passed.
        line: usize,
    },
    /// More than [`MAX_BYTES`].
    #[error("text of {size} bytes is larger than the limit of {MAX_BYTES} bytes")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// More than [`MAX_NODES`].
    #[error("more than {MAX_NODES} values")]
    TooManyNodes,
    /// `*name` without a `&name` before it.
    #[error("line {line}: unknown anchor '{name}' referenced")]
    UnknownAnchor {
        /// Line, from 1.
        line: usize,
        /// The name.
        name: String,
    },
}

impl ParseError {
    /// Line, from 1, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::TooDeep { line } | Self::Syntax { line, .. } | Self::UnknownAnchor { line, .. } => {
                Some(*line)
            }
            Self::TooLarge { .. } | Self::TooManyNodes | Self::NotUtf8 { .. } => None,
        }
    }
}

/// A parsed document and where its text is.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The tree.
    pub tree: Document,
    /// Byte offset of its `---`, of its directives when it has some, or of its content.
    pub start: usize,
    /// Byte offset of its `---`, when one was written.
    pub marker: Option<usize>,
}

/// Parses a stream of documents.
///
/// # Errors
/// When the text is not YAML or exceeds a bound; nothing is returned of a text that is broken further down.
pub fn parse(text: &[u8], dialect: Dialect) -> Result<Vec<Parsed>, ParseError> {
    match parse_partial(text, dialect) {
        (documents, None) => Ok(documents),
        (_, Some(error)) => Err(error),
    }
}

/// As [`parse`], with the documents in front of the first error: Talos decodes one document after the other, so
/// what is wrong in an early one is reported before the syntax of a later one.
pub fn parse_partial(text: &[u8], dialect: Dialect) -> (Vec<Parsed>, Option<ParseError>) {
    let mut documents = Vec::new();
    let error = parse_into(text, dialect, &mut documents).err();
    (documents, error)
}

fn parse_into(text: &[u8], dialect: Dialect, documents: &mut Vec<Parsed>) -> Result<(), ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::TooLarge { size: text.len() });
    }
    let text = str::from_utf8(text).map_err(|source| ParseError::NotUtf8 { offset: source.valid_up_to() })?;
    check_characters(text, dialect)?;
    let mut parser = Parser {
        scanner: Scanner::new(text, dialect),
        dialect,
        nodes: Vec::new(),
        total: 0,
        anchors: HashMap::new(),
        handles: HashMap::new(),
        depth: 0,
    };
    while let Some(document) = parser.document(documents.is_empty())? {
        documents.push(document);
    }
    Ok(())
}

/// Control characters have no place in YAML, not even in a comment.
fn check_characters(text: &str, dialect: Dialect) -> Result<(), ParseError> {
    let delete = !matches!(dialect, Dialect::V3 | Dialect::V4Rc3);
    let bad = |c: char| match c {
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' => false,
        '\u{7f}' => !delete,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => c != '\u{feff}',
        c => c < '\u{a0}',
    };
    match text.char_indices().find(|(_, c)| bad(*c)) {
        None => Ok(()),
        Some((offset, _)) => {
            let line = text[..offset].bytes().filter(|byte| *byte == b'\n').count() + 1;
            Err(ParseError::Syntax { line, problem: "control characters are not allowed" })
        }
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    dialect: Dialect,
    nodes: Vec<Node>,
    total: usize,
    anchors: HashMap<Box<str>, NodeId>,
    /// `%TAG` handles of the document.
    handles: HashMap<String, String>,
    depth: usize,
}

impl Parser<'_> {
    fn kind(&mut self) -> Result<&TokenKind, ParseError> {
        Ok(&self.scanner.peek()?.kind)
    }

    /// Where the next token starts.
    fn mark(&mut self) -> Result<Mark, ParseError> {
        Ok(self.scanner.peek()?.start)
    }

    fn accept(&mut self, kind: &TokenKind) -> Result<Option<Token>, ParseError> {
        if self.kind()? == kind { self.scanner.next().map(Some) } else { Ok(None) }
    }

    fn fail<T>(&mut self, text: &'static str) -> Result<T, ParseError> {
        Err(problem(self.mark()?, text))
    }

    fn document(&mut self, first: bool) -> Result<Option<Parsed>, ParseError> {
        // Only the newest release skips a `...` in front of everything.
        while (!first || self.dialect == Dialect::V4Rc6) && self.accept(&TokenKind::DocumentEnd)?.is_some() {}
        let mut start = self.mark()?.offset;
        let mut marker = None;
        let bare = !matches!(
            self.kind()?,
            TokenKind::VersionDirective(..)
                | TokenKind::TagDirective(..)
                | TokenKind::DocumentStart
                | TokenKind::StreamEnd
        );
        if *self.kind()? == TokenKind::StreamEnd {
            return Ok(None);
        }
        self.handles.clear();
        if !bare {
            self.directives()?;
            match self.accept(&TokenKind::DocumentStart)? {
                // Directives in front belong to the document.
                Some(token) => {
                    start = start.min(token.start.offset);
                    marker = Some(token.start.offset);
                }
                None => return self.fail("did not find expected <document start>"),
            }
        } else if !first {
            // libyaml lets a bare document follow `...`; its Go port does not.
            return self.fail("did not find expected <document start>");
        }
        let empty = matches!(
            self.kind()?,
            TokenKind::VersionDirective(..)
                | TokenKind::TagDirective(..)
                | TokenKind::DocumentStart
                | TokenKind::DocumentEnd
                | TokenKind::StreamEnd
        );
        let root = if empty && !bare {
            let mark = self.mark()?;
            self.empty(mark)?
        } else {
            self.node(true, false)?
        };
        let ended = self.accept(&TokenKind::DocumentEnd)?.is_some();
        let next = matches!(
            self.kind()?,
            TokenKind::DocumentStart
                | TokenKind::StreamEnd
                | TokenKind::VersionDirective(..)
                | TokenKind::TagDirective(..)
        );
        if !ended && !next {
            return self.fail("did not find expected <document start>");
        }
        self.anchors.clear();
        let tree = Document { nodes: std::mem::take(&mut self.nodes), root };
        Ok(Some(Parsed { tree, start, marker }))
    }

    fn directives(&mut self) -> Result<(), ParseError> {
        let mut version = false;
        loop {
            match self.kind()? {
                TokenKind::VersionDirective(major, minor) => {
                    let known = (*major, *minor) == (1, 1);
                    if std::mem::replace(&mut version, true) {
                        return self.fail("found duplicate %YAML directive");
                    }
                    if !known {
                        return self.fail("found incompatible YAML document");
                    }
                }
                TokenKind::TagDirective(handle, prefix) => {
                    let (handle, prefix) = (handle.clone(), prefix.clone());
                    if self.handles.insert(handle, prefix).is_some() {
                        return self.fail("found duplicate %TAG directive");
                    }
                }
                _ => return Ok(()),
            }
            self.scanner.next()?;
        }
    }

    fn add(&mut self, node: Node) -> Result<NodeId, ParseError> {
        self.total += 1;
        if self.total > MAX_NODES {
            return Err(ParseError::TooManyNodes);
        }
        let id = NodeId::new(self.nodes.len());
        if let Some(name) = &node.anchor {
            self.anchors.insert(name.clone(), id);
        }
        self.nodes.push(node);
        Ok(id)
    }

    /// A value that was left out.
    fn empty(&mut self, at: Mark) -> Result<NodeId, ParseError> {
        self.add(blank_node(at))
    }

    /// One value. `block` allows block collections; `indentless` a sequence at the column of its key.
    fn node(&mut self, block: bool, indentless: bool) -> Result<NodeId, ParseError> {
        let start = self.mark()?;
        if let TokenKind::Alias(_) = self.kind()? {
            return self.alias();
        }
        let mut node = blank_node(start);
        let mut properties = false;
        loop {
            match self.kind()? {
                TokenKind::Anchor(_) if node.anchor.is_none() => {
                    if let TokenKind::Anchor(name) = self.scanner.next()?.kind {
                        node.anchor = Some(name.into_boxed_str());
                    }
                }
                TokenKind::Tag(..) if node.tag.is_none() => {
                    let token = self.scanner.next()?;
                    if let TokenKind::Tag(handle, suffix) = &token.kind {
                        node.tag = Some(self.tag(handle, suffix, token.start)?);
                    }
                }
                _ => break,
            }
            properties = true;
        }
        match self.kind()? {
            TokenKind::BlockEntry if indentless => self.indentless_sequence(node),
            TokenKind::Scalar(..) => {
                let token = self.scanner.next()?;
                node.end = token.end.offset;
                if let TokenKind::Scalar(text, style) = token.kind {
                    node.kind = Kind::Scalar { text: text.into_boxed_str(), style };
                }
                self.add(node)
            }
            TokenKind::FlowSequenceStart => self.flow_sequence(node),
            TokenKind::FlowMappingStart => self.flow_mapping(node),
            TokenKind::BlockSequenceStart if block => self.block_sequence(node),
            TokenKind::BlockMappingStart if block => self.block_mapping(node),
            _ if properties => {
                node.end = self.mark()?.offset.max(start.offset);
                self.add(node)
            }
            _ => self.fail("did not find expected node content"),
        }
    }

    fn alias(&mut self) -> Result<NodeId, ParseError> {
        let token = self.scanner.next()?;
        let TokenKind::Alias(name) = token.kind else {
            return Err(problem(token.start, "did not find expected alias"));
        };
        let Some(&target) = self.anchors.get(name.as_str()) else {
            return Err(ParseError::UnknownAnchor { line: token.start.line, name });
        };
        let mut node = blank_node(token.start);
        node.kind = Kind::Alias(target);
        node.end = token.end.offset;
        self.add(node)
    }

    fn tag(&self, handle: &str, suffix: &str, at: Mark) -> Result<Box<str>, ParseError> {
        let full = match (handle, self.handles.get(handle)) {
            ("", _) => suffix.to_owned(),
            (_, Some(prefix)) => format!("{prefix}{suffix}"),
            ("!", None) => format!("!{suffix}"),
            ("!!", None) => format!("!!{suffix}"),
            _ => return Err(problem(at, "found undefined tag handle")),
        };
        Ok(match full.strip_prefix("tag:yaml.org,2002:") {
            Some(rest) => format!("!!{rest}").into_boxed_str(),
            None => full.into_boxed_str(),
        })
    }

    fn enter(&mut self, node: Node) -> Result<NodeId, ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ParseError::TooDeep { line: node.line });
        }
        self.add(node)
    }

    fn leave(&mut self, id: NodeId, kind: Kind, end: usize) -> NodeId {
        self.depth -= 1;
        let node = &mut self.nodes[id.index()];
        node.kind = kind;
        node.end = end;
        id
    }

    fn block_sequence(&mut self, node: Node) -> Result<NodeId, ParseError> {
        self.scanner.next()?;
        let id = self.enter(node)?;
        let mut items = Vec::new();
        while let Some(token) = self.accept(&TokenKind::BlockEntry)? {
            let item = match self.kind()? {
                TokenKind::BlockEntry | TokenKind::BlockEnd => self.empty(token.end)?,
                _ => self.node(true, false)?,
            };
            items.push(item);
        }
        match self.accept(&TokenKind::BlockEnd)? {
            Some(end) => Ok(self.leave(id, Kind::Sequence(items), end.start.offset)),
            None => self.fail("did not find expected '-' indicator"),
        }
    }

    fn indentless_sequence(&mut self, node: Node) -> Result<NodeId, ParseError> {
        let id = self.enter(node)?;
        let mut items = Vec::new();
        while let Some(token) = self.accept(&TokenKind::BlockEntry)? {
            let item = match self.kind()? {
                TokenKind::BlockEntry | TokenKind::Key | TokenKind::Value | TokenKind::BlockEnd => {
                    self.empty(token.end)?
                }
                _ => self.node(true, false)?,
            };
            items.push(item);
        }
        let end = self.mark()?.offset;
        Ok(self.leave(id, Kind::Sequence(items), end))
    }

    fn block_mapping(&mut self, node: Node) -> Result<NodeId, ParseError> {
        self.scanner.next()?;
        let id = self.enter(node)?;
        let mut entries = Vec::new();
        loop {
            if let Some(end) = self.accept(&TokenKind::BlockEnd)? {
                return Ok(self.leave(id, Kind::Mapping(entries), end.start.offset));
            }
            let Some(token) = self.accept(&TokenKind::Key)? else {
                return self.fail("did not find expected key");
            };
            let key = self.block_part(token.end)?;
            let value = match self.accept(&TokenKind::Value)? {
                Some(token) => self.block_part(token.end)?,
                None => {
                    let mark = self.mark()?;
                    self.empty(mark)?
                }
            };
            entries.push((key, value));
        }
    }

    /// A key or a value of a block mapping, which may be left out.
    fn block_part(&mut self, after: Mark) -> Result<NodeId, ParseError> {
        match self.kind()? {
            TokenKind::Key | TokenKind::Value | TokenKind::BlockEnd => self.empty(after),
            _ => self.node(true, true),
        }
    }

    fn flow_sequence(&mut self, mut node: Node) -> Result<NodeId, ParseError> {
        self.scanner.next()?;
        node.flow = true;
        let id = self.enter(node)?;
        let mut items = Vec::new();
        loop {
            if let Some(end) = self.accept(&TokenKind::FlowSequenceEnd)? {
                return Ok(self.leave(id, Kind::Sequence(items), end.end.offset));
            }
            if !items.is_empty() {
                if self.accept(&TokenKind::FlowEntry)?.is_none() {
                    return self.fail("did not find expected ',' or ']'");
                }
                if let Some(end) = self.accept(&TokenKind::FlowSequenceEnd)? {
                    return Ok(self.leave(id, Kind::Sequence(items), end.end.offset));
                }
            }
            let item = match self.accept(&TokenKind::Key)? {
                Some(token) => self.flow_pair(&token)?,
                None => self.node(false, false)?,
            };
            items.push(item);
        }
    }

    /// `[a: b]`: a mapping of one entry, as an item of a flow sequence.
    fn flow_pair(&mut self, token: &Token) -> Result<NodeId, ParseError> {
        let mut node = blank_node(token.start);
        node.flow = true;
        let id = self.enter(node)?;
        let key = match self.kind()? {
            TokenKind::Value | TokenKind::FlowEntry | TokenKind::FlowSequenceEnd => {
                // libyaml takes the sign behind an empty key for the key, and misses it afterwards.
                self.scanner.next()?;
                self.empty(token.end)?
            }
            _ => self.node(false, false)?,
        };
        let value = match self.accept(&TokenKind::Value)? {
            Some(token) => match self.kind()? {
                TokenKind::FlowEntry | TokenKind::FlowSequenceEnd => self.empty(token.end)?,
                _ => self.node(false, false)?,
            },
            None => {
                let mark = self.mark()?;
                self.empty(mark)?
            }
        };
        let end = self.nodes[value.index()].end;
        Ok(self.leave(id, Kind::Mapping(vec![(key, value)]), end))
    }

    fn flow_mapping(&mut self, mut node: Node) -> Result<NodeId, ParseError> {
        self.scanner.next()?;
        node.flow = true;
        let id = self.enter(node)?;
        let mut entries = Vec::new();
        loop {
            if let Some(end) = self.accept(&TokenKind::FlowMappingEnd)? {
                return Ok(self.leave(id, Kind::Mapping(entries), end.end.offset));
            }
            if !entries.is_empty() {
                if self.accept(&TokenKind::FlowEntry)?.is_none() {
                    return self.fail("did not find expected ',' or '}'");
                }
                if let Some(end) = self.accept(&TokenKind::FlowMappingEnd)? {
                    return Ok(self.leave(id, Kind::Mapping(entries), end.end.offset));
                }
            }
            let marked = self.accept(&TokenKind::Key)?;
            let key = match &marked {
                Some(token) => self.flow_part(token.end)?,

                None => self.node(false, false)?,
            };
            // What was not seen to be a key (it went over the end of a line) has no value.
            let value = match marked {
                Some(_) => self.accept(&TokenKind::Value)?,
                None => None,
            };
            let value = match value {
                Some(token) => self.flow_part(token.end)?,
                None => {
                    let mark = self.mark()?;
                    self.empty(mark)?
                }
            };
            entries.push((key, value));
        }
    }

    fn flow_part(&mut self, after: Mark) -> Result<NodeId, ParseError> {
        match self.kind()? {
            TokenKind::Value | TokenKind::FlowEntry | TokenKind::FlowMappingEnd => self.empty(after),
            _ => self.node(false, false),
        }
    }
}

fn blank_node(at: Mark) -> Node {
    Node {
        kind: Kind::Scalar { text: "".into(), style: Style::Plain },
        tag: None,
        anchor: None,
        flow: false,
        start: at.offset,
        end: at.offset,
        line: at.line,
        column: at.column,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_in_a_flow_sequence_is_refused_by_every_line() {
        for dialect in [Dialect::V3, Dialect::V4Rc3, Dialect::V4Rc4, Dialect::V4Rc6] {
            for text in ["a: [b, ? ]\n", "a: [? ]\n", "a: [? , b]\n", "a: [? : b]\n", "a: [? : b, c]\n"] {
                let error = parse(text.as_bytes(), dialect).unwrap_err().to_string();
                assert!(error.contains("did not find expected ',' or ']'"), "{dialect:?} {text:?}: {error}");
            }
            for text in ["a: [? x]\n", "a: [? x : y]\n", "a: [x: y, z]\n"] {
                assert!(parse(text.as_bytes(), dialect).is_ok(), "{dialect:?} {text:?}");
            }
            // Only the oldest takes a sign for a key that has no blank behind it.
            for text in ["a: [?]\n", "a: [bx, ?]\n"] {
                assert_eq!(
                    parse(text.as_bytes(), dialect).is_err(),
                    dialect == Dialect::V3,
                    "{dialect:?} {text:?}"
                );
            }
        }
    }
}
