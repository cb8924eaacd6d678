//! A YAML document as a tree that remembers where each node stands in the text.
//!
//! Scalars stay what was written: text, style and tag. What a scalar means depends on who reads it
//! ([`super::scalar`]), so nothing is resolved here.

/// Index of a node in its [`Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// `"text"`
    DoubleQuoted,
    /// `>` block
    Folded,
    /// `|` block
    Literal,
    /// Without any sign; the only style whose text decides its type.
    Plain,
    /// `'text'`
    SingleQuoted,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `*name`, with the node that it stands for.
    Alias(NodeId),
    /// Keys and values in the order of the text. Keys may repeat: that is for the reader to judge.
    Mapping(Vec<(NodeId, NodeId)>),
    /// Text without an opinion about its type.
    Scalar {
        /// The text with quotes, escapes and folding taken off.
        text: Box<str>,
        /// How it was written.
        style: Style,
    },
    /// Items in order.
    Sequence(Vec<NodeId>),
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// The tag as written, with `tag:yaml.org,2002:` shortened to `!!`.
    pub tag: Option<Box<str>>,
    /// The name after `&`.
    pub anchor: Option<Box<str>>,
    /// Written with brackets (collections only).
    pub flow: bool,
    /// Byte offset of the first character, the anchor and the tag included.
    pub start: usize,
    /// Byte offset behind the last character. Of a block collection: where the next token starts.
    pub end: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 0, in characters.
    pub column: usize,
}

/// One document of a stream, as a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
}

impl Document {
    /// The outermost node.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// The node of this id. Ids come from the same document, so there always is one.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All nodes, in the order of the text.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Changes a node in place; used where a patch document is taken apart.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// The node that an alias stands for, any other node itself.
    pub fn target(&self, id: NodeId) -> NodeId {
        match self.node(id).kind {
            Kind::Alias(target) => target,
            Kind::Mapping(_) | Kind::Scalar { .. } | Kind::Sequence(_) => id,
        }
    }

    /// Text of a scalar.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Sequence(_) => None,
        }
    }

    /// Entries of a mapping; nothing for other nodes.
    pub fn entries(&self, id: NodeId) -> &[(NodeId, NodeId)] {
        match &self.node(id).kind {
            Kind::Mapping(entries) => entries,
            Kind::Alias(_) | Kind::Scalar { .. } | Kind::Sequence(_) => &[],
        }
    }

    /// Items of a sequence; nothing for other nodes.
    pub fn items(&self, id: NodeId) -> &[NodeId] {
        match &self.node(id).kind {
            Kind::Sequence(items) => items,
            Kind::Alias(_) | Kind::Mapping(_) | Kind::Scalar { .. } => &[],
        }
    }

    /// The first entry of a mapping whose key is a scalar with this text.
    pub fn entry(&self, id: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        self.entries(id).iter().copied().find(|(name, _)| self.text(*name) == Some(key))
    }

    /// The value of [`Self::entry`].
    pub fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.entry(id, key).map(|(_, value)| value)
    }
}
