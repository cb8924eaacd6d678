//! What this node serves on its own addresses: metrics, and answers to DNS questions if that is configured.
//!
//! Each listens on one address and ends with it. A port that is taken is a problem, tried again, and stops nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dns::Zone;
use crate::metrics;
use crate::status::Status;

/// Clients of one listener that are served at once.
const MAX_CLIENTS: usize = 16;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of an HTTP request that is read.
const MAX_HEAD: usize = 8 << 10;
/// Longest DNS request that is read: there are questions only.
const MAX_QUESTION: usize = 4 << 10;
/// Wait after an accept that failed: no descriptors, mostly.
const RECOVER: Duration = Duration::from_millis(100);

/// What is served.
#[derive(Debug)]
pub(super) struct View {
    /// The status.
    pub(super) status: Status,
    /// The names, if questions about them are answered.
    pub(super) zone: Option<Zone>,
}

/// What listens on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// HTTP, for `/metrics`.
    Metrics,
    /// DNS, over UDP and TCP.
    Dns,
}

/// Everything that listens.
#[derive(Debug)]
pub(super) struct Services {
    view: watch::Receiver<Arc<View>>,
    running: BTreeMap<(Kind, SocketAddr), Running>,
}

/// Tasks that end when they are let go.
#[derive(Debug)]
struct Running(Vec<JoinHandle<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Services {
    pub(super) fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, running: BTreeMap::new() }
    }

    /// Listens on exactly the `wanted` addresses.
    ///
    /// # Errors
    /// What could not be listened on; the others are.
    pub(super) async fn ensure(&mut self, wanted: &BTreeSet<(Kind, SocketAddr)>) -> anyhow::Result<()> {
        self.running
            .retain(|key, Running(tasks)| wanted.contains(key) && !tasks.iter().any(JoinHandle::is_finished));
        let mut failures = Vec::new();
        for (kind, address) in wanted {
            if self.running.contains_key(&(*kind, *address)) {
                continue;
            }
            match self.start(*kind, *address).await {
                Ok(tasks) => {
                    tracing::info!(?kind, %address, "serving");
                    self.running.insert((*kind, *address), Running(tasks));
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(())
    }

    async fn start(&self, kind: Kind, address: SocketAddr) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let view = &self.view;
        match kind {
            Kind::Metrics => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("failed to serve metrics on {address}"))?;
                Ok(vec![tokio::spawn(accept(listener, view.clone(), serve_http))])
            }
            Kind::Dns => {
                let what = || format!("failed to serve names on {address}");
                let udp = UdpSocket::bind(address).await.with_context(what)?;
                let tcp = TcpListener::bind(address).await.with_context(what)?;
                Ok(vec![
                    tokio::spawn(answer_datagrams(udp, view.clone())),
                    tokio::spawn(accept(tcp, view.clone(), serve_dns)),
                ])
            }
        }
    }
}

/// Serves one client after the other, some at once.
async fn accept<F>(
    listener: TcpListener,
    view: watch::Receiver<Arc<View>>,
    serve: impl Fn(TcpStream, watch::Receiver<Arc<View>>) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let serving = timeout(PATIENCE, serve(client, view.clone()));
                tokio::spawn(async move {
                    // A client that goes away, or takes too long, is its own concern.
                    let _ = serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a client failed");
                tokio::time::sleep(RECOVER).await;
            }
        }
    }
}

/// Answers one HTTP request and closes.
async fn serve_http(mut client: TcpStream, view: watch::Receiver<Arc<View>>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = client.read(&mut buffer).await?;
        if len == 0 || head.len() > MAX_HEAD {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..len]);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET" | b"HEAD"), Some(b"/metrics")) => {
            let view = view.borrow().clone();
            ("200 OK", metrics::render(&view.status))
        }
        (Some(b"GET" | b"HEAD"), _) => ("404 Not Found", "there is only /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let len = body.len();
    let head_only = line.starts_with(b"HEAD");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{}",
        if head_only { "" } else { &body }
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Answers the DNS questions of one TCP client (RFC 1035 section 4.2.2).
async fn serve_dns(mut client: TcpStream, view: watch::Receiver<Arc<View>>) -> io::Result<()> {
    loop {
        let len = usize::from(client.read_u16().await?);
        if len > MAX_QUESTION {
            return Ok(());
        }
        let mut question = vec![0; len];
        client.read_exact(&mut question).await?;
        let answer = view.borrow().zone.as_ref().and_then(|zone| zone.answer(&question));
        let Some(answer) = answer else { return Ok(()) };
        let Ok(len) = u16::try_from(answer.len()) else { return Ok(()) };
        client.write_u16(len).await?;
        client.write_all(&answer).await?;
    }
}

async fn answer_datagrams(socket: UdpSocket, view: watch::Receiver<Arc<View>>) {
    let mut question = vec![0; MAX_QUESTION];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((len, from)) => {
                let answer = view.borrow().zone.as_ref().and_then(|zone| zone.answer(&question[..len]));
                if let Some(answer) = answer {
                    // Who cannot be reached asks again.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "receiving a question failed");
                tokio::time::sleep(RECOVER).await;
            }
        }
    }
}
