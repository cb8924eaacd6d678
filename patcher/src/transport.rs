//! Connections to the Talos API.
//!
//! A [`Pool`] has the endpoints of a cluster, each with at most one connection. A call takes the next endpoint in
//! rotation; one that cannot be connected is skipped, and costs its own timeout once: whoever else wants it waits
//! for the same attempt, and it rests for a while afterwards. What was tried and failed is kept for the message.
//!
//! Which node a call is for is not decided here: any control plane endpoint forwards to any node.

mod dial;
mod endpoint;
mod error;
mod link;
mod proxy;
mod ssh;
mod tls;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use dial::{Dialer, Route};
pub use endpoint::{API_PORT, Endpoint, EndpointError};
pub use error::{ConnectError, Unreachable};
pub(crate) use link::Closed;
pub use link::Link;
pub use proxy::{Proxy, ProxyError, ProxyRules};
pub use ssh::{Jump, JumpError};
pub use tls::{Fingerprint, FingerprintError, TlsProblem, maintenance, mutual};

/// How long one endpoint may take to be connected.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The same through ssh, where somebody may have to type a password.
pub const CONNECT_TIMEOUT_VIA: Duration = Duration::from_secs(60);

/// An endpoint that failed is tried after all others for this long.
const REST: Duration = Duration::from_secs(10);

/// A bidirectional stream of bytes, whatever carries it.
pub(crate) trait BoxedStream: AsyncRead + AsyncWrite + Send {}
pub(crate) type ByteStream = Pin<Box<dyn BoxedStream>>;

/// The endpoints of a cluster and the connections to them.
#[derive(Debug)]
pub struct Pool {
    dialer: Dialer,
    members: Vec<Member>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    slot: Mutex<Slot>,
}

#[derive(Debug)]
enum Slot {
    Idle,
    Up(Link),
    Down { since: Instant, error: Arc<ConnectError> },
}

/// How soon an endpoint is worth trying.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Ready,
    Busy,
    Avoided,
    Resting,
}

/// One call's search for a connection: what it tried so far, and why that failed.
#[derive(Debug)]
pub struct Search {
    started: Instant,
    first: usize,
    attempts: Vec<(Endpoint, Arc<ConnectError>)>,
    /// Endpoints whose connection had ended before it carried the call. Each gets a second chance.
    closed: Vec<Endpoint>,
}

impl Pool {
    /// Makes a pool. Nothing is connected yet. The rotation starts at `first`, so that many short-lived clients
    /// can spread over the endpoints.
    pub fn new(dialer: Dialer, endpoints: Vec<Endpoint>, first: usize) -> Self {
        let members = endpoints.into_iter().map(|endpoint| Member { endpoint, slot: Mutex::new(Slot::Idle) });
        Self { dialer, members: members.collect(), next: AtomicUsize::new(first) }
    }

    /// The endpoints, in the order in which they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// Starts the search for a connection for one call.
    pub fn search(&self) -> Search {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        Search { started: Instant::now(), first, attempts: Vec::new(), closed: Vec::new() }
    }

    /// The next connection for a call. Endpoints on the hosts `avoid` come after the others: a node that is about
    /// to reboot is a bad way to the rest.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] when every endpoint was tried in this search.
    pub async fn connect(&self, search: &mut Search, avoid: &[String]) -> Result<Link, Unreachable> {
        for member in self.order(search, avoid) {
            match self.open(member, search.started).await {
                Ok(link) => return Ok(link),
                Err(error) => search.attempts.push((member.endpoint.clone(), error)),
            }
        }
        Err(Unreachable { attempts: search.attempts.clone() })
    }

    /// Notes that `link` turned out to be dead before it carried the call, so that the search goes on elsewhere.
    pub async fn discard(&self, search: &mut Search, link: &Link, problem: Option<TlsProblem>) {
        for member in &self.members {
            let mut slot = member.slot.lock().await;
            if !matches!(&*slot, Slot::Up(current) if current.is_same(link)) {
                continue;
            }
            let endpoint = member.endpoint.clone();
            let error = match problem {
                Some(problem) => ConnectError::Tls { endpoint: endpoint.clone(), problem },
                None if !search.closed.contains(&endpoint) => {
                    *slot = Slot::Idle;
                    search.closed.push(endpoint);
                    return;
                }
                None => ConnectError::Cut {
                    endpoint: endpoint.clone(),
                    source: io::ErrorKind::ConnectionReset.into(),
                },
            };
            let error = Arc::new(error);
            *slot = Slot::Down { since: Instant::now(), error: error.clone() };
            search.attempts.push((endpoint, error));
            return;
        }
    }

    /// Members that this search has not tried, those that are likely to work first.
    fn order(&self, search: &Search, avoid: &[String]) -> Vec<&Member> {
        let count = self.members.len().max(1);
        let rotated = self.members.iter().cycle().skip(search.first % count).take(self.members.len());
        let untried = rotated
            .filter(|member| !search.attempts.iter().any(|(endpoint, _)| *endpoint == member.endpoint));
        let mut order: Vec<_> = untried.map(|member| (member.turn(avoid), member)).collect();
        order.sort_by_key(|(turn, _)| *turn);
        order.into_iter().map(|(_, member)| member).collect()
    }

    /// The connection of one member, made if there is none. An attempt that failed while this search was waiting
    /// for it counts for this search too.
    async fn open(&self, member: &Member, started: Instant) -> Result<Link, Arc<ConnectError>> {
        let mut slot = member.slot.lock().await;
        match &*slot {
            Slot::Up(link) if link.is_open() => return Ok(link.clone()),
            Slot::Down { since, error } if *since >= started => return Err(error.clone()),
            Slot::Idle | Slot::Up(_) | Slot::Down { .. } => {}
        }
        match self.dialer.connect(&member.endpoint).await {
            Ok(link) => {
                *slot = Slot::Up(link.clone());
                Ok(link)
            }
            Err(error) => {
                let error = Arc::new(error);
                *slot = Slot::Down { since: Instant::now(), error: error.clone() };
                Err(error)
            }
        }
    }
}

impl Member {
    fn turn(&self, avoid: &[String]) -> Turn {
        if avoid.iter().any(|host| host == self.endpoint.host()) {
            return Turn::Avoided;
        }
        match self.slot.try_lock().as_deref() {
            Err(_) => Turn::Busy,
            Ok(Slot::Down { since, .. }) if since.elapsed() < REST => Turn::Resting,
            Ok(Slot::Idle | Slot::Up(_) | Slot::Down { .. }) => Turn::Ready,
        }
    }
}
