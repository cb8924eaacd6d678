//! Why an endpoint could not be connected.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::tls::TlsProblem;

/// Why one endpoint could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("failed to resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// TCP failed.
    #[error("failed to connect to {address}")]
    Tcp {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("no answer within {} s", after.as_secs_f32())]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The HTTP proxy did not let it through.
    #[error("proxy {proxy} {problem}")]
    Proxy {
        /// The proxy, without credentials.
        proxy: String,
        /// What it did.
        problem: String,
    },
    /// The ssh client could not be started.
    #[error("failed to run ssh")]
    SshStart {
        /// What the system said.
        source: io::Error,
    },
    /// The connection through the jump host ended before it was one.
    #[error("ssh to {jump} failed: {stderr}")]
    Ssh {
        /// The jump host.
        jump: String,
        /// What ssh printed, or what happened if it printed nothing.
        stderr: String,
    },
    /// TLS failed.
    #[error("{endpoint} is not trusted: {problem}")]
    Tls {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        problem: TlsProblem,
    },
    /// The connection was cut while it was being established.
    #[error("the connection to {endpoint} was cut")]
    Cut {
        /// Where.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// HTTP/2 failed.
    #[error("{endpoint} does not speak HTTP/2")]
    Http {
        /// Where.
        endpoint: Endpoint,
        /// What went wrong.
        source: tonic::transport::Error,
    },
}

/// No endpoint could be connected.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no endpoint can be reached: {}", list(attempts))]
pub struct Unreachable {
    /// What was tried, in order, and why each failed.
    pub attempts: Vec<(Endpoint, Arc<ConnectError>)>,
}

impl Unreachable {
    /// The TLS problem of the first endpoint that had one: it says more than a refused connection elsewhere.
    pub fn tls_problem(&self) -> Option<&TlsProblem> {
        self.attempts.iter().find_map(|(_, error)| match &**error {
            ConnectError::Tls { problem, .. } => Some(problem),
            _ => None,
        })
    }
}

fn list(attempts: &[(Endpoint, Arc<ConnectError>)]) -> String {
    if attempts.is_empty() {
        return "there is none".to_owned();
    }
    let shown = attempts.iter().map(|(endpoint, error)| {
        let causes = std::iter::successors(Some(&**error as &dyn std::error::Error), |error| error.source());
        let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let endpoint = endpoint.to_string();
        if text.contains(&endpoint) { text } else { format!("{endpoint}: {text}") }
    });
    shown.collect::<Vec<_>>().join("; ")
}
