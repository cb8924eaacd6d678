//! Errors of calls: which node, which call, why, and what to do next.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};

use crate::transport::{Closed, TlsProblem, Unreachable};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} on {node} failed")]
pub struct ApiError {
    /// The node that the call was for.
    pub node: String,
    /// The name of the call, as `EtcdStatus`.
    pub call: &'static str,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a call failed: what decides about the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// No endpoint could be connected. The call was not sent.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// The endpoint cannot reach the node, or the node is going down. The call may have been executed.
    #[error("the node is not available: {0}")]
    Unavailable(String),
    /// The connection broke after the call was sent. It may have been executed.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// No answer in time. The call may have been executed.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// The endpoint is no control plane node, and only those forward.
    #[error("the endpoint does not forward calls to other nodes: {0}")]
    NotForwarding(String),
    /// The node does not have this kind of resource, or this namespace.
    #[error("the node does not know this resource: {0}")]
    UnknownResource(String),
    /// The client certificate has no role that allows the call.
    #[error("permission denied: {0}")]
    Denied(String),
    /// The node does not have the call: an older Talos, not a control plane node, or maintenance mode.
    #[error("the node does not support this call: {0}")]
    Unimplemented(String),
    /// The credentials were not accepted.
    #[error("not authenticated: {0}")]
    Unauthenticated(String),
    /// What was asked for does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The node refuses what it was asked to do.
    #[error("refused as invalid: {0}")]
    Invalid(String),
    /// The node is in the wrong state for it.
    #[error("not possible now: {0}")]
    Precondition(String),
    /// The reply has no message, or not the one that was expected.
    #[error("the reply is incomplete: {0}")]
    Incomplete(&'static str),
    /// The reply cannot be decoded.
    #[error("the reply is not understood: {0}")]
    Malformed(String),
    /// Any other status. Talos uses `Unknown` for most errors of its own.
    #[error("{message}")]
    Other {
        /// The code of the status.
        code: Code,
        /// Its text.
        message: String,
    },
}

impl Cause {
    /// Finds out from a status.
    ///
    /// PermissionDenied means three things that only its text tells apart.
    pub fn from_status(status: &Status) -> Self {
        let message = status.message().to_owned();
        if status.source().is_some() {
            return Self::Lost(local_failure(status));
        }
        match status.code() {
            Code::Unavailable => Self::Unavailable(message),
            Code::PermissionDenied if message.contains("no request forwarding") => {
                Self::NotForwarding(message)
            }
            Code::PermissionDenied if message.contains("is not supported") => Self::UnknownResource(message),
            Code::PermissionDenied => Self::Denied(message),
            Code::Unimplemented => Self::Unimplemented(message),
            Code::Unauthenticated => Self::Unauthenticated(message),
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument => Self::Invalid(message),
            Code::FailedPrecondition => Self::Precondition(message),
            code => Self::Other { code, message },
        }
    }

    /// True when the same call may succeed a little later: what a node that boots or reboots answers.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unavailable(_) | Self::Lost(_) | Self::Deadline(_))
    }

    /// True when the call was certainly not executed.
    pub const fn was_not_sent(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// What to do about it, if there is something to say.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Unreachable(unreachable) => return Some(unreachable_advice(unreachable)),
            Self::Unavailable(_) => {
                "check that the node is up and that the endpoint can reach its port 50000; \
                 an address in --nodes is dialled by the endpoint, not from here"
            }
            Self::Lost(_) => {
                "check with `ichorctl get machinestatus` whether the node did it before trying again"
            }
            Self::Deadline(_) => {
                "check with `ichorctl get machinestatus` that the node is well, then try again"
            }
            Self::NotForwarding(_) => {
                "give the addresses of control plane nodes as endpoints (-e, or `ichorctl config endpoint`)"
            }
            Self::UnknownResource(_) => "list what this node has with `ichorctl get rd`",
            Self::Denied(_) => {
                "the roles of the client certificate (`ichorctl config info`) do not allow this; \
                 it needs a talosconfig with os:admin or another fitting role"
            }
            Self::Unimplemented(_) => {
                "check `ichorctl version` and `ichorctl get machinetype`: the call needs a newer Talos, \
                 a control plane node, or a node that is not in maintenance mode"
            }
            Self::Unauthenticated(_) => "check the credentials of the context with `ichorctl config info`",
            Self::Precondition(text) if text.contains("apply configuration is already in progress") => {
                "somebody else is applying a config to this node: wait, read it again, and repeat"
            }
            Self::Precondition(_)
            | Self::NotFound(_)
            | Self::Invalid(_)
            | Self::Incomplete(_)
            | Self::Malformed(_)
            | Self::Other { .. } => return None,
        };
        Some(text.to_owned())
    }
}

fn unreachable_advice(unreachable: &Unreachable) -> String {
    let text = match unreachable.tls_problem() {
        None => {
            "check the endpoints of the context with `ichorctl config info`, and that their port 50000 \
             can be reached from here; a private network can be reached with --via ssh://jump"
        }
        Some(TlsProblem::WrongCa) => {
            "the talosconfig is of another cluster, or the cluster was made anew: get its current talosconfig; \
             a node without a config answers only with --insecure"
        }
        Some(TlsProblem::Expired) => {
            "the node's certificate lasts 24 hours and is renewed by itself: check the clocks, here and on the node"
        }
        Some(TlsProblem::NotYetValid) => "check the clocks, here and on the node",
        Some(TlsProblem::WrongName { .. }) => {
            "use one of the names that the certificate has, or add this one to machine.certSANs"
        }
        Some(TlsProblem::Fingerprint { .. }) => {
            "compare it with the fingerprint that the node shows on its console: another machine may be answering"
        }
        Some(TlsProblem::ClientRefused(_)) => {
            "the client certificate is expired or of another cluster: see `ichorctl config info`, and get a new \
             talosconfig with `ichorctl config new` from somebody who has access"
        }
        Some(TlsProblem::NotTls) => "check the port: Talos listens on 50000",
        Some(TlsProblem::Other(_)) => "check the endpoints and credentials with `ichorctl config info`",
    };
    text.to_owned()
}

/// Where a status was made on this side, its text is a chain of wrappers; the last link is the cause.
fn local_failure(status: &Status) -> String {
    let root = chain(status).last();
    root.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// True when the status says that the connection had ended before the call was sent.
pub(super) fn was_closed(status: &Status) -> bool {
    chain(status).any(|error| error.is::<Closed>())
}

/// True when the deadline passed on this side.
pub(super) fn was_late(status: &Status) -> bool {
    status.code() == Code::DeadlineExceeded || chain(status).any(|error| error.is::<TimeoutExpired>())
}

fn chain(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_denied_has_three_meanings() {
        let cause = |text: &str| Cause::from_status(&Status::permission_denied(text));
        assert!(matches!(cause("no request forwarding"), Cause::NotForwarding(_)));
        assert!(matches!(cause("resource type \"x\" is not supported"), Cause::UnknownResource(_)));
        assert!(matches!(cause("not authorized"), Cause::Denied(_)));
    }

    #[test]
    fn each_cause_that_can_be_mended_says_how() {
        for status in [
            Status::unavailable("connection refused"),
            Status::permission_denied("no request forwarding"),
            Status::permission_denied("not authorized"),
            Status::unimplemented("method not implemented"),
            Status::unauthenticated("no credentials"),
            Status::failed_precondition("another apply configuration is already in progress"),
        ] {
            assert!(Cause::from_status(&status).advice().is_some(), "{status}");
        }
        assert_eq!(Cause::from_status(&Status::not_found("x")).advice(), None);
    }

    #[test]
    fn the_cause_is_printed_once() {
        let cause = Cause::from_status(&Status::unavailable("dial tcp: i/o timeout"));
        let error = anyhow::Error::from(ApiError { node: "10.0.0.9".into(), call: "Version", cause });
        let expected = "Version on 10.0.0.9 failed: the node is not available: dial tcp: i/o timeout";
        assert_eq!(format!("{error:#}"), expected);
    }
}
