//! What a member does by itself as time passes: gossip, new hello keys after a revocation, letting go of ephemeral
//! members, meeting neighbours that have no session with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand_core::RngCore as _;

use super::unconfirmed::Unconfirmed;
use super::{Heard, Membership, Now, Output, Phase};
use crate::gossip::Message;
use crate::hello::{Ask, Expected, Hello, HelloPublic};
use crate::join::{Destination, Reply, Request};
use crate::record::IdentityKey;
use crate::record::tombstone::{End, Tombstone};
use crate::roster::{Item, Settled, Status};

/// How often members are looked after.
const ROUND: Duration = Duration::from_secs(2);
/// Wait for the one at whom a revocation came in to make a new hello key, before another does.
const ROTATE_AFTER: Duration = Duration::from_secs(3);
/// Wait before a neighbour without session is sent a hello; then longer and longer.
const MEET_AFTER: Duration = Duration::from_secs(4);
const MEET_LONGEST: Duration = Duration::from_secs(120);
/// How often one of all members, drawn at random, looks whether there is somebody whom it does not know of.
const SEEK_INTERVAL: Duration = Duration::from_secs(120);
/// Neighbours that are sent a hello in one round.
const MEET_AT_ONCE: usize = 4;
/// Of all members that miss neighbours together, those that ask others for them each time, about.
const ASK_TOGETHER: u32 = 4;
/// Waits between two calls for anybody, while there is no session at all.
const CALL_FIRST: Duration = Duration::from_secs(1);
const CALL_LONGEST: Duration = Duration::from_secs(30);
/// How long an introducer that is there has time to prove itself before another may take its place.
const HEAR_OUT: Duration = Duration::from_secs(8);
/// Hellos whose replies are still opened.
const MAX_EXPECTED: usize = 16;
/// Members that are admitted once more in one round.
const ANSWER_AT_ONCE: usize = 32;
/// Wait before members are admitted once more whose admitter was barred just now, and its spread: others have to hear of
/// that, too, or the new admission means nothing to them.
const ANSWER_FIRST: Duration = Duration::from_millis(250);
const ANSWER_SPREAD: u32 = 500;
/// Wait before the next attempt, and how many there are before only rounds count.
const ANSWER_NEXT: Duration = Duration::from_millis(400);
const MAX_ANSWERS: u8 = 6;
/// How long those whom we took up on trust wait for somebody who knew them before.
const ANSWER_ON_TRUST_AFTER: Duration = Duration::from_secs(60);
/// How long a member waits for its admitter to become known before it is judged by its token.
const ADMIT_WAITING_AFTER: Duration = Duration::from_secs(20);
/// Wait before an announcement is answered that somebody else made of this node.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);

/// How often hello keys are told once more: nothing else finds out that a message with them was lost.
const TELL_KEYS_AGAIN: u8 = 3;

/// Silence after which a member that was asked whether it is there is taken to be gone.
const DOUBT_FOR: Duration = Duration::from_secs(3);
/// After that it is asked anew.
const DOUBT_AGAIN: Duration = Duration::from_secs(30);

/// What the upkeep remembers.
#[derive(Debug)]
pub(super) struct Upkeep {
    began: Instant,
    round_at: Instant,
    rotate_at: Option<Instant>,
    announce_at: Option<Instant>,
    /// When members are to be admitted once more before the next round, and the how manieth attempt it is.
    answer_at: Option<(Instant, u8)>,
    heard: Heard,
    meet: BTreeMap<IdentityKey, (Instant, Duration)>,
    /// Members that were asked whether they are there, and when.
    doubts: BTreeMap<IdentityKey, Instant>,
    /// Members that may have missed news.
    pub(super) unconfirmed: Unconfirmed,
    call_at: Instant,
    call_wait: Duration,
    hear_out_until: Instant,
    seek_at: Instant,
    /// Which of the older hello keys is next.
    hellos: usize,
    /// How often members are still told our hello keys.
    tell_keys: BTreeMap<IdentityKey, u8>,
    expected: VecDeque<Expected>,
    /// Since when members wait for their admitter.
    waiting: BTreeMap<IdentityKey, Instant>,
    /// Since when there are members for whom somebody has to answer.
    unproven_since: Option<Instant>,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            round_at: now,
            rotate_at: None,
            announce_at: None,
            answer_at: None,
            heard: Heard::new(),
            meet: BTreeMap::new(),
            doubts: BTreeMap::new(),
            unconfirmed: Unconfirmed::default(),
            call_at: now + CALL_FIRST,
            call_wait: CALL_FIRST,
            hear_out_until: now,
            seek_at: now + SEEK_INTERVAL,
            hellos: 0,
            tell_keys: BTreeMap::new(),
            expected: VecDeque::new(),
            waiting: BTreeMap::new(),
            unproven_since: None,
        }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn heard(&mut self, identity: IdentityKey, now: Instant) {
        self.heard.insert(identity, now);
        self.call_wait = CALL_FIRST;
        self.meet.remove(&identity);
    }

    /// Who let us in has time to begin a session, before others are called.
    pub(super) fn call_later(&mut self, now: Instant) {
        self.call_at = now + CALL_FIRST;
    }

    /// There is another introducer.
    pub(super) fn hear_out(&mut self, now: Instant) {
        self.hear_out_until = now + HEAR_OUT;
    }

    pub(super) fn is_heard_out(&self, now: Instant) -> bool {
        now < self.hear_out_until
    }

    /// Somebody heard of it.
    pub(super) fn heard_of(&mut self, identity: IdentityKey, now: Instant) {
        self.heard.insert(identity, now);
    }

    /// Notes that a member is asked whether it is there; whether it is to be asked now.
    pub(super) fn doubt(&mut self, identity: IdentityKey, now: Instant) -> bool {
        self.doubts.retain(|_, asked| now < *asked + DOUBT_AGAIN);
        let is_new = !self.doubts.contains_key(&identity);
        self.doubts.entry(identity).or_insert(now);
        is_new
    }

    /// Whether a member was asked, and has not been heard since.
    pub(super) fn is_silent(&self, identity: &IdentityKey, now: Instant) -> bool {
        let asked = self.doubts.get(identity);
        asked.is_some_and(|asked| now >= *asked + DOUBT_FOR && self.heard_at(identity) <= *asked)
    }

    /// Those of `waiting` that did so for long.
    pub(super) fn in_vain(&mut self, mut waiting: Vec<Settled>, now: Instant) -> Vec<Settled> {
        let before = std::mem::take(&mut self.waiting);
        let since = |identity: &IdentityKey| before.get(identity).copied().unwrap_or(now);
        self.waiting = waiting.iter().map(Settled::identity).map(|who| (who, since(&who))).collect();
        waiting.retain(|settled| now >= self.waiting[&settled.identity()] + ADMIT_WAITING_AFTER);
        waiting
    }

    pub(super) fn forget(&mut self, identity: &IdentityKey) {
        self.doubts.remove(identity);
        self.heard.remove(identity);
        self.meet.remove(identity);
        self.unconfirmed.forget(identity);
    }

    pub(super) fn tell_keys_again(&mut self, to: IdentityKey) {
        self.tell_keys.insert(to, TELL_KEYS_AGAIN);
    }

    /// Who is to be told our hello keys in this round.
    fn untold(&mut self, reachable: &BTreeSet<IdentityKey>) -> Vec<IdentityKey> {
        self.tell_keys.retain(|to, left| *left > 0 && reachable.contains(to));
        self.tell_keys.values_mut().for_each(|left| *left -= 1);
        self.tell_keys.keys().copied().collect()
    }

    pub(super) fn rotate_now(&mut self, now: Instant) {
        self.rotate_at = Some(now);
    }

    /// Not at once: two clones that answer each other would never stop.
    pub(super) fn announce_soon(&mut self, now: Instant) {
        self.announce_at.get_or_insert(now + ANNOUNCE_AFTER);
    }

    /// An admitter was barred: those that it let in need another before long.
    pub(super) fn answer_soon(&mut self, now: Instant, random: u32) {
        let spread = Duration::from_millis(u64::from(random % ANSWER_SPREAD));
        self.answer_at = Some((now + ANSWER_FIRST + spread, 0));
    }

    /// Which attempt is due, if one is.
    fn take_answer(&mut self, now: Instant) -> Option<u8> {
        let (_, attempt) = self.answer_at.filter(|(at, _)| *at <= now)?;
        self.answer_at = (attempt + 1 < MAX_ANSWERS).then_some((now + ANSWER_NEXT, attempt + 1));
        Some(attempt)
    }

    fn heard_at(&self, identity: &IdentityKey) -> Instant {
        self.heard.get(identity).copied().unwrap_or(self.began)
    }
}

impl Membership {
    /// Does what is due. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        match self.phase {
            Phase::Joining(_) => self.poll_joiner(now),
            Phase::Member => self.look_after(now),
            Phase::Barred => self.gossip_only(now),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` for who is barred.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Joining(joiner) => Some(joiner.deadline()),
            Phase::Member => {
                let upkeep = &self.upkeep;
                let answer = upkeep.answer_at.map(|(at, _)| at);
                let others = [
                    upkeep.rotate_at,
                    upkeep.announce_at,
                    answer,
                    upkeep.unconfirmed.deadline(),
                    Some(self.gossip.deadline()),
                ];
                Some(others.into_iter().flatten().fold(upkeep.round_at, Instant::min))
            }
            Phase::Barred => None,
        }
    }

    fn gossip_only(&mut self, now: Now) {
        let reachable: Vec<_> = self.reachable.iter().copied().collect();
        let outbox = self.gossip.handle_timeout(&reachable, &self.roster, now.instant, &mut self.rng);
        self.send(outbox);
    }

    fn look_after(&mut self, now: Now) {
        self.gossip_only(now);
        self.ask_the_unconfirmed(now);
        if self.upkeep.announce_at.is_some_and(|at| at <= now.instant) {
            self.upkeep.announce_at = None;
            self.announce(now);
            self.after_change(now);
        }
        if self.upkeep.rotate_at.is_some_and(|at| at <= now.instant) {
            self.upkeep.rotate_at = None;
            self.rotate(now);
        }
        if let Some(attempt) = self.upkeep.take_answer(now.instant) {
            self.answer_for_others(now, 1 << attempt);
        }
        if self.upkeep.round_at <= now.instant {
            self.upkeep.round_at = now.instant + ROUND;
            self.look_at_early_keys(now);
            self.early_announcements.forget_old(now.instant);
            self.compare_with_join_string();
            if self.owes_rotation() && self.upkeep.rotate_at.is_none() {
                // Spread, so that one does it and the others hear of it.
                let spread = Duration::from_millis(u64::from(self.rng.next_u32() % 5_000));
                self.upkeep.rotate_at = Some(now.instant + ROTATE_AFTER + spread);
            }
            for member in self.upkeep.untold(&self.reachable) {
                self.tell_keys(&member);
            }
            self.let_go(now);
            self.answer_for_others(now, 1);
            self.admit_waiting(now);
            self.meet(now);
        }
    }

    /// Asks whoever may have missed news.
    fn ask_the_unconfirmed(&mut self, now: Now) {
        for (member, question) in self.upkeep.unconfirmed.ask(now.instant, || self.rng.next_u64()) {
            // Beside the comparisons that run: they go on.
            let messages = [Message::summary(&self.roster), Message::Ping(question)];
            self.send(messages.iter().map(|message| (member, message.encode())).collect());
        }
    }

    // Ephemeral members

    /// Lets those go that nobody heard of for their lifetime. The next member on the ring that is there does it, so
    /// that not everybody does.
    fn let_go(&mut self, now: Now) {
        // Also those that wait for a name or an address: others may have installed them.
        let is_there = |status: &Status| matches!(status, Status::Installed | Status::Conflict { .. });
        let there = self.roster.statuses().filter(|(_, status)| is_there(status));
        let overdue: Vec<_> = there
            .filter_map(|(identity, _)| self.roster.settled(identity))
            .filter(|settled| settled.identity() != self.us.identity)
            .filter(|settled| !self.reachable.contains(&settled.identity()))
            .filter_map(|settled| Some((settled.identity(), settled.grant.grant.ephemeral?)))
            .filter(|(identity, lifetime)| now.instant >= self.upkeep.heard_at(identity) + *lifetime)
            .map(|(identity, _)| identity)
            .collect();
        let crowd = self.roster.members().count().max(1) as u32;
        for identity in overdue {
            // Those in a conflict do not agree about who is next.
            if self.is_next_after(&identity) || self.rng.next_u32().is_multiple_of(crowd) {
                let heard = self.roster.announcement(&identity);
                let sequence = heard.map_or(0, |heard| heard.announcement.sequence);
                let tombstone =
                    Tombstone { end: End::Expired { identity, sequence }, time: now.clock.unwrap_or(0) };
                if let Ok(item) = tombstone.seal(self.roster.network(), &self.us.secret, self.crypto) {
                    self.take(Item::Tombstone(item), None, now);
                }
            }
        }
    }

    // Admitting again

    /// Admits those once more who depend on the word of a barred member, or on nobody's but their own: we knew them
    /// before. Mostly the next on the ring does it; where that one cannot, about `some` of all do. Who took them up on
    /// trust itself waits until those that know better had their time: it may be the only one that is left.
    fn answer_for_others(&mut self, now: Now, some: u32) {
        // Others may have us installed although we see ourselves in a conflict or put behind. It may be just the one with
        // whom we have it who needs our word, since nobody else knows it.
        let status = self.roster.status(&self.us.identity);
        let may_answer =
            matches!(status, Some(Status::Installed | Status::Conflict { .. } | Status::Overused));
        let mut unproven = self.roster.unproven().peekable();
        if unproven.peek().is_none() || !may_answer {
            self.upkeep.unproven_since = None;
            return;
        }
        let since = *self.upkeep.unproven_since.get_or_insert(now.instant);
        let had_their_time = now.instant.saturating_duration_since(since) >= ANSWER_ON_TRUST_AFTER;
        if !had_their_time && !self.roster.is_member(&self.us.identity) {
            return;
        }
        let Some(ours) = self.settled() else { return };
        let crowd = self.roster.members().count() as u32;
        // Who shares their token could admit as many of them as it likes: better somebody else does, if there is one.
        let is_like = |settled: &Settled| settled.grant.id == ours.grant.id;
        let mut found: Vec<Settled> = unproven
            .filter(|settled| settled.identity() != self.us.identity)
            .filter(|settled| {
                had_their_time || !is_like(settled) && self.roster.is_known_for_certain(&settled.identity())
            })
            .cloned()
            .collect();
        found.retain(|settled| {
            self.is_next_after(&settled.identity()) || self.rng.next_u32() % crowd.max(1) < some
        });
        for settled in found.into_iter().take(ANSWER_AT_ONCE) {
            // What others could have seen when it was admitted first has not changed.
            let reach = settled.receipt.receipt.reach;
            let Some(receipt) = self.sign_receipt(settled.id(), reach, now) else { return };
            let again = Settled { receipt, ..settled };
            if self.roster.helps(&again) {
                self.take(Item::Settled(Box::new(again)), None, now);
            }
        }
    }

    /// Whether nobody between `identity` and us on the ring is there.
    pub(super) fn is_next_after(&self, identity: &IdentityKey) -> bool {
        let members: Vec<_> = self.roster.members().map(Settled::identity).collect();
        // Also if it is none of the members.
        let (before, after) = match members.binary_search(identity) {
            Ok(at) => (&members[..at], &members[at + 1..]),
            Err(at) => members.split_at(at),
        };
        let around = after.iter().chain(before);
        around
            .copied()
            .find(|member| *member == self.us.identity || self.reachable.contains(member))
            .is_some_and(|member| member == self.us.identity)
    }

    // Meeting

    /// Sends hellos to neighbours that have no session with us: they may not know of us yet, or have no idea where
    /// we are.
    ///
    /// A neighbour that is missing may also be one that others do not know any more, because we are in a part of the
    /// network that missed something, and our other neighbours may be of that part, too. So some of these hellos also go
    /// to one of all that are known, and after a long time to whoever hears them. Whoever of our part hears one tells all of
    /// it; hence a few of us ask each time, however many we are, and whoever finds somebody tells the others.
    fn meet(&mut self, now: Now) {
        let wanted = self.wanted();
        let missing: Vec<_> =
            wanted.iter().filter(|member| !self.reachable.contains(member)).copied().collect();
        let our_part = self.size_of_our_part(wanted.len(), missing.len());
        self.upkeep.meet.retain(|member, _| missing.contains(member));
        if self.reachable.is_empty() {
            self.call_for_anybody(now);
        }
        if missing.is_empty() {
            self.met = None;
        }
        self.seek(now);
        let mut sent = 0;
        for member in missing {
            let first = (now.instant + MEET_AFTER, MEET_AFTER);
            let (at, wait) = *self.upkeep.meet.entry(member).or_insert(first);
            if at > now.instant || sent >= MEET_AT_ONCE {
                continue;
            }
            let wait = (wait * 2).min(MEET_LONGEST);
            self.upkeep.meet.insert(member, (now.instant + wait, wait));
            let candidates =
                self.roster.announcement(&member).map(|known| known.announcement.candidates.clone());
            let mut to: Vec<_> =
                candidates.unwrap_or_default().into_iter().map(Destination::Address).collect();
            if self.rng.next_u32() % our_part < ASK_TOGETHER {
                to.extend(self.draw_known(1));
                if wait == MEET_LONGEST {
                    to.extend(self.us.seeds.iter().copied().map(Destination::Address));
                    to.push(Destination::Lan);
                }
            }
            to.sort_unstable();
            to.dedup();
            if !to.is_empty() {
                sent += 1;
                self.send_meet(to);
            }
        }
    }

    /// How many members our part of the network has, about, ourselves included: those to whom sessions lead. Our neighbours
    /// are spread over the whole ring, so the share of them that is missing is that of all.
    fn size_of_our_part(&self, wanted: usize, missing: usize) -> u32 {
        let others = self.roster.members().count().saturating_sub(1);
        let reached = others * (wanted - missing) / wanted.max(1);
        u32::try_from(reached).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Two parts of a network in which nobody knows of anybody of the other miss nobody. So somebody asks now and then all
    /// the same, at the seeds and on the network segment: one of all, as the answer tells the others.
    fn seek(&mut self, now: Now) {
        if self.upkeep.seek_at > now.instant {
            return;
        }
        self.upkeep.seek_at = now.instant + SEEK_INTERVAL;
        let members = u32::try_from(self.roster.members().count()).unwrap_or(u32::MAX);
        if self.rng.next_u32().is_multiple_of(members.max(1)) {
            let mut to: Vec<_> = self.us.seeds.iter().copied().map(Destination::Address).collect();
            to.push(Destination::Lan);
            self.send_meet(to);
        }
    }

    /// Nobody is there: asks on the network segment, at the seeds, and at a few of all who were ever known.
    fn call_for_anybody(&mut self, now: Now) {
        if self.upkeep.call_at > now.instant {
            return;
        }
        self.upkeep.call_at = now.instant + self.upkeep.call_wait;
        self.upkeep.call_wait = (self.upkeep.call_wait * 2).min(CALL_LONGEST);
        let mut to: Vec<_> = self.us.seeds.iter().copied().map(Destination::Address).collect();
        to.extend(self.draw_known(MEET_AT_ONCE));
        to.push(Destination::Lan);
        to.sort_unstable();
        to.dedup();
        self.send_meet(to);
    }

    /// Where some of all known members are that have no session with us, drawn at random.
    fn draw_known(&mut self, count: usize) -> Vec<Destination> {
        let known: Vec<_> = self
            .roster
            .members()
            .map(Settled::identity)
            .filter(|member| *member != self.us.identity && !self.reachable.contains(member))
            .filter_map(|member| self.roster.announcement(&member))
            .filter_map(|known| known.announcement.candidates.first().copied())
            .collect();
        let count = if known.is_empty() { 0 } else { count };
        (0..count).map(|_| Destination::Address(known[self.rng.next_u32() as usize % known.len()])).collect()
    }

    /// The hello keys that this node seals its calls to: who has none of them cannot hear it.
    pub fn calls_to(&self) -> Vec<HelloPublic> {
        let mut known: Vec<_> = self.keys.publics().collect();
        // Who let us in may have been the only one with the key that it gave us.
        known.extend(self.us.join_key.filter(|key| !self.gossip.has_agreed() && !known.contains(key)));
        known
    }

    fn send_meet(&mut self, to: Vec<Destination>) {
        // An announcement that is known is stale, and stays unanswered. This one says nothing new otherwise: those that it
        // does not reach are not told, or every member that is off would make its neighbours talk to everybody.
        self.us.announcement.sequence = self.us.announcement.sequence.saturating_add(1);
        let Some(settled) = self.settled().cloned() else { return };
        let network = *self.roster.network();
        let Ok(announcement) = self.us.announcement.seal(&network, &self.us.secret, self.crypto) else {
            return;
        };
        let request = Request {
            grant: settled.grant,
            member: settled.member,
            receipt: Some(settled.receipt),
            announcement,
        };
        let hello = Hello {
            signer: self.us.identity.0,
            sequence: self.us.announcement.sequence,
            ask: Ask::Meet,
            content: request.encode(),
            target: None,
        };
        // To the newest key, and to another one each time: who was cut off when the newest was made does not know it.
        let known = self.calls_to();
        self.upkeep.hellos = (self.upkeep.hellos + 1) % known.len().max(1);
        let keys = [0, self.upkeep.hellos].into_iter().collect::<BTreeSet<_>>();
        for public in keys.iter().filter_map(|n| known.get(*n)) {
            let sealed = hello.seal(&self.us.secret, public, &network, self.crypto, &mut self.rng);
            let Some((datagram, expected)) = sealed else { continue };
            if self.upkeep.expected.len() >= MAX_EXPECTED {
                self.upkeep.expected.pop_front();
            }
            self.upkeep.expected.push_back(expected);
            self.output.push_back(Output::Hello { to: to.clone(), datagram });
        }
    }

    /// Takes a reply to one of our hellos.
    pub(super) fn handle_met(&mut self, datagram: &[u8], now: Now) {
        let opened = self.upkeep.expected.iter().find_map(|expected| expected.open(datagram, self.crypto));
        let Some(payload) = opened else { return };
        let reply = Reply::decode(&payload, self.roster.network(), self.crypto);
        // Keys come in the session: who was removed can still answer what is sealed to an old one.
        let Ok(Reply::Admitted { receipt, items, .. }) = reply else { return };
        // Who admitted us may be gone, and unknown to others: then this is another admission.
        let settled = self.us.settled.clone().filter(|settled| receipt.receipt.member == settled.id());
        if let Some(settled) = settled.filter(|_| !self.roster.is_member(&self.us.identity)) {
            let settled = Settled { receipt: *receipt, ..settled };
            self.us.settled = Some(settled.clone());
            self.roster.apply(Item::Settled(Box::new(settled)));
        }
        let network = *self.roster.network();
        let items = items.iter().filter_map(|item| Item::open(item, &network, self.crypto).ok()).collect();
        self.introduce(items, now);
        self.after_change(now);
    }
}
