//! One HTTP/2 connection to one endpoint.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls;
use tonic::transport::Channel;

use super::error::ConnectError;
use super::tls::TlsProblem;
use super::{ByteStream, Endpoint};

/// Bytes in flight of one stream and of a connection, as the official client asks for.
const STREAM_WINDOW: u32 = 65_535 * 32;
const CONNECTION_WINDOW: u32 = 65_535 * 32;

/// Pings more often than every five minutes are answered by GOAWAY: that is what grpc-go allows by default.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6 * 60);

/// A connection, and what is known about its end. A clone is another handle to it.
///
/// The channel inside could reconnect, but never gets the chance: reconnecting, and choosing where to, is up to the
/// pool, which must know whether a call has left.
#[derive(Clone, Debug)]
pub struct Link {
    channel: Channel,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: AtomicBool,
    problem: OnceLock<TlsProblem>,
}

/// The connection had ended before the call was sent: it can be sent elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub(crate) struct Closed;

impl Link {
    /// Speaks HTTP/2 over a stream that is connected and authenticated.
    pub(super) async fn establish(stream: ByteStream, endpoint: &Endpoint) -> Result<Self, ConnectError> {
        let state = Arc::new(State::default());
        let cut = |error: http::Error| ConnectError::Cut {
            endpoint: endpoint.clone(),
            source: io::Error::other(error),
        };
        let uri: Uri = Uri::builder()
            .scheme("https")
            .authority(endpoint.authority())
            .path_and_query("/")
            .build()
            .map_err(cut)?;
        let watched = Watched { stream, state: state.clone() };
        let channel = Channel::builder(uri)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .connect_with_connector(Once(Some(watched)))
            .await
            .map_err(|source| ConnectError::Http { endpoint: endpoint.clone(), source })?;
        Ok(Self { channel, state })
    }

    /// What the generated clients take.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// True while the connection is up, as far as is known here.
    pub(super) fn is_open(&self) -> bool {
        !self.state.closed.load(Ordering::Acquire)
    }

    /// True for two handles to the same connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// What TLS said when it ended the connection: with TLS 1.3 a refused client certificate shows only then.
    pub(crate) fn tls_problem(&self) -> Option<&TlsProblem> {
        self.state.problem.get()
    }
}

/// Gives its stream once.
struct Once(Option<Watched>);

impl tower_service::Service<Uri> for Once {
    type Response = TokioIo<Watched>;
    type Error = Closed;
    type Future = std::future::Ready<Result<Self::Response, Closed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().map(TokioIo::new).ok_or(Closed))
    }
}

/// A stream that notes how it ended.
struct Watched {
    stream: ByteStream,
    state: Arc<State>,
}

impl Watched {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                // The first error is the cause of those that follow.
                let _ = self.state.problem.set(TlsProblem::of(error));
            }
            self.state.closed.store(true, Ordering::Release);
        }
        result
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Release);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if matches!(result, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            self.state.closed.store(true, Ordering::Release);
        }
        self.note(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(result)
    }
}
