//! From text to trees, with bounds on everything that a hostile text could grow.

use std::collections::HashMap;

use libyaml_safer::{Event, EventData, Mark, MappingStyle, Parser, ScalarStyle, SequenceStyle};
use thiserror::Error;

use super::node::{Document, Kind, Node, NodeId, Style};

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
    /// More than [`MAX_BYTES`].
    #[error("text of {size} bytes is larger than the limit of {MAX_BYTES} bytes")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// More than [`MAX_NODES`].
    #[error("more than {MAX_NODES} values")]
    TooManyNodes,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("line {line}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Where the limit was passed.
        line: usize,
    },
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
        /// What the parser says.
        problem: &'static str,
    },
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
    /// Byte offset where the document starts: its `---` line, or its content when there is none.
    pub start: usize,
    /// Whether a `---` was written.
    pub explicit_start: bool,
}

/// Parses a stream of documents.
///
/// # Errors
/// When the text is not YAML or exceeds a bound; nothing is returned of a text that is broken further down.
pub fn parse(text: &[u8]) -> Result<Vec<Parsed>, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::TooLarge { size: text.len() });
    }
    if let Err(source) = std::str::from_utf8(text) {
        return Err(ParseError::NotUtf8 { offset: source.valid_up_to() });
    }
    let mut parser = Parser::<&mut &[u8]>::new();
    let mut input = text;
    parser.set_input_string(&mut input);
    let mut builder = Builder::default();
    loop {
        let event = parser.parse().map_err(|error| syntax(&error))?;
        if matches!(event.data, EventData::StreamEnd) {
            return Ok(builder.documents);
        }
        builder.event(event)?;
    }
}

fn syntax(error: &libyaml_safer::Error) -> ParseError {
    let line = error.problem_mark().map_or(0, |mark| line_of(&mark));
    ParseError::Syntax { line, problem: error.problem() }
}

fn line_of(mark: &Mark) -> usize {
    usize::try_from(mark.line).unwrap_or(usize::MAX).saturating_add(1)
}

fn offset(mark: &Mark) -> usize {
    usize::try_from(mark.index).unwrap_or(usize::MAX)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Parsed>,
    nodes: Vec<Node>,
    total: usize,
    anchors: HashMap<Box<str>, NodeId>,
    open: Vec<Open>,
    root: Option<NodeId>,
    start: usize,
    explicit_start: bool,
}

/// A collection whose end has not come yet.
struct Open {
    id: NodeId,
    /// The key that waits for its value.
    key: Option<NodeId>,
}

impl Builder {
    fn event(&mut self, event: Event) -> Result<(), ParseError> {
        let (start, end) = (event.start_mark, event.end_mark);
        match event.data {
            EventData::DocumentStart { implicit, .. } => {
                self.start = offset(&start);
                self.explicit_start = !implicit;
            }
            EventData::DocumentEnd { .. } => self.finish(),
            EventData::Alias { anchor } => {
                let Some(&target) = self.anchors.get(anchor.as_str()) else {
                    return Err(ParseError::UnknownAnchor { line: line_of(&start), name: anchor });
                };
                let id = self.add(Kind::Alias(target), None, None, false, &start, &end)?;
                self.attach(id);
            }
            EventData::Scalar { anchor, tag, value, style, .. } => {
                let kind = Kind::Scalar { text: value.into_boxed_str(), style: scalar_style(style) };
                let id = self.add(kind, tag, anchor, false, &start, &end)?;
                self.attach(id);
            }
            EventData::SequenceStart { anchor, tag, style, .. } => {
                let flow = matches!(style, SequenceStyle::Flow);
                let id = self.add(Kind::Sequence(Vec::new()), tag, anchor, flow, &start, &end)?;
                self.open(id, &start)?;
            }
            EventData::MappingStart { anchor, tag, style, .. } => {
                let flow = matches!(style, MappingStyle::Flow);
                let id = self.add(Kind::Mapping(Vec::new()), tag, anchor, flow, &start, &end)?;
                self.open(id, &start)?;
            }
            EventData::SequenceEnd | EventData::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.nodes[open.id_index()].end = offset(&end);
                }
            }
            EventData::StreamStart { .. } | EventData::StreamEnd => {}
        }
        Ok(())
    }

    fn add(
        &mut self,
        kind: Kind,
        tag: Option<String>,
        anchor: Option<String>,
        flow: bool,
        start: &Mark,
        end: &Mark,
    ) -> Result<NodeId, ParseError> {
        self.total += 1;
        if self.total > MAX_NODES {
            return Err(ParseError::TooManyNodes);
        }
        let id = NodeId::new(self.nodes.len());
        let anchor = anchor.map(String::into_boxed_str);
        if let Some(name) = &anchor {
            self.anchors.insert(name.clone(), id);
        }
        self.nodes.push(Node {
            kind,
            tag: tag.map(short_tag),
            anchor,
            flow,
            start: offset(start),
            end: offset(end),
            line: line_of(start),
            column: usize::try_from(start.column).unwrap_or(usize::MAX),
        });
        Ok(id)
    }

    fn open(&mut self, id: NodeId, start: &Mark) -> Result<(), ParseError> {
        self.attach(id);
        if self.open.len() >= MAX_DEPTH {
            return Err(ParseError::TooDeep { line: line_of(start) });
        }
        self.open.push(Open { id, key: None });
        Ok(())
    }

    fn attach(&mut self, id: NodeId) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(id);
            return;
        };
        let index = open.id_index();
        match &mut self.nodes[index].kind {
            Kind::Sequence(items) => items.push(id),
            Kind::Mapping(entries) => match open.key.take() {
                None => open.key = Some(id),
                Some(key) => entries.push((key, id)),
            },
            Kind::Alias(_) | Kind::Scalar { .. } => {}
        }
    }

    fn finish(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        self.anchors.clear();
        self.open.clear();
        if let Some(root) = self.root.take() {
            self.documents.push(Parsed {
                tree: Document { nodes, root },
                start: self.start,
                explicit_start: self.explicit_start,
            });
        }
    }
}

impl Open {
    fn id_index(&self) -> usize {
        self.id.index()
    }
}

fn scalar_style(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::SingleQuoted => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
        ScalarStyle::Literal => Style::Literal,
        ScalarStyle::Folded => Style::Folded,
        _ => Style::Plain,
    }
}

fn short_tag(tag: String) -> Box<str> {
    match tag.strip_prefix("tag:yaml.org,2002:") {
        Some(rest) => format!("!!{rest}").into_boxed_str(),
        None => tag.into_boxed_str(),
    }
}
