//! The process that does the work: brings everything in line with the configuration, and keeps it there.
//!
//! [`Worker::converge`] compares what should be with what is, part by part, and is called again after every
//! event: a changed file, a signal, a change in the kernel, an answered lookup, a failed attempt. Each part
//! that fails is a problem in the status and is tried again; none ends the process.

mod converge;
mod endpoints;
mod mail;
mod members;
mod names;
mod peers;
mod report;
mod rotation;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ichor_mesh::key::SecretKey;
use ichor_mesh::node::{Event, Node};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use self::endpoints::Endpoints;
use self::members::Members;
use self::names::{Name, Resolved};
use self::peers::Peers;
use self::report::{publish, serve_status};
pub use self::rotation::PRIVATE_KEY_MADE;
use self::rotation::Rotation;
use self::services::{Services, View};
use crate::config::Config;
use crate::driver::{Driver, DriverHandle, Mail, Stopped};
use crate::io::netlink::Netlink;
use crate::keeper::{self, Keeper};
use crate::random;
use crate::reconcile::Underlay;
use crate::status::{self, Status};
use crate::store::{Loaded, Store};

/// How often the configuration file is looked at. Talos mounts files anew, so a watch would miss changes.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the counters in the status file are brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before a part that failed is tried again; doubled up to the maximum while it fails.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// Endpoints that changed are saved at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

const LAST_GOOD: &str = "last-good-config";
const KEPT_UDP4: &str = "udp4";
const KEPT_UDP6: &str = "udp6";

/// Runs the worker until it is told to stop. `with_parent`: a parent keeps descriptors for us.
pub(crate) fn run(config: &Path, with_parent: bool) -> anyhow::Result<ExitCode> {
    // Whatever comes next, the status is there (spec: within one second of exec).
    publish(Path::new(status::RUNTIME_DIRECTORY), &Status::starting());
    let (keeper, kept) = if with_parent {
        let (keeper, kept) = Keeper::adopt().context("failed to hear from the parent")?;
        end_with_parent(&keeper)?;
        (Some(keeper), kept)
    } else {
        (None, BTreeMap::new())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (events_sender, events) = mpsc::channel(1024);
        let mut driver = Driver::new(Node::new(random::seed()), events_sender)?;
        let (mail_sender, mail) = mpsc::channel(1024);
        driver.set_mail_receiver(mail_sender);
        let (driver, end) = driver.spawn()?;
        let worker = Worker::new(config.to_owned(), driver, keeper, kept)?;
        worker.work(events, mail, end).await
    })
}

/// Without its parent a worker would hold the port and the interface against its successor.
fn end_with_parent(keeper: &Keeper) -> anyhow::Result<()> {
    let parent = keeper.parent()?;
    std::thread::Builder::new().name("parent-watch".into()).spawn(move || {
        keeper::wait_for_end(&parent);
        tracing::info!("the parent is gone");
        std::process::exit(1);
    })?;
    Ok(())
}

struct Worker {
    config_path: PathBuf,
    stamp: Option<Stamp>,
    config: Option<Config>,
    /// Of the file that `config` was read from.
    config_sha256: Option<String>,
    runtime_directory: PathBuf,
    driver: DriverHandle,
    keeper: Option<Keeper>,
    kept: BTreeMap<String, OwnedFd>,
    netlink: Option<Netlink>,
    kernel_notes: Option<mpsc::Receiver<()>>,
    applied: Applied,
    members: Option<Members>,
    view: watch::Sender<Arc<View>>,
    services: Services,
    rotation: Rotation,
    endpoints: Endpoints,
    /// They changed since they were left with the parent, and since they were saved.
    endpoints_moved: bool,
    endpoints_dirty: bool,
    resolved: Resolved,
    wanted_names: watch::Sender<BTreeSet<Name>>,
    lookups_failed: BTreeMap<Name, String>,
    problems: BTreeMap<&'static str, String>,
    retry: Duration,
}

/// What is in effect.
#[derive(Default)]
struct Applied {
    secret: Option<SecretKey>,
    interface: Option<String>,
    index: u32,
    listen_port: Option<u16>,
    fwmark: u32,
    peers: Peers,
    restored: bool,
    underlay: Underlay,
    /// The segments that the sockets listen on.
    segments: BTreeSet<u32>,
}

/// Tells whether a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    len: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { modified: metadata.modified().ok(), inode: metadata.ino(), len: metadata.len() }
    }
}

impl Worker {
    fn new(
        config_path: PathBuf,
        driver: DriverHandle,
        keeper: Option<Keeper>,
        kept: BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<Self> {
        let (view, receiver) = watch::channel(Arc::new(View { status: Status::starting(), zone: None }));
        Ok(Self {
            config_path,
            stamp: None,
            config: None,
            config_sha256: None,
            runtime_directory: PathBuf::from(status::RUNTIME_DIRECTORY),
            driver,
            keeper,
            kept,
            netlink: None,
            kernel_notes: None,
            applied: Applied::default(),
            members: None,
            view,
            services: Services::new(receiver),
            rotation: Rotation::default(),
            endpoints: Endpoints::default(),
            endpoints_moved: false,
            endpoints_dirty: false,
            resolved: Resolved::default(),
            wanted_names: watch::Sender::new(BTreeSet::new()),
            lookups_failed: BTreeMap::new(),
            problems: BTreeMap::new(),
            retry: FIRST_RETRY,
        })
    }

    async fn work(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut mail: mpsc::Receiver<Mail>,
        mut end: tokio::sync::oneshot::Receiver<Stopped>,
    ) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (answers_sender, mut answers) = mpsc::channel(64);
        tokio::spawn(names::run(self.wanted_names.subscribe(), answers_sender));
        serve_status(&self.runtime_directory, self.view.subscribe());
        let mut server = None;

        let mut look_at_file = tokio::time::interval(FILE_INTERVAL);
        look_at_file.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh_status = tokio::time::interval(STATUS_INTERVAL);
        refresh_status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at_members = tokio::time::interval(members::LOOK_INTERVAL);
        look_at_members.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.load_config();
        let mut converge_at = Some(Instant::now());
        let mut save_at = None;
        let mut save_members_at = None;
        let mut publish_soon = true;
        loop {
            if converge_at.is_some_and(|at| at <= Instant::now()) {
                converge_at = self.converge().await.map(|wait| Instant::now() + wait);
                publish_soon = true;
                if server.is_none() {
                    server = self.serve_uapi();
                }
            }
            if let Some(members) = &mut self.members {
                if std::mem::take(&mut members.changed) {
                    converge_at = Some(Instant::now());
                    continue;
                }
                if members.unsaved && save_members_at.is_none() {
                    save_members_at = Some(Instant::now() + members::SAVE_INTERVAL);
                }
            }
            // Before anybody sees it: a token that let this node in once does not do so again.
            if self.members.as_mut().is_some_and(|members| std::mem::take(&mut members.joined)) {
                self.save_members();
            }
            publish_soon |= self.note_proofs();
            if publish_soon {
                publish_soon = false;
                let snapshot = self.snapshot().await;
                publish(&self.runtime_directory, &snapshot);
                self.view.send_replace(Arc::new(View { status: snapshot, zone: self.zone() }));
            }
            let converge_now = Some(Instant::now());
            let members_due = self.members.as_ref().and_then(Members::deadline).map(Instant::from_std);
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    self.load_config();
                    converge_at = converge_now;
                }
                _ = look_at_file.tick() => if self.file_changed() {
                    self.load_config();
                    converge_at = converge_now;
                },
                _ = refresh_status.tick() => publish_soon = true,
                () = sleep_until(converge_at) => {}
                () = sleep_until(save_at) => {
                    save_at = None;
                    self.save_endpoints().await;
                }
                () = sleep_until(save_members_at) => {
                    save_members_at = None;
                    self.save_members();
                }
                () = sleep_until(members_due) => self.members_timeout().await,
                Some(first) = mail.recv() => {
                    self.take_mail(first).await;
                    while !self.has_news() && let Ok(next) = mail.try_recv() {
                        self.take_mail(next).await;
                    }
                }
                _ = look_at_members.tick() => self.look_at_members().await,
                Some(()) = next_note(&mut self.kernel_notes) => converge_at = converge_now,
                Some((name, answer)) = answers.recv() => if self.note_answer(name, answer) {
                    converge_at = converge_now;
                },
                Some(event) = events.recv() => {
                    self.note_event(event);
                    while let Ok(event) = events.try_recv() {
                        self.note_event(event);
                    }
                    self.send_for_members().await;
                    if std::mem::take(&mut self.endpoints_moved) {
                        self.leave_endpoints();
                        self.endpoints_dirty = true;
                        save_at = save_at.or_else(|| Some(Instant::now() + SAVE_INTERVAL));
                    }
                    publish_soon = true;
                }
                stopped = &mut end => match stopped {
                    // A fresh worker makes a fresh device.
                    Ok(Stopped::DeviceGone(error)) => return Err(error).context("the device was removed"),
                    Ok(Stopped::Asked) => break,
                    Err(_closed) => anyhow::bail!("the data plane failed"),
                },
            }
        }
        self.save_endpoints().await;
        self.save_members();
        self.driver.stop();
        Ok(ExitCode::SUCCESS)
    }

    // Configuration

    fn file_changed(&self) -> bool {
        let stamp = std::fs::metadata(&self.config_path).ok().map(|metadata| Stamp::of(&metadata));
        stamp != self.stamp
    }

    /// Reads the file. A bad one changes nothing: the last good one stays in effect, also over a restart.
    fn load_config(&mut self) {
        self.stamp = std::fs::metadata(&self.config_path).ok().map(|metadata| Stamp::of(&metadata));
        match Config::load(&self.config_path) {
            Ok((config, text)) => {
                self.problems.remove("config");
                let store = Store::new(config.state_directory.clone());
                if let Err(error) = store.save(LAST_GOOD, text.as_bytes()) {
                    self.note(
                        "state",
                        format!("failed to save to {}: {error}", config.state_directory.display()),
                    );
                } else {
                    self.problems.remove("state");
                }
                tracing::info!(file = %self.config_path.display(), "configuration read");
                self.config = Some(config);
                self.config_sha256 = Some(status::sha256(text.as_bytes()));
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                if self.config.is_none() {
                    self.config = last_good();
                }
                let consequence = if self.config.is_some() {
                    "the last good configuration stays in effect"
                } else {
                    "waiting"
                };
                self.note("config", format!("{error:#}; {consequence}"));
            }
        }
    }

    // Events

    fn note_answer(&mut self, name: Name, answer: Result<Vec<std::net::SocketAddr>, String>) -> bool {
        match answer {
            Ok(addresses) => {
                let had_failed = self.lookups_failed.remove(&name).is_some();
                self.resolved.note(name, &addresses) || had_failed
            }
            Err(problem) => self.lookups_failed.insert(name, problem).is_none(),
        }
    }

    fn note_event(&mut self, event: Event) {
        match event {
            Event::PathChanged { peer, pair } => {
                tracing::debug!(?peer, endpoint = %pair.remote, "path changed");
                self.endpoints_moved |= self.endpoints.note(peer, pair.remote);
                if let Some(members) = &mut self.members {
                    members.path_changed(&peer);
                }
            }
            Event::HandshakeCompleted { peer } => {
                tracing::debug!(?peer, "handshake completed");
                if let Some(members) = &mut self.members {
                    members.session_began(&peer);
                }
            }
        }
    }

    /// Says to whom packets of full size do not pass; whether that, or to whom they do, has changed.
    fn note_proofs(&mut self) -> bool {
        let Some(members) = &mut self.members else { return self.problems.remove("path").is_some() };
        if !members.take_proofs_changed() {
            return false;
        }
        match members.narrow_paths() {
            Some(narrow) => self.note("path", narrow),
            None => drop(self.problems.remove("path")),
        }
        true
    }

    fn leave_endpoints(&self) {
        let Some(keeper) = &self.keeper else { return };
        if let Err(error) = self.endpoints.leave(keeper) {
            tracing::warn!(%error, "the endpoints will not outlive this process in memory");
        }
    }

    async fn save_endpoints(&mut self) {
        let Some(config) = &self.config else { return };
        if !std::mem::take(&mut self.endpoints_dirty) {
            return;
        }
        let (endpoints, store) = (self.endpoints.clone(), Store::new(config.state_directory.clone()));
        let saved = tokio::task::spawn_blocking(move || endpoints.save(&store)).await;
        if let Ok(Err(error)) = saved {
            self.note("state", format!("failed to save endpoints: {error}"));
        }
    }

    fn note(&mut self, part: &'static str, cause: String) {
        if self.problems.get(part) != Some(&cause) {
            tracing::warn!(part, "{cause}");
            self.problems.insert(part, cause);
        }
    }
}

/// The configuration that was in effect last. It is looked for where the default state directory is: a file
/// that cannot be read does not say where else.
fn last_good() -> Option<Config> {
    let store = Store::new(PathBuf::from("/var/lib/ichor"));
    match store.load(LAST_GOOD) {
        Ok(Loaded::Found(bytes)) => Config::parse(&String::from_utf8_lossy(&bytes)).ok(),
        Ok(Loaded::Missing | Loaded::Damaged(_)) | Err(_) => None,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_note(notes: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match notes {
        Some(notes) => notes.recv().await,
        None => std::future::pending().await,
    }
}
