//! What comes and goes outside sessions: joining, admitting, meeting, acts of owners.

use std::collections::BTreeSet;
use std::time::Duration;

use rand_core::RngCore as _;

use super::{Event, Membership, Now, Output, Phase};
use crate::gossip::Message;
use crate::hello::{Acted, Ask, Received};
use crate::join::{Outcome, Progress, Reply, Request, Verdict, Via, judge, judge_newcomer};
use crate::record::announcement::SignedAnnouncement;
use crate::record::grant::SignedGrant;
use crate::record::receipt::{Receipt, SignedReceipt};
use crate::record::{IdentityKey, OwnerKey, RecordId};
use crate::roster::{Applied, Item, Refusal, Settled};

/// How long after its start a member without any session takes itself for the last one.
const ALONE_AFTER: Duration = Duration::from_secs(8);
/// Members that answer one request to a whole network segment, about.
const ANSWER_TOGETHER: u32 = 4;

impl Membership {
    /// Takes a datagram that came outside sessions. What is returned goes back to where it came from.
    pub fn handle_hello(&mut self, datagram: &[u8], via: Via, now: Now) -> Option<Vec<u8>> {
        match &mut self.phase {
            Phase::Joining(joiner) => {
                match joiner.handle_reply(datagram, now.instant, self.crypto) {
                    Progress::Nothing => {}
                    Progress::Taken => self.output.push_back(Output::Event(Event::Taken)),
                    Progress::Done(outcome) => self.become_member(*outcome, now),
                }
                None
            }
            Phase::Member => {
                if let Some(received) = self.keys.open(datagram, self.roster.network(), self.crypto) {
                    return self.answer(received, via, now);
                }
                self.handle_met(datagram, now);
                None
            }
            Phase::Barred => None,
        }
    }

    /// The joiner's turn, if this node is one.
    pub(super) fn poll_joiner(&mut self, now: Now) {
        let Phase::Joining(joiner) = &mut self.phase else { return };
        let clock = now.clock.unwrap_or(0);
        if let Some(outcome) = joiner.begin_alone(now.instant, clock, self.crypto, &mut self.rng) {
            self.become_member(outcome, now);
            return;
        }
        match joiner.poll(now.instant, self.crypto, &mut self.rng) {
            Ok(None) => {}
            Ok(Some(attempt)) => {
                self.output.push_back(Output::Hello { to: attempt.to, datagram: attempt.datagram });
            }
            Err(error) => self.output.push_back(Output::Event(Event::CannotJoin(error))),
        }
    }

    fn become_member(&mut self, outcome: Outcome, now: Now) {
        for key in outcome.keys {
            self.keys.add(key, self.crypto);
        }
        self.phase = Phase::Member;
        self.upkeep.call_later(now.instant);
        self.us.settled = Some(outcome.settled.clone());
        self.us.announcement = outcome.announcement;
        self.us.began_alone = outcome.settled.is_self_admitted();
        self.output.push_back(Output::Event(Event::Joined));
        self.roster.apply(Item::Settled(Box::new(outcome.settled)));
        // What proves who let us in: the joiner has looked at it. First those that the others depend on.
        for item in outcome.items.iter().rev().filter(|item| matches!(item, Item::Settled(_))) {
            self.take(item.clone(), None, now);
        }
        self.introduce(outcome.items, now);
        self.after_change(now);
    }

    /// Takes what a member sent along with its reply: its announcement and its own record. Nothing else is believed to
    /// somebody whom we only know to have a hello key, which the removed have, too; it comes in the session, if we may
    /// have one. Until what proves that member has come, it is a peer whose data does not count.
    pub(super) fn introduce(&mut self, items: Vec<Item>, now: Now) {
        let settled = items.iter().find_map(|item| match item {
            Item::Settled(settled) => Some((**settled).clone()),
            _ => None,
        });
        // Who is a member here is no less one for an admission that counts here no more, as others may have judged since.
        let is_fit =
            |settled: &Settled| self.roster.is_member(&settled.identity()) || self.may_be_member(settled);
        let Some(settled) = settled.filter(is_fit) else { return };
        let identity = settled.identity();
        let announcement = items.into_iter().find_map(|item| match item {
            Item::Announcement(item) if item.identity == identity => Some(item),
            _ => None,
        });
        let Some(announcement) = announcement.filter(|_| identity != self.us.identity) else { return };
        let is_heard_out = self.hears_introducer_out(now);
        if !is_heard_out && !self.reachable.iter().any(|member| self.roster.is_member(member)) {
            self.sponsor = Some(identity);
        }
        if self.is_judged(&identity) {
            // With who is no member here there is no session: it must not take the place of one that answered before it.
            if self.roster.is_member(&identity) {
                self.met = Some(identity);
            }
            self.take(Item::Announcement(announcement), None, now);
        } else if !is_heard_out || self.is_introducer(&identity) {
            if !self.is_introducer(&identity) {
                self.upkeep.hear_out(now.instant);
            }
            self.set_introducer(Some((settled, announcement)));
        }
    }

    /// Takes another introducer, or none, in place of the one that there is.
    pub(super) fn set_introducer(&mut self, introducer: Option<(Settled, SignedAnnouncement)>) {
        let before = std::mem::replace(&mut self.introducer, introducer);
        let both = before.iter().chain(&self.introducer).map(|(settled, _)| settled.identity());
        let both: BTreeSet<_> = both.collect();
        both.into_iter().for_each(|identity| self.tell_changed(identity));
    }

    pub(super) fn is_introducer(&self, identity: &IdentityKey) -> bool {
        self.introducer.as_ref().is_some_and(|(settled, _)| settled.identity() == *identity)
    }

    /// Whether the introducer is there and telling what it knows: a call is answered by several, and if each took the
    /// place of the one before, none would come to an end. Who has proven nothing for long does not keep others away.
    fn hears_introducer_out(&self, now: Now) -> bool {
        let introducer = self.introducer.as_ref().map(|(settled, _)| settled.identity());
        introducer.is_some_and(|identity| self.reachable.contains(&identity))
            && self.upkeep.is_heard_out(now.instant)
    }

    /// Whether nothing that we know speaks against a member that we do not know, or against who admitted it. An owner
    /// that was added later is told of in the session only.
    fn may_be_member(&self, settled: &Settled) -> bool {
        // A newcomer may not have heard yet that a revocation counts no more, and who was put behind hears of nothing: they
        // would find nobody.
        let is_newcomer =
            (!self.gossip.has_agreed() || self.is_put_behind()) && !self.roster.is_member(&self.us.identity);
        let is_barred = self.roster.is_barred(&settled.identity())
            || !is_newcomer && self.roster.is_barred(&settled.receipt.admitter);
        let is_granted = match self.roster.judge(settled) {
            Ok(()) => true,
            Err(Refusal::NoOwner) => !self.roster.owners().was_one(&settled.grant.owner),
            Err(_) => false,
        };
        !is_barred && is_granted
    }

    /// Compares what we were told with what the maker of our join string knew, once we know what others do. Those that
    /// came after it are left out as far as their times tell.
    pub(super) fn compare_with_join_string(&mut self) {
        let has_caught_up = self.us.began_alone || self.gossip.has_agreed();
        let Some((sum, settled)) = self.us.minted.filter(|_| has_caught_up).zip(self.settled()) else {
            return;
        };
        let minted = settled.grant.grant.minted;
        let is_same = sum == self.roster.tombstone_sum() || sum == self.roster.tombstone_sum_until(minted);
        self.us.minted = None;
        if !is_same {
            let told = self.roster.tombstones().count();
            self.output.push_back(Output::Event(Event::TombstonesDiffer { told }));
        }
    }

    fn answer(&mut self, received: Received, via: Via, now: Now) -> Option<Vec<u8>> {
        if received.hello.target.is_some_and(|target| target != self.us.identity) {
            return None;
        }
        match received.hello.ask {
            // A whole segment would admit a newcomer at once, and tell everybody so.
            Ask::Join | Ask::Meet if via == Via::Lan && !self.is_our_turn() => None,
            Ask::Join | Ask::Meet => self.answer_request(received, now),
            Ask::Act => self.answer_act(received, now),
        }
    }

    /// True for about four of all members that are there. Who gets no answer asks again.
    fn is_our_turn(&mut self) -> bool {
        let crowd = (self.reachable.len() as u32 + 1).div_ceil(ANSWER_TOGETHER);
        self.rng.next_u32().is_multiple_of(crowd)
    }

    fn answer_request(&mut self, received: Received, now: Now) -> Option<Vec<u8>> {
        let hello = &received.hello;
        let (network, crypto) = (*self.roster.network(), self.crypto);
        let request = Request::decode(&hello.content, &hello.signer, &network, crypto).ok()?;
        // What was answered with a refusal is not answered again when the reason for it is gone.
        if request.identity() == self.us.identity || self.answered.knows(&hello.signer, hello.sequence) {
            return None;
        }
        let verdict = judge(&request, &self.roster, now.clock, |who| self.is_there(who, now));
        let settled = match verdict {
            Verdict::Known(settled) => *settled,
            Verdict::Admit if self.may_admit(&request.grant, now) => self.admit(&request, now)?,
            Verdict::Taken => {
                self.doubt(&request, now);
                let is_first = self.answered.first_time(&hello.signer, hello.sequence);
                return is_first.then(|| received.reply(&Reply::Taken.encode(), crypto)).flatten();
            }
            Verdict::Admit | Verdict::Silence(_) => return None,
        };
        let identity = settled.identity();
        self.take(Item::Settled(Box::new(settled)), None, now);
        // Only what is news is answered, and only to who is installed now.
        let announced = self.take(Item::Announcement(request.announcement), None, now);
        if announced != Applied::New || !self.roster.is_member(&identity) {
            return None;
        }
        let receipt = Box::new(self.roster.settled(&identity)?.receipt.clone());
        let keys = self.keys.current().map(|(key, _)| key.clone()).into_iter().collect();
        let reply = Reply::Admitted { receipt, keys, items: self.introduction() };
        received.reply(&reply.encode(), crypto)
    }

    /// Lets those in that wait for an admitter in vain, if their token is still good, as if they had asked: they were let in
    /// in a part of the network where nobody is left whom we know.
    pub(super) fn admit_waiting(&mut self, now: Now) {
        let waiting: Vec<_> = self.roster.waiting().cloned().collect();
        let crowd = self.roster.members().count().max(1) as u32;
        for settled in self.upkeep.in_vain(waiting, now.instant) {
            let identity = settled.identity();
            let is_new = self.roster.settled(&identity).is_none() && !self.roster.is_barred(&identity);
            let is_ours = self.is_next_after(&identity) || self.rng.next_u32().is_multiple_of(crowd);
            if !is_new || !is_ours || !self.may_admit(&settled.grant, now) {
                continue;
            }
            let (grant, member) = (&settled.grant, &settled.member);
            let verdict =
                judge_newcomer(grant, member, &self.roster, now.clock, |who| self.is_there(who, now));
            if verdict == Verdict::Admit
                && let Some(receipt) = self.admission(settled.id(), now)
            {
                self.take(Item::Settled(Box::new(Settled { receipt, ..settled })), None, now);
            }
        }
    }

    /// Whether a member was heard of lately. We are there.
    fn is_there(&self, identity: &IdentityKey, now: Now) -> bool {
        let is_heard = self.reachable.contains(identity) && !self.upkeep.is_silent(identity, now.instant);
        *identity == self.us.identity || is_heard
    }

    /// Asks the incarnation that is to be replaced whether it is there, if we believe that it is: a machine that lost its
    /// state comes back sooner than its session ends.
    fn doubt(&mut self, request: &Request, now: Now) {
        let replaced = request.grant.grant.replaces.and_then(|id| self.roster.incarnation(&id));
        let Some(identity) = replaced.map(Settled::identity) else { return };
        if self.reachable.contains(&identity) && self.upkeep.doubt(identity, now.instant) {
            let ping = Message::Ping(self.rng.next_u64()).encode();
            self.send(vec![(identity, ping)]);
        }
    }

    /// Who was away, or was let in just now, may not know which tokens are spent. It catches up with somebody before it
    /// admits others; unless no other member is there, for then it is the last one standing. Who is there and is none
    /// waits for its word.
    ///
    /// Nobody admits whoever takes its place: it would fall silent before the newcomer was told who the others are.
    fn may_admit(&self, grant: &SignedGrant, now: Now) -> bool {
        let Some(ours) = self.settled().filter(|_| self.roster.is_member(&self.us.identity)) else {
            return false;
        };
        let is_accompanied = self.reachable.iter().any(|other| self.roster.is_member(other));
        let is_alone = !is_accompanied && now.instant >= self.upkeep.began() + ALONE_AFTER;
        let has_caught_up = self.us.began_alone || self.gossip.has_agreed() || is_alone;
        has_caught_up && grant.grant.replaces != Some(ours.id())
    }

    fn admit(&mut self, request: &Request, now: Now) -> Option<Settled> {
        let receipt = self.admission(request.member.id, now)?;
        Some(Settled { grant: request.grant.clone(), member: request.member.clone(), receipt })
    }

    fn admission(&mut self, member: RecordId, now: Now) -> Option<SignedReceipt> {
        now.clock?;
        // And ourselves.
        let reach = u16::try_from(self.reachable.len() + 1).unwrap_or(u16::MAX);
        self.sign_receipt(member, reach, now)
    }

    pub(super) fn sign_receipt(&mut self, member: RecordId, reach: u16, now: Now) -> Option<SignedReceipt> {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let receipt = Receipt { member, nonce, time: now.clock.unwrap_or(0), reach };
        receipt.seal(self.roster.network(), &self.us.secret, self.crypto).ok()
    }

    /// What a newcomer needs to talk to us, then what proves that we are a member, as far as it fits.
    fn introduction(&self) -> Vec<Vec<u8>> {
        let mut items = Vec::new();
        let mut next = self.settled().cloned();
        items.extend(self.roster.announcement(&self.us.identity).map(|item| item.envelope.bytes().to_vec()));
        // More than three do not fit into one datagram.
        for _ in 0..3 {
            let Some(settled) = next else { break };
            items.push(settled.to_bytes());
            let admitter = settled.receipt.admitter;
            next = self.roster.settled(&admitter).filter(|_| !settled.is_self_admitted()).cloned();
        }
        items
    }

    fn answer_act(&mut self, received: Received, now: Now) -> Option<Vec<u8>> {
        let hello = &received.hello;
        if !self.roster.owners().is_active(&OwnerKey(hello.signer)) {
            return None;
        }
        let item = Item::open(&hello.content, self.roster.network(), self.crypto).ok()?;
        // Members speak for themselves, in sessions.
        let is_owners = match &item {
            Item::Tombstone(tombstone) => tombstone.owner().is_some(),
            Item::OwnerChange(_) | Item::Rename(_) => true,
            Item::Settled(_) | Item::Announcement(_) => false,
        };
        let is_new = is_owners && self.take(item, None, now) == Applied::New;
        let (_, hello) = self.keys.current().filter(|_| is_new)?;
        let acted = Acted { hello: *hello, tombstones: self.roster.tombstone_sum() };
        received.reply(&acted.encode(), self.crypto)
    }
}
