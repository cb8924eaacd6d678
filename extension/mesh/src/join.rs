//! How a node becomes a member: what it asks ([`Request`]), how a member decides ([`judge`]), what comes back
//! ([`Reply`]), and the side that asks, as a state machine ([`Joiner`]).
//!
//! Both travel in a [`hello`](crate::hello). The content of a request is records as they were signed, one after the other:
//!
//! ```text
//!  grant | member | receipt, if it was admitted before | announcement
//! ```
//!
//! The member record is signed by the token and by the new identity, the announcement and the hello around it by the
//! identity. A request counts only if its announcement is newer than the last that is known of this identity: so no
//! captured request is answered again, by nobody whom the news has reached, and nobody has to remember it. What is
//! answered for an identity that stays unknown ([`Reply::Taken`]) is remembered by [`Answered`], which is bounded.
//!
//! ```text
//!  admitted  1 | receipt length (2) | receipt | keys (1) | (epoch (8), secret (32))* | (length (2), item)*
//!  taken     2
//! ```
//!
//! Everything else is met with silence: an expired, spent or revoked token, a member that was removed, a grant that
//! does not cover what is claimed. Who asks learns nothing from it, not even that somebody is there.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::crypto::{Crypto, KEY_LEN, Secret, hash};
use crate::hello::{HelloKey, MAX_REPLY};
use crate::record::announcement::SignedAnnouncement;
use crate::record::grant::SignedGrant;
use crate::record::member::SignedMember;
use crate::record::name::Name;
use crate::record::receipt::SignedReceipt;
use crate::record::{Envelope, IdentityKey, Kind, NetworkId, RecordError};
use crate::roster::{Roster, Settled, Status};

mod joiner;

pub use self::joiner::{Attempt, Destination, JoinError, Joiner, Outcome, Profile, Progress, Via};

const ADMITTED: u8 = 1;
const TAKEN: u8 = 2;
const EPOCH_LEN: usize = 8;
/// How far a clock may be behind the one that a grant was made by and still be believed, in seconds.
const CLOCK_SLACK: u64 = 600;
/// Answers to strangers that are remembered.
const MAX_ANSWERED: usize = 1024;

/// What a node sends that wants to be let in, or that wants to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What its token was granted.
    pub grant: SignedGrant,
    /// What it says of itself.
    pub member: SignedMember,
    /// Who admitted it, if anybody did.
    pub receipt: Option<SignedReceipt>,
    /// Where it is.
    pub announcement: SignedAnnouncement,
}

impl Request {
    /// The content of its hello.
    pub fn encode(&self) -> Vec<u8> {
        let receipt = self.receipt.as_ref().map_or(&[][..], |receipt| receipt.envelope.bytes());
        [
            &self.grant.envelope.bytes()[..],
            self.member.envelope.bytes(),
            receipt,
            self.announcement.envelope.bytes(),
        ]
        .concat()
    }

    /// Reads the content of a hello by `signer` and checks all signatures.
    ///
    /// # Errors
    /// [`RecordError`], also if a part is by another identity than `signer`.
    pub fn decode(
        bytes: &[u8],
        signer: &[u8; KEY_LEN],
        network: &NetworkId,
        crypto: &dyn Crypto,
    ) -> Result<Self, RecordError> {
        let (grant, rest) = Envelope::open(bytes, network, crypto)?;
        let (member, rest) = Envelope::open(rest, network, crypto)?;
        let (receipt, rest) = match rest.first() {
            Some(kind) if *kind == Kind::Receipt as u8 => {
                let (receipt, rest) = Envelope::open(rest, network, crypto)?;
                (Some(SignedReceipt::decode(receipt)?), rest)
            }
            _ => (None, rest),
        };
        let announcement = Envelope::open_exactly(rest, Kind::Announcement, network, crypto)?;
        let request = Self {
            grant: SignedGrant::decode(grant)?,
            member: SignedMember::decode(member)?,
            receipt,
            announcement: SignedAnnouncement::decode(announcement)?,
        };
        let is_by_signer = [request.member.identity, request.announcement.identity]
            .iter()
            .all(|identity| identity.0 == *signer);
        is_by_signer.then_some(request).ok_or(RecordError::Signature)
    }

    /// Who asks.
    pub fn identity(&self) -> IdentityKey {
        self.member.identity
    }
}

/// What a member answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// You are one of us.
    Admitted {
        /// Your admission.
        receipt: Box<SignedReceipt>,
        /// The private halves of the hello keys.
        keys: Vec<HelloKey>,
        /// What you need to talk to the one who admitted you, and whatever else fits: items as they are passed on.
        items: Vec<Vec<u8>>,
    },
    /// Somebody has the name or the address that you ask for.
    Taken,
}

impl Reply {
    /// The payload of the reply. Items that do not fit are left out.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_REPLY));
        match self {
            Self::Taken => bytes.push(TAKEN),
            Self::Admitted { receipt, keys, items } => {
                bytes.push(ADMITTED);
                push_sized(&mut bytes, receipt.envelope.bytes());
                bytes.push(keys.len() as u8);
                for key in keys {
                    bytes.extend_from_slice(&key.epoch.to_le_bytes());
                    bytes.extend_from_slice(key.secret.expose());
                }
                for item in items {
                    if bytes.len() + 2 + item.len() <= MAX_REPLY {
                        push_sized(&mut bytes, item);
                    }
                }
            }
        }
        bytes
    }

    /// Reads the payload of a reply. The items are still to be checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8], network: &NetworkId, crypto: &dyn Crypto) -> Result<Self, RecordError> {
        let (kind, rest) = bytes.split_first().ok_or(RecordError::Malformed)?;
        match (*kind, rest) {
            (TAKEN, []) => Ok(Self::Taken),
            (ADMITTED, rest) => {
                let (receipt, rest) = split_sized(rest).ok_or(RecordError::Malformed)?;
                let receipt = Envelope::open_exactly(receipt, Kind::Receipt, network, crypto)?;
                let (count, mut rest) = rest.split_first().ok_or(RecordError::Malformed)?;
                let mut keys = Vec::new();
                for _ in 0..*count {
                    let (epoch, tail) =
                        rest.split_first_chunk::<EPOCH_LEN>().ok_or(RecordError::Malformed)?;
                    let (secret, tail) = tail.split_first_chunk::<KEY_LEN>().ok_or(RecordError::Malformed)?;
                    keys.push(HelloKey { epoch: u64::from_le_bytes(*epoch), secret: Secret::new(*secret) });
                    rest = tail;
                }
                let mut items = Vec::new();
                while !rest.is_empty() {
                    let (item, tail) = split_sized(rest).ok_or(RecordError::Malformed)?;
                    items.push(item.to_vec());
                    rest = tail;
                }
                let receipt = Box::new(SignedReceipt::decode(receipt)?);
                Ok(Self::Admitted { receipt, keys, items })
            }
            _ => Err(RecordError::Malformed),
        }
    }
}

fn push_sized(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u16).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

/// What a member makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Sign a receipt.
    Admit,
    /// It was admitted before, as is known here or as it proves: if it is installed, tell it again.
    Known(Box<Settled>),
    /// Somebody has the name or address.
    Taken,
    /// Say nothing.
    Silence(Reason),
}

/// Why a request gets no answer. For the log of the member that stays silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is not newer than what is known: repeated.
    Stale,
    /// The records do not belong together, or no owner granted them.
    NotGranted,
    /// The owner may not grant this any more.
    NoOwner,
    /// An owner revoked the token.
    TokenRevoked,
    /// The token was used as often as it may be.
    Spent,
    /// The token's time is over.
    Expired,
    /// This member does not know what time it is, so others must decide.
    NoClock,
    /// The identity was revoked, has left, or lost its place.
    Barred,
}

/// Judges a request. `clock` is in seconds since the Unix epoch, if this member believes its clock; `answers` says
/// whether a member was heard of lately.
pub fn judge(
    request: &Request,
    roster: &Roster,
    clock: Option<u64>,
    answers: impl Fn(&IdentityKey) -> bool,
) -> Verdict {
    let identity = request.identity();
    let sequence = request.announcement.announcement.sequence;
    let known = roster.announcement(&identity).map(|known| known.announcement.sequence);
    if known.is_some_and(|known| known >= sequence) {
        return Verdict::Silence(Reason::Stale);
    }
    if roster.judge_claim(&request.grant, &request.member).is_err() {
        return Verdict::Silence(Reason::NotGranted);
    }
    if let Some(settled) = roster.settled(&identity).filter(|settled| settled.id() == request.member.id) {
        return match roster.status(&identity) {
            // Who is ephemeral and expired is back.
            Some(Status::Installed | Status::Expired) => Verdict::Known(Box::new(settled.clone())),
            Some(Status::Conflict { .. }) => Verdict::Taken,
            _ => Verdict::Silence(Reason::Barred),
        };
    }
    // Who was admitted by a member is known from now on. Who admitted itself, or was admitted by somebody who is no
    // member, has nothing but its token: it is judged like any newcomer, so an expired token cannot be made good.
    if let Some(receipt) = request.receipt.as_ref().filter(|receipt| roster.is_member(&receipt.admitter)) {
        let (grant, member) = (request.grant.clone(), request.member.clone());
        let settled = Settled { grant, member, receipt: receipt.clone() };
        return match roster.judge(&settled) {
            Ok(()) => Verdict::Known(Box::new(settled)),
            Err(_) => Verdict::Silence(Reason::NotGranted),
        };
    }
    judge_newcomer(&request.grant, &request.member, roster, clock, answers)
}

/// Judges somebody of whom nothing but its token speaks.
pub(crate) fn judge_newcomer(
    grant: &SignedGrant,
    member: &SignedMember,
    roster: &Roster,
    clock: Option<u64>,
    answers: impl Fn(&IdentityKey) -> bool,
) -> Verdict {
    let member = &member.member;
    if !roster.owners().may_grant(&grant.owner, &grant.grant.addresses) {
        return Verdict::Silence(Reason::NoOwner);
    }
    if roster.is_token_revoked(grant) {
        return Verdict::Silence(Reason::TokenRevoked);
    }
    if roster.uses(&grant.id) >= usize::from(grant.grant.uses) {
        return Verdict::Silence(Reason::Spent);
    }
    // A clock from before the token was made is no clock.
    match clock.filter(|clock| clock.saturating_add(CLOCK_SLACK) >= grant.grant.minted) {
        None => return Verdict::Silence(Reason::NoClock),
        Some(clock) if clock > grant.grant.not_after => return Verdict::Silence(Reason::Expired),
        Some(_) => {}
    }
    let replaced = grant.grant.replaces.and_then(|id| roster.incarnation(&id));
    if let Some(old) = replaced {
        let still_there = roster.is_member(&old.identity()) && answers(&old.identity());
        if still_there && !grant.grant.force {
            return Verdict::Taken;
        }
    }
    if roster.is_taken(&member.name, member.address, grant.grant.replaces) {
        return Verdict::Taken;
    }
    Verdict::Admit
}

/// The address that a member of a pool asks for at its `attempt`: any, but the same for the same name, so that a node
/// that is made anew is likely to get its own again. For an exact name there is only one.
pub fn pick_address(range: &Ipv4Net, name: &Name, attempt: u32) -> Ipv4Addr {
    let first = u32::from(range.network());
    let size = 1u64 << (32 - range.prefix_len());
    // The first and the last address of a range mean something to routers.
    let (skip, usable) = if size > 2 { (1, size - 2) } else { (0, size) };
    let digest = hash(&[b"ichor pool address", name.as_str().as_bytes(), &attempt.to_le_bytes()]);
    let drawn = digest.first_chunk().map_or(0, |start| u64::from_le_bytes(*start));
    Ipv4Addr::from(first + (skip + drawn % usable) as u32)
}

/// The answers that were given to identities that are not known: each request is answered once.
#[derive(Debug, Default)]
pub struct Answered {
    highest: BTreeMap<[u8; KEY_LEN], u64>,
    order: VecDeque<[u8; KEY_LEN]>,
}

impl Answered {
    /// Whether `sequence` of `signer`, or a later one, was answered.
    pub fn knows(&self, signer: &[u8; KEY_LEN], sequence: u64) -> bool {
        self.highest.get(signer).is_some_and(|highest| *highest >= sequence)
    }

    /// Whether `sequence` of `signer` is still to be answered; it is not a second time.
    pub fn first_time(&mut self, signer: &[u8; KEY_LEN], sequence: u64) -> bool {
        match self.highest.get_mut(signer) {
            Some(highest) if *highest >= sequence => false,
            Some(highest) => {
                *highest = sequence;
                true
            }
            None => {
                if self.order.len() >= MAX_ANSWERED
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.highest.remove(&oldest);
                }
                self.order.push_back(*signer);
                self.highest.insert(*signer, sequence);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
