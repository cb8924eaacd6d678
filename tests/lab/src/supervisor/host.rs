//! A set of namespaces, and the thread that lives in it.
//!
//! A thread can have network, mount and host name namespaces of its own. What it opens, it opens there, and the
//! processes it starts live there. So everything that concerns a node or router is a job for its thread.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use tokio::sync::{mpsc, oneshot};

use super::root;
use crate::error::{Attempt as _, LabError};
use crate::net::link::Links;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
/// A job: it is made into a future on the thread, so the future need not be `Send`.
type Job = Box<dyn FnOnce(Links) -> LocalFuture + Send>;

/// A handle to the thread. The thread and its namespaces end with the last handle, once no process is left.
#[derive(Clone)]
pub(crate) struct Host {
    jobs: mpsc::UnboundedSender<Job>,
    network: Arc<OwnedFd>,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It forwards packets.
    Router,
    /// It has files of its own.
    Node,
}

impl Host {
    /// Makes the namespaces of a host called `name` and starts its thread.
    pub(crate) async fn start(name: &str, role: Role) -> Result<Self, LabError> {
        let what = format!("start the host {name}");
        let (ready_sender, ready) = oneshot::channel();
        let (jobs, receiver) = mpsc::unbounded_channel();
        let host_name = name.to_owned();
        std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || live(&host_name, role, ready_sender, receiver))
            .attempt(|| what.clone())?;
        let network = ready.await.attempt(|| what)??;
        Ok(Self { jobs, network: Arc::new(network) })
    }

    /// Runs `f` in the namespaces and returns what it gives. Jobs of a host may run side by side.
    pub(crate) async fn run<R, F>(&self, f: impl FnOnce(Links) -> F + Send + 'static) -> Result<R, LabError>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, LabError>> + 'static,
    {
        let (sender, result) = oneshot::channel();
        let job: Job = Box::new(move |links| {
            let work = f(links);
            Box::pin(async move {
                let mut sender = sender;
                tokio::select! {
                    result = work => {
                        // Who asked may have gone away since.
                        let _ = sender.send(result);
                    }
                    // Nobody wants the result any more.
                    () = sender.closed() => {}
                }
            })
        });
        let gone = || LabError::Gone("a host's thread has ended".to_owned());
        self.jobs.send(job).map_err(|_closed| gone())?;
        result.await.map_err(|_closed| gone())?
    }

    /// The network namespace.
    pub(crate) fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }
}

fn live(
    name: &str,
    role: Role,
    ready: oneshot::Sender<Result<OwnedFd, LabError>>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let network = match enter(name, role) {
        Ok(network) => network,
        Err(error) => {
            // Nobody but the starter waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(LabError::failed("make a runtime", error)));
            return;
        }
    };
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let links = match prepare(role).await {
            Ok(links) => links,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        if ready.send(Ok(network)).is_err() {
            return;
        }
        while let Some(job) = jobs.recv().await {
            tokio::task::spawn_local(job(links.clone()));
        }
    });
}

/// Moves this thread into new namespaces; returns the network one.
fn enter(name: &str, role: Role) -> Result<OwnedFd, LabError> {
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    if role == Role::Node {
        flags |= CloneFlags::CLONE_NEWNS;
    }
    unshare(flags).attempt(|| format!("make the namespaces of {name}"))?;
    rustix::system::sethostname(name.as_bytes()).attempt(|| format!("set the host name {name}"))?;
    if role == Role::Node {
        root::furnish()?;
    }
    let network = File::open("/proc/thread-self/ns/net").attempt(|| "open the namespace".to_owned())?;
    Ok(network.into())
}

async fn prepare(role: Role) -> Result<Links, LabError> {
    // Addresses are ours to give, and none clashes: no advertisements, no waiting for duplicates.
    set("ipv6/conf/all/accept_ra", "0")?;
    set("ipv6/conf/default/accept_ra", "0")?;
    set("ipv6/conf/all/accept_dad", "0")?;
    set("ipv6/conf/default/accept_dad", "0")?;
    set("ipv6/conf/all/disable_ipv6", "0")?;
    set("ipv6/conf/default/disable_ipv6", "0")?;
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/default/rp_filter", "0")?;
    let forward = if role == Role::Router { "1" } else { "0" };
    set("ipv4/ip_forward", forward)?;
    set("ipv6/conf/all/forwarding", forward)?;
    if role == Role::Router {
        // Where the module is loaded, bridged frames would pass the rules of the router.
        for family in ["iptables", "ip6tables", "arptables"] {
            let _absent = set(&format!("bridge/bridge-nf-call-{family}"), "0");
        }
    }
    let links = Links::connect()?;
    links.set_up("lo").await?;
    Ok(links)
}

/// Sets a value below `/proc/sys/net` of this thread's namespace.
pub(crate) fn set(name: &str, value: &str) -> Result<(), LabError> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).attempt(|| format!("write {value} to {path}"))
}
