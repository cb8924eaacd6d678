//! A cluster of simulated nodes with a clock, certificates, and a way to find each other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::model::{Cluster, ClusterSpec, Effect, Fate};
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
        })))
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
        let result = f(&mut lock(&self.0.cluster), now());
        self.notify();
        result
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
