//! The owner of a simulated network: its key, and what is signed with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto, Secret};
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::record::genesis::{Genesis, Owner as OwnerRange};
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::Role;
use ichor_mesh::record::owner::Rename;
use ichor_mesh::record::tombstone::{End, Tombstone};
use ichor_mesh::record::{Envelope, IdentityKey, NetworkId, OwnerKey, RecordId, TokenKey};
use ichor_mesh::roster::Item;

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
    /// The incarnation that it replaces, by force.
    pub(super) replaces: Option<RecordId>,
    /// Seconds since the Unix epoch when it expires.
    pub(super) not_after: u64,
}

/// An owner with its key.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    secret: Secret,
    genesis: Envelope,
    first_hello: Secret,
    serial: u64,
}

/// The addresses of pools.
const POOL: &str = "10.213.128.0/20";

impl Owner {
    /// Begins a network.
    pub(super) fn new(random: &mut Random) -> Self {
        let secret = draw_secret(random);
        let range = "10.213.0.0/16".parse().unwrap_or_default();
        let key = OwnerKey(ModelCrypto.signing_public(&secret));
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.bits().to_le_bytes());
        let name = "sim".parse().expect("a name");
        let genesis = Genesis { name, range, owners: vec![OwnerRange { key, range }], nonce };
        let genesis = genesis.seal(&secret, &ModelCrypto).expect("a valid genesis");
        Self { secret, genesis, first_hello: draw_secret(random), serial: 0 }
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
        let address = format!("{}/32", wish.address);
        let grant = Grant {
            token: TokenKey(ModelCrypto.signing_public(&token)),
            names: wish.names.parse().expect("a pattern"),
            role: Role::Worker,
            site: String::new(),
            addresses: if is_pool { POOL } else { &address }.parse().expect("a prefix"),
            routes: vec![],
            uses: wish.uses,
            not_after: wish.not_after,
            ephemeral: wish.ephemeral,
            replaces: wish.replaces,
            force: wish.replaces.is_some(),
            serial: self.serial,
            minted: clock,
        };
        let first = HelloPublic(ModelCrypto.box_public(&self.first_hello));
        JoinString {
            token,
            grant: grant.seal(&self.network(), &self.secret, &ModelCrypto).expect("a valid grant"),
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

    /// Revokes the unused rest of a token.
    pub(super) fn revoke_token(&self, grant: RecordId) -> Item {
        self.tombstone(End::Token(grant))
    }

    /// Renames a member.
    pub(super) fn rename(&mut self, member: IdentityKey, name: &str) -> Item {
        self.serial += 1;
        let rename = Rename { member, name: name.parse().expect("a name"), serial: self.serial };
        Item::Rename(rename.seal(&self.network(), &self.secret, &ModelCrypto).expect("a valid renaming"))
    }

    fn tombstone(&self, end: End) -> Item {
        let tombstone = Tombstone { end, time: 0 };
        Item::Tombstone(
            tombstone.seal(&self.network(), &self.secret, &ModelCrypto).expect("a valid tombstone"),
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
