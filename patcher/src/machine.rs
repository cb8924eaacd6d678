//! A Talos machine config as text: a stream of YAML documents that keeps its bytes.
//!
//! ```text
//! bytes -> parse (bounded) -> trees with positions -> documents with an identity
//! ```
//! What the values mean is for [`crate::patch`]; this module knows YAML, documents and their names.

pub mod document;
pub mod node;
pub mod parse;
pub mod scalar;
mod scan;

pub use document::{DocumentId, MachineConfig};
pub use node::{Document, Kind, Node, NodeId, Style};
pub use parse::{ParseError, parse};
pub use scalar::{Dialect, Scalar};
