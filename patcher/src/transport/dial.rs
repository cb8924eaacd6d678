//! From an endpoint to an authenticated byte stream: TCP, proxy or ssh, then TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig};

use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::link::Link;
use super::proxy::ProxyRules;
use super::ssh::Jump;
use super::tls::{self, TlsProblem};
use super::{BoxedStream, ByteStream};

/// How to reach endpoints.
#[derive(Clone, Debug)]
pub enum Route {
    /// By TCP, or through an HTTP proxy where the rules say so.
    Network(ProxyRules),
    /// Through ssh.
    Via(Jump),
}

/// What is needed to connect any endpoint.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// The way there.
    pub route: Route,
    /// What proves both ends to each other.
    pub tls: Arc<ClientConfig>,
    /// How long one endpoint may take, from resolving its name to the end of the TLS handshake.
    pub timeout: Duration,
}

impl Dialer {
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Link, ConnectError> {
        self.open(endpoint, |stream| Link::establish(stream, endpoint)).await
    }

    /// Connects an endpoint and has `greet` begin what is spoken over it, all within the time that an endpoint may
    /// take.
    pub(crate) async fn open<T, F>(
        &self,
        endpoint: &Endpoint,
        greet: impl FnOnce(ByteStream) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let deadline = Instant::now() + self.timeout;
        let late = ConnectError::Timeout { after: self.timeout };
        match &self.route {
            Route::Network(rules) => {
                let connect = async {
                    let stream = self.network(rules, endpoint, deadline).await?;
                    greet(handshake(self.tls.clone(), stream, endpoint).await?).await
                };
                timeout_at(deadline, connect).await.unwrap_or(Err(late))
            }
            Route::Via(jump) => {
                let (stream, epitaph) = jump.open(endpoint)?;
                let connect =
                    async { greet(handshake(self.tls.clone(), Box::pin(stream), endpoint).await?).await };
                match timeout_at(deadline, connect).await {
                    Ok(Err(ConnectError::Cut { .. })) => {
                        Err(epitaph.read("it ended without a word".to_owned()).await)
                    }
                    Ok(result) => result,
                    Err(_) => Err(epitaph.read(late.to_string()).await),
                }
            }
        }
    }

    async fn network(
        &self,
        rules: &ProxyRules,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<ByteStream, ConnectError> {
        let Some(proxy) = rules.for_endpoint(endpoint) else {
            return Ok(Box::pin(tcp(endpoint, deadline).await?));
        };
        let stream = tcp(proxy.endpoint(), deadline).await?;
        let stream: ByteStream = if proxy.is_tls() {
            let config = tls::to_proxy();
            let refuse = |problem| ConnectError::Tls { endpoint: proxy.endpoint().clone(), problem };
            handshake(config.map_err(refuse)?, Box::pin(stream), proxy.endpoint()).await?
        } else {
            Box::pin(stream)
        };
        proxy.tunnel(stream, endpoint).await
    }
}

async fn handshake(
    config: Arc<ClientConfig>,
    stream: ByteStream,
    endpoint: &Endpoint,
) -> Result<ByteStream, ConnectError> {
    let refuse = |problem| ConnectError::Tls { endpoint: endpoint.clone(), problem };
    let Some(name) = endpoint.server_name() else {
        return Err(refuse(TlsProblem::Other("no certificate can be for this name".into())));
    };
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::pin(stream)),
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(problem) => Err(refuse(TlsProblem::of(problem))),
            None => Err(ConnectError::Cut { endpoint: endpoint.clone(), source: error }),
        },
    }
}

/// Tries the addresses of a name in order; each gets an equal share of the time that is left.
async fn tcp(endpoint: &Endpoint, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let resolve = |source| ConnectError::Resolve { host: endpoint.host().to_owned(), source };
    let addresses: Vec<_> = lookup_host((endpoint.host(), endpoint.port())).await.map_err(resolve)?.collect();
    let mut failure = resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream);
                return Ok(stream);
            }
            Ok(Err(source)) => failure = ConnectError::Tcp { address: *address, source },
            Err(_) => failure = ConnectError::Timeout { after: share },
        }
    }
    Err(failure)
}

/// Small messages go out at once, and a peer that vanished is noticed even while nothing is being sent: the
/// kernel's keepalive does not count as an HTTP/2 ping.
fn tune(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(10));
    // A connection without these options still works.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

impl<T> BoxedStream for T where T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send {}
