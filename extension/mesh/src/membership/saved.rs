//! What a member writes down, as bytes. They hold secrets, and a checksum around them is the writer's concern.
//!
//! ```text
//!  version 1 (1) | parts, each: length (4), bytes
//!     genesis | identity (32) | settled | announcement | seeds | installed (32)* | keys: epoch (8), secret (32) ... |
//!     items, one part each
//! ```
//!
//! Records are as they were signed, and are verified again when they are read: what changed on the disk is left out.

use std::net::SocketAddr;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::crypto::{Crypto, KEY_LEN, Secret};
use crate::hello::HelloKey;
use crate::record::announcement::{Announcement, SignedAnnouncement};
use crate::record::genesis::Genesis;
use crate::record::tlv::{read_sockets, write_sockets};
use crate::record::{Envelope, IdentityKey, Kind, NetworkId, RecordError};
use crate::roster::Settled;

const VERSION: u8 = 1;
const HELLO_KEY_LEN: usize = 8 + KEY_LEN;

/// What survives a restart.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The network.
    pub genesis: Envelope,
    /// The node's identity.
    pub identity: Secret,
    /// Its admission.
    pub settled: Settled,
    /// Its last announcement.
    pub announcement: Announcement,
    /// All records.
    pub items: Vec<Arc<[u8]>>,
    /// Who was installed.
    pub installed: Vec<IdentityKey>,
    /// The hello keys.
    pub keys: Vec<HelloKey>,
    /// Where members were when the join string was made.
    pub seeds: Vec<SocketAddr>,
}

/// Why bytes are not a saved membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It was written by a version that does things differently.
    #[error("saved by another version of the program: format {0}")]
    Version(u8),
    /// It ends early, or a part has an impossible length.
    #[error("saved membership is cut short")]
    Short,
    /// One of the records without which a node is no member is not valid.
    #[error("saved membership holds a record that is not valid")]
    Record(#[from] RecordError),
    /// The identity is not the one that was let in.
    #[error("saved membership is that of another identity")]
    Identity,
}

impl Saved {
    /// Writes it.
    ///
    /// # Errors
    /// [`RecordError`] if the announcement is not valid.
    pub fn encode(&self, crypto: &dyn Crypto) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let network = NetworkId(self.genesis.id().0);
        let announcement = self.announcement.seal(&network, &self.identity, crypto)?;
        let installed: Vec<u8> = self.installed.iter().flat_map(|identity| identity.0).collect();
        // Grown in place, a vector of secrets would leave copies behind.
        let items: usize = self.items.iter().map(|item| 4 + item.len()).sum();
        let capacity = 4096 + items + installed.len() + self.keys.len() * HELLO_KEY_LEN;
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        bytes.push(VERSION);
        push(&mut bytes, self.genesis.bytes());
        push(&mut bytes, self.identity.expose());
        push(&mut bytes, &self.settled.to_bytes());
        push(&mut bytes, announcement.envelope.bytes());
        push(&mut bytes, &write_sockets(&self.seeds));
        push(&mut bytes, &installed);
        let keys = self.keys.iter().map(|key| (key.epoch.to_le_bytes(), key.secret.expose()));
        bytes.extend_from_slice(&((self.keys.len() * HELLO_KEY_LEN) as u32).to_le_bytes());
        for (epoch, secret) in keys {
            bytes.extend_from_slice(&epoch);
            bytes.extend_from_slice(secret);
        }
        for item in &self.items {
            push(&mut bytes, item);
        }
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote. Items are not looked at yet.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn decode(bytes: &[u8], crypto: &dyn Crypto) -> Result<Self, SavedError> {
        let (version, mut rest) = bytes.split_first().ok_or(SavedError::Short)?;
        if *version != VERSION {
            return Err(SavedError::Version(*version));
        }
        let (_, genesis) = Genesis::open(pull(&mut rest)?, crypto)?;
        let network = NetworkId(genesis.id().0);
        let identity = Secret::new(pull(&mut rest)?.try_into().map_err(|_| SavedError::Short)?);
        let settled = Settled::open(pull(&mut rest)?, &network, crypto)?;
        let announcement = Envelope::open_exactly(pull(&mut rest)?, Kind::Announcement, &network, crypto)?;
        let announcement = SignedAnnouncement::decode(announcement)?;
        let us = IdentityKey(crypto.signing_public(&identity));
        if settled.identity() != us || announcement.identity != us {
            return Err(SavedError::Identity);
        }
        let seeds = read_sockets(pull(&mut rest)?).ok_or(SavedError::Short)?;
        let installed = pull(&mut rest)?.as_chunks::<KEY_LEN>().0.iter().copied().map(IdentityKey).collect();
        let keys = pull(&mut rest)?.as_chunks::<HELLO_KEY_LEN>().0.iter().filter_map(|key| {
            let (epoch, secret) = key.split_first_chunk::<8>()?;
            Some(HelloKey { epoch: u64::from_le_bytes(*epoch), secret: Secret::new(secret.try_into().ok()?) })
        });
        let keys = keys.collect();
        let mut items: Vec<Arc<[u8]>> = Vec::new();
        // What is left of a file that was cut short is worth having.
        while let Ok(item) = pull(&mut rest) {
            items.push(item.into());
        }
        let announcement = announcement.announcement;
        Ok(Self { genesis, identity, settled, announcement, items, installed, keys, seeds })
    }
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn pull<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], SavedError> {
    let (len, after) = rest.split_first_chunk::<4>().ok_or(SavedError::Short)?;
    let (part, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(SavedError::Short)?;
    *rest = after;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::super::tests::first;
    use super::*;
    use crate::crypto::ModelCrypto;

    #[test]
    fn what_is_written_is_read_again() {
        let saved = first().saved().unwrap();
        let bytes = saved.encode(&ModelCrypto).unwrap();
        let again = Saved::decode(&bytes, &ModelCrypto).unwrap();
        assert_eq!(again.encode(&ModelCrypto).unwrap(), bytes);
        assert_eq!(again.settled, saved.settled);
        assert_eq!(again.items, saved.items);
        assert_eq!(again.installed, saved.installed);
        assert_eq!(again.keys.len(), 1);
    }

    #[test]
    fn what_is_cut_short_or_changed_is_refused_or_loses_an_item() {
        let bytes = first().saved().unwrap().encode(&ModelCrypto).unwrap();
        let whole = Saved::decode(&bytes, &ModelCrypto).unwrap();
        for len in 0..bytes.len() {
            // What depends on others is taken up without them; the checksum around it tells.
            if let Ok(cut) = Saved::decode(&bytes[..len], &ModelCrypto) {
                assert!(cut.items.len() < whole.items.len(), "cut at {len}");
            }
        }
        assert_eq!(Saved::decode(&[2], &ModelCrypto).unwrap_err(), SavedError::Version(2));
    }
}
