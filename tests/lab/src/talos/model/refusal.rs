//! What a node answers when it does not do what it is asked.

use tonic::Code;

/// A refusal: the code and the text that Talos gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Its gRPC code.
    pub code: Code,
    /// What it says.
    pub text: String,
}

impl Refusal {
    /// A refusal with `code`.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, text)
    }

    /// A plain error of the node, which has no code of its own.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(Code::Unknown, text)
    }

    pub(crate) fn not_authorized() -> Self {
        Self::new(Code::PermissionDenied, "not authorized")
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.text)
    }
}
