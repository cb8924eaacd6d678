//! The parts of [`Worker::converge`]: each compares what should be with what is, and does only the difference.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ichor_mesh::key::{PresharedKey, PublicKey, SecretKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::endpoints::Endpoints;
use super::members::{LAN, Members, candidates};
use super::peers::{self, PeerSpec, Peers};
use super::services::Kind;
use super::{FIRST_RETRY, KEPT_UDP4, KEPT_UDP6, MAX_RETRY, Worker};
use crate::clock;
use crate::config::{Config, Endpoint, StaticMesh};
use crate::driver::Driver;
use crate::identity::{self, PRIVATE_KEY};
use crate::io::netlink::Netlink;
use crate::io::tun::{Queues, Tun};
use crate::reconcile::{self, Desired, Observed, Underlay};
use crate::store::{Loaded, Store};
use crate::{random, uapi};

/// Where questions about names are answered (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

impl Worker {
    /// Brings every part in line; when to try again if one failed.
    pub(super) async fn converge(&mut self) -> Option<Duration> {
        let config = self.config.clone()?;
        let mesh = config.static_mesh.clone().unwrap_or(StaticMesh {
            private_key_file: None,
            addresses: Vec::new(),
            peers: Vec::new(),
        });
        let identity = self.ensure_identity(&config, &mesh).await;
        let device = self.ensure_device(&config).await;
        let socket = self.ensure_socket(&config).await;
        let membership = self.ensure_membership(&config).await;
        let peers = self.ensure_peers(&config, &mesh).await;
        let network = if device.is_ok() { self.ensure_network(&config, &mesh).await } else { Ok(()) };
        let services = if network.is_ok() { self.ensure_services(&config).await } else { Ok(()) };
        self.ensure_found(&config).await;
        // Not failures: to try again is the membership's own concern.
        match self.members.as_ref().map(Members::problems).unwrap_or_default() {
            problems if problems.is_empty() => {
                self.problems.remove("member");
            }
            problems => self.note("member", problems.join("; ")),
        }
        let mut failed = false;
        for (part, result) in [
            ("identity", identity),
            ("device", device),
            ("socket", socket),
            ("membership", membership),
            ("peers", peers),
            ("network", network),
            ("services", services),
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
        let previous = self.previous_key(config, &secret);
        self.driver
            .call(move |driver: &mut Driver| {
                driver.set_private_key(Some(secret));
                driver.set_previous_key(previous.as_ref());
            })
            .await?;
        Ok(())
    }

    /// The key that was made here, made now if there is none. A key that cannot be saved is used all the same:
    /// the node is reachable until it restarts.
    fn own_key(&mut self, config: &Config) -> anyhow::Result<SecretKey> {
        match Store::new(config.state_directory.clone()).load(PRIVATE_KEY) {
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
        if let Err(error) = identity::save(&config.state_directory, &secret) {
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
        // Other sockets listen to no segment yet.
        self.applied.segments.clear();
        tracing::info!(port, "listening");
        Ok(())
    }

    async fn ensure_membership(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(mesh) = &config.mesh else {
            if self.members.take().is_some() {
                self.driver.call(|driver: &mut Driver| driver.node().set_control_plane(None)).await?;
            }
            return Ok(());
        };
        if self.members.as_ref().is_some_and(|members| members.is_outdated(mesh)) {
            self.save_members();
            self.members = None;
        }
        if self.members.is_none() {
            let Some(secret) = &self.applied.secret else { return Ok(()) };
            let store = Store::new(config.state_directory.clone());
            let members = Members::start(mesh, secret.public(), &store)?;
            let control = members.control_plane();
            self.driver
                .call(move |driver: &mut Driver| driver.node().set_control_plane(Some(control)))
                .await?;
            self.members = Some(members);
            self.save_members();
        }
        Ok(())
    }

    /// Tells the membership where this node is, and listens on the network segments.
    async fn ensure_found(&mut self, config: &Config) {
        let (Some(mesh), Some(members)) = (&config.mesh, &mut self.members) else { return };
        let port = self.applied.listen_port.unwrap_or(config.listen_port);
        members.set_candidates(candidates::candidates(&self.applied.underlay, port, &mesh.endpoints));
        let segments: BTreeSet<u32> = candidates::segments(&self.applied.underlay).into_keys().collect();
        if segments != self.applied.segments {
            self.applied.segments.clone_from(&segments);
            // A data plane that has ended ends this process, elsewhere.
            let _ = self.driver.call(move |driver: &mut Driver| driver.join_groups(&LAN, &segments)).await;
        }
        self.send_for_members().await;
    }

    async fn ensure_peers(&mut self, config: &Config, mesh: &StaticMesh) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        let (mut wanted, mut failures) = self.members.as_mut().map(Members::peers).unwrap_or_default();
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
                    candidates: Vec::new(),
                    keepalive: peer.keepalive(),
                    allowed_ips: peer.allowed_ips.iter().map(IpNet::trunc).collect(),
                    identity: None,
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
        self.rename_peers(&wanted).await?;
        let set = uapi::SetRequest {
            peers: peers::changes(&self.applied.peers, &wanted),
            ..uapi::SetRequest::default()
        };
        let mut again: Vec<PublicKey> = Vec::new();
        let moved = peers::moved(&self.applied.peers, &wanted);
        let mut fresh: Vec<PublicKey> =
            wanted.keys().filter(|key| !self.applied.peers.contains_key(*key)).copied().collect();
        if !self.applied.restored {
            self.endpoints = Endpoints::load(&Store::new(config.state_directory.clone()));
            self.endpoints_dirty |= self.endpoints.adopt(&mut self.kept);
            self.applied.restored = true;
        } else if let Some(members) = &mut self.members {
            // Sessions with all members of a large network are not needed; those that were there before a restart are.
            let kept = members.wanted();
            fresh.retain(|key| kept.contains(key));
            // Who is somewhere else now is worth another try at once.
            again.extend(moved.iter().map(|(key, _)| *key).filter(|key| kept.contains(key)));
        }
        let restored: Vec<_> =
            fresh.iter().filter_map(|key| Some((*key, self.endpoints.get(key)?))).collect();
        if !set.peers.is_empty() || !moved.is_empty() {
            tracing::info!(changes = set.peers.len(), peers = wanted.len(), "peers changed");
            self.driver
                .call(move |driver: &mut Driver| {
                    uapi::execute(driver, set)?;
                    let now = clock::now();
                    for (key, candidates) in moved {
                        if let Some(peer) = driver.node().peer(&key) {
                            driver.node().set_candidates(peer, candidates, now);
                        }
                    }
                    for (key, endpoint) in restored {
                        if let Some(peer) = driver.node().peer(&key) {
                            driver.node().restore_path(peer, endpoint, now);
                        }
                    }
                    // A peer that had a session with the process before us sends into it until we say hello.
                    driver.with_node(|node, sink, now| {
                        for peer in
                            fresh.iter().chain(&again).filter_map(|key| node.peer(key)).collect::<Vec<_>>()
                        {
                            if !node.peer_status(peer, now).is_some_and(|status| status.has_session) {
                                node.connect(peer, now, sink);
                            }
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
            addresses: self.addresses(Some(mesh)),
            routes: self.routes(),
            endpoints: self
                .applied
                .peers
                .values()
                .flat_map(|peer| peer.endpoint.iter().chain(&peer.candidates))
                .map(SocketAddr::ip)
                .collect(),
        };
        self.applied.underlay = self.underlay(&observed);
        let (changes, withheld) = reconcile::difference(&desired, &observed);
        for change in &changes {
            tracing::debug!(?change, "changing the interface");
            netlink.apply(index, change).await?;
        }
        let mtu = usize::from(config.mtu.get());
        self.driver.call(move |driver: &mut Driver| driver.node().set_mtu(mtu)).await?;
        if let Some(members) = &mut self.members {
            members.set_mtu(config.mtu.get());
        }
        let withheld: Vec<String> = withheld.iter().map(ToString::to_string).collect();
        anyhow::ensure!(withheld.is_empty(), "{}", withheld.join("; "));
        Ok(())
    }
}

impl Worker {
    /// Serves what is to be served, on the addresses that the interface has by now.
    async fn ensure_services(&mut self, config: &Config) -> anyhow::Result<()> {
        let ours = self.addresses(config.static_mesh.as_ref());
        let ours: Vec<IpAddr> = ours.iter().map(IpNet::addr).collect();
        let mut wanted = BTreeSet::new();
        if config.metrics_port != 0 {
            let all = ours.iter().copied().chain([Ipv4Addr::LOCALHOST.into()]);
            wanted.extend(all.map(|ip| (Kind::Metrics, SocketAddr::new(ip, config.metrics_port))));
        }
        if config.mesh.as_ref().is_some_and(|mesh| mesh.dns.is_some()) {
            wanted.extend(ours.iter().map(|ip| (Kind::Dns, SocketAddr::new(*ip, DNS_PORT))));
        }
        self.services.ensure(&wanted).await
    }

    /// The addresses that the interface is to have.
    pub(super) fn addresses(&self, mesh: Option<&StaticMesh>) -> BTreeSet<IpNet> {
        let of_member = self.members.as_ref().map(Members::addresses).unwrap_or_default();
        mesh.into_iter().flat_map(|mesh| mesh.addresses.iter().copied()).chain(of_member).collect()
    }

    /// The prefixes that lead into the interface: all that peers have but control addresses, which no host uses.
    fn routes(&self) -> BTreeSet<IpNet> {
        let control = self.members.as_ref().map(Members::control_plane);
        let nets = self.applied.peers.values().flat_map(|peer| peer.allowed_ips.iter().copied());
        nets.filter(|net| !control.is_some_and(|control| control.reserves(net.addr()))).collect()
    }

    /// The host's addresses to the outside, without those that are inside of this mesh.
    fn underlay(&self, observed: &Observed) -> Underlay {
        let ours: Vec<IpNet> = self.members.as_ref().map(Members::addresses).unwrap_or_default();
        let inside = |address: IpAddr| ours.iter().any(|net| net.contains(&address));
        let addresses = observed.underlay.addresses.iter().filter(|(_, net)| !inside(net.addr()));
        Underlay { addresses: addresses.copied().collect() }
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
