//! Keys of a WireGuard peer.
//!
//! Secret halves are zeroized on drop, have no `Display`, and print as `(secret)`: nothing that formats a
//! value can leak them. They leave only through methods whose name says `expose`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of every WireGuard key in bytes (Curve25519 points and scalars, pre-shared keys).
pub const KEY_LEN: usize = 32;

/// A Curve25519 public key: the identity of a peer on the wire.
///
/// Shown as 44 characters of base64, the form of `wg(8)`; `Debug` shows a short prefix for logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Takes the 32 raw bytes of a key.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0)[..8])
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

/// A Curve25519 private key. Clamping (RFC 7748 section 5) is left to the scalar multiplication, so the
/// bytes survive a round trip unchanged, as `wg(8)` expects.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_LEN]);

impl SecretKey {
    /// Takes the 32 raw bytes of a key.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Makes a fresh key from 32 random bytes, clamped as RFC 7748 section 5 says, so that the stored form
    /// is the one that `wg genkey` would print.
    pub fn from_random(mut bytes: [u8; KEY_LEN]) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        Self(bytes)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The raw secret bytes, for the tunnel implementation and for files with mode 0600 only.
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The secret as base64, for files with mode 0600 only.
    pub fn expose_base64(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(STANDARD.encode(self.0))
    }

    /// Whether this is the all-zero key by which `wg set private-key /dev/null` removes the identity.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; KEY_LEN]
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

/// A symmetric key mixed into the handshake of one pair (WireGuard paper section 5.2, `psk2`).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_LEN]);

impl PresharedKey {
    /// Takes the 32 raw bytes of a key.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The raw secret bytes, for the tunnel implementation and for the UAPI only.
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Whether this is the all-zero key, which on the wire is the same as none.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; KEY_LEN]
    }

    /// Equality without an early exit.
    pub fn same_as(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

/// A text that is not the base64 of exactly 32 bytes. It does not repeat the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 44 characters of base64 that hold 32 bytes")]
pub struct KeyError;

fn decode(text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let mut bytes = [0; KEY_LEN + 1];
    let result = match STANDARD.decode_slice(text.trim(), &mut bytes) {
        Ok(KEY_LEN) => {
            let mut key = [0; KEY_LEN];
            key.copy_from_slice(&bytes[..KEY_LEN]);
            Ok(key)
        }
        Ok(_) | Err(_) => Err(KeyError),
    };
    bytes.zeroize();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 6.1: Alice's private and public key.
    const ALICE_SECRET: [u8; 32] = [
        0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf,
        0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
    ];
    const ALICE_PUBLIC: [u8; 32] = [
        0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a, 0x0d,
        0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
    ];

    #[test]
    fn public_key_follows_rfc_7748() {
        assert_eq!(SecretKey::new(ALICE_SECRET).public(), PublicKey::new(ALICE_PUBLIC));
    }

    #[test]
    fn base64_round_trips() {
        let key = PublicKey::new(ALICE_PUBLIC);
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        let secret = SecretKey::new(ALICE_SECRET);
        let again: SecretKey = secret.expose_base64().parse().unwrap();
        assert_eq!(again.expose(), secret.expose());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for text in ["", "AAAA", "not base64 at all", &"A".repeat(43), &"A".repeat(64)] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError), "{text:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", SecretKey::new(ALICE_SECRET)), "(secret)");
        assert_eq!(format!("{:?}", PresharedKey::new(ALICE_SECRET)), "(secret)");
    }

    #[test]
    fn fresh_keys_are_clamped() {
        let key = SecretKey::from_random([0xff; 32]);
        assert_eq!(key.expose()[0], 0xf8);
        assert_eq!(key.expose()[31], 0x7f);
    }
}
