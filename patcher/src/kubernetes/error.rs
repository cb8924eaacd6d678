//! What goes wrong with the Kubernetes API.

use std::error::Error;
use std::fmt;
use std::iter::successors;

use kube_core::Status;

use super::access::AccessError;
use crate::transport::{ConnectError, Endpoint, TlsProblem};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// No endpoint answers, or none is able to do anything: whoever wants the API has to do without.
    #[error("the Kubernetes API does not answer: {}", list(.0))]
    Unreachable(Vec<Attempt>),
    /// It answered, and refuses.
    #[error("the Kubernetes API refuses to {what}: {} ({})", .status.message, .status.code)]
    Refused {
        /// What was asked for, such as `get node w-1`.
        what: String,
        /// What it said.
        status: Box<Status>,
    },
    /// It answered something that is not understood.
    #[error("the Kubernetes API was asked to {what} and its answer is not understood")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It answered more than is read.
    #[error("the Kubernetes API was asked to {what} and its answer is too large")]
    TooLarge {
        /// What was asked for.
        what: String,
    },
    /// The request cannot be made, as with a name that no object can have.
    #[error("failed to ask the Kubernetes API to {what}")]
    Request {
        /// What was to be asked for.
        what: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is nothing to log in with.
    #[error("there is no access to the Kubernetes API")]
    Access(#[from] AccessError),
    /// The credentials cannot be used.
    #[error("the credentials for the Kubernetes API cannot be used: {0}")]
    Credentials(TlsProblem),
}

/// One endpoint that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// Where.
    pub endpoint: Endpoint,
    /// What happened.
    pub problem: AttemptProblem,
}

/// Why an endpoint was of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptProblem {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// No answer came in time.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// The server is there, but what it needs is not, such as etcd.
    #[error("it answered {code}: {message}")]
    Unable {
        /// The HTTP status, 500 or above.
        code: u16,
        /// What it said.
        message: String,
    },
}

impl KubernetesError {
    /// Whether nobody answered.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: &(dyn Error + 'static) = &self.problem;
        let causes = successors(Some(first), |error: &&(dyn Error + 'static)| (*error).source());
        let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let endpoint = self.endpoint.to_string();
        if text.contains(&endpoint) { f.write_str(&text) } else { write!(f, "{endpoint}: {text}") }
    }
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
