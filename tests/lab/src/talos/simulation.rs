//! A cluster of simulated nodes with a clock, certificates, and a way to find each other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::watch;

use super::model::{Cluster, ClusterSpec, Effect, Fate, Node};
use super::pki::{Pki, PkiError};
use super::role::Role;
use super::server::PORT;

/// Why there is no simulation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// A node does not take the config that is on its disk.
    #[error("failed to start a simulated node with its config: {0}")]
    Config(String),
    /// Certificates could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Where nodes find each other's API, by name and by address.
#[derive(Debug, Clone, Default)]
pub struct Directory(BTreeMap<String, SocketAddr>);

impl Directory {
    /// Adds a name or an address.
    pub fn add(&mut self, name: impl Into<String>, address: SocketAddr) {
        self.0.insert(name.into(), address);
    }

    /// Where `name` is. An address that was not added is where it says.
    pub(crate) fn find(&self, name: &str) -> Option<SocketAddr> {
        let known = self.0.get(name).copied();
        known.or_else(|| Some(SocketAddr::new(name.parse::<IpAddr>().ok()?, PORT)))
    }
}

/// A cluster that runs. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Simulation(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cluster: Mutex<Cluster>,
    pki: Pki,
    directory: Mutex<Directory>,
    fingerprints: Mutex<BTreeMap<String, String>>,
    kubernetes: Mutex<Option<SocketAddr>>,
    changed: watch::Sender<u64>,
    calls: Mutex<VecDeque<Call>>,
    witnesses: Mutex<Witnesses>,
    links: Mutex<Links>,
}

/// Connections between nodes: from which one, to whom by which name, and where that is.
pub(crate) type Links = HashMap<(String, String, SocketAddr), SendRequest<Incoming>>;

/// How many calls are remembered.
const MAX_CALLS: usize = 10_000;

/// A call that came to a node and may change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The node.
    pub node: String,
    /// The method, such as `Reboot`.
    pub method: String,
    /// Whether the node was trying a config when it came.
    pub on_trial: bool,
}

/// Somebody who sees each change.
type Witness = Box<dyn FnMut(&Cluster) + Send>;

#[derive(Default)]
struct Witnesses(Vec<Witness>);

impl fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witnesses({})", self.0.len())
    }
}

impl Simulation {
    /// A cluster whose nodes all run. Nobody serves their APIs yet.
    ///
    /// # Errors
    ///
    /// When a node would not take its own config.
    pub fn new(spec: ClusterSpec) -> Result<Self, SimulationError> {
        let cluster = Cluster::new(spec, now()).map_err(SimulationError::Config)?;
        Ok(Self(Arc::new(Shared {
            cluster: Mutex::new(cluster),
            pki: Pki::new()?,
            directory: Mutex::default(),
            fingerprints: Mutex::default(),
            kubernetes: Mutex::default(),
            changed: watch::Sender::new(0),
            calls: Mutex::default(),
            witnesses: Mutex::default(),
            links: Mutex::default(),
        })))
    }

    /// Tells the nodes one more name or address under which they find one of them.
    pub fn add_to_directory(&self, name: impl Into<String>, address: SocketAddr) {
        lock(&self.0.directory).add(name, address);
    }

    /// Tells the nodes where they find each other.
    pub fn set_directory(&self, directory: Directory) {
        *lock(&self.0.directory) = directory;
    }

    /// A talosconfig of somebody with `roles`.
    ///
    /// # Errors
    ///
    /// When the certificate in it cannot be made.
    pub fn talosconfig(
        &self,
        roles: &[Role],
        endpoints: &[String],
        nodes: &[String],
    ) -> Result<String, SimulationError> {
        Ok(self.0.pki.talosconfig("lab", roles, endpoints, nodes)?)
    }

    /// What a node in maintenance mode shows on its console: the fingerprint of its certificate.
    pub fn fingerprint(&self, node: &str) -> Option<String> {
        lock(&self.0.fingerprints).get(node).cloned()
    }

    pub(crate) fn set_fingerprint(&self, node: &str, fingerprint: String) {
        lock(&self.0.fingerprints).insert(node.to_owned(), fingerprint);
        self.notify();
    }

    /// Where the Kubernetes API is served, if anybody serves it. The first who says so is believed.
    pub(crate) fn set_kubernetes(&self, address: SocketAddr) {
        lock(&self.0.kubernetes).get_or_insert(address);
    }

    pub(crate) fn kubernetes(&self) -> Option<SocketAddr> {
        *lock(&self.0.kubernetes)
    }

    /// Changes something; whoever waits for changes looks again.
    pub fn change<R>(&self, f: impl FnOnce(&mut Cluster, Duration) -> R) -> R {
        let mut cluster = lock(&self.0.cluster);
        let result = f(&mut cluster, now());
        lock(&self.0.witnesses).0.iter_mut().for_each(|witness| witness(&cluster));
        drop(cluster);
        self.notify();
        result
    }

    /// Shows the cluster to `witness` after each change, none left out, before anybody else sees it. It must not use
    /// the simulation itself.
    pub fn witness(&self, witness: impl FnMut(&Cluster) + Send + 'static) {
        lock(&self.0.witnesses).0.push(Box::new(witness));
    }

    /// The last 10,000 calls that may change something, in the order in which they came to their nodes.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.0.calls).iter().cloned().collect()
    }

    /// Remembers a call to a node.
    pub(crate) fn record(&self, node: &str, method: &str) {
        let on_trial = self.look(|cluster| cluster.node(node).is_ok_and(Node::is_on_trial));
        let mut calls = lock(&self.0.calls);
        if calls.len() == MAX_CALLS {
            calls.pop_front();
        }
        calls.push_back(Call { node: node.to_owned(), method: method.to_owned(), on_trial });
    }

    /// Looks at the cluster.
    pub fn look<R>(&self, f: impl FnOnce(&Cluster) -> R) -> R {
        f(&lock(&self.0.cluster))
    }

    /// What becomes of a call to a node.
    pub(crate) fn fate(&self, node: &str, method: &str) -> Fate {
        // Nobody waits for faults to be used up.
        lock(&self.0.cluster).fate(node, method, now())
    }

    /// What the world has to do since the last time.
    pub fn effects(&self) -> Vec<Effect> {
        lock(&self.0.cluster).effects()
    }

    /// Told of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Waits until `is` says so.
    pub async fn until(&self, is: impl Fn(&Cluster) -> bool) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if self.look(&is) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Lets time pass in the model, as long as this is polled.
    pub async fn run(&self) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let rest = self.look(Cluster::deadline).map(|deadline| deadline.saturating_sub(now()));
            match rest {
                Some(rest) if rest.is_zero() => self.change(Cluster::tick),
                Some(rest) => {
                    // A change may bring a sooner deadline.
                    let _either = tokio::time::timeout(rest, changes.changed()).await;
                }
                None => drop(changes.changed().await),
            }
        }
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.0.pki
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.0.links)
    }

    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        lock(&self.0.directory)
    }

    fn notify(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
