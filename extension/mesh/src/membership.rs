//! One node's part in the membership of its network: joins, keeps the records, passes them on, admits others.
//!
//! Everything but the sessions themselves is here. The driver tells with whom sessions begin and end, hands in what came
//! through them ([`Membership::handle_control`]) and what came outside ([`Membership::handle_hello`]), calls
//! [`Membership::handle_timeout`] when [`Membership::deadline`] has come, and after each call drains
//! [`Membership::poll_output`]. Its peers are exactly [`Membership::peers`], whose records it must have applied before it
//! accepts any data; sessions are wanted with [`Membership::wanted`].
//!
//! Nothing is answered, and nothing is taken, from who is no peer. Who is barred falls silent.

mod door;
mod early;
mod interface;
mod keys;
mod parting;
mod ring;
mod saved;
mod unconfirmed;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use zeroize::Zeroizing;

use crate::crypto::{Crypto, Secret};
use crate::gossip::{Gossip, Message, Outbox};
use crate::hello::{HelloKeys, HelloPublic};
use crate::join::{Answered, JoinError, Joiner, Profile};
use crate::join_string::JoinString;
use crate::record::announcement::{Announcement, SignedAnnouncement};
use crate::record::genesis::Genesis;
use crate::record::tombstone::{End, Tombstone};
use crate::record::{Envelope, IdentityKey, NetworkId, RecordError};
use crate::roster::{Applied, Item, ItemDigest, Roster, Settled, Status};

use self::early::EarlyAnnouncements;
use self::keys::EarlyKeys;
use self::ring::Ring;
use self::upkeep::Upkeep;

pub use self::interface::{Event, Now, Output, PeerRecords};
pub use self::saved::{Saved, SavedError};

/// Members that a new item is pushed to at least, if that many are reachable.
const FEWEST_TARGETS: usize = 4;

/// What this node is.
#[derive(Debug)]
enum Phase {
    Joining(Box<Joiner>),
    Member,
    Barred,
}

/// This node.
#[derive(Debug)]
struct Us {
    secret: Secret,
    identity: IdentityKey,
    settled: Option<Settled>,
    announcement: Announcement,
    seeds: Vec<SocketAddr>,
    /// The hello key in the join string.
    join_key: Option<HelloPublic>,
    /// Since it started, it began the network: nobody knows more.
    began_alone: bool,
    /// The sum of the tombstones in the join string, until we can compare it.
    minted: Option<u64>,
}

/// The membership of one node.
#[derive(Debug)]
pub struct Membership {
    crypto: &'static dyn Crypto,
    genesis: Envelope,
    roster: Roster,
    gossip: Gossip,
    keys: HelloKeys,
    early: EarlyKeys,
    early_announcements: EarlyAnnouncements,
    us: Us,
    phase: Phase,
    /// Who let us in, until our roster holds all that proves it.
    introducer: Option<(Settled, SignedAnnouncement)>,
    /// Who answered us when we had a session with nobody that we knew: it is believed until we have caught up.
    sponsor: Option<IdentityKey>,
    /// Who answered our last hello, while neighbours are missing: it may know those that we do not.
    met: Option<IdentityKey>,
    reachable: BTreeSet<IdentityKey>,
    /// Made when it is asked for first.
    ring: Option<Ring>,
    answered: Answered,
    upkeep: Upkeep,
    output: VecDeque<Output>,
    rng: ChaCha12Rng,
}

impl Membership {
    /// A node that wants to become a member.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(
        join: JoinString,
        profile: Profile,
        seed: [u8; 32],
        now: Now,
        crypto: &'static dyn Crypto,
    ) -> Result<Self, JoinError> {
        let genesis = join.genesis.clone();
        let us = (profile.identity.clone(), profile.announcement.clone(), join.seeds.clone());
        let (minted, join_key) = (join.tombstones, join.hello);
        let joiner = Joiner::new(join, profile, now.instant, crypto)?;
        let phase = Phase::Joining(Box::new(joiner));
        let mut this = Self::new(genesis, us, phase, seed, now, crypto).map_err(JoinError::Record)?;
        // None were known, or its maker did not ask.
        this.us.join_key = Some(join_key);
        this.us.minted = (minted != 0).then_some(minted);
        Ok(this)
    }

    /// A member that was restarted. It gets a new `instance`, and its boot counter rises.
    ///
    /// # Errors
    /// [`RecordError`] if the genesis is not valid. Items that are not are left out.
    pub fn resume(
        saved: Saved,
        instance: [u8; 8],
        seed: [u8; 32],
        now: Now,
        crypto: &'static dyn Crypto,
    ) -> Result<Self, RecordError> {
        let announcement = Announcement { instance, boot: saved.announcement.boot + 1, ..saved.announcement };
        let us = (saved.identity, announcement, saved.seeds);
        let mut this = Self::new(saved.genesis, us, Phase::Member, seed, now, crypto)?;
        for key in saved.keys {
            this.keys.add(key, crypto);
        }
        let network = *this.roster.network();
        let open = |bytes: &Arc<[u8]>| Item::open(bytes, &network, crypto).ok();
        let mut items: Vec<_> = saved.items.iter().filter_map(open).collect();
        items.push(Item::Settled(Box::new(saved.settled.clone())));
        this.us.settled = Some(saved.settled);
        // Whatever depends on a later one is taken up in a later round. It was all true when it was written down.
        this.roster.trust(true);
        let apply_all = |roster: &mut Roster| {
            items.iter().filter(|item| roster.apply((*item).clone()) == Applied::New).count()
        };
        while apply_all(&mut this.roster) > 0 {}
        this.roster.restore_installed(saved.installed);
        this.roster.take_revived();
        this.announce(now);
        this.after_change(now);
        Ok(this)
    }

    fn new(
        genesis: Envelope,
        (secret, announcement, seeds): (Secret, Announcement, Vec<SocketAddr>),
        phase: Phase,
        seed: [u8; 32],
        now: Now,
        crypto: &'static dyn Crypto,
    ) -> Result<Self, RecordError> {
        let (decoded, _) = Genesis::open(genesis.bytes(), crypto)?;
        let network = NetworkId(genesis.id().0);
        let identity = IdentityKey(crypto.signing_public(&secret));
        Ok(Self {
            crypto,
            genesis,
            roster: Roster::new(decoded, network),
            gossip: Gossip::new(now.instant),
            keys: HelloKeys::default(),
            early: EarlyKeys::default(),
            early_announcements: EarlyAnnouncements::default(),
            us: Us {
                secret,
                identity,
                settled: None,
                announcement,
                seeds,
                join_key: None,
                began_alone: false,
                minted: None,
            },
            phase,
            introducer: None,
            sponsor: None,
            met: None,
            reachable: BTreeSet::new(),
            ring: None,
            answered: Answered::default(),
            upkeep: Upkeep::new(now.instant),
            output: VecDeque::new(),
            rng: ChaCha12Rng::from_seed(seed),
        })
    }

    // What is known

    /// The records.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// This node's identity.
    pub fn identity(&self) -> &IdentityKey {
        &self.us.identity
    }

    /// This node's record, once it is a member.
    pub fn settled(&self) -> Option<&Settled> {
        let ours = self.us.settled.as_ref()?;
        // Others may have admitted us once more.
        Some(self.roster.settled(&self.us.identity).filter(|known| known.id() == ours.id()).unwrap_or(ours))
    }

    /// Whether this node is a member, as far as it knows.
    pub fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Member)
    }

    /// Whether others came first with this node's token. It goes on asking, unheard, since an owner may decide for it.
    pub fn is_put_behind(&self) -> bool {
        self.is_member() && self.roster.status(&self.us.identity) == Some(&Status::Overused)
    }

    /// Where this node says that it may be reached.
    pub fn candidates(&self) -> &[SocketAddr] {
        &self.us.announcement.candidates
    }

    /// The hello keys.
    pub fn hello_keys(&self) -> &HelloKeys {
        &self.keys
    }

    /// Everybody who may have a session with this node.
    pub fn peers(&self) -> impl Iterator<Item = PeerRecords<'_>> {
        let active = self.is_member();
        let members = self.roster.members().filter_map(|settled| {
            let announcement = self.roster.announcement(&settled.identity())?;
            Some(PeerRecords { settled, announcement, installed: true })
        });
        let introducer = self.introducer.iter().map(|(settled, announcement)| PeerRecords {
            settled,
            announcement,
            installed: false,
        });
        let us = self.us.identity;
        members.chain(introducer).filter(move |peer| active && peer.settled.identity() != us)
    }

    /// Whether `identity` may have a session with this node.
    pub fn is_peer(&self, identity: &IdentityKey) -> bool {
        let is_known = self.is_introducer(identity) || self.roster.is_member(identity);
        self.is_member() && *identity != self.us.identity && is_known
    }

    /// With whom sessions should be kept for gossip.
    pub fn wanted(&mut self) -> BTreeSet<IdentityKey> {
        let mut wanted = self.ring().clone();
        wanted.extend(self.introducer.iter().map(|(settled, _)| settled.identity()));
        wanted.extend(self.met.filter(|met| self.roster.is_member(met)));
        wanted
    }

    /// What to write down, once this node is a member. It holds secrets.
    pub fn saved(&self) -> Option<Saved> {
        Some(Saved {
            genesis: self.genesis.clone(),
            identity: self.us.secret.clone(),
            settled: self.settled()?.clone(),
            announcement: self.us.announcement.clone(),
            items: self.roster.items().map(|item| item.to_bytes()).collect(),
            installed: self.roster.members().map(Settled::identity).collect(),
            keys: self.keys.iter().cloned().collect(),
            seeds: self.us.seeds.clone(),
        })
    }

    // What happens

    /// A session with a peer began.
    pub fn session_began(&mut self, with: IdentityKey, now: Now) {
        if !self.is_peer(&with) {
            return;
        }
        self.reachable.insert(with);
        self.upkeep.heard(with, now.instant);
        let outbox = self.gossip.met(with, &self.roster);
        self.send(outbox);
        self.tell_keys(&with);
        self.upkeep.tell_keys_again(with);
    }

    /// Nothing comes from a peer any more.
    pub fn session_ended(&mut self, with: &IdentityKey) {
        self.reachable.remove(with);
        self.upkeep.unconfirmed.forget(with);
    }

    /// Takes what came from `from` inside a session.
    pub fn handle_control(&mut self, from: IdentityKey, payload: &[u8], now: Now) {
        if !self.is_peer(&from) {
            return;
        }
        self.upkeep.heard(from, now.instant);
        // What a newer version says beside what we know is its matter.
        let Ok(message) = Message::decode(payload) else { return };
        self.note_what_it_knows(&from, &message);
        match message {
            Message::Items(items) => {
                for item in items {
                    self.take_bytes(item, from, now);
                }
                let outbox = self.gossip.ask_more(&from, now.instant);
                self.send(outbox);
            }
            Message::HelloKeys(keys) => self.take_keys(keys, Some(from), now),
            Message::Ping(nonce) => self.send(vec![(from, Message::Pong(nonce).encode())]),
            Message::Observed(address) => {
                self.output.push_back(Output::Event(Event::Observed(address)));
            }
            message => {
                let outbox = self.gossip.handle(from, &message, &self.roster, now.instant);
                self.send(outbox);
            }
        }
    }

    /// Notes which of the news that it was told a member shows to know.
    fn note_what_it_knows(&mut self, from: &IdentityKey, message: &Message<'_>) {
        let unconfirmed = &mut self.upkeep.unconfirmed;
        match message {
            Message::Items(items) => {
                let network = self.roster.network();
                let digests = items.iter().filter_map(|item| Item::digest_of(item, network));
                digests.for_each(|digest| unconfirmed.knows(from, digest));
            }
            Message::Have(digests) | Message::Want(digests) => {
                digests.iter().for_each(|digest| unconfirmed.knows(from, *digest));
            }
            Message::Pong(question) => unconfirmed.answered(from, *question),
            // Comparisons find out all that it lacks.
            Message::Buckets(_) | Message::Bucket { .. } | Message::Part { .. } => unconfirmed.forget(from),
            Message::Summary { .. } | Message::Ping(_) | Message::HelloKeys(_) | Message::Observed(_) => {}
        }
    }

    /// This node is somewhere else now.
    pub fn set_candidates(&mut self, candidates: Vec<SocketAddr>, now: Now) {
        if let Phase::Joining(joiner) = &mut self.phase {
            joiner.set_candidates(candidates.clone());
        }
        self.us.announcement.candidates = candidates;
        self.announce(now);
        self.after_change(now);
    }

    /// An operation that an owner signed, handed in at this node.
    pub fn act(&mut self, item: Item, now: Now) -> Applied {
        self.take(item, None, now)
    }

    /// This node leaves, for good.
    pub fn leave(&mut self, now: Now) {
        let end = End::Left { identity: self.us.identity, instance: self.us.announcement.instance };
        let tombstone = Tombstone { end, time: now.clock.unwrap_or(0) };
        if let Ok(tombstone) = tombstone.seal(self.roster.network(), &self.us.secret, self.crypto) {
            self.take(Item::Tombstone(tombstone), None, now);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    // Records

    /// Takes an item that a member sent. Most come several times: those that are known cost no look at their signatures.
    fn take_bytes(&mut self, bytes: &[u8], from: IdentityKey, now: Now) {
        let network = *self.roster.network();
        let is_new = Item::digest_of(bytes, &network).is_some_and(|digest| !self.roster.knows(digest));
        if !is_new {
            return;
        }
        if let Ok(item) = Item::open(bytes, &network, self.crypto) {
            self.gossip.arrived(item.digest(), now.instant);
            self.take(item, Some(from), now);
        }
    }

    /// Takes an item whose signatures were checked, and passes it on if it is new.
    fn take(&mut self, item: Item, from: Option<IdentityKey>, now: Now) -> Applied {
        if self.is_left_by_a_clone(&item) {
            return Applied::Known;
        }
        let (digest, bytes) = (item.digest(), item.to_bytes());
        let is_revocation = matches!(&item, Item::Tombstone(tombstone) if tombstone.owner().is_some());
        self.roster.trust(from.is_some_and(|from| self.is_believed(&from)));
        let applied = self.roster.apply(item.clone());
        if applied == Applied::New {
            if let Item::Announcement(announcement) = &item
                && announcement.identity == self.us.identity
            {
                self.adopt(announcement, now);
            }
            self.push(&bytes, digest, from, now);
            self.after_change(now);
            if let Item::Announcement(announcement) = &item {
                self.upkeep.heard_of(announcement.identity, now.instant);
            }
            if is_revocation {
                self.look_at_early_keys(now);
                if from.is_none() {
                    self.upkeep.rotate_now(now.instant);
                }
            }
        }
        if let (Applied::Pending, Item::Announcement(announcement)) = (applied, item) {
            self.early_announcements.wait(announcement, now.instant);
        }
        if matches!(applied, Applied::New | Applied::Pending) {
            self.after_change(now);
        }
        applied
    }

    /// Until we have caught up, we take from members, and from who let us in, what we cannot prove: what happened before
    /// we came, or while we were away.
    fn is_believed(&self, from: &IdentityKey) -> bool {
        let is_behind = !self.us.began_alone && !self.gossip.has_agreed();
        is_behind && (self.sponsor == Some(*from) || self.roster.is_member(from))
    }

    /// Whether it is known what became of `identity`. While we catch up, a conflict may be one with somebody of whose end
    /// we have not heard yet.
    fn is_judged(&self, identity: &IdentityKey) -> bool {
        match self.roster.status(identity) {
            None => false,
            Some(Status::Conflict { .. }) => self.gossip.has_agreed(),
            Some(_) => true,
        }
    }

    /// While a session with a machine lasts, no other machine with its identity can make it leave.
    fn is_left_by_a_clone(&self, item: &Item) -> bool {
        let Item::Tombstone(tombstone) = item else { return false };
        let End::Left { identity, instance } = tombstone.tombstone.end else { return false };
        let established = self.roster.announcement(&identity).map(|known| known.announcement.instance);
        self.reachable.contains(&identity) && established.is_some_and(|established| established != instance)
    }

    /// Draws the conclusions from what has changed in the roster.
    fn after_change(&mut self, now: Now) {
        for digest in self.roster.take_revived() {
            let Some(item) = self.roster.find(digest) else { continue };
            self.push(&item.to_bytes(), digest, None, now);
        }
        let changed = self.roster.take_changed();
        if changed.is_empty() {
            return;
        }
        changed.iter().for_each(|identity| self.tell_changed(*identity));
        if let Some(ring) = &mut self.ring {
            changed.iter().for_each(|identity| ring.set(*identity, self.roster.is_member(identity)));
        }
        if let Some((settled, announcement)) = &self.introducer
            && self.is_judged(&settled.identity())
        {
            // From now on it is a member like any other.
            self.roster.apply(Item::Announcement(announcement.clone()));
            self.set_introducer(None);
        }
        if changed.iter().any(|identity| self.roster.is_barred(identity)) {
            self.upkeep.answer_soon(now.instant, self.rng.next_u32());
        }
        if changed.contains(&self.us.identity) {
            self.look_at_ourselves(now);
        }
        for identity in &changed {
            if let Some(announcement) = self.early_announcements.take(identity) {
                self.take(Item::Announcement(announcement), None, now);
            }
        }
    }

    fn look_at_ourselves(&mut self, now: Now) {
        match self.roster.status(&self.us.identity) {
            // Others may see it in their own way and go on talking to us, or come to tell us what an owner decided.
            None | Some(Status::Conflict { .. } | Status::Overused) => {}
            Some(Status::Installed) => {
                if self.is_member() && self.roster.announcement(&self.us.identity).is_none() {
                    self.announce(now);
                }
            }
            // Others lost sight of us: the next announcement undoes it.
            Some(Status::Expired) => self.announce(now),
            Some(status) => {
                if self.is_member() {
                    self.output.push_back(Output::Event(Event::Barred(status.clone())));
                }
                self.phase = Phase::Barred;
                self.reachable.clear();
            }
        }
        self.after_change(now);
    }

    /// Says anew where we are.
    fn announce(&mut self, now: Now) {
        if !self.is_member() {
            return;
        }
        self.us.announcement.sequence = self.us.announcement.sequence.saturating_add(1);
        let (network, secret) = (*self.roster.network(), &self.us.secret);
        if let Ok(announcement) = self.us.announcement.seal(&network, secret, self.crypto) {
            let item = Item::Announcement(announcement);
            let (digest, bytes) = (item.digest(), item.to_bytes());
            // Not `take`, which would look at it as an echo.
            if self.roster.apply(item) == Applied::New {
                self.push(&bytes, digest, None, now);
            }
        }
    }

    /// An announcement of our own identity that we did not make just now: from before our state was lost, or by a
    /// clone. Ours must be newer to count. What we said in a hello comes back, too, and is as good as ours.
    fn adopt(&mut self, theirs: &SignedAnnouncement, now: Now) {
        let instance = theirs.announcement.instance;
        let (sequence, ours) = (theirs.announcement.sequence, &self.us.announcement);
        if theirs.announcement == *ours || instance == ours.instance && sequence < ours.sequence {
            return;
        }
        self.us.announcement.sequence = self.us.announcement.sequence.max(theirs.announcement.sequence);
        if instance != self.us.announcement.instance && theirs.announcement.boot >= self.us.announcement.boot
        {
            self.output.push_back(Output::Event(Event::Cloned { instance }));
        }
        self.upkeep.announce_soon(now.instant);
    }

    // Sending

    /// Passes an item on that is new.
    fn push(&mut self, bytes: &Arc<[u8]>, digest: ItemDigest, from: Option<IdentityKey>, now: Now) {
        let targets = self.targets();
        let outbox = self.gossip.push(bytes, digest, from, &targets, now.instant, &mut self.rng);
        if !outbox.is_empty() {
            let told = targets.into_iter().filter(|to| Some(*to) != from);
            told.for_each(|to| self.upkeep.unconfirmed.told(to, digest, now.instant));
        }
        self.send(outbox);
    }

    fn send(&mut self, outbox: Outbox) {
        let outputs =
            outbox.into_iter().map(|(to, payload)| Output::Control { to, payload: Zeroizing::new(payload) });
        self.output.extend(outputs);
    }

    /// Who gets what is new: the neighbours that are there, and others if these are few.
    fn targets(&mut self) -> Vec<IdentityKey> {
        let ring: Vec<_> = self.ring().iter().copied().collect();
        let mut targets: Vec<_> = ring.into_iter().filter(|member| self.reachable.contains(member)).collect();
        if targets.len() < FEWEST_TARGETS {
            let others: Vec<_> =
                self.reachable.iter().filter(|member| !targets.contains(member)).copied().collect();
            targets.extend(others.into_iter().take(FEWEST_TARGETS));
        }
        targets
    }

    fn ring(&mut self) -> &BTreeSet<IdentityKey> {
        let (roster, us) = (&self.roster, self.us.identity);
        let members = || roster.members().map(Settled::identity);
        self.ring.get_or_insert_with(|| Ring::new(us, members())).neighbours()
    }
}

/// When each peer was last heard of.
type Heard = BTreeMap<IdentityKey, Instant>;

#[cfg(test)]
mod tests;
