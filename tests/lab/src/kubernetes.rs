//! A simulated Kubernetes API of a simulated cluster: what a rollout sees of Kubernetes.
//!
//! Each control plane node can serve it, on loopback, with mTLS; it answers only while that node runs and etcd has a
//! quorum. Nodes are those of the [`Simulation`], ready when Talos says so; pods are those that a test adds.

mod store;

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub use self::store::Pod;
use self::store::{Ask, Seen, Store};
use crate::talos::Simulation;
use crate::talos::model::{Api, Cluster, MachineType, Node, Stage};

/// Larger bodies are refused.
const MAX_BODY_BYTES: usize = 1 << 20;
/// How many requests are remembered.
const MAX_REQUESTS: usize = 1000;

/// Whether the API is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    Answers,
    /// It takes requests and does not answer.
    Silent,
    /// It answers, but what it needs does not: status 503.
    Unable,
    /// Nobody listens.
    Off,
}

/// The Kubernetes API of a cluster. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Kubernetes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    simulation: Simulation,
    store: Mutex<Store>,
    requests: Mutex<VecDeque<String>>,
    /// Nodes whose kubelets say nothing.
    silent: Mutex<BTreeSet<String>>,
    mode: watch::Sender<Mode>,
    /// The mode that the last request met.
    asked: watch::Sender<Option<Mode>>,
}

impl Kubernetes {
    /// The API of the nodes of `simulation`. Nobody serves it yet.
    pub fn new(simulation: Simulation) -> Self {
        Self(Arc::new(Shared {
            simulation,
            store: Mutex::default(),
            requests: Mutex::default(),
            silent: Mutex::default(),
            mode: watch::Sender::new(Mode::Answers),
            asked: watch::Sender::new(None),
        }))
    }

    /// Serves the API from a control plane node, on the address of `listener`, whenever that node can. The first to do
    /// so is the server of the kubeconfig that Talos gives. It never returns by itself.
    ///
    /// # Errors
    ///
    /// When the address cannot be taken again, or certificates cannot be made.
    pub async fn serve(&self, node: &str, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        self.0.simulation.set_kubernetes(address);
        let mut listener = Some(listener);
        loop {
            if !self.is_up(node) {
                listener = None;
                self.until(|| self.is_up(node)).await;
            }
            let bound = match listener.take() {
                Some(bound) => bound,
                None => TcpListener::bind(address).await?,
            };
            let names = |cluster: &Cluster| cluster.node(node).map(Node::cert_sans);
            let names = self.0.simulation.look(names).unwrap_or_default();
            let tls = self.0.simulation.pki().server(node, names).map_err(io::Error::other)?;
            let acceptor = TlsAcceptor::from(tls);
            tokio::select! {
                result = self.accept(&bound, &acceptor) => result?,
                () = self.until(|| !self.is_up(node)) => {}
            }
        }
    }

    /// Changes whether it answers.
    pub fn switch(&self, mode: Mode) {
        self.0.mode.send_replace(mode);
    }

    /// Silences the kubelet of a node, which is not ready then, or lets it speak again.
    pub fn silence(&self, node: &str, is_silent: bool) {
        let mut silent = lock(&self.0.silent);
        if is_silent {
            silent.insert(node.to_owned());
        } else {
            silent.remove(node);
        }
    }

    /// Adds a pod, or replaces the one of its name by another.
    pub fn add_pod(&self, pod: &Pod) {
        lock(&self.0.store).add_pod(pod);
    }

    /// The names of the pods on a node.
    pub fn pods_on(&self, node: &str) -> Vec<String> {
        lock(&self.0.store).pods_on(node)
    }

    /// A node as the API gives it.
    pub fn node(&self, name: &str) -> Value {
        let path = format!("/api/v1/nodes/{name}");
        self.answer(&Ask { method: "GET", path: &path, query: "", body: b"" }).1
    }

    /// Cordons a node as an operator does by hand.
    pub fn cordon(&self, name: &str) {
        let path = format!("/api/v1/nodes/{name}");
        let body = br#"{"spec": {"unschedulable": true}}"#;
        self.answer(&Ask { method: "PATCH", path: &path, query: "", body });
    }

    /// Waits until a request was met in this mode.
    pub async fn until_asked(&self, mode: Mode) {
        let mut asked = self.0.asked.subscribe();
        // It ends with the simulation.
        let _ended = asked.wait_for(|asked| *asked == Some(mode)).await;
    }

    /// A lease.
    pub fn lease(&self, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.0.store).lease(namespace, name).cloned()
    }

    /// Writes a lease as if somebody else had, or deletes it.
    pub fn set_lease(&self, namespace: &str, name: &str, lease: Option<Value>) {
        lock(&self.0.store).set_lease(namespace, name, lease);
    }

    /// The requests so far, such as `GET /api/v1/nodes`, without queries.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.0.requests).iter().cloned().collect()
    }

    /// Waits until `is` is so: looked at again after each change of the simulation or of the mode.
    async fn until(&self, is: impl Fn() -> bool) {
        let (mut changes, mut modes) = (self.0.simulation.changes(), self.0.mode.subscribe());
        loop {
            changes.borrow_and_update();
            modes.borrow_and_update();
            if is() {
                return;
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = modes.changed() => {}
            }
        }
    }

    fn is_up(&self, node: &str) -> bool {
        let runs = |cluster: &Cluster| {
            let node = cluster.node(node);
            let runs = |node: &Node| {
                node.api() == Api::Running
                    && node.stage() == Stage::Running
                    && node.machine_type() == Some(MachineType::ControlPlane)
            };
            node.is_ok_and(runs) && cluster.etcd().has_quorum()
        };
        *self.0.mode.borrow() != Mode::Off && self.0.simulation.look(runs)
    }

    /// Takes connections. With it go all of them.
    async fn accept(&self, listener: &TcpListener, acceptor: &TlsAcceptor) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            connections.spawn(self.clone().connection(stream, acceptor.clone()));
        }
    }

    async fn connection(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(move |request| {
            let api = self.clone();
            async move { Ok::<_, Infallible>(api.respond(request).await) }
        });
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        // However it ends, it ends.
        let _result = connection.await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let mut modes = self.0.mode.subscribe();
        self.0.asked.send_replace(Some(*self.0.mode.borrow()));
        // It ends with the simulation.
        let mode = modes.wait_for(|mode| *mode != Mode::Silent).await.map_or(Mode::Off, |mode| *mode);
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let (code, object) = match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(_) if mode == Mode::Unable => {
                store::failure(503, "ServiceUnavailable", "etcdserver: request timed out")
            }
            Ok(body) => {
                let mut requests = lock(&self.0.requests);
                requests.push_back(format!("{method} {path}"));
                let excess = requests.len().saturating_sub(MAX_REQUESTS);
                requests.drain(..excess);
                drop(requests);
                let query = parts.uri.query().unwrap_or_default();
                self.answer(&Ask { method, path, query, body: &body.to_bytes() })
            }
            Err(_) => store::failure(413, "RequestEntityTooLarge", "request is too large"),
        };
        let mut response = Response::new(Full::new(Bytes::from(object.to_string())));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }

    fn answer(&self, ask: &Ask<'_>) -> store::Answer {
        let mut nodes = self.0.simulation.look(nodes);
        let silent = lock(&self.0.silent);
        nodes.iter_mut().for_each(|node| node.is_ready &= !silent.contains(&node.name));
        drop(silent);
        let mut store = lock(&self.0.store);
        store.observe(nodes);
        store.answer(ask)
    }
}

/// The nodes that are part of the cluster.
fn nodes(cluster: &Cluster) -> Vec<Seen> {
    let nodes = cluster.names().filter_map(|name| cluster.node(name).ok());
    let members = nodes.filter_map(|node| Some((node, node.machine_type()?)));
    let seen = |(node, machine_type): (&Node, MachineType)| Seen {
        name: node.hostname().to_owned(),
        is_ready: node.api() == Api::Running && node.stage() == Stage::Running && node.is_ready(),
        is_control_plane: machine_type == MachineType::ControlPlane,
        addresses: node.addresses().iter().map(|(_, net)| net.addr().to_string()).collect(),
        boot_id: node.boot_id(),
    };
    members.map(seen).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
