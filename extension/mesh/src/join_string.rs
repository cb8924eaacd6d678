//! The join string: all that a new node needs to become a member, as one line of text.
//!
//! ```text
//!  "ichor1-" | base64url without padding of:
//!     fields, see `record::tlv`
//!     checksum (4): the start of the BLAKE2s of the fields
//!
//!  1 token secret (32)      4 hello public key (32)    7 first hello secret (32), optional
//!  2 grant                  5 seeds: family, address, port ...
//!  3 genesis                6 sum of the tombstones at minting (8)
//! ```
//!
//! Grant and genesis are records as they were signed. The checksum tells a string that lost a piece on its way through
//! a clipboard from one that is wrong; it proves nothing. Fields that a version does not know are passed over.
//!
//! Who holds the string may use the token: it is as secret as a key. The *first hello secret* is only in strings for
//! nodes that may begin the network: the members that come later seal their requests to its public half.

use std::fmt;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::{Crypto, KEY_LEN, Secret, hash};
use crate::hello::HelloPublic;
use crate::record::genesis::Genesis;
use crate::record::grant::SignedGrant;
use crate::record::tlv::{Fields, Writer, read_sockets, write_sockets};
use crate::record::{Envelope, Kind, NetworkId, RecordError};

const PREFIX: &str = "ichor1-";
const CHECKSUM_LEN: usize = 4;
/// Longest text that is looked at: a grant and a genesis of full length, and seeds.
const MAX_LEN: usize = 8192;

const TOKEN: u8 = 1;
const GRANT: u8 = 2;
const GENESIS: u8 = 3;
const HELLO: u8 = 4;
const SEEDS: u8 = 5;
const TOMBSTONES: u8 = 6;
const FIRST_HELLO: u8 = 7;
const KNOWN: u8 = FIRST_HELLO;

/// Most seeds in one string.
pub const MAX_SEEDS: usize = 16;

/// What a join string holds.
#[derive(Clone)]
pub struct JoinString {
    /// The private half of the token.
    pub token: Secret,
    /// What an owner granted to its holder.
    pub grant: SignedGrant,
    /// The network, as it was signed.
    pub genesis: Envelope,
    /// What requests are sealed to.
    pub hello: HelloPublic,
    /// Where members may be reached.
    pub seeds: Vec<SocketAddr>,
    /// The sum of the tombstones that the minter knew, see [`Roster::tombstone_sum`](crate::roster::Roster).
    pub tombstones: u64,
    /// The private half of the hello key, for who may begin the network.
    pub first_hello: Option<Secret>,
}

/// Why a text is no join string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinStringError {
    /// It does not start as one.
    #[error("a join string starts with {PREFIX}")]
    Prefix,
    /// It is not base64, or of an impossible length.
    #[error("join string has a wrong character or length")]
    Text,
    /// A part is missing or changed.
    #[error("join string is damaged: its checksum is wrong")]
    Checksum,
    /// What it holds is not valid.
    #[error("join string holds no valid token")]
    Record(#[source] RecordError),
    /// Its token is not the one that is granted something.
    #[error("join string holds the grant of another token")]
    Token,
}

impl JoinString {
    /// Writes the text. It is a secret.
    pub fn encode(&self) -> Zeroizing<String> {
        let fields = Writer::with_capacity(MAX_LEN)
            .field(TOKEN, self.token.expose())
            .field(GRANT, self.grant.envelope.bytes())
            .field(GENESIS, self.genesis.bytes())
            .field(HELLO, &self.hello.0)
            .field(SEEDS, &write_sockets(&self.seeds))
            .field(TOMBSTONES, &self.tombstones.to_le_bytes())
            .optional(FIRST_HELLO, self.first_hello.as_ref().map(|secret| &secret.expose()[..]));
        let mut bytes = Zeroizing::new(fields.finish());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Reads a text, with white space around it, and checks all that is signed in it.
    ///
    /// # Errors
    /// [`JoinStringError`].
    pub fn decode(text: &str, crypto: &dyn Crypto) -> Result<Self, JoinStringError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(JoinStringError::Prefix)?;
        if text.len() > MAX_LEN {
            return Err(JoinStringError::Text);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| JoinStringError::Text)?);
        let (fields, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(JoinStringError::Text)?;
        if *sum != checksum(fields) {
            return Err(JoinStringError::Checksum);
        }
        Self::decode_fields(fields, crypto).map_err(JoinStringError::Record).and_then(|join| {
            let is_ours = crypto.signing_public(&join.token) == join.grant.grant.token.0;
            is_ours.then_some(join).ok_or(JoinStringError::Token)
        })
    }

    fn decode_fields(bytes: &[u8], crypto: &dyn Crypto) -> Result<Self, RecordError> {
        let fields = Fields::read(bytes, KNOWN)?;
        let (_, genesis) = Genesis::open(fields.required(GENESIS)?, crypto)?;
        let network = NetworkId(genesis.id().0);
        let grant = Envelope::open_exactly(fields.required(GRANT)?, Kind::Grant, &network, crypto)?;
        let seeds = read_sockets(fields.required(SEEDS)?).ok_or(RecordError::Field(SEEDS))?;
        if seeds.len() > MAX_SEEDS {
            return Err(RecordError::Field(SEEDS));
        }
        Ok(Self {
            token: Secret::new(fields.array(TOKEN)?),
            grant: SignedGrant::decode(grant)?,
            genesis,
            hello: HelloPublic(fields.array(HELLO)?),
            seeds,
            tombstones: u64::from_le_bytes(fields.array(TOMBSTONES)?),
            first_hello: fields.optional_array::<KEY_LEN>(FIRST_HELLO)?.map(Secret::new),
        })
    }

    /// The network that it lets in to.
    pub fn network(&self) -> NetworkId {
        NetworkId(self.genesis.id().0)
    }
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("network", &self.network())
            .field("grant", &self.grant.id)
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = hash(&[b"ichor join string", fields]);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::RealCrypto;
    use crate::record::OwnerKey;
    use crate::record::genesis::Owner;
    use crate::record::grant::tests::exact;

    fn join_string() -> JoinString {
        let (owner, token) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let range = "10.213.0.0/16".parse().unwrap();
        let key = OwnerKey(RealCrypto.signing_public(&owner));
        let genesis = Genesis {
            name: "home".parse().unwrap(),
            range,
            owners: vec![Owner { key, range }],
            nonce: [7; 16],
        };
        let genesis = genesis.seal(&owner, &RealCrypto).unwrap();
        let network = NetworkId(genesis.id().0);
        let grant = exact("cp-1", "10.213.0.1", &token, &RealCrypto);
        JoinString {
            grant: grant.seal(&network, &owner, &RealCrypto).unwrap(),
            token,
            genesis,
            hello: HelloPublic(RealCrypto.box_public(&Secret::new([3; 32]))),
            seeds: vec!["192.0.2.1:51840".parse().unwrap(), "[2001:db8::1]:51840".parse().unwrap()],
            tombstones: 9,
            first_hello: Some(Secret::new([3; 32])),
        }
    }

    #[test]
    fn a_join_string_is_read_back_with_everything_in_it() {
        let join = join_string();
        let text = join.encode();
        let again = JoinString::decode(&format!("  {}\n", *text), &RealCrypto).unwrap();
        assert_eq!(again.token.expose(), join.token.expose());
        assert_eq!(again.first_hello.as_ref().map(Secret::expose), Some(&[3; 32]));
        assert_eq!((&again.grant, &again.genesis), (&join.grant, &join.genesis));
        assert_eq!((again.hello, &again.seeds, again.tombstones), (join.hello, &join.seeds, 9));
        assert_eq!(again.encode(), text);

        let plain = JoinString { first_hello: None, seeds: vec![], ..join };
        let again = JoinString::decode(&plain.encode(), &RealCrypto).unwrap();
        assert!(again.first_hello.is_none() && again.seeds.is_empty());
    }

    #[test]
    fn every_damaged_character_is_noticed() {
        let text = join_string().encode();
        for at in 0..text.len() {
            let mut damaged = text.as_bytes().to_vec();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(JoinString::decode(&damaged, &RealCrypto).is_err(), "character {at}");
            assert!(JoinString::decode(&text[..at], &RealCrypto).is_err(), "{at} characters");
        }
    }

    #[test]
    fn the_grant_of_another_token_is_refused() {
        let other = JoinString { token: Secret::new([9; 32]), ..join_string() };
        let read = JoinString::decode(&other.encode(), &RealCrypto);
        assert_eq!(read.map(|_| ()), Err(JoinStringError::Token));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", join_string());
        for secret in ["[2, 2", "[3, 3", "secret", "hello"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(ichor1-)?[A-Za-z0-9_-]{0,300}") {
            prop_assert!(JoinString::decode(&text, &RealCrypto).is_err());
        }
    }
}
