//! The process that does the work: brings everything in line with the configuration, and keeps it there.
//!
//! [`Worker::converge`] compares what should be with what is, part by part, and is called again after every
//! event: a changed file, a signal, a change in the kernel, an answered lookup, a failed attempt. Each part
//! that fails is a problem in the status and is tried again; none ends the process.

mod endpoints;
mod names;
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ichor_mesh::key::{PresharedKey, PublicKey, SecretKey};
use ichor_mesh::node::{Event, Node};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use zeroize::Zeroizing;

use self::endpoints::Endpoints;
use self::names::{Name, Resolved};
use self::peers::{PeerSpec, Peers};
use crate::clock::{self, WallClock};
use crate::config::{Config, Endpoint, StaticMesh};
use crate::driver::{Driver, DriverHandle, Stopped};
use crate::io::netlink::Netlink;
use crate::io::tun::{Queues, Tun};
use crate::keeper::{self, Keeper};
use crate::reconcile::{self, Desired};
use crate::status::{self, Problem, State, Status};
use crate::store::{Loaded, Store};
use crate::{random, uapi};

/// How often the configuration file is looked at. Talos mounts files anew, so a watch would miss changes.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the counters in the status file are brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before a part that failed is tried again; doubled up to the maximum while it fails.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// Endpoints that changed are saved at most this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

const PRIVATE_KEY: &str = "private-key";
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
        let driver = Driver::new(Node::new(random::seed()), events_sender)?;
        let (driver, end) = driver.spawn()?;
        let worker = Worker::new(config.to_owned(), driver, keeper, kept)?;
        worker.work(events, end).await
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
    runtime_directory: PathBuf,
    driver: DriverHandle,
    keeper: Option<Keeper>,
    kept: BTreeMap<String, OwnedFd>,
    netlink: Option<Netlink>,
    kernel_notes: Option<mpsc::Receiver<()>>,
    applied: Applied,
    endpoints: Endpoints,
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
        Ok(Self {
            config_path,
            stamp: None,
            config: None,
            runtime_directory: PathBuf::from(status::RUNTIME_DIRECTORY),
            driver,
            keeper,
            kept,
            netlink: None,
            kernel_notes: None,
            applied: Applied::default(),
            endpoints: Endpoints::default(),
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
        mut end: tokio::sync::oneshot::Receiver<Stopped>,
    ) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (answers_sender, mut answers) = mpsc::channel(64);
        tokio::spawn(names::run(self.wanted_names.subscribe(), answers_sender));
        let (status_sender, status_receiver) = watch::channel(String::new());
        serve_status(&self.runtime_directory, status_receiver);
        let mut server = None;

        let mut look_at_file = tokio::time::interval(FILE_INTERVAL);
        look_at_file.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh_status = tokio::time::interval(STATUS_INTERVAL);
        refresh_status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.load_config();
        let mut converge_at = Some(Instant::now());
        let mut save_at = None;
        let mut publish_soon = true;
        loop {
            if converge_at.is_some_and(|at| at <= Instant::now()) {
                converge_at = self.converge().await.map(|wait| Instant::now() + wait);
                publish_soon = true;
                if server.is_none() {
                    server = self.serve_uapi();
                }
            }
            if publish_soon {
                publish_soon = false;
                let snapshot = self.snapshot().await;
                publish(&self.runtime_directory, &snapshot);
                status_sender.send_replace(snapshot.to_json());
            }
            let converge_now = Some(Instant::now());
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
                Some(()) = next_note(&mut self.kernel_notes) => converge_at = converge_now,
                Some((name, answer)) = answers.recv() => if self.note_answer(name, answer) {
                    converge_at = converge_now;
                },
                Some(event) = events.recv() => {
                    self.note_event(event);
                    while let Ok(event) = events.try_recv() {
                        self.note_event(event);
                    }
                    if self.endpoints_dirty && save_at.is_none() {
                        save_at = Some(Instant::now() + SAVE_INTERVAL);
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

    // Convergence

    /// Brings every part in line; when to try again if one failed.
    async fn converge(&mut self) -> Option<Duration> {
        let config = self.config.clone()?;
        let mesh = config.static_mesh.clone().unwrap_or(StaticMesh {
            private_key_file: None,
            addresses: Vec::new(),
            peers: Vec::new(),
        });
        let identity = self.ensure_identity(&config, &mesh).await;
        let device = self.ensure_device(&config).await;
        let socket = self.ensure_socket(&config).await;
        let peers = self.ensure_peers(&config, &mesh).await;
        let network = if device.is_ok() { self.ensure_network(&config, &mesh).await } else { Ok(()) };
        let mut failed = false;
        for (part, result) in [
            ("identity", identity),
            ("device", device),
            ("socket", socket),
            ("peers", peers),
            ("network", network),
        ] {
            match result {
                Ok(()) => {
                    self.problems.remove(part);
                }
                Err(error) => {
                    failed = true;
                    self.note(part, format!("{error:#}"));
                }
            }
        }
        if !failed {
            self.retry = FIRST_RETRY;
            return None;
        }
        let wait = self.retry;
        self.retry = (self.retry * 2).min(MAX_RETRY);
        Some(wait)
    }

    async fn ensure_identity(&mut self, config: &Config, mesh: &StaticMesh) -> anyhow::Result<()> {
        let secret = match &mesh.private_key_file {
            Some(path) => read_key(path)?,
            None => self.own_key(config)?,
        };
        if self.applied.secret.as_ref().is_some_and(|applied| applied.expose() == secret.expose()) {
            return Ok(());
        }
        tracing::info!(public_key = %secret.public(), "identity set");
        self.applied.secret = Some(secret.clone());
        self.driver.call(move |driver: &mut Driver| driver.set_private_key(Some(secret))).await?;
        Ok(())
    }

    /// The key that was made here, made now if there is none. A key that cannot be saved is used all the same:
    /// the node is reachable until it restarts.
    fn own_key(&mut self, config: &Config) -> anyhow::Result<SecretKey> {
        let store = Store::new(config.state_directory.clone());
        match store.load(PRIVATE_KEY) {
            Ok(Loaded::Found(bytes)) => {
                let text = Zeroizing::new(String::from_utf8(bytes).unwrap_or_default());
                return text.parse().context("failed to read the saved private key");
            }
            Ok(Loaded::Missing) => {}
            Ok(Loaded::Damaged(aside)) => {
                tracing::error!(file = %aside.display(), "the private key was damaged and set aside");
            }
            Err(error) => {
                if let Some(secret) = &self.applied.secret {
                    return Ok(secret.clone());
                }
                tracing::error!(%error, "the private key cannot be read");
            }
        }
        let secret = self.applied.secret.clone().unwrap_or_else(random::secret_key);
        if let Err(error) = store.save(PRIVATE_KEY, secret.expose_base64().as_bytes()) {
            let place = config.state_directory.display();
            self.note("state", format!("failed to save the private key to {place}: {error}"));
        }
        Ok(secret)
    }

    async fn ensure_device(&mut self, config: &Config) -> anyhow::Result<()> {
        let name = config.interface.as_str();
        if let Some(applied) = &self.applied.interface {
            anyhow::ensure!(applied == name, "the interface is {applied}; restart the service to rename it");
            return Ok(());
        }
        let tun = Tun::open(name, Queues::Shared)?;
        tun.persist().context("failed to make the device persistent")?;
        self.keep_carrier(name);
        self.driver.call(move |driver: &mut Driver| driver.set_tun(tun)).await??;
        self.applied.interface = Some(name.to_owned());
        tracing::info!(interface = name, "device is open");
        Ok(())
    }

    /// Leaves a detached queue with the parent, unless it has one. Without it the interface works, but loses
    /// its carrier when this process ends.
    fn keep_carrier(&self, name: &str) {
        let Some(keeper) = &self.keeper else { return };
        let key = format!("tun:{name}");
        if self.kept.contains_key(&key) {
            return;
        }
        let kept = Tun::open(name, Queues::Shared)
            .map_err(anyhow::Error::from)
            .and_then(|queue| Ok(queue.into_detached()?))
            .and_then(|queue| Ok(keeper.keep(&key, queue.as_fd())?));
        if let Err(error) = kept {
            tracing::warn!("the carrier will not outlive this process: {error:#}");
        }
    }

    async fn ensure_socket(&mut self, config: &Config) -> anyhow::Result<()> {
        let (port, mark) = (config.listen_port, config.fwmark);
        if self.applied.listen_port == Some(port) && self.applied.fwmark == mark {
            return Ok(());
        }
        let held = [KEPT_UDP4, KEPT_UDP6].map(|name| self.kept.remove(name));
        let duplicates = self
            .driver
            .call(move |driver: &mut Driver| {
                driver.adopt(held, port)?;
                driver.listen(port)?;
                driver.set_mark(mark)?;
                driver.duplicate_sockets()
            })
            .await?
            .with_context(|| format!("failed to open UDP port {port}"))?;
        if let Some(keeper) = &self.keeper {
            for (name, socket) in [KEPT_UDP4, KEPT_UDP6].into_iter().zip(&duplicates) {
                if let Some(socket) = socket {
                    keeper.keep(name, socket.as_fd()).context("failed to leave a socket with the parent")?;
                }
            }
        }
        (self.applied.listen_port, self.applied.fwmark) = (Some(port), mark);
        tracing::info!(port, "listening");
        Ok(())
    }

    async fn ensure_peers(&mut self, config: &Config, mesh: &StaticMesh) -> anyhow::Result<()> {
        let mut wanted = Peers::new();
        let mut names = BTreeSet::new();
        let mut failures = Vec::new();
        for peer in &mesh.peers {
            let preshared = match peer.preshared_key_file.as_deref().map(read_preshared).transpose() {
                Ok(preshared) => preshared,
                Err(error) => {
                    // Without its key the handshakes of this peer cannot succeed; the others are not affected.
                    failures.push(format!("{}: {error:#}", peer.name));
                    continue;
                }
            };
            let endpoint = match &peer.endpoint {
                Some(Endpoint::Address(address)) => Some(*address),
                Some(Endpoint::Name { host, port }) => {
                    let name = (host.clone(), *port);
                    names.insert(name.clone());
                    if let Some(problem) = self.lookups_failed.get(&name) {
                        failures.push(format!("{}: failed to look up {host}: {problem}", peer.name));
                    }
                    self.resolved.get(&name)
                }
                None => None,
            };
            wanted.insert(
                peer.public_key,
                PeerSpec {
                    name: peer.name.clone(),
                    preshared,
                    endpoint,
                    keepalive: peer.keepalive(),
                    allowed_ips: peer.allowed_ips.iter().map(ipnet::IpNet::trunc).collect(),
                },
            );
        }
        self.lookups_failed.retain(|name, _| names.contains(name));
        self.wanted_names.send_if_modified(|current| {
            let changed = *current != names;
            *current = names;
            changed
        });
        self.apply_peers(config, wanted).await?;
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
        Ok(())
    }

    async fn apply_peers(&mut self, config: &Config, wanted: Peers) -> anyhow::Result<()> {
        let set = uapi::SetRequest {
            peers: peers::changes(&self.applied.peers, &wanted),
            ..uapi::SetRequest::default()
        };
        let fresh: Vec<PublicKey> =
            wanted.keys().filter(|key| !self.applied.peers.contains_key(*key)).copied().collect();
        if !self.applied.restored {
            self.endpoints = Endpoints::load(&Store::new(config.state_directory.clone()));
            self.applied.restored = true;
        }
        let restored: Vec<_> =
            fresh.iter().filter_map(|key| Some((*key, self.endpoints.get(key)?))).collect();
        if !set.peers.is_empty() {
            tracing::info!(changes = set.peers.len(), peers = wanted.len(), "peers changed");
            self.driver
                .call(move |driver: &mut Driver| {
                    uapi::execute(driver, set)?;
                    let now = clock::now();
                    for (key, endpoint) in restored {
                        if let Some(peer) = driver.node().peer(&key) {
                            driver.node().restore_path(peer, endpoint, now);
                        }
                    }
                    // A peer that had a session with the process before us sends into it until we say hello.
                    driver.with_node(|node, sink, now| {
                        for peer in fresh.iter().filter_map(|key| node.peer(key)).collect::<Vec<_>>() {
                            node.connect(peer, now, sink);
                        }
                    });
                    std::io::Result::Ok(())
                })
                .await??;
        }
        self.endpoints.retain(&wanted);
        self.applied.peers = wanted;
        Ok(())
    }

    async fn ensure_network(&mut self, config: &Config, mesh: &StaticMesh) -> anyhow::Result<()> {
        if self.netlink.is_none() {
            let (netlink, notes) = Netlink::connect().context("failed to connect to netlink")?;
            (self.netlink, self.kernel_notes) = (Some(netlink), Some(notes));
        }
        let Some(netlink) = &self.netlink else { return Ok(()) };
        let name = config.interface.as_str();
        let index = netlink.index(name).await?;
        self.applied.index = index;
        let observed = netlink.observe(name).await?;
        let desired = Desired {
            mtu: config.mtu.get().into(),
            addresses: mesh.addresses.iter().copied().collect(),
            routes: self.applied.peers.values().flat_map(|peer| peer.allowed_ips.iter().copied()).collect(),
            endpoints: self.applied.peers.values().filter_map(|peer| Some(peer.endpoint?.ip())).collect(),
        };
        let (changes, withheld) = reconcile::difference(&desired, &observed);
        for change in &changes {
            tracing::debug!(?change, "changing the interface");
            netlink.apply(index, change).await?;
        }
        let mtu = usize::from(config.mtu.get());
        self.driver.call(move |driver: &mut Driver| driver.node().set_mtu(mtu)).await?;
        let withheld: Vec<String> = withheld.iter().map(ToString::to_string).collect();
        anyhow::ensure!(withheld.is_empty(), "{}", withheld.join("; "));
        Ok(())
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
                self.endpoints_dirty |= self.endpoints.note(peer, pair.remote);
            }
            Event::HandshakeCompleted { peer } => tracing::debug!(?peer, "handshake completed"),
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

    // Status

    fn serve_uapi(&self) -> Option<()> {
        let interface = self.applied.interface.as_deref()?;
        match uapi::Server::bind(uapi::socket_path(interface), uapi::Access::ReadOnly) {
            Ok(server) => {
                let driver = self.driver.clone();
                tokio::spawn(async move { server.serve(&driver).await });
            }
            Err(error) => {
                tracing::warn!("wg(8) will not see the interface: {:#}", anyhow::Error::from(error))
            }
        }
        Some(())
    }

    async fn snapshot(&self) -> Status {
        let clock = WallClock::read();
        let mut snapshot = Status::starting();
        snapshot.problems = self
            .problems
            .iter()
            .map(|(part, cause)| Problem { part: (*part).to_owned(), cause: cause.clone() })
            .collect();
        snapshot.state = match (&self.config, snapshot.problems.is_empty()) {
            (None, _) => State::Idle,
            (Some(_), true) => State::Running,
            (Some(_), false) => State::Degraded,
        };
        let Some(config) = &self.config else { return snapshot };
        snapshot.interface.clone_from(&self.applied.interface);
        snapshot.listen_port = self.applied.listen_port;
        snapshot.public_key = self.applied.secret.as_ref().map(|secret| secret.public().to_string());
        if let Some(mesh) = &config.static_mesh {
            snapshot.addresses = mesh.addresses.iter().map(ToString::to_string).collect();
        }
        let observed = self.driver.call(|driver: &mut Driver| {
            let peers = driver.node().status(clock::now());
            let mut drops: BTreeMap<String, u64> = driver
                .node()
                .counters()
                .iter()
                .map(|(reason, count)| (reason.label().to_owned(), count))
                .collect();
            let stats = driver.stats();
            drops.insert("tun_write".to_owned(), stats.tun_write_failed);
            drops.insert("tun_read".to_owned(), stats.tun_read_malformed);
            drops.insert("udp_send".to_owned(), stats.udp_send_failed);
            drops.retain(|_, count| *count > 0);
            (peers, drops)
        });
        let Ok((peers, drops)) = observed.await else { return snapshot };
        snapshot.drops = drops;
        snapshot.peers = peers
            .into_iter()
            .map(|peer| status::Peer {
                name: self.applied.peers.get(&peer.key).map_or_else(String::new, |spec| spec.name.clone()),
                public_key: peer.key.to_string(),
                endpoint: peer.endpoint,
                connected: peer.has_session,
                last_handshake: peer.last_handshake.map(|at| status::seconds(clock.date(at))),
                allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
            .collect();
        snapshot.peers.sort_by(|a, b| a.name.cmp(&b.name));
        snapshot
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

fn read_key(path: &Path) -> anyhow::Result<SecretKey> {
    let what = || format!("failed to read the private key from {}", path.display());
    let text = Zeroizing::new(std::fs::read_to_string(path).with_context(what)?);
    text.parse().with_context(what)
}

fn read_preshared(path: &Path) -> anyhow::Result<PresharedKey> {
    let what = || format!("failed to read the pre-shared key from {}", path.display());
    let text = Zeroizing::new(std::fs::read_to_string(path).with_context(what)?);
    text.parse().with_context(what)
}

fn publish(directory: &Path, snapshot: &Status) {
    if let Err(error) = status::write_file(directory, &snapshot.to_json()) {
        tracing::warn!(%error, directory = %directory.display(), "the status cannot be written");
    }
}

/// Answers everybody who connects to the status socket with the current snapshot.
fn serve_status(directory: &Path, current: watch::Receiver<String>) {
    let path = status::socket(directory);
    // A socket that an earlier process left.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, socket = %path.display(), "the status cannot be served");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let json = current.borrow().clone();
                    // A client that does not read is its own concern.
                    let write = async move { stream.write_all(json.as_bytes()).await };
                    tokio::spawn(tokio::time::timeout(Duration::from_secs(5), write));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a status client failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
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
