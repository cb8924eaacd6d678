//! The folder of a mesh in one file, readable by who has it or, with a passphrase, only by who knows that.
//!
//! ```text
//! JSON { version, network, files { NAME: text, base64 }, sha256 }          without a passphrase
//! JSON { version, network, salt, iterations, sealed }                      with one
//! ```
//! `sealed` is the same `files` object: ChaCha20-Poly1305 (RFC 8439) with a key by PBKDF2-HMAC-SHA-256 (RFC 8018 section 5.2)
//! of the passphrase. The key seals once, so its nonce is zero.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, pbkdf2};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Rounds of PBKDF2 for new backups, as OWASP recommends for HMAC-SHA-256.
const ITERATIONS: u32 = 600_000;
/// Most rounds that a backup may ask for: some ten seconds.
const MAX_ITERATIONS: u32 = 20_000_000;
const SALT_LEN: usize = 16;

/// The files of a folder, by name.
pub type Files = BTreeMap<String, Zeroizing<String>>;

/// A backup that cannot be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It is none, or of another version.
    #[error("this is no backup of a mesh, or it is damaged")]
    Damaged,
    /// It is sealed.
    #[error("the backup is sealed with a passphrase: say --passphrase-file")]
    Sealed,
    /// It does not open.
    #[error("the backup does not open: the passphrase is another, or it is damaged")]
    Passphrase,
    /// The system gave no random bytes.
    #[error("the system has no random numbers")]
    NoRandomness,
}

#[derive(Serialize, Deserialize)]
struct Backup {
    /// 1.
    version: u32,
    /// The name of the network, for people.
    network: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Content {
    Plain { files: BTreeMap<String, String>, sha256: String },
    Sealed { salt: String, iterations: NonZeroU32, sealed: String },
}

/// One file of `files`.
///
/// # Errors
///
/// [`BackupError::NoRandomness`].
pub fn pack(
    network: &str,
    files: &Files,
    passphrase: Option<&str>,
) -> Result<Zeroizing<String>, BackupError> {
    let encoded: BTreeMap<String, String> =
        files.iter().map(|(name, text)| (name.clone(), STANDARD.encode(text.as_bytes()))).collect();
    let plain = Zeroizing::new(to_json(&encoded)?);
    let content = match passphrase {
        None => Content::Plain { sha256: checksum(&plain), files: encoded },
        Some(passphrase) => {
            let mut salt = [0; SALT_LEN];
            SystemRandom::new().fill(&mut salt).map_err(|_| BackupError::NoRandomness)?;
            let iterations = NonZeroU32::new(ITERATIONS).ok_or(BackupError::Damaged)?;
            let mut sealed = plain.as_bytes().to_vec();
            key(passphrase, &salt, iterations)?
                .seal_in_place_append_tag(nonce(), Aad::from(network.as_bytes()), &mut sealed)
                .map_err(|_| BackupError::Damaged)?;
            Content::Sealed { salt: STANDARD.encode(salt), iterations, sealed: STANDARD.encode(sealed) }
        }
    };
    let backup = Backup { version: 1, network: network.to_owned(), content };
    let mut text = Zeroizing::new(to_json(&backup)?);
    text.push('\n');
    Ok(text)
}

/// The files in a backup.
///
/// # Errors
///
/// [`BackupError`].
pub fn unpack(text: &str, passphrase: Option<&str>) -> Result<Files, BackupError> {
    let backup: Backup = serde_json::from_str(text).map_err(|_| BackupError::Damaged)?;
    if backup.version != 1 {
        return Err(BackupError::Damaged);
    }
    let encoded: BTreeMap<String, String> = match backup.content {
        Content::Plain { files, sha256 } => {
            let plain = Zeroizing::new(to_json(&files)?);
            if checksum(&plain) != sha256 {
                return Err(BackupError::Damaged);
            }
            files
        }
        Content::Sealed { salt, iterations, sealed } => {
            let passphrase = passphrase.ok_or(BackupError::Sealed)?;
            let decode = |text: &str| STANDARD.decode(text).map_err(|_| BackupError::Damaged);
            if iterations.get() > MAX_ITERATIONS {
                return Err(BackupError::Damaged);
            }
            let mut sealed = Zeroizing::new(decode(&sealed)?);
            let plain = key(passphrase, &decode(&salt)?, iterations)?
                .open_in_place(nonce(), Aad::from(backup.network.as_bytes()), &mut sealed)
                .map_err(|_| BackupError::Passphrase)?;
            serde_json::from_slice(plain).map_err(|_| BackupError::Damaged)?
        }
    };
    let decode = |(name, text): (String, String)| {
        let bytes = STANDARD.decode(Zeroizing::new(text).as_bytes()).map_err(|_| BackupError::Damaged)?;
        let text = String::from_utf8(bytes).map_err(|_| BackupError::Damaged)?;
        Ok((name, Zeroizing::new(text)))
    };
    encoded.into_iter().map(decode).collect()
}

fn to_json(value: &impl Serialize) -> Result<String, BackupError> {
    serde_json::to_string(value).map_err(|_| BackupError::Damaged)
}

fn checksum(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(passphrase: &str, salt: &[u8], iterations: NonZeroU32) -> Result<LessSafeKey, BackupError> {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, passphrase.as_bytes(), &mut *key);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).map_err(|_| BackupError::Damaged)?;
    Ok(LessSafeKey::new(key))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        [("owner.key", "secret\n"), ("tokens.json", "{}\n")]
            .map(|(name, text)| (name.to_owned(), Zeroizing::new(text.to_owned())))
            .into()
    }

    #[test]
    fn what_was_packed_comes_back() {
        let plain = pack("home", &files(), None).unwrap();
        assert_eq!(unpack(&plain, None), Ok(files()));
        let sealed = pack("home", &files(), Some("correct horse")).unwrap();
        assert_eq!(unpack(&sealed, Some("correct horse")), Ok(files()));
        assert_eq!(unpack(&sealed, None), Err(BackupError::Sealed));
        assert_eq!(unpack(&sealed, Some("correct horsf")), Err(BackupError::Passphrase));
        let secret = STANDARD.encode("secret\n");
        assert!(plain.contains(&secret) && !sealed.contains(&secret));
    }

    #[test]
    fn damage_is_noticed() {
        let plain = pack("home", &files(), None).unwrap();
        let other = STANDARD.encode("secreT\n");
        let damaged = plain.replace(&STANDARD.encode("secret\n"), &other);
        assert_eq!(unpack(&damaged, None), Err(BackupError::Damaged));
        assert_eq!(unpack("{}", None), Err(BackupError::Damaged));
        assert_eq!(unpack(&plain[..plain.len() / 2], None), Err(BackupError::Damaged));
        let sealed = pack("home", &files(), Some("x")).unwrap().replace("home", "work");
        assert_eq!(unpack(&sealed, Some("x")), Err(BackupError::Passphrase));
    }
}
