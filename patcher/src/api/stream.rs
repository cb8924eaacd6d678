//! Replies that come one by one.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Streaming;

use super::error::Cause;
use super::{ApiError, NodeClient};
use crate::transport::Link;

/// A stream of replies of one node. Dropping it cancels the call.
#[derive(Debug)]
pub struct NodeStream<T> {
    node: NodeClient,
    call: &'static str,
    idle: Option<Duration>,
    inner: Streaming<T>,
    /// Keeps the connection's story for the message when it breaks.
    link: Link,
}

impl<T> NodeStream<T> {
    pub(super) const fn new(
        node: NodeClient,
        call: &'static str,
        idle: Option<Duration>,
        inner: Streaming<T>,
        link: Link,
    ) -> Self {
        Self { node, call, idle, inner, link }
    }

    /// The next reply, or None at the end.
    ///
    /// # Errors
    ///
    /// Those of the call, and [`Cause::Deadline`] when the node falls silent.
    pub async fn next(&mut self) -> Result<Option<T>, ApiError> {
        let next = self.inner.message();
        let result = match self.idle {
            None => next.await,
            Some(idle) => match timeout(idle, next).await {
                Ok(result) => result,
                Err(_) => return Err(self.node.error(self.call, Cause::Deadline(idle))),
            },
        };
        result.map_err(|status| match (self.link.tls_problem(), Cause::from_status(&status)) {
            (Some(problem), Cause::Lost(_)) => self.node.error(self.call, Cause::Lost(problem.to_string())),
            (_, cause) => self.node.error(self.call, cause),
        })
    }

    pub(super) const fn node(&self) -> &NodeClient {
        &self.node
    }

    pub(super) const fn call(&self) -> &'static str {
        self.call
    }
}
