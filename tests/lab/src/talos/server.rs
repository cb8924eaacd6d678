//! The API of simulated nodes: TLS, HTTP/2, and who may do what where.

mod cosi;
mod files;
mod lifecycle;
mod machine;
mod other;
mod route;
mod stream;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use self::route::NodeApi;
use super::model::{Api, Cluster};
use super::pki::{self, PkiError};
use super::role::Role;
use super::simulation::Simulation;

/// The port of the API.
pub const PORT: u16 = 50000;
/// How long a client may take for TLS.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The port is free again a moment after a node went down; tried this often.
const BIND_AGAIN: Duration = Duration::from_millis(50);

/// What a node is while it serves without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    api: Api,
    boots: u64,
    /// Nobody answers, but connections are taken.
    is_dead: bool,
}

impl Simulation {
    /// Serves the API of a node, first on `listener` and after each reboot on its address again. It never returns
    /// while there is such a node.
    ///
    /// # Errors
    ///
    /// When the address cannot be taken again, or certificates cannot be made.
    pub async fn serve(&self, node: &str, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        let mut listener = Some(listener);
        loop {
            let up =
                |cluster: &Cluster| session(cluster, node).is_none_or(|session| session.api != Api::Down);
            // A node that is down has nobody listening.
            if !self.look(up) {
                listener = None;
                self.until(up).await;
            }
            let Some(session) = self.look(|cluster| session(cluster, node)) else { return Ok(()) };
            let bound = match listener.take() {
                Some(bound) => bound,
                None => bind(address).await?,
            };
            let acceptor = Acceptor { simulation: self.clone(), node: node.to_owned(), session };
            let over = |cluster: &Cluster| self::session(cluster, node) != Some(session);
            tokio::select! {
                () = silence(&bound), if session.is_dead => {}
                result = acceptor.accept(&bound), if !session.is_dead => result?,
                () = self.until(over) => {}
            }
            // From maintenance to running there is no break.
            listener = Some(bound);
        }
    }
}

fn session(cluster: &Cluster, node: &str) -> Option<Session> {
    let node = cluster.node(node).ok()?;
    Some(Session { api: node.api(), boots: node.boots(), is_dead: node.is_dead() })
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(BIND_AGAIN).await,
            result => return result,
        }
    }
}

/// Takes connections, and says nothing.
async fn silence(listener: &TcpListener) {
    let mut connections = Vec::new();
    loop {
        connections.extend(listener.accept().await);
    }
}

/// Takes connections of one session. With it go all of them.
struct Acceptor {
    simulation: Simulation,
    node: String,
    session: Session,
}

impl Acceptor {
    async fn accept(&self, listener: &TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        // The console shows the fingerprint before anybody comes.
        let (hostname, mut names) = self.names();
        let mut tls = Some(self.tls(&hostname, names.clone()).map_err(io::Error::other)?);
        loop {
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                Some(_ended) = connections.join_next() => continue,
            };
            // What comes of a client that is gone already is no trouble of ours.
            let Ok((stream, _)) = stream else { continue };
            let (hostname, current) = self.names();
            let config = match tls.take() {
                Some(config) if names == current => config,
                _ => {
                    names = current;
                    self.tls(&hostname, names.clone()).map_err(io::Error::other)?
                }
            };
            tls = Some(config.clone());
            let api = NodeApi::new(self.simulation.clone(), &self.node, self.session.api);
            connections.spawn(serve(stream, TlsAcceptor::from(config), api));
        }
    }

    fn names(&self) -> (String, Vec<String>) {
        let names = |cluster: &Cluster| {
            let node = cluster.node(&self.node)?;
            Ok::<_, super::model::Refusal>((node.hostname().to_owned(), node.cert_sans()))
        };
        self.simulation.look(names).unwrap_or_default()
    }

    fn tls(&self, hostname: &str, names: Vec<String>) -> Result<Arc<ServerConfig>, PkiError> {
        if self.session.api != Api::Maintenance {
            return self.simulation.pki().server(hostname, names);
        }
        let (config, fingerprint) = pki::maintenance(names)?;
        self.simulation.set_fingerprint(&self.node, fingerprint);
        Ok(config)
    }
}

/// Serves one connection until it ends.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, api: NodeApi) {
    let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    let roles = certificates.and_then(<[_]>::first).map(|first| Role::of_certificate(first));
    let api = api.for_client(roles.unwrap_or_default());
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    // However it ends, it ends.
    let _result = connection.await;
}
