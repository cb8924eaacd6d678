//! What hostile peers and outsiders send. Whatever they make up changes nothing.

use std::net::Ipv4Addr;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto, Secret};
use ichor_mesh::gossip::Message;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::Membership;
use ichor_mesh::record::announcement::Announcement;
use ichor_mesh::record::genesis::Owner as OwnerRange;
use ichor_mesh::record::grant::SignedGrant;
use ichor_mesh::record::member::Member;
use ichor_mesh::record::name::NamePattern;
use ichor_mesh::record::owner::{OwnerChange, Rename};
use ichor_mesh::record::receipt::Receipt;
use ichor_mesh::record::tombstone::{End, Tombstone};
use ichor_mesh::record::{Envelope, IdentityKey, Kind as RecordKind, OwnerKey};
use ichor_mesh::roster::{Item, Settled};

use super::super::checks::Fate;
use super::super::owner::draw_secret;
use super::super::world::NodeId;
use super::History;

/// What kind of record is forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgery {
    Member,
    Announcement,
    Tombstone,
    OwnerChange,
    Rename,
}

impl Forgery {
    fn is_kind_of(self, item: &Item) -> bool {
        matches!(
            (self, item),
            (Self::Member, Item::Settled(_))
                | (Self::Announcement, Item::Announcement(_))
                | (Self::Tombstone, Item::Tombstone(_))
                | (Self::OwnerChange, Item::OwnerChange(_))
                | (Self::Rename, Item::Rename(_))
        )
    }
}

impl History {
    /// Keeps some record that a node knows, to be repeated later.
    pub(super) fn remember(&mut self, node: NodeId) {
        if let Some(membership) = self.world.membership(node) {
            let items: Vec<_> = membership.roster().items().map(|item| item.to_bytes().to_vec()).collect();
            if !items.is_empty() {
                let pick = self.random.pick(&items).clone();
                self.old.push(pick);
            }
        }
    }

    pub(super) fn repeat(&mut self) -> Option<()> {
        let node = self.any_active()?;
        if self.old.is_empty() {
            self.remember(node);
        }
        if self.old.is_empty() {
            return None;
        }
        let item = self.random.pick(&self.old).clone();
        self.world.inject(node, &Message::Items(vec![&item]).encode()).then_some(())
    }

    /// Says `items` to `node` as a peer in a session. Whether there is one; that it changed something is a violation.
    fn say_in_vain(&mut self, node: NodeId, items: &[u8]) -> Option<()> {
        let view = |history: &Self| {
            let roster = history.world.membership(node).map(Membership::roster);
            roster.map(|roster| {
                let installed: Vec<_> = roster.members().map(Settled::identity).collect();
                (roster.digests().collect::<Vec<_>>(), installed, history.world.peer_table(node))
            })
        };
        let before = view(self);
        let sent = self.world.inject(node, &Message::Items(vec![items]).encode());
        if view(self) != before {
            self.found.push(format!("{node:?} took a forged record"));
        }
        sent.then_some(())
    }

    /// A record that is genuine but for a bit, its end, or its signature.
    pub(super) fn forge(&mut self, forgery: Forgery) -> Option<()> {
        let node = self.any_active()?;
        let items = self.world.membership(node)?.roster().items();
        let items: Vec<_> = items.filter(|item| forgery.is_kind_of(item)).collect();
        if items.is_empty() {
            return None;
        }
        let mut item = self.random.pick(&items).to_bytes().to_vec();
        let forged = match self.random.below(3) {
            0 => {
                let bit = self.random.below(item.len() * 8);
                item[bit / 8] ^= 1 << (bit % 8);
                item
            }
            1 => item[..self.random.below(item.len())].to_vec(),
            _ => self.signed_by_a_stranger(&item)?,
        };
        self.say_in_vain(node, &forged)
    }

    pub(super) fn noise(&mut self) -> Option<()> {
        let node = self.any_active()?;
        let noise: Vec<_> = (0..self.random.below(700)).map(|_| self.random.bits() as u8).collect();
        self.say_in_vain(node, &noise)
    }

    /// The same body, signed by a key that nobody knows.
    fn signed_by_a_stranger(&mut self, item: &[u8]) -> Option<Vec<u8>> {
        let network = self.owner.network();
        let (first, rest) = Envelope::open(item, &network, &ModelCrypto).ok()?;
        let strangers: Vec<_> = first.signers().iter().map(|_| draw_secret(&mut self.random)).collect();
        let secrets: Vec<_> = strangers.iter().collect();
        let forged = Envelope::seal(first.kind(), &network, first.body(), &secrets, &ModelCrypto).ok()?;
        if first.kind() != RecordKind::Grant {
            return Some(forged.bytes().to_vec());
        }
        Some([&forged.bytes()[..], rest].concat())
    }

    /// A member signs, with its own key, what it has no say in.
    pub(super) fn insider_claim(&mut self) -> Option<()> {
        let (insider, node, victim) = (self.any_active()?, self.any_active()?, self.victim()?);
        let secret = self.secret_of(insider)?;
        let us = *self.world.membership(insider)?.identity();
        let settled = self.settled(victim)?;
        let (identity, grant) = (settled.identity(), settled.grant.id);
        // Everybody has a say in itself, and in those that are ephemeral.
        if identity == us || settled.grant.grant.ephemeral.is_some() {
            return None;
        }
        let network = self.owner.network();
        let end = |end: End| Tombstone { end, time: 0 }.seal(&network, &secret, &ModelCrypto).ok();
        let heard = self.world.membership(node)?.roster().announcement(&identity);
        let sequence = heard.map_or(0, |heard| heard.announcement.sequence);
        let change = |change: OwnerChange| change.seal(&network, [9; 8], &[&secret], &ModelCrypto).ok();
        let item = match self.random.below(7) {
            0 => Item::Tombstone(end(End::Revoked { identity, keep_token: false })?),
            1 => Item::Tombstone(end(End::Token(grant))?),
            2 => Item::Tombstone(end(End::Expired { identity, sequence })?),
            3 => {
                let rename = Rename { member: identity, name: "taken".parse().ok()?, serial: u64::MAX };
                Item::Rename(rename.seal(&network, &secret, &ModelCrypto).ok()?)
            }
            4 => {
                let range = "10.213.60.0/24".parse().ok()?;
                Item::OwnerChange(change(OwnerChange::Add(OwnerRange { key: OwnerKey(us.0), range }))?)
            }
            5 => Item::OwnerChange(change(OwnerChange::Remove { owner: self.owner.acting(), void: true })?),
            _ => {
                let stranger = draw_secret(&mut self.random);
                let token = self.owner.forge_grant(&mut self.random);
                Item::Settled(Box::new(self.admitted_by(&secret, &stranger, &token)?))
            }
        };
        self.detail = format!("{us:?} about {identity:?} at {node:?}");
        self.say_in_vain(node, &item.to_bytes())
    }

    fn secret_of(&self, node: NodeId) -> Option<Secret> {
        Some(self.world.membership(node)?.saved()?.identity)
    }

    /// What a member makes that lets in whoever it likes.
    fn admitted_by(
        &self,
        admitter: &Secret,
        identity: &Secret,
        (token, grant): &(Secret, SignedGrant),
    ) -> Option<Settled> {
        let network = self.owner.network();
        let name = match &grant.grant.names {
            NamePattern::Exact(name) => name.clone(),
            NamePattern::Pool { .. } => "w-thief".parse().ok()?,
        };
        let address = Ipv4Addr::from(u32::from(grant.grant.addresses.network()));
        let member = Member { grant: grant.id, name, address, routes: vec![] };
        let member = member.seal(&network, token, identity, &ModelCrypto).ok()?;
        let receipt = Receipt { member: member.id, nonce: [1; 16], time: 0, reach: u16::MAX };
        let receipt = receipt.seal(&network, admitter, &ModelCrypto).ok()?;
        Some(Settled { grant: grant.clone(), member, receipt })
    }

    /// A member lets a thief in whose token was used before, and claims that everybody could have seen it.
    pub(super) fn insider_admit(&mut self) -> Option<()> {
        let (insider, node) = (self.any_active()?, self.any_active()?);
        let admitter = self.secret_of(insider)?;
        let join = self.any_used()?;
        let thief = draw_secret(&mut self.random);
        let settled = self.admitted_by(&admitter, &thief, &(join.token, join.grant))?;
        let identity = settled.identity();
        let (grant, uses) = (settled.grant.id, settled.grant.grant.uses);
        let announcement = Announcement {
            sequence: 1,
            wireguard: PublicKey::new(identity.0),
            candidates: vec![],
            version: "sim".into(),
            capabilities: 0,
            instance: [6; 8],
            boot: 0,
        };
        let announcement = announcement.seal(&self.owner.network(), &thief, &ModelCrypto).ok()?;
        let settled = Item::Settled(Box::new(settled)).to_bytes();
        let announcement = Item::Announcement(announcement).to_bytes();
        self.detail = format!("{identity:?} by {insider:?} at {node:?} with {grant:?}");
        self.fates.insert(identity, Fate { grant, uses, gone: true, never: false, lapsed: false });
        self.note_honest(identity);
        let items = Message::Items(vec![&settled, &announcement]).encode();
        self.world.inject(node, &items).then_some(())
    }

    fn note_honest(&mut self, identity: IdentityKey) {
        self.world.honest.insert(identity, PublicKey::new(identity.0));
    }

    // Outsiders

    /// Outsiders get no answer.
    pub(super) fn outside(&mut self) -> Option<()> {
        let node = self.any_active()?;
        let mut noise: Vec<u8> = (0..1232).map(|_| self.random.bits() as u8).collect();
        noise[0] = 0x10;
        let public = draw_secret(&mut self.random);
        noise[12..44].copy_from_slice(&ModelCrypto.box_public(&public));
        if self.world.throw(node, &noise) {
            self.found.push(format!("{node:?} answered noise"));
        }
        Some(())
    }

    /// Nor does who repeats a request that was answered.
    pub(super) fn outside_repeat(&mut self) -> Option<()> {
        let node = self.any_active()?;
        let hello = self.world.answered(node)?.to_vec();
        if self.world.throw(node, &hello) {
            self.found.push(format!("{node:?} answered a repeated request"));
        }
        Some(())
    }
}
