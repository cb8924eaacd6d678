//! Signatures and sealed boxes for membership. Behind a trait, because the simulator explores a hundred thousand
//! histories and cannot afford curve arithmetic in each.

use std::fmt;

use blake2::{Blake2s256, Digest as _};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _};
use ed25519_dalek::Signer as _;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of a public key, of a secret seed and of a digest in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;
/// What sealing adds: the authentication tag.
pub const SEAL_OVERHEAD: usize = 16;

/// A secret from which a key pair follows: an Ed25519 seed (RFC 8032 section 5.1.5) or an X25519 scalar.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; KEY_LEN]);

impl Secret {
    /// Takes 32 random bytes.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The raw bytes, for files with mode 0600 only.
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Which end of a sealed exchange a box comes from; each has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the one who made the ephemeral key.
    Request,
    /// Back to it.
    Reply,
}

/// The cryptography of membership.
pub trait Crypto: fmt::Debug + Send + Sync {
    /// The public key that belongs to a signing secret.
    fn signing_public(&self, secret: &Secret) -> [u8; KEY_LEN];

    /// Signs `message`.
    fn sign(&self, secret: &Secret, message: &[u8]) -> [u8; SIGNATURE_LEN];

    /// Whether `signature` is that of `public` on `message`.
    fn verify(&self, public: &[u8; KEY_LEN], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool;

    /// The public key that belongs to a secret for sealed boxes.
    fn box_public(&self, secret: &Secret) -> [u8; KEY_LEN];

    /// What `ours` and `theirs` agree upon: a secret for [`seal`](Self::seal) and [`open`](Self::open). `None`
    /// if `theirs` is not a key that can agree upon a secret (a point of small order).
    fn agree(&self, ours: &Secret, theirs: &[u8; KEY_LEN]) -> Option<Secret>;

    /// Encrypts `buffer` in place and returns the tag. A shared secret seals one box in each direction, no more.
    fn seal(&self, shared: &Secret, direction: Direction, buffer: &mut [u8]) -> [u8; SEAL_OVERHEAD];

    /// Decrypts `buffer` in place; whether it was authentic.
    fn open(
        &self,
        shared: &Secret,
        direction: Direction,
        buffer: &mut [u8],
        tag: &[u8; SEAL_OVERHEAD],
    ) -> bool;
}

/// Ed25519, X25519 and ChaCha20-Poly1305.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealCrypto;

impl Crypto for RealCrypto {
    fn signing_public(&self, secret: &Secret) -> [u8; KEY_LEN] {
        ed25519_dalek::SigningKey::from_bytes(&secret.0).verifying_key().to_bytes()
    }

    fn sign(&self, secret: &Secret, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        ed25519_dalek::SigningKey::from_bytes(&secret.0).sign(message).to_bytes()
    }

    fn verify(&self, public: &[u8; KEY_LEN], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        // Strict: keys of small order and signatures with two encodings would let one record have two faces.
        ed25519_dalek::VerifyingKey::from_bytes(public).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
        })
    }

    fn box_public(&self, secret: &Secret) -> [u8; KEY_LEN] {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret.0)).to_bytes()
    }

    fn agree(&self, ours: &Secret, theirs: &[u8; KEY_LEN]) -> Option<Secret> {
        let theirs_key = x25519_dalek::PublicKey::from(*theirs);
        let shared = x25519_dalek::StaticSecret::from(ours.0).diffie_hellman(&theirs_key);
        shared.was_contributory().then(|| Secret(*shared.as_bytes()))
    }

    fn seal(&self, shared: &Secret, direction: Direction, buffer: &mut [u8]) -> [u8; SEAL_OVERHEAD] {
        // Each key seals exactly one box, so the nonce may be fixed. Sealing fails only beyond 256 GB.
        cipher(shared, direction)
            .encrypt_in_place_detached(&[0; 12].into(), &[], buffer)
            .map_or([0; SEAL_OVERHEAD], Into::into)
    }

    fn open(
        &self,
        shared: &Secret,
        direction: Direction,
        buffer: &mut [u8],
        tag: &[u8; SEAL_OVERHEAD],
    ) -> bool {
        cipher(shared, direction).decrypt_in_place_detached(&[0; 12].into(), &[], buffer, tag.into()).is_ok()
    }
}

fn cipher(shared: &Secret, direction: Direction) -> ChaCha20Poly1305 {
    let label: &[u8] = match direction {
        Direction::Request => b"ichor hello request",
        Direction::Reply => b"ichor hello reply",
    };
    let key: Zeroizing<[u8; KEY_LEN]> =
        Zeroizing::new(Blake2s256::new().chain_update(label).chain_update(shared.0).finalize().into());
    ChaCha20Poly1305::new((&*key).into())
}

/// BLAKE2s of the concatenation of `parts`.
pub fn hash(parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(any(test, feature = "model"))]
pub use model::ModelCrypto;

#[cfg(any(test, feature = "model"))]
mod model {
    use super::{Crypto, Direction, KEY_LEN, SEAL_OVERHEAD, SIGNATURE_LEN, Secret};

    /// Keyed hashes that keep the contract against accidents, not against adversaries who compute: the public
    /// key is the secret. A thousand times faster, for the simulator.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct ModelCrypto;

    impl Crypto for ModelCrypto {
        fn signing_public(&self, secret: &Secret) -> [u8; KEY_LEN] {
            secret.0
        }

        fn sign(&self, secret: &Secret, message: &[u8]) -> [u8; SIGNATURE_LEN] {
            digest(&secret.0, message)
        }

        fn verify(&self, public: &[u8; KEY_LEN], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
            *signature == digest(public, message)
        }

        fn box_public(&self, secret: &Secret) -> [u8; KEY_LEN] {
            secret.0
        }

        fn agree(&self, ours: &Secret, theirs: &[u8; KEY_LEN]) -> Option<Secret> {
            let mut shared = [0; KEY_LEN];
            for (n, byte) in shared.iter_mut().enumerate() {
                *byte = ours.0[n] ^ theirs[n];
            }
            Some(Secret(shared))
        }

        fn seal(&self, shared: &Secret, direction: Direction, buffer: &mut [u8]) -> [u8; SEAL_OVERHEAD] {
            let mut tag = [0; SEAL_OVERHEAD];
            let mut key = shared.0;
            key[0] ^= direction as u8;
            tag.copy_from_slice(&digest(&key, buffer)[..SEAL_OVERHEAD]);
            tag
        }

        fn open(
            &self,
            shared: &Secret,
            direction: Direction,
            buffer: &mut [u8],
            tag: &[u8; SEAL_OVERHEAD],
        ) -> bool {
            self.seal(shared, direction, buffer) == *tag
        }
    }

    fn digest(key: &[u8; KEY_LEN], message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut state = 0x6a09_e667_f3bc_c908u64 ^ message.len() as u64;
        for chunk in key.chunks(8).chain(message.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        let mut out = [0; SIGNATURE_LEN];
        for chunk in out.chunks_mut(8) {
            state = (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 section 7.1, test 2.
    #[test]
    fn signatures_follow_rfc_8032() {
        let secret = Secret::new([
            0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11, 0x4e, 0x0f,
            0x5b, 0x8a, 0x31, 0x9f, 0x35, 0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed, 0x4f, 0xb8, 0xa6, 0xfb,
        ]);
        let public = RealCrypto.signing_public(&secret);
        assert_eq!(public[..4], [0x3d, 0x40, 0x17, 0xc3]);
        let signature = RealCrypto.sign(&secret, &[0x72]);
        assert_eq!(signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(RealCrypto.verify(&public, &[0x72], &signature));
        assert!(!RealCrypto.verify(&public, &[0x73], &signature));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        assert!(RealCrypto.agree(&Secret::new([7; 32]), &[0; 32]).is_none());
        // The identity point, with the signature that it would accept for every message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!RealCrypto.verify(&identity, b"anything", &signature));
    }

    fn seals_and_opens(crypto: &dyn Crypto) {
        let (alice, bob) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let there = crypto.agree(&alice, &crypto.box_public(&bob)).unwrap();
        let back = crypto.agree(&bob, &crypto.box_public(&alice)).unwrap();
        let mut buffer = *b"the same secret on both ends";
        let tag = crypto.seal(&there, Direction::Request, &mut buffer);
        let mut wrong_way = buffer;
        assert!(!crypto.open(&back, Direction::Reply, &mut wrong_way, &tag));
        assert!(crypto.open(&back, Direction::Request, &mut buffer, &tag));
        assert_eq!(buffer, *b"the same secret on both ends");
        buffer[3] ^= 1;
        let tag = crypto.seal(&there, Direction::Request, &mut buffer);
        buffer[3] ^= 1;
        assert!(!crypto.open(&back, Direction::Request, &mut buffer, &tag));
    }

    #[test]
    fn boxes_open_at_the_other_end_in_their_direction_only() {
        seals_and_opens(&RealCrypto);
        seals_and_opens(&ModelCrypto);
    }

    #[test]
    fn the_model_signs_and_verifies() {
        let secret = Secret::new([9; 32]);
        let public = ModelCrypto.signing_public(&secret);
        let signature = ModelCrypto.sign(&secret, b"message");
        assert!(ModelCrypto.verify(&public, b"message", &signature));
        assert!(!ModelCrypto.verify(&public, b"massage", &signature));
        assert!(!ModelCrypto.verify(&[8; 32], b"message", &signature));
    }
}
