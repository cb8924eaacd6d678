//! The membership of this node: what the state machine of the core wants done, and what it is told.
//!
//! It runs on the worker's thread. The data plane's thread hands over what members say ([`Mail`]) and is told, by
//! commands, who is a peer. Nothing here waits.

pub(super) mod candidates;
mod disk;
mod full_size;
mod kept;
mod sessions;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ichor_mesh::control::ControlPlane;
use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::full_size::Proofs;
use ichor_mesh::gossip::Message;
use ichor_mesh::join::{Destination, Profile, Via};
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::{Event, Membership, Now, Output};
use ichor_mesh::record::IdentityKey;
use ichor_mesh::record::announcement::Announcement;
use ichor_mesh::record::name::Name;
use ichor_mesh::roster::{Settled, Status as Standing};
use ichor_mesh::status::PeerStatus;
use ipnet::IpNet;
use zeroize::Zeroizing;

use self::sessions::Sessions;
use super::peers::{PeerSpec, Peers};
use crate::config::MeshConfig;
use crate::driver::{LanGroups, Mail};
use crate::store::Store;
use crate::{clock, random};

/// Where members look for each other on a network segment. The IPv4 group is of the administratively scoped ones
/// (RFC 2365 section 6.1), the IPv6 group a transient one of link-local scope (RFC 4291 section 2.7).
pub(super) const LAN: LanGroups = LanGroups {
    v4: Ipv4Addr::new(239, 255, 73, 67),
    v6: Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x6963, 0x686f),
};
/// How often sessions are looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A clock that shows less was never set: 2026-01-01.
const PLAUSIBLE_CLOCK: u64 = 1_767_225_600;
/// How often neighbours hear of each other when there is nothing to say.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What was learned is saved at most this often.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// After this long without anybody a new join string that has no effect is a problem.
const UNHEARD_AFTER: Duration = Duration::from_secs(30);

/// The membership of one network.
pub(super) struct Members {
    membership: Membership,
    /// What it was started with.
    config: MeshConfig,
    /// Whose session it is.
    by_key: BTreeMap<PublicKey, IdentityKey>,
    sessions: Sessions,
    proofs: Proofs,
    /// What members are to be answered.
    answers: Vec<Send>,
    /// Why this node is not let in.
    obstacle: Option<String>,
    mtu: u16,
    began: Instant,
    pub(super) changed: bool,
    pub(super) unsaved: bool,
    /// This node has become a member, which is on no disk yet.
    pub(super) joined: bool,
}

/// What the data plane is to send.
#[derive(Debug)]
pub(super) enum Send {
    /// Inside the session with a peer.
    Control {
        /// Its key.
        to: PublicKey,
        /// Its control address.
        address: Ipv6Addr,
        /// What.
        payload: Zeroizing<Vec<u8>>,
    },
    /// Inside the session with a peer if there is one, and in one piece.
    Whole {
        /// Its key.
        to: PublicKey,
        /// Its control address.
        address: Ipv6Addr,
        /// What. It holds no secret.
        payload: Vec<u8>,
    },
    /// Outside sessions.
    Hello {
        /// Where to.
        to: Vec<Destination>,
        /// What.
        datagram: Vec<u8>,
    },
    /// A handshake with a peer, unless there is a session.
    Connect(PublicKey),
}

impl Members {
    /// Takes up the membership that was saved, or asks for one.
    pub(super) fn start(config: &MeshConfig, wireguard: PublicKey, store: &Store) -> anyhow::Result<Self> {
        let membership = match resume(wireguard, store)? {
            Some(ended) if has_ended(&ended) && is_newer(config, &ended) => {
                disk::retire(store)?;
                join(config, wireguard, store)?
            }
            Some(resumed) => resumed,
            None => join(config, wireguard, store)?,
        };
        let mut this = Self {
            membership,
            config: config.clone(),
            by_key: BTreeMap::new(),
            sessions: Sessions::default(),
            proofs: Proofs::default(),
            answers: Vec::new(),
            obstacle: None,
            began: clock::now(),
            mtu: 0,
            changed: true,
            unsaved: false,
            joined: false,
        };
        // The boot counter must be on the disk before anybody hears of it, or the next start looks like a clone.
        this.unsaved = this.membership.is_member();
        this.obstacle = this.other_network(config);
        Ok(this)
    }

    /// Whether another configuration calls for a new start: a member stays one, whatever the join string is now.
    pub(super) fn is_outdated(&self, config: &MeshConfig) -> bool {
        has_ended(&self.membership) && self.config != *config
    }

    /// What is wrong if the configuration is for another network than the one that this node is a member of.
    fn other_network(&self, config: &MeshConfig) -> Option<String> {
        let join = JoinString::decode(config.join.as_deref()?, &RealCrypto).ok()?;
        let ours = *self.membership.roster().network();
        (join.network() != ours).then(|| {
            format!(
                "the join string is for network {}, this node is a member of {ours}: reset its state to change that",
                join.network()
            )
        })
    }

    // What is known

    /// Where control packets live.
    pub(super) fn control_plane(&self) -> ControlPlane {
        let ula = self.membership.roster().ula();
        ControlPlane { prefix: ula.control_range(), address: ula.control_address(self.membership.identity()) }
    }

    /// This node, once it is a member.
    pub(super) fn us(&self) -> Option<&Settled> {
        self.membership.settled().filter(|_| self.membership.is_member())
    }

    /// The name of this node.
    pub(super) fn our_name(&self) -> Option<&Name> {
        Some(self.membership.roster().name(self.us()?))
    }

    /// The addresses of this node, with the prefixes that are directly reachable.
    pub(super) fn addresses(&self) -> Vec<IpNet> {
        let roster = self.membership.roster();
        let Some(us) = self.us() else { return Vec::new() };
        let (v4, v6) = roster.addresses(us);
        let range = roster.genesis().range;
        let nets = [IpNet::new(v4.into(), range.prefix_len()), IpNet::new(v6.into(), 64)];
        nets.into_iter().flatten().collect()
    }

    /// Everybody who may have a session with this node, and prefixes that are not routed because two members have
    /// them.
    pub(super) fn peers(&mut self) -> (Peers, Vec<String>) {
        let wanted = self.wanted_identities();
        let roster = self.membership.roster();
        let mut claims: BTreeMap<IpNet, (Name, IdentityKey)> = BTreeMap::new();
        let mut disputed = Vec::new();
        let mut members: Vec<_> = self.membership.peers().filter(|peer| peer.installed).collect();
        members.sort_by_key(|peer| roster.name(peer.settled));
        for peer in &members {
            let name = roster.name(peer.settled);
            for route in &peer.settled.member.member.routes {
                let identity = peer.settled.identity();
                let (holder, _) = claims.entry(route.trunc()).or_insert_with(|| (name.clone(), identity));
                if holder != name {
                    disputed.push(format!("route {route} of {name} is not used: {holder} has it"));
                }
            }
        }
        let mut peers = Peers::new();
        let mut by_key = BTreeMap::new();
        for peer in self.membership.peers() {
            let identity = peer.settled.identity();
            let mut allowed_ips =
                BTreeSet::from([IpNet::from(IpAddr::from(roster.ula().control_address(&identity)))]);
            if peer.installed {
                let (v4, v6) = roster.addresses(peer.settled);
                allowed_ips.extend([IpNet::from(IpAddr::from(v4)), IpNet::from(IpAddr::from(v6))]);
                allowed_ips.extend(
                    claims.iter().filter(|(_, (_, holder))| *holder == identity).map(|(net, _)| *net),
                );
            }
            let announcement = &peer.announcement.announcement;
            by_key.insert(announcement.wireguard, identity);
            peers.insert(
                announcement.wireguard,
                PeerSpec {
                    name: roster.name(peer.settled).to_string(),
                    preshared: None,
                    endpoint: None,
                    candidates: announcement.candidates.clone(),
                    keepalive: wanted.contains(&identity).then_some(KEEPALIVE),
                    allowed_ips,
                    identity: Some(identity),
                },
            );
        }
        self.by_key = by_key;
        (peers, disputed)
    }

    /// The peers with which sessions are kept.
    pub(super) fn wanted(&mut self) -> BTreeSet<PublicKey> {
        let wanted = self.wanted_identities();
        self.by_key.iter().filter(|(_, identity)| wanted.contains(*identity)).map(|(key, _)| *key).collect()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.membership.deadline()
    }

    // What happens

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self) {
        self.membership.handle_timeout(now());
    }

    /// Takes what a member or a stranger said; what is answered outside sessions.
    pub(super) fn handle_mail(&mut self, mail: &Mail) -> Option<Vec<u8>> {
        match mail {
            Mail::Control { from, payload } => {
                let identity = *self.by_key.get(from)?;
                self.take_probe(from, payload);
                if let Ok(Message::Pong(nonce)) = Message::decode(payload) {
                    self.sessions.answered(from, nonce, clock::now());
                }
                self.membership.handle_control(identity, payload, now());
                None
            }
            Mail::Hello { pair, datagram } => {
                let is_lan = pair.local.is_some_and(|local| local.is_multicast());
                let via = if is_lan { Via::Lan } else { Via::Unicast };
                self.membership.handle_hello(datagram, via, now())
            }
        }
    }

    /// Keys were agreed upon with a peer.
    pub(super) fn session_began(&mut self, with: &PublicKey) {
        // Who became a peer again a moment ago may be none here yet: the next look finds its session.
        let Some(identity) = self.by_key.get(with).copied().filter(|who| self.membership.is_peer(who)) else {
            return;
        };
        if self.sessions.began(*with, clock::now()) {
            self.proofs.restart(with, clock::now());
            self.membership.session_began(identity, now());
        }
    }

    /// This node is reached by another key now.
    pub(super) fn set_wireguard(&mut self, key: PublicKey) {
        self.membership.set_wireguard(key, now());
        self.unsaved = true;
    }

    /// A member has another key now.
    pub(super) fn rekeyed(&mut self, old: &PublicKey, new: PublicKey) {
        self.sessions.rename(old, new);
        self.proofs.rename(old, new);
    }

    /// Seconds since the Unix epoch, if the clock is believed.
    pub(super) fn clock(&self) -> Option<u64> {
        now().clock
    }

    /// This node is to be found here now.
    pub(super) fn set_candidates(&mut self, candidates: Vec<SocketAddr>) {
        if self.membership.candidates() != candidates {
            tracing::info!(?candidates, "where this node may be reached");
            self.sessions.moved();
            self.proofs.restart_all(clock::now());
            self.membership.set_candidates(candidates, now());
        }
    }

    /// Looks at all sessions: who is silent is asked, who stays silent is gone, who is wanted is called.
    pub(super) fn look(&mut self, sessions: &[PeerStatus]) -> Vec<Send> {
        let wanted = self.wanted();
        let is_peer = |key| self.by_key.get(key).is_some_and(|identity| self.membership.is_peer(identity));
        let alive: BTreeMap<_, _> = sessions
            .iter()
            .filter(|peer| peer.has_session && is_peer(&peer.key))
            .map(|peer| (peer.key, peer.rx_bytes))
            .collect();
        let looked = self.sessions.look(&alive, &wanted, clock::now());
        for identity in looked.ended.iter().filter_map(|key| self.by_key.get(key)) {
            tracing::debug!(member = %identity, "nothing comes from it any more");
            self.membership.session_ended(identity);
        }
        for identity in looked.began.iter().filter_map(|key| self.by_key.get(key)) {
            self.membership.session_began(*identity, now());
        }
        let ask = looked.ask.into_iter().filter_map(|(to, nonce)| {
            let address = self.membership.roster().ula().control_address(self.by_key.get(&to)?);
            Some(Send::Control { to, address, payload: Zeroizing::new(Message::Ping(nonce).encode()) })
        });
        let mut sends: Vec<_> = ask.chain(looked.connect.into_iter().map(Send::Connect)).collect();
        sends.extend(self.prove(sessions, &looked.ended, &wanted));
        self.sessions.retain(|key| self.by_key.contains_key(key));
        sends
    }

    /// What is to be sent. Events change what is known here.
    pub(super) fn take_sends(&mut self) -> Vec<Send> {
        let mut sends = std::mem::take(&mut self.answers);
        while let Some(output) = self.membership.poll_output() {
            match output {
                Output::Control { to, payload } => {
                    let roster = self.membership.roster();
                    let address = roster.ula().control_address(&to);
                    sends.extend(self.key_of(&to).map(|to| Send::Control { to, address, payload }));
                }
                Output::Hello { to, datagram } => sends.push(Send::Hello { to, datagram }),
                Output::Event(event) => self.note(event),
            }
        }
        sends
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Joined => {
                tracing::info!(network = %self.membership.roster().network(), "joined");
                self.obstacle = None;
                self.changed = true;
                self.joined = true;
            }
            Event::Taken => {
                let member = "somebody has the name or address that this node asks for";
                self.set_obstacle(format!("{member}; an owner frees it: ichorctl member remove"));
            }
            Event::CannotJoin(error) => {
                let error = anyhow::Error::from(error);
                self.set_obstacle(format!("this node cannot ask to be let in: {error:#}"));
            }
            Event::Changed(identity) => {
                let standing = self.membership.roster().status(&identity);
                tracing::info!(
                    member = self.name_of(&identity),
                    standing = standing_label(standing),
                    "member changed"
                );
                if let Some(key) = self.key_of(&identity) {
                    self.sessions.try_again(&key);
                    self.proofs.look_again(&key, clock::now());
                }
                self.changed = true;
            }
            Event::Barred(standing) => {
                tracing::error!(
                    standing = standing_label(Some(&standing)),
                    "this node is no member any more"
                );
                self.set_obstacle(format!(
                    "this node is no member any more ({}); to let it in again: ichorctl token create",
                    standing_label(Some(&standing))
                ));
                self.changed = true;
            }
            Event::Cloned { instance } => {
                tracing::error!(instance = %hex(&instance), "another machine uses this node's identity");
                self.set_obstacle(
                    "another machine uses this node's identity: reset the state of the copy".into(),
                );
            }
            Event::TombstonesDiffer { told } => {
                tracing::warn!(
                    told,
                    "the maker of the join string knew of other removals than this node was told of"
                );
            }
            Event::Observed(address) => tracing::debug!(%address, "seen from outside"),
        }
        self.unsaved = true;
    }

    /// The key by which a peer is reached.
    fn key_of(&self, identity: &IdentityKey) -> Option<PublicKey> {
        self.by_key.iter().find(|(_, known)| *known == identity).map(|(key, _)| *key)
    }

    /// The name of a member; of who is none, the identity.
    fn name_of(&self, identity: &IdentityKey) -> String {
        let roster = self.membership.roster();
        roster
            .settled(identity)
            .map_or_else(|| identity.to_string(), |settled| roster.name(settled).to_string())
    }

    fn set_obstacle(&mut self, obstacle: String) {
        self.changed |= self.obstacle.as_ref() != Some(&obstacle);
        self.obstacle = Some(obstacle);
    }

    /// Writes down what must survive.
    pub(super) fn save(&mut self, store: &Store) -> anyhow::Result<()> {
        if let Some(saved) = self.membership.saved() {
            disk::save(store, &saved)?;
        }
        self.unsaved = false;
        Ok(())
    }
}

/// The membership that was saved.
fn resume(wireguard: PublicKey, store: &Store) -> anyhow::Result<Option<Membership>> {
    let Some(mut saved) = disk::load(store)? else { return Ok(None) };
    saved.announcement.wireguard = wireguard;
    version().clone_into(&mut saved.announcement.version);
    let resumed = Membership::resume(saved, instance(), random::seed(), now(), &RealCrypto);
    resumed.context("failed to take up the saved membership").map(Some)
}

/// Whether this node is no member, or one that is put behind, and may begin anew with another token.
fn has_ended(membership: &Membership) -> bool {
    !membership.is_member() || membership.is_put_behind()
}

/// Whether the join string is for another token than the one that made this membership.
fn is_newer(config: &MeshConfig, ended: &Membership) -> bool {
    let join = config.join.as_deref().and_then(|text| JoinString::decode(text, &RealCrypto).ok());
    let used = ended.settled().map(|settled| settled.grant.grant.token);
    join.is_some_and(|join| used != Some(join.grant.grant.token))
}

fn join(config: &MeshConfig, wireguard: PublicKey, store: &Store) -> anyhow::Result<Membership> {
    let text = config.join.as_deref().context("this node is no member yet, and mesh.join is missing")?;
    let join = JoinString::decode(text, &RealCrypto).context("mesh.join")?;
    let name = config.name.clone().or_else(host_name);
    let announcement = Announcement {
        sequence: 0,
        wireguard,
        candidates: Vec::new(),
        version: version().to_owned(),
        capabilities: 0,
        instance: instance(),
        boot: 0,
    };
    let identity = disk::identity(store)?;
    let profile = Profile { identity, name, routes: config.routes.clone(), announcement };
    tracing::info!(network = %join.network(), "asking to be let in");
    Ok(Membership::join(join, profile, random::seed(), now(), &RealCrypto)?)
}

/// The host's name, if it can be the name of a member.
fn host_name() -> Option<Name> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    name.trim().split('.').next()?.to_ascii_lowercase().parse().ok()
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn instance() -> [u8; 8] {
    let seed = random::seed();
    seed.first_chunk().copied().unwrap_or_default()
}

/// Both clocks; the wall clock only if somebody has set it.
fn now() -> Now {
    Now { instant: clock::now(), clock: clock::unix_seconds().filter(|seconds| *seconds >= PLAUSIBLE_CLOCK) }
}

fn standing_label(standing: Option<&Standing>) -> &'static str {
    match standing {
        None => "unknown",
        Some(Standing::Installed) => "installed",
        Some(Standing::Revoked) => "removed by an owner",
        Some(Standing::Left) => "left",
        Some(Standing::Expired) => "expired",
        Some(Standing::Replaced { .. }) => "replaced",
        Some(Standing::Overused) => "token used too often",
        Some(Standing::Conflict { .. }) => "name or address taken",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
