//! The signed records that membership is made of, and the bytes that are signed.
//!
//! Every record is an *envelope*: who signed it, the signatures, and the body. The signatures are checked on the
//! very bytes that came, before the body is decoded, and those bytes are what is kept and passed on, unchanged.
//! So it does not matter whether two versions would encode a record in the same way, and fields that a version
//! does not know survive in its hands.
//!
//! ```text
//!  0  kind (1) | number of signatures (1) | length of the body (2, little-endian)
//!  4  signer (32), signature (64)         once per signature
//!     body: fields, see `tlv`
//! ```
//!
//! What is signed is `"ichor-record-v1" | kind | network id | number of signers | signers | body`, so a record of one
//! network or kind can never pass for one of another, and no signature can be taken off or added. The network id of
//! a genesis is all zeros. The identity of a record is the BLAKE2s of the same bytes.

pub mod announcement;
pub mod genesis;
pub mod grant;
pub mod member;
pub mod name;
pub mod owner;
pub mod receipt;
pub mod tlv;
pub mod tombstone;

use std::fmt;
use std::sync::Arc;

use crate::crypto::{Crypto, KEY_LEN, SIGNATURE_LEN, Secret, hash};

/// Longest body: with two signatures a record still fits into one control packet of 1232 bytes.
pub const MAX_BODY: usize = 960;
/// Most signatures on one record.
const MAX_SIGNATURES: usize = 8;
const HEADER_LEN: usize = 4;
const CONTEXT: &[u8] = b"ichor-record-v1";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The beginning of a network.
    Genesis = 1,
    /// What an owner lets the holder of a token do.
    Grant = 2,
    /// A member, as it describes itself.
    Member = 3,
    /// The admission of a member.
    Receipt = 4,
    /// Where a member is now.
    Announcement = 5,
    /// The end of a member or of a token.
    Tombstone = 6,
    /// An owner more or less.
    OwnerChange = 7,
    /// A member's new name.
    Rename = 8,
    /// A request outside sessions.
    Hello = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Genesis,
            2 => Self::Grant,
            3 => Self::Member,
            4 => Self::Receipt,
            5 => Self::Announcement,
            6 => Self::Tombstone,
            7 => Self::OwnerChange,
            8 => Self::Rename,
            10 => Self::Hello,
            _ => return None,
        })
    }
}

/// A text that is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: expected 64 hexadecimal digits")]
pub struct BadIdentifier;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; KEY_LEN]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadIdentifier;

            /// 64 hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, BadIdentifier> {
                let digits = text.as_bytes();
                let mut bytes = [0; KEY_LEN];
                if digits.len() != 2 * KEY_LEN {
                    return Err(BadIdentifier);
                }
                for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
                    let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(BadIdentifier);
                    *byte = (digit(0)? << 4 | digit(1)?) as u8;
                }
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

identifier! {
    /// The identity of a network: the hash of its genesis.
    NetworkId
}
identifier! {
    /// The identity of a record: the hash of its kind, network and body.
    RecordId
}
identifier! {
    /// The Ed25519 public key of a member.
    IdentityKey
}
identifier! {
    /// The Ed25519 public key of an owner.
    OwnerKey
}
identifier! {
    /// The Ed25519 public key of a token.
    TokenKey
}

impl NetworkId {
    /// What stands for the network in a genesis.
    pub const NONE: Self = Self([0; KEY_LEN]);
}

/// Why bytes are no valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The lengths do not fit, or the kind is unknown.
    #[error("record is malformed")]
    Malformed,
    /// It is of another kind than expected.
    #[error("record is of another kind")]
    Kind,
    /// A signature is wrong, or one is missing.
    #[error("record has a wrong signature")]
    Signature,
    /// A field is missing, or has a value that it must not have.
    #[error("record has a wrong field {0}")]
    Field(u8),
    /// It has a field that must be understood and is not: a newer version made it.
    #[error("record has an unknown critical field {0}")]
    Unknown(u8),
}

/// A record whose signatures are right.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    kind: Kind,
    id: RecordId,
    signers: Vec<[u8; KEY_LEN]>,
    bytes: Arc<[u8]>,
}

impl Envelope {
    /// Signs `body` with each of `secrets`.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if the body is longer than [`MAX_BODY`].
    pub fn seal(
        kind: Kind,
        network: &NetworkId,
        body: &[u8],
        secrets: &[&Secret],
        crypto: &dyn Crypto,
    ) -> Result<Self, RecordError> {
        if body.len() > MAX_BODY || secrets.is_empty() || secrets.len() > MAX_SIGNATURES {
            return Err(RecordError::Malformed);
        }
        let signers: Vec<_> = secrets.iter().map(|secret| crypto.signing_public(secret)).collect();
        let message = signed_bytes(kind, network, &signers, body);
        let mut bytes = vec![kind as u8, secrets.len() as u8];
        bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
        for (secret, signer) in secrets.iter().zip(&signers) {
            bytes.extend_from_slice(signer);
            bytes.extend_from_slice(&crypto.sign(secret, &message));
        }
        bytes.extend_from_slice(body);
        Ok(Self { kind, id: RecordId(hash(&[&message])), signers, bytes: bytes.into() })
    }

    /// Reads one record of `network` from the start of `bytes` and checks its signatures. Returns what follows
    /// it, too.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open<'b>(
        bytes: &'b [u8],
        network: &NetworkId,
        crypto: &dyn Crypto,
    ) -> Result<(Self, &'b [u8]), RecordError> {
        let Parts { kind, signers, signatures, body, len, rest } = split(bytes)?;
        let message = signed_bytes(kind, network, &signers, body);
        for (signer, part) in signers.iter().zip(signatures.chunks_exact(KEY_LEN + SIGNATURE_LEN)) {
            let signature = part.last_chunk::<SIGNATURE_LEN>().ok_or(RecordError::Malformed)?;
            if !crypto.verify(signer, &message, signature) {
                return Err(RecordError::Signature);
            }
        }
        let envelope = Self { kind, id: RecordId(hash(&[&message])), signers, bytes: bytes[..len].into() };
        Ok((envelope, rest))
    }

    /// The kind and identity of the record at the start of `bytes`, and what follows it. Its signatures are not checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn peek<'b>(bytes: &'b [u8], network: &NetworkId) -> Result<(Kind, RecordId, &'b [u8]), RecordError> {
        let Parts { kind, signers, body, rest, .. } = split(bytes)?;
        Ok((kind, RecordId(hash(&[&signed_bytes(kind, network, &signers, body)])), rest))
    }

    /// Reads one record of one kind that is all of `bytes`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open_exactly(
        bytes: &[u8],
        kind: Kind,
        network: &NetworkId,
        crypto: &dyn Crypto,
    ) -> Result<Self, RecordError> {
        let (envelope, rest) = Self::open(bytes, network, crypto)?;
        match (envelope.kind == kind, rest.is_empty()) {
            (true, true) => Ok(envelope),
            (false, _) => Err(RecordError::Kind),
            (true, false) => Err(RecordError::Malformed),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its identity.
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// Who signed it, in order.
    pub fn signers(&self) -> &[[u8; KEY_LEN]] {
        &self.signers
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN + self.signers.len() * (KEY_LEN + SIGNATURE_LEN)..).unwrap_or(&[])
    }

    /// The exact bytes, to keep and to pass on.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The only signer of a record of `kind`.
    fn only_signer(&self, kind: Kind) -> Result<[u8; KEY_LEN], RecordError> {
        if self.kind != kind {
            return Err(RecordError::Kind);
        }
        match self.signers[..] {
            [signer] => Ok(signer),
            _ => Err(RecordError::Signature),
        }
    }
}

/// Where the parts of a record are.
struct Parts<'b> {
    kind: Kind,
    signers: Vec<[u8; KEY_LEN]>,
    /// Keys and signatures in turn.
    signatures: &'b [u8],
    body: &'b [u8],
    /// Bytes of the whole record.
    len: usize,
    /// What follows it.
    rest: &'b [u8],
}

fn split(bytes: &[u8]) -> Result<Parts<'_>, RecordError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(RecordError::Malformed)?;
    let kind = Kind::from_byte(header[0]).ok_or(RecordError::Malformed)?;
    let count = usize::from(header[1]);
    let body_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let signatures_len = count * (KEY_LEN + SIGNATURE_LEN);
    if count == 0 || count > MAX_SIGNATURES || body_len > MAX_BODY || rest.len() < signatures_len + body_len {
        return Err(RecordError::Malformed);
    }
    let (signatures, rest) = rest.split_at(signatures_len);
    let (body, rest) = rest.split_at(body_len);
    let parts = signatures.chunks_exact(KEY_LEN + SIGNATURE_LEN);
    let signers = parts.filter_map(|part| part.first_chunk::<KEY_LEN>()).copied().collect();
    Ok(Parts { kind, signers, signatures, body, len: HEADER_LEN + signatures_len + body_len, rest })
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?}, {} bytes)", self.kind, self.id, self.bytes.len())
    }
}

fn signed_bytes(kind: Kind, network: &NetworkId, signers: &[[u8; KEY_LEN]], body: &[u8]) -> Vec<u8> {
    let signers_len = [signers.len() as u8];
    [CONTEXT, &[kind as u8], &network.0, &signers_len, &signers.concat(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::RealCrypto;

    const NETWORK: NetworkId = NetworkId([3; 32]);

    fn record() -> Envelope {
        let (one, two) = (Secret::new([1; 32]), Secret::new([2; 32]));
        Envelope::seal(Kind::Member, &NETWORK, b"body", &[&one, &two], &RealCrypto).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_rest_behind_it() {
        let record = record();
        let mut bytes = record.bytes().to_vec();
        bytes.extend_from_slice(b"rest");
        let (opened, rest) = Envelope::open(&bytes, &NETWORK, &RealCrypto).unwrap();
        assert_eq!((opened, rest), (record.clone(), &b"rest"[..]));
        assert_eq!(record.body(), b"body");
        assert_eq!(record.signers().len(), 2);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = record().bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::open(&damaged, &NETWORK, &RealCrypto).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = record().bytes().to_vec();
        for len in 0..bytes.len() {
            assert_eq!(Envelope::open(&bytes[..len], &NETWORK, &RealCrypto), Err(RecordError::Malformed));
        }
    }

    #[test]
    fn a_record_of_another_network_or_kind_is_refused() {
        let record = record();
        let other = NetworkId([4; 32]);
        assert_eq!(Envelope::open(record.bytes(), &other, &RealCrypto), Err(RecordError::Signature));
        let mut grant = record.bytes().to_vec();
        grant[0] = Kind::Grant as u8;
        assert_eq!(Envelope::open(&grant, &NETWORK, &RealCrypto), Err(RecordError::Signature));
    }

    #[test]
    fn records_with_other_signers_are_other_records() {
        let one = Secret::new([1; 32]);
        let fewer = Envelope::seal(Kind::Member, &NETWORK, b"body", &[&one], &RealCrypto).unwrap();
        assert_ne!(fewer.id(), record().id());

        // A signature cannot be taken off.
        let mut bytes = record().bytes().to_vec();
        bytes[1] = 1;
        bytes.drain(4 + 96..4 + 192);
        assert_eq!(Envelope::open(&bytes, &NETWORK, &RealCrypto), Err(RecordError::Signature));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let one = Secret::new([1; 32]);
        let sealed = Envelope::seal(Kind::Member, &NETWORK, &[0; MAX_BODY + 1], &[&one], &RealCrypto);
        assert_eq!(sealed, Err(RecordError::Malformed));
        let sealed = Envelope::seal(Kind::Member, &NETWORK, &[], &[], &RealCrypto);
        assert_eq!(sealed, Err(RecordError::Malformed));
    }
}
