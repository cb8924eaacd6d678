//! The side that wants to be let in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

use super::{Reply, Request, pick_address};
use crate::crypto::{Crypto, Secret};
use crate::hello::{Ask, Expected, Hello, HelloKey};
use crate::join_string::JoinString;
use crate::record::announcement::Announcement;
use crate::record::genesis::Genesis;
use crate::record::member::{Member, SignedMember};
use crate::record::name::{Name, NamePattern};
use crate::record::receipt::Receipt;
use crate::record::{IdentityKey, NetworkId, RecordError};
use crate::roster::{Item, Refusal, Roster, Settled};

/// Wait after the first request, about: longer than most answers take, and short enough that a lost datagram does not
/// show.
const FIRST_WAIT: Duration = Duration::from_millis(400);
/// Longest wait between two requests, about.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Wait after somebody said that an exact name is taken: only an owner can change that.
const TAKEN_WAIT: Duration = Duration::from_secs(60);
/// The same where the name is to be taken over from an incarnation that may be gone.
const REPLACE_WAIT: Duration = Duration::from_secs(4);
/// Requests whose replies are still opened.
const MAX_EXPECTED: usize = 8;
/// How long nobody must answer before a node begins the network.
const ALONE_WITHOUT_SEEDS: Duration = Duration::from_secs(1);
const ALONE_WITH_SEEDS: Duration = Duration::from_secs(10);

/// Who wants to be let in.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its new identity.
    pub identity: Secret,
    /// The name that it wants; needed for pools only.
    pub name: Option<Name>,
    /// Prefixes behind it.
    pub routes: Vec<IpNet>,
    /// Where it is. Its sequence rises with each request.
    pub announcement: Announcement,
}

/// Why a node cannot even ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The token is for a pool, and no name was given that is of it.
    #[error("join string is for a pool, and the node's name is not of it")]
    Name,
    /// Its routes are not granted.
    #[error("join string does not permit the node's routes")]
    Routes,
    /// The records do not fit.
    #[error("build the request to join")]
    Record(#[source] RecordError),
    /// The request is too long for a datagram.
    #[error("request to join is too long: too many routes or candidates")]
    TooLong,
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To this address.
    Address(SocketAddr),
    /// To whoever listens on the same network segment.
    Lan,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What to send.
    pub datagram: Vec<u8>,
    /// To each of these.
    pub to: Vec<Destination>,
}

/// How a datagram came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// To this node alone.
    Unicast,
    /// To everybody on the network segment.
    Lan,
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The new member, with its admission.
    pub settled: Settled,
    /// The last announcement that was made.
    pub announcement: Announcement,
    /// The hello keys of the network.
    pub keys: Vec<HelloKey>,
    /// What the admitter sent along, verified.
    pub items: Vec<Item>,
    /// Who admitted it: itself, if it begins the network.
    pub admitter: IdentityKey,
}

/// What a reply led to.
#[derive(Debug)]
pub enum Progress {
    /// It was none, or none that counts.
    Nothing,
    /// The name or the address is taken; the node goes on asking, slowly unless it has another address to try.
    Taken,
    /// It is a member.
    Done(Box<Outcome>),
}

/// Asks until somebody lets it in.
///
/// Call [`poll`](Self::poll) when [`deadline`](Self::deadline) has come, and [`handle_reply`](Self::handle_reply) for
/// each datagram that may be a reply.
#[derive(Debug)]
pub struct Joiner {
    join: JoinString,
    network: NetworkId,
    /// Without members: the owners that the join string names.
    roster: Roster,
    profile: Profile,
    member: SignedMember,
    pool_attempt: u32,
    began: Instant,
    next: Instant,
    wait: Duration,
    answered: bool,
    expected: VecDeque<Expected>,
}

impl Joiner {
    /// Gets ready to ask, at once.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn new(
        join: JoinString,
        profile: Profile,
        now: Instant,
        crypto: &dyn Crypto,
    ) -> Result<Self, JoinError> {
        let network = join.network();
        let (genesis, _) = Genesis::open(join.genesis.bytes(), crypto).map_err(JoinError::Record)?;
        let roster = Roster::new(genesis, network);
        let member = member(&join, &profile, 0, crypto)?;
        let next = now;
        let expected = VecDeque::new();
        let wait = FIRST_WAIT;
        Ok(Self {
            join,
            network,
            roster,
            profile,
            member,
            pool_attempt: 0,
            began: now,
            next,
            wait,
            answered: false,
            expected,
        })
    }

    /// The name and address that it asks for.
    pub fn member(&self) -> &Member {
        &self.member.member
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Instant {
        self.alone_at().map_or(self.next, |alone| self.next.min(alone))
    }

    /// Where it is now: the next request says so.
    pub fn set_candidates(&mut self, candidates: Vec<SocketAddr>) {
        self.profile.announcement.candidates = candidates;
    }

    /// The request that is due, and where to send it.
    ///
    /// # Errors
    /// [`JoinError::TooLong`] and [`JoinError::Record`]: asking again is of no use until the profile changes.
    pub fn poll(
        &mut self,
        now: Instant,
        crypto: &dyn Crypto,
        rng: &mut ChaCha12Rng,
    ) -> Result<Option<Attempt>, JoinError> {
        if now < self.next {
            return Ok(None);
        }
        // Half the wait to one and a half, so that nodes that start together do not stay together.
        let spread = u64::from(rng.next_u32()) % 1000;
        self.next = now + self.wait / 2 + self.wait * spread as u32 / 1000;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);

        self.profile.announcement.sequence = self.profile.announcement.sequence.saturating_add(1);
        let announcement = self
            .profile
            .announcement
            .seal(&self.network, &self.profile.identity, crypto)
            .map_err(JoinError::Record)?;
        let (grant, member) = (self.join.grant.clone(), self.member.clone());
        let request = Request { grant, member, receipt: None, announcement };
        let hello = Hello {
            signer: self.member.identity.0,
            sequence: self.profile.announcement.sequence,
            ask: Ask::Join,
            content: request.encode(),
            target: None,
        };
        let (datagram, expected) = hello
            .seal(&self.profile.identity, &self.join.hello, &self.network, crypto, rng)
            .ok_or(JoinError::TooLong)?;
        if self.expected.len() >= MAX_EXPECTED {
            self.expected.pop_front();
        }
        self.expected.push_back(expected);
        let seeds = self.join.seeds.iter().copied().map(Destination::Address);
        Ok(Some(Attempt { datagram, to: seeds.chain([Destination::Lan]).collect() }))
    }

    /// Takes a datagram that may be a reply.
    pub fn handle_reply(&mut self, datagram: &[u8], now: Instant, crypto: &dyn Crypto) -> Progress {
        let opened = self.expected.iter().find_map(|expected| expected.open(datagram, crypto));
        let Some(Ok(reply)) = opened.map(|payload| Reply::decode(&payload, &self.network, crypto)) else {
            return Progress::Nothing;
        };
        match reply {
            Reply::Taken => {
                self.answered = true;
                self.try_another(now, crypto);
                Progress::Taken
            }
            Reply::Admitted { receipt, keys, items } => {
                let settled = Settled {
                    grant: self.join.grant.clone(),
                    member: self.member.clone(),
                    receipt: (*receipt).clone(),
                };
                let of_us = receipt.receipt.member == self.member.id;
                let admitter = receipt.admitter;
                let items = items.iter().filter_map(|item| Item::open(item, &self.network, crypto).ok());
                let proof = self.proof(&admitter, items.collect());
                let Some(items) = proof.filter(|_| of_us && !keys.is_empty()) else {
                    return Progress::Nothing;
                };
                self.answered = true;
                let announcement = self.profile.announcement.clone();
                Progress::Done(Box::new(Outcome { settled, announcement, keys, items, admitter }))
            }
        }
    }

    /// What of `items` shows that `admitter` is a member: its announcement, its record, that of its admitter, and so on.
    /// `None` if they do not.
    ///
    /// At least its own record has to be there: that an owner of the genesis granted it its place. How long the chain is
    /// depends on what fits into a datagram, mostly one or two records, and the grants of owners that were added later
    /// cannot be judged yet; the rest is told in the first session.
    fn proof(&self, admitter: &IdentityKey, mut items: Vec<Item>) -> Option<Vec<Item>> {
        let mut take = |wanted: &dyn Fn(&Item) -> bool| {
            items.iter().position(wanted).map(|position| items.swap_remove(position))
        };
        let mut proof = Vec::new();
        proof.extend(take(&|item| matches!(item, Item::Announcement(item) if item.identity == *admitter)));
        let (mut next, mut is_first) = (*admitter, true);
        while let Some(item) =
            take(&|item| matches!(item, Item::Settled(settled) if settled.identity() == next))
        {
            let Item::Settled(settled) = &item else { return None };
            let is_granted = match self.roster.judge(settled) {
                Ok(()) => true,
                Err(Refusal::NoOwner) => !self.roster.owners().was_one(&settled.grant.owner),
                Err(_) => false,
            };
            if !is_granted {
                return None;
            }
            let (is_founder, above) = (settled.is_self_admitted(), settled.receipt.admitter);
            proof.push(item);
            (next, is_first) = (above, false);
            if is_founder {
                break;
            }
        }
        let is_somebody_else = *admitter != self.member.identity;
        (!is_first && is_somebody_else).then_some(proof)
    }

    /// Begins the network, if this node may and nobody answered.
    pub fn begin_alone(
        &mut self,
        now: Instant,
        clock: u64,
        crypto: &dyn Crypto,
        rng: &mut ChaCha12Rng,
    ) -> Option<Outcome> {
        if self.alone_at().is_none_or(|at| now < at) {
            return None;
        }
        let key = HelloKey { epoch: 0, secret: self.join.first_hello.clone()? };
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let receipt = Receipt { member: self.member.id, nonce, time: clock, reach: 0 };
        let receipt = receipt.seal(&self.network, &self.profile.identity, crypto).ok()?;
        let admitter = receipt.admitter;
        let settled = Settled { grant: self.join.grant.clone(), member: self.member.clone(), receipt };
        let announcement = self.profile.announcement.clone();
        Some(Outcome { settled, announcement, keys: vec![key], items: vec![], admitter })
    }

    /// When this node may begin the network.
    pub(super) fn alone_at(&self) -> Option<Instant> {
        let is_exact = matches!(self.join.grant.grant.names, NamePattern::Exact(_));
        let may = is_exact && self.join.first_hello.is_some() && !self.answered;
        // The first member is often named as the seed of all.
        let ours = &self.profile.announcement.candidates;
        let has_others = self.join.seeds.iter().any(|seed| !ours.contains(seed));
        let wait = if has_others { ALONE_WITH_SEEDS } else { ALONE_WITHOUT_SEEDS };
        may.then_some(self.began + wait)
    }

    /// Asks for another address if there is one, else later.
    fn try_another(&mut self, now: Instant, crypto: &dyn Crypto) {
        let tried = self.pool_attempt + 1;
        let is_pool = matches!(self.join.grant.grant.names, NamePattern::Pool { .. });
        match member(&self.join, &self.profile, tried, crypto) {
            // What is taken may be the name: then no address helps, and the wait grows.
            Ok(member) if is_pool => {
                self.member = member;
                self.pool_attempt = tried;
                self.expected.clear();
                self.next = if tried < 8 { now } else { now + self.wait };
            }
            // Whether the incarnation that we replace is still there is being found out.
            _ if self.join.grant.grant.replaces.is_some() => self.next = now + REPLACE_WAIT,
            _ => self.next = now + TAKEN_WAIT,
        }
    }
}

fn member(
    join: &JoinString,
    profile: &Profile,
    attempt: u32,
    crypto: &dyn Crypto,
) -> Result<SignedMember, JoinError> {
    let grant = &join.grant.grant;
    let name = match (&grant.names, &profile.name) {
        (NamePattern::Exact(name), _) => name.clone(),
        (NamePattern::Pool { .. }, Some(name)) if grant.names.matches(name) => name.clone(),
        (NamePattern::Pool { .. }, _) => return Err(JoinError::Name),
    };
    let address = pick_address(&grant.addresses, &name, attempt);
    if !grant.covers(&name, address, &profile.routes) {
        return Err(JoinError::Routes);
    }
    let member = Member { grant: join.grant.id, name, address, routes: profile.routes.clone() };
    member.seal(&join.network(), &join.token, &profile.identity, crypto).map_err(JoinError::Record)
}
