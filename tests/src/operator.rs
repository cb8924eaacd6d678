//! An owner of a real network, for tests: makes join strings as `ichorctl token create` does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ichor_mesh::crypto::Secret;
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::Role;
use ichor_mesh::record::{Envelope, RecordId, TokenKey};
use ichorctl::owner::mint::{self, Way};
use zeroize::Zeroizing;

/// An owner and its network.
#[derive(Debug)]
pub struct Operator {
    owner: Secret,
    hello: Secret,
    genesis: Envelope,
    minted: AtomicU64,
    /// Where members may be.
    pub seeds: Vec<SocketAddr>,
}

/// What a token permits beyond the usual.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// The incarnation that it replaces.
    pub replaces: Option<RecordId>,
    /// Prefixes behind the member.
    pub routes: Vec<ipnet::IpNet>,
}

impl Operator {
    /// Begins a network of 10.213.0.0/16.
    ///
    /// # Panics
    /// When the system gives no random bytes.
    pub fn begin() -> Self {
        let (owner, hello) = (mint::secret().expect("random bytes"), mint::secret().expect("random bytes"));
        let range = "10.213.0.0/16".parse().expect("a range");
        let nonce = *mint::secret().expect("random bytes").expose().first_chunk().expect("16 of 32 bytes");
        let genesis = mint::network("lab".parse().expect("a name"), range, &owner, nonce);
        Self {
            owner,
            hello,
            genesis: genesis.expect("a valid genesis"),
            minted: AtomicU64::new(0),
            seeds: Vec::new(),
        }
    }

    /// The join string for one use by `name`, which may begin the network if `may_begin`.
    ///
    /// # Panics
    /// When `name` is none, or a record is not valid.
    pub fn token(&self, name: &str, address: Ipv4Addr, may_begin: bool, extra: Extra) -> Zeroizing<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set").as_secs();
        let grant = Grant {
            token: TokenKey([0; 32]),
            names: name.parse().expect("a name"),
            role: Role::Worker,
            site: String::new(),
            addresses: address.into(),
            routes: extra.routes,
            uses: 1,
            not_after: now + 3600,
            ephemeral: None,
            replaces: extra.replaces,
            force: false,
            serial: self.minted.fetch_add(1, Ordering::Relaxed) + 1,
            minted: now,
        };
        let way = Way { genesis: &self.genesis, hello: &self.hello, seeds: self.seeds.clone(), may_begin };
        let secret = mint::secret().expect("random bytes");
        mint::token(grant, &self.owner, secret, way).expect("a valid grant").encode()
    }
}
