//! A lab, seen from the program that uses it.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::{Attempt as _, LabError};
use crate::node::Node;
use crate::protocol::{Answer, Cut, LinkName, Request, ShapeCounters, View};
use crate::sandbox::Sandbox;
use crate::topology::{Family, Shape, Site, Topology};
use crate::wire::{self, Frames};

/// How long a lab may take to be built.
const BUILD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long any other step may take.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Describes a lab that is to be made.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    topology: Topology,
    program: Option<PathBuf>,
}

impl Builder {
    /// Adds a site.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.topology.sites.push(site);
        self
    }

    /// Starts from a whole topology.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Configures the nodes with endpoints of this family.
    #[must_use]
    pub fn underlay(mut self, family: Family) -> Self {
        self.topology.underlay = family;
        self
    }

    /// Sets the MTU of the mesh interface.
    #[must_use]
    pub fn mesh_mtu(mut self, mtu: u16) -> Self {
        self.topology.mesh_mtu = Some(mtu);
        self
    }

    /// Sets where the chance of shaped links comes from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.topology.seed = seed;
        self
    }

    /// Uses another program for the processes of the lab than this one. It must call
    /// [`reenter`](crate::reenter). Test binaries need this, whose `main` is not theirs.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Makes the lab. It is built and its daemons are started when this returns; they may not be connected yet.
    ///
    /// # Errors
    /// [`LabError::Refused`] where this machine does not let us, and others.
    pub async fn up(self) -> Result<Lab, LabError> {
        self.up_with(|_| {}).await
    }

    /// Makes the lab and tells `progress` what is done.
    ///
    /// # Errors
    /// Those of [`Self::up`].
    pub async fn up_with(self, progress: impl FnMut(&str)) -> Result<Lab, LabError> {
        self.topology.check()?;
        let program = match self.program {
            Some(program) => program,
            None => std::env::current_exe().attempt(|| "find our own executable".to_owned())?,
        };
        let lab = Lab { sandbox: Arc::new(Sandbox::start(&program)?) };
        lab.build(self.topology, progress).await?;
        Ok(lab)
    }
}

/// A lab. It ends when this is dropped, unless it runs in the background.
#[derive(Debug)]
pub struct Lab {
    pub(crate) sandbox: Arc<Sandbox>,
}

impl Lab {
    /// Describes a lab that is to be made.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Builds what `topology` describes, in a sandbox that is empty.
    pub(crate) async fn build(
        &self,
        topology: Topology,
        mut progress: impl FnMut(&str),
    ) -> Result<(), LabError> {
        let mut asked = Asked::start(&self.sandbox, Request::Build(topology), &[]).await?;
        within(BUILD_TIMEOUT, "the lab to be built", async {
            loop {
                match asked.next().await? {
                    Answer::Progress(text) => progress(&text),
                    _done => return Ok(()),
                }
            }
        })
        .await
    }

    /// The lab as it is now.
    ///
    /// # Errors
    /// [`LabError::Gone`].
    pub async fn view(&self) -> Result<View, LabError> {
        match ask(&self.sandbox, Request::View).await? {
            Answer::View(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    /// The node `name`. Whether there is one shows when it is used.
    pub fn node(&self, name: &str) -> Node {
        Node { sandbox: Arc::clone(&self.sandbox), name: name.to_owned() }
    }

    /// The link of the node `name` to its LAN.
    pub fn link(&self, name: &str) -> LinkHandle {
        LinkHandle { sandbox: Arc::clone(&self.sandbox), link: LinkName::Node(name.to_owned()) }
    }

    /// The link of the site `name` to the internet.
    pub fn uplink(&self, name: &str) -> LinkHandle {
        LinkHandle { sandbox: Arc::clone(&self.sandbox), link: LinkName::Uplink(name.to_owned()) }
    }

    /// Cuts something off: packets vanish, everything else stays.
    ///
    /// # Errors
    /// [`LabError::Unknown`], and those of nftables.
    pub async fn cut(&self, what: Cut) -> Result<(), LabError> {
        ask(&self.sandbox, Request::Cut { what, cut: true }).await.map(drop)
    }

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// Those of [`Self::cut`].
    pub async fn heal(&self, what: Cut) -> Result<(), LabError> {
        ask(&self.sandbox, Request::Cut { what, cut: false }).await.map(drop)
    }

    /// Waits until the ichord of every member has agreed on keys with all those with which it can.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] names a node, and shows its status.
    pub async fn until_connected(&self) -> Result<(), LabError> {
        for node in self.view().await?.nodes.iter().filter(|node| node.member) {
            let peers: Vec<&str> = node.peers.iter().map(String::as_str).collect();
            self.node(&node.name).until_connected(&peers).await?;
        }
        Ok(())
    }

    /// Ends the lab and returns when everything in it is gone.
    ///
    /// # Errors
    /// [`LabError::TimedOut`].
    pub async fn down(self) -> Result<(), LabError> {
        self.sandbox.end().await
    }
}

/// A link of a lab.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    sandbox: Arc<Sandbox>,
    link: LinkName,
}

impl LinkHandle {
    /// Shapes the link anew. It must have been made with a shape.
    ///
    /// # Errors
    /// [`LabError::Topology`] for values that mean nothing, [`LabError::Failed`] for a link without shape.
    pub async fn set(&self, shape: Shape) -> Result<(), LabError> {
        shape.check()?;
        ask(&self.sandbox, Request::Shape { link: self.link.clone(), shape }).await.map(drop)
    }

    /// What the link did so far.
    ///
    /// # Errors
    /// [`LabError::Failed`] for a link without shape.
    pub async fn counters(&self) -> Result<ShapeCounters, LabError> {
        match ask(&self.sandbox, Request::ShapeCounters { link: self.link.clone() }).await? {
            Answer::ShapeCounters(counters) => Ok(counters),
            other => Err(unexpected(&other)),
        }
    }
}

/// A request that was sent, and its answers.
#[derive(Debug)]
pub(crate) struct Asked {
    sandbox: Arc<Sandbox>,
    answers: Frames<OwnedReadHalf>,
    pub(crate) more: OwnedWriteHalf,
}

impl Asked {
    pub(crate) async fn start(
        sandbox: &Arc<Sandbox>,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self, LabError> {
        let (answers, mut more) = match sandbox.open(fds) {
            Ok(stream) => stream.into_split(),
            Err(_closed) => return Err(sandbox.epitaph().await),
        };
        if wire::send(&mut more, &request).await.is_err() {
            return Err(sandbox.epitaph().await);
        }
        Ok(Self { sandbox: Arc::clone(sandbox), answers: Frames::new(answers), more })
    }

    /// The next answer.
    pub(crate) async fn next(&mut self) -> Result<Answer, LabError> {
        match self.answers.next().await {
            Ok(Some(Answer::Failed(error))) => Err(error),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(self.sandbox.epitaph().await),
        }
    }
}

/// Sends a request that has one answer.
pub(crate) async fn ask(sandbox: &Arc<Sandbox>, request: Request) -> Result<Answer, LabError> {
    let awaited = format!("an answer to {}", name_of(&request));
    let mut asked = Asked::start(sandbox, request, &[]).await?;
    within(STEP_TIMEOUT, &awaited, asked.next()).await
}

/// The name of a request; what it carries may be long.
fn name_of(request: &Request) -> String {
    let debug = format!("{request:?}");
    debug.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

pub(crate) fn unexpected(answer: &Answer) -> LabError {
    LabError::Gone(format!("it gave an unexpected answer: {answer:?}"))
}

/// Bounds `work` in time.
pub(crate) async fn within<T>(
    limit: Duration,
    awaited: &str,
    work: impl Future<Output = Result<T, LabError>>,
) -> Result<T, LabError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(LabError::TimedOut { awaited: awaited.to_owned(), after: limit }),
    }
}
