//! What can go wrong with a lab.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why something in a lab failed. It may come from the process that runs the lab, so causes are text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum LabError {
    /// This machine does not let us make a lab. Nothing is wrong with what was asked for.
    #[error("no lab can run here: {what}\n  next: {cure}")]
    Refused {
        /// What refuses.
        what: String,
        /// How to open it.
        cure: String,
    },
    /// What was asked for cannot be built.
    #[error("{0}")]
    Topology(String),
    /// Nothing has that name.
    #[error("there is no {kind} called {name:?}; known: {others}")]
    Unknown {
        /// What was looked for.
        kind: String,
        /// Its name.
        name: String,
        /// What there is.
        others: String,
    },
    /// Something did not happen in time.
    #[error("gave up after {after:?} waiting for {awaited}")]
    TimedOut {
        /// What was awaited.
        awaited: String,
        /// For how long.
        after: Duration,
    },
    /// The lab has ended.
    #[error("the lab has ended: {0}")]
    Gone(String),
    /// Something else failed.
    #[error("failed to {what}: {cause}")]
    Failed {
        /// What was attempted on what.
        what: String,
        /// Why it failed.
        cause: String,
    },
}

impl LabError {
    /// An attempt at `what` failed because of `cause`, whose own causes are kept in the text.
    pub fn failed(what: impl Into<String>, cause: impl std::error::Error) -> Self {
        let mut text = cause.to_string();
        let mut source = cause.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        Self::Failed { what: what.into(), cause: text }
    }

    pub(crate) fn unknown<'n>(kind: &str, name: &str, others: impl Iterator<Item = &'n str>) -> Self {
        let mut others = others.collect::<Vec<_>>().join(", ");
        if others.is_empty() {
            others.push_str("none");
        }
        Self::Unknown { kind: kind.to_owned(), name: name.to_owned(), others }
    }
}

/// Adds what was attempted to an error.
pub(crate) trait Attempt<T> {
    /// Turns the error into a [`LabError::Failed`].
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: std::error::Error> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::failed(what(), error))
    }
}
