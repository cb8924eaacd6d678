//! Signing: the beginning of a network, and tokens.

use std::net::SocketAddr;

use ichor_mesh::crypto::{Crypto as _, KEY_LEN, RealCrypto, Secret};
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::record::genesis::{Genesis, Owner};
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::Name;
use ichor_mesh::record::{Envelope, NetworkId, OwnerKey, RecordError, TokenKey};
use ipnet::Ipv4Net;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandomness;

/// A new secret.
///
/// # Errors
///
/// [`NoRandomness`].
pub fn secret() -> Result<Secret, NoRandomness> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::new(*bytes))
}

/// The public half of an owner's key.
pub fn owner_key(owner: &Secret) -> OwnerKey {
    OwnerKey(RealCrypto.signing_public(owner))
}

/// Signs the beginning of a network with one owner, which gives out all of its addresses.
///
/// # Errors
///
/// [`RecordError`] when the range is too small.
pub fn network(name: Name, range: Ipv4Net, owner: &Secret, nonce: [u8; 16]) -> Result<Envelope, RecordError> {
    let owners = vec![Owner { key: owner_key(owner), range }];
    Genesis { name, range, owners, nonce }.seal(owner, &RealCrypto)
}

/// What the members of a network are reached by.
#[derive(Debug)]
pub struct Way<'n> {
    /// The beginning of the network.
    pub genesis: &'n Envelope,
    /// The public half of the present hello key.
    pub hello: HelloPublic,
    /// The sum of the tombstones that are known; 0 for none.
    pub tombstones: u64,
    /// The private half of the first hello key, if the holder may begin the network when nobody answers.
    pub first_hello: Option<&'n Secret>,
    /// Where members may be.
    pub seeds: Vec<SocketAddr>,
}

/// Signs a grant for a new token and makes its join string. The token in `grant` is replaced by the new one.
///
/// # Errors
///
/// [`RecordError`] when the grant is not valid.
pub fn token(
    mut grant: Grant,
    owner: &Secret,
    token: Secret,
    way: Way<'_>,
) -> Result<JoinString, RecordError> {
    grant.token = TokenKey(RealCrypto.signing_public(&token));
    let network = NetworkId(way.genesis.id().0);
    Ok(JoinString {
        grant: grant.seal(&network, owner, &RealCrypto)?,
        token,
        genesis: way.genesis.clone(),
        hello: way.hello,
        seeds: way.seeds,
        tombstones: way.tombstones,
        first_hello: way.first_hello.cloned(),
    })
}
