//! The owner of a simulated network, or several: their keys, and what is signed with them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto, Secret};
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::record::genesis::{Genesis, Owner as OwnerRange};
use ichor_mesh::record::grant::{Grant, SignedGrant};
use ichor_mesh::record::name::Role;
use ichor_mesh::record::owner::{OwnerChange, Rename};
use ichor_mesh::record::tombstone::{End, Tombstone};
use ichor_mesh::record::{Envelope, IdentityKey, NetworkId, OwnerKey, RecordId, TokenKey};
use ichor_mesh::roster::Item;
use ipnet::Ipv4Net;

use crate::random::Random;

/// What a token is for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// A name, or a pattern with a star.
    pub(super) names: String,
    /// Its address; for a pool the whole range of pools is granted.
    pub(super) address: Ipv4Addr,
    /// How often it may be used.
    pub(super) uses: u16,
    /// Lifetime of ephemeral members.
    pub(super) ephemeral: Option<Duration>,
    /// The incarnation that it replaces.
    pub(super) replaces: Option<RecordId>,
    /// Whether it does also if that one is there.
    pub(super) force: bool,
    /// Seconds since the Unix epoch when it expires.
    pub(super) not_after: u64,
}

/// The owners, one of whom acts at a time.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    keys: Vec<Key>,
    acting: usize,
    genesis: Envelope,
    first_hello: Secret,
    serial: u64,
}

/// One owner's key.
#[derive(Debug, Clone)]
struct Key {
    secret: Secret,
    range: Ipv4Net,
    /// Parts of the range that were given to others.
    parts: u32,
}

impl Key {
    fn public(&self) -> OwnerKey {
        OwnerKey(ModelCrypto.signing_public(&self.secret))
    }

    /// The addresses of its pools.
    fn pool(&self) -> Ipv4Net {
        self.part(self.range.prefix_len() + 3, 1)
    }

    /// Its `n`-th part with that many bits.
    fn part(&self, prefix: u8, n: u32) -> Ipv4Net {
        let first = u32::from(self.range.network()) + (n << (32 - prefix));
        Ipv4Net::new(Ipv4Addr::from(first), prefix).expect("a short prefix")
    }
}

/// Tag, length and value of a field that no version has yet, and that need not be understood.
const LATER_FIELD: &[u8] = &[0x7f, 3, 0, 1, 2, 3];
/// Parts that an owner gives to others: they lie behind its own addresses and its pool.
const PARTS: std::ops::Range<u32> = 4..8;

impl Owner {
    /// Begins a network with one owner.
    pub(super) fn new(random: &mut Random) -> Self {
        Self::beginning(&["10.213.0.0/16"], random)
    }

    /// Begins a network with two.
    pub(super) fn two(random: &mut Random) -> Self {
        Self::beginning(&["10.213.0.0/17", "10.213.128.0/17"], random)
    }

    fn beginning(ranges: &[&str], random: &mut Random) -> Self {
        let key = |range: &&str| Key {
            secret: draw_secret(random),
            range: range.parse().expect("a range"),
            parts: PARTS.start,
        };
        let keys: Vec<_> = ranges.iter().map(key).collect();
        let owners = keys.iter().map(|key| OwnerRange { key: key.public(), range: key.range }).collect();
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.bits().to_le_bytes());
        let name = "sim".parse().expect("a name");
        let range = "10.213.0.0/16".parse().expect("a range");
        let genesis = Genesis { name, range, owners, nonce };
        let genesis = genesis.seal(&keys[0].secret, &ModelCrypto).expect("a valid genesis");
        Self { keys, acting: 0, genesis, first_hello: draw_secret(random), serial: 0 }
    }

    /// Lets another owner act: any of those that may.
    pub(super) fn take_turns(&mut self, may_act: impl Fn(&OwnerKey) -> bool, random: &mut Random) {
        let active: Vec<_> = (0..self.keys.len()).filter(|n| may_act(&self.keys[*n].public())).collect();
        if !active.is_empty() {
            self.acting = *random.pick(&active);
        }
    }

    /// An address of the owner that acts.
    pub(super) fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.keys[self.acting].range.network()) + n)
    }

    /// The owner that acts adds another, with a part of its range.
    pub(super) fn add(&mut self, random: &mut Random) -> Option<Item> {
        let acting = &mut self.keys[self.acting];
        if !PARTS.contains(&acting.parts) || acting.range.prefix_len() > 20 {
            return None;
        }
        let range = acting.part(acting.range.prefix_len() + 3, acting.parts);
        acting.parts += 1;
        let key = Key { secret: draw_secret(random), range, parts: PARTS.start };
        let change = OwnerChange::Add(OwnerRange { key: key.public(), range });
        self.keys.push(key);
        Some(self.change(&change, &[self.acting]))
    }

    /// The owner that acts takes another key.
    pub(super) fn rotate(&mut self, random: &mut Random) -> Item {
        let old = &self.keys[self.acting];
        let key = Key { secret: draw_secret(random), ..old.clone() };
        let change = OwnerChange::Rotate(key.public());
        self.keys.push(key);
        let signers = [self.acting, self.keys.len() - 1];
        self.acting = signers[1];
        self.change(&change, &signers)
    }

    /// Some owners, among them the one that acts, end another or themselves.
    pub(super) fn remove(&mut self, void: bool, random: &mut Random) -> Item {
        let target = random.below(self.keys.len());
        let mut signers: Vec<_> =
            (0..self.keys.len()).filter(|n| *n == self.acting || random.chance(1, 3)).collect();
        signers.truncate(4);
        let change = OwnerChange::Remove { owner: self.keys[target].public(), void };
        self.change(&change, &signers)
    }

    fn change(&mut self, change: &OwnerChange, signers: &[usize]) -> Item {
        self.serial += 1;
        let secrets: Vec<_> = signers.iter().map(|n| &self.keys[*n].secret).collect();
        let sealed = change.seal(&self.network(), self.serial.to_le_bytes(), &secrets, &ModelCrypto);
        Item::OwnerChange(sealed.expect("a valid change"))
    }

    /// The same record as a later version would write it, with a field that this one does not know.
    pub(super) fn with_later_field(&self, envelope: &Envelope) -> Envelope {
        let body = [envelope.body(), LATER_FIELD].concat();
        let secrets = [&self.keys[self.acting].secret];
        let sealed = Envelope::seal(envelope.kind(), &self.network(), &body, &secrets, &ModelCrypto);
        sealed.expect("a valid record")
    }

    /// A token with such a field in its grant.
    pub(super) fn grant_of_later_version(&self, join: JoinString) -> JoinString {
        let envelope = self.with_later_field(&join.grant.envelope);
        JoinString { grant: SignedGrant::decode(envelope).expect("a grant"), ..join }
    }

    /// The network.
    pub(super) fn network(&self) -> NetworkId {
        NetworkId(self.genesis.id().0)
    }

    /// Mints a token at `clock`.
    pub(super) fn mint(
        &mut self,
        wish: &Wish,
        hello: Option<HelloPublic>,
        seeds: Vec<SocketAddr>,
        clock: u64,
        random: &mut Random,
    ) -> JoinString {
        self.serial += 1;
        let token = draw_secret(random);
        let is_pool = wish.names.contains('*');
        let acting = &self.keys[self.acting];
        let addresses = if is_pool { acting.pool() } else { Ipv4Net::from(wish.address) };
        let grant = Grant {
            token: TokenKey(ModelCrypto.signing_public(&token)),
            names: wish.names.parse().expect("a pattern"),
            role: Role::Worker,
            site: String::new(),
            addresses,
            routes: vec![],
            uses: wish.uses,
            not_after: wish.not_after,
            ephemeral: wish.ephemeral,
            replaces: wish.replaces,
            force: wish.force,
            serial: self.serial,
            minted: clock,
        };
        let first = HelloPublic(ModelCrypto.box_public(&self.first_hello));
        JoinString {
            token,
            grant: grant.seal(&self.network(), &acting.secret, &ModelCrypto).expect("a valid grant"),
            genesis: self.genesis.clone(),
            hello: hello.unwrap_or(first),
            seeds,
            tombstones: 0,
            first_hello: (hello.is_none()).then(|| self.first_hello.clone()),
        }
    }

    /// Revokes a member, and the rest of its token.
    pub(super) fn revoke(&self, identity: IdentityKey) -> Item {
        self.tombstone(End::Revoked { identity, keep_token: false })
    }

    /// Revokes a member, but not the rest of its token.
    pub(super) fn revoke_member_only(&self, identity: IdentityKey) -> Item {
        self.tombstone(End::Revoked { identity, keep_token: true })
    }

    /// Revokes the unused rest of a token.
    pub(super) fn revoke_token(&self, grant: RecordId) -> Item {
        self.tombstone(End::Token(grant))
    }

    /// The same, as a later version would write it.
    pub(super) fn revoke_token_of_later_version(&self, grant: RecordId) -> Item {
        let item = self.tombstone(End::Token(grant)).to_bytes();
        let (envelope, _) = Envelope::open(&item, &self.network(), &ModelCrypto).expect("a valid record");
        let later = self.with_later_field(&envelope);
        Item::open(later.bytes(), &self.network(), &ModelCrypto).expect("a valid record")
    }

    /// The key of the owner that acts.
    pub(super) fn acting(&self) -> OwnerKey {
        self.keys[self.acting].public()
    }

    /// A token that nobody granted who may.
    pub(super) fn forge_grant(&self, random: &mut Random) -> (Secret, SignedGrant) {
        let token = draw_secret(random);
        let grant = Grant {
            token: TokenKey(ModelCrypto.signing_public(&token)),
            names: "thief".parse().expect("a pattern"),
            role: Role::Worker,
            site: String::new(),
            addresses: "10.213.15.1/32".parse().expect("a prefix"),
            routes: vec![],
            uses: 1,
            not_after: u64::MAX,
            ephemeral: None,
            replaces: None,
            force: false,
            serial: u64::MAX,
            minted: 0,
        };
        let grant = grant.seal(&self.network(), &draw_secret(random), &ModelCrypto);
        (token, grant.expect("a valid grant"))
    }

    /// Renames a member.
    pub(super) fn rename(&mut self, member: IdentityKey, name: &str) -> Item {
        self.serial += 1;
        let rename = Rename { member, name: name.parse().expect("a name"), serial: self.serial };
        Item::Rename(
            rename
                .seal(&self.network(), &self.keys[self.acting].secret, &ModelCrypto)
                .expect("a valid renaming"),
        )
    }

    fn tombstone(&self, end: End) -> Item {
        let tombstone = Tombstone { end, time: 0 };
        Item::Tombstone(
            tombstone
                .seal(&self.network(), &self.keys[self.acting].secret, &ModelCrypto)
                .expect("a valid tombstone"),
        )
    }
}

/// A secret nobody else has.
pub(super) fn draw_secret(random: &mut Random) -> Secret {
    Secret::new(draw_seed(random))
}

/// 32 random bytes.
pub(super) fn draw_seed(random: &mut Random) -> [u8; 32] {
    let mut seed = [0; 32];
    for part in seed.chunks_mut(8) {
        part.copy_from_slice(&random.bits().to_le_bytes());
    }
    seed
}
