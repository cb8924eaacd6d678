//! What members say to each other inside sessions, in control packets.
//!
//! ```text
//!  1 items      (length (2), item)*            5 have     digest (8)*
//!  2 summary    count (4), sum (8)             6 want     digest (8)*
//!  3 buckets    sum (8) * 64                   7 ping     nonce (8)
//!  4 bucket     index (1), digest (8)*         8 pong     nonce (8)
//!  9 hello keys (epoch (8), secret (32))*     10 observed family, address, port
//! 11 part       first (8), last (8), digest (8)*
//! ```
//!
//! Numbers are little-endian. A sum is the exclusive or of digests.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::hello::HelloKey;
use crate::record::tlv::{read_sockets, write_sockets};
use crate::roster::{BUCKETS, ItemDigest, Roster};

/// Longest message: with its headers a packet of 1280 bytes, the least MTU of IPv6.
pub const MAX_PAYLOAD: usize = 1240;
/// Digests in one message.
const MAX_DIGESTS: usize = (MAX_PAYLOAD - 2) / 8;
/// Hello keys in one message.
pub const MAX_HELLO_KEYS: usize = 16;

const ITEMS: u8 = 1;
const SUMMARY: u8 = 2;
const BUCKET_SUMS: u8 = 3;
const BUCKET: u8 = 4;
const HAVE: u8 = 5;
const WANT: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const HELLO_KEYS: u8 = 9;
const OBSERVED: u8 = 10;
const PART: u8 = 11;
// 12 and 13 are those of `full_size`.
/// Digests in one part.
const MAX_PART: usize = (MAX_PAYLOAD - 17) / 8;
/// Digests between two that differ which cost less than another message.
const MAX_GAP: usize = 32;

/// A message, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Items, each as it was signed.
    Items(Vec<&'a [u8]>),
    /// All that the sender knows, in one sum.
    Summary {
        /// How many items.
        count: u32,
        /// Their sum.
        sum: u64,
    },
    /// The same, in 64 sums.
    Buckets(Box<[u64; BUCKETS]>),
    /// All digests of one bucket. Said by older versions; a part says the same of any range.
    Bucket {
        /// Which bucket.
        index: u8,
        /// The digests in it.
        digests: Vec<ItemDigest>,
    },
    /// All digests between two.
    Part {
        /// The least digest that it covers.
        first: ItemDigest,
        /// The greatest one.
        last: ItemDigest,
        /// The digests in it.
        digests: Vec<ItemDigest>,
    },
    /// Items that the sender has, if they are wanted.
    Have(Vec<ItemDigest>),
    /// Items that the sender wants.
    Want(Vec<ItemDigest>),
    /// Are you there?
    Ping(u64),
    /// I am.
    Pong(u64),
    /// The private halves of the network's hello keys.
    HelloKeys(Vec<HelloKey>),
    /// Where the receiver's datagrams come from.
    Observed(SocketAddr),
}

/// Bytes that are no message: of a newer version, or nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message")]
pub struct BadMessage;

impl<'a> Message<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadMessage> {
        let (kind, body) = bytes.split_first().ok_or(BadMessage)?;
        Ok(match *kind {
            ITEMS => Self::Items(split_items(body).ok_or(BadMessage)?),
            SUMMARY => {
                let (count, sum) = body.split_first_chunk::<4>().ok_or(BadMessage)?;
                let sum = sum.try_into().map_err(|_| BadMessage)?;
                Self::Summary { count: u32::from_le_bytes(*count), sum: u64::from_le_bytes(sum) }
            }
            BUCKET_SUMS => {
                let sums = numbers(body).ok_or(BadMessage)?;
                Self::Buckets(sums.into_boxed_slice().try_into().map_err(|_| BadMessage)?)
            }
            BUCKET => {
                let (index, digests) = body.split_first().ok_or(BadMessage)?;
                if usize::from(*index) >= BUCKETS {
                    return Err(BadMessage);
                }
                Self::Bucket { index: *index, digests: digests_of(digests)? }
            }
            PART => match numbers(body).as_deref() {
                Some([first, last, digests @ ..]) => Self::Part {
                    first: ItemDigest(*first),
                    last: ItemDigest(*last),
                    digests: digests.iter().copied().map(ItemDigest).collect(),
                },
                _ => return Err(BadMessage),
            },
            HAVE => Self::Have(digests_of(body)?),
            WANT => Self::Want(digests_of(body)?),
            PING => Self::Ping(u64::from_le_bytes(body.try_into().map_err(|_| BadMessage)?)),
            PONG => Self::Pong(u64::from_le_bytes(body.try_into().map_err(|_| BadMessage)?)),
            HELLO_KEYS => {
                if !body.len().is_multiple_of(40) || body.len() > 40 * MAX_HELLO_KEYS {
                    return Err(BadMessage);
                }
                let key = |part: &[u8]| {
                    let (epoch, secret) = part.split_first_chunk::<8>()?;
                    let secret = Secret::new(secret.try_into().ok()?);
                    Some(HelloKey { epoch: u64::from_le_bytes(*epoch), secret })
                };
                Self::HelloKeys(body.chunks_exact(40).map(key).collect::<Option<_>>().ok_or(BadMessage)?)
            }
            OBSERVED => match read_sockets(body).as_deref() {
                Some([socket]) => Self::Observed(*socket),
                _ => return Err(BadMessage),
            },
            _ => return Err(BadMessage),
        })
    }

    /// Writes the message.
    pub fn encode(&self) -> Vec<u8> {
        let digests_after = |mut bytes: Vec<u8>, digests: &[ItemDigest]| {
            bytes.extend(digests.iter().flat_map(|digest| digest.0.to_le_bytes()));
            bytes
        };
        match self {
            Self::Items(items) => {
                let mut bytes = vec![ITEMS];
                for item in items {
                    bytes.extend_from_slice(&(item.len() as u16).to_le_bytes());
                    bytes.extend_from_slice(item);
                }
                bytes
            }
            Self::Summary { count, sum } => {
                [&[SUMMARY][..], &count.to_le_bytes(), &sum.to_le_bytes()].concat()
            }
            Self::Buckets(sums) => {
                let mut bytes = vec![BUCKET_SUMS];
                bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
                bytes
            }
            Self::Bucket { index, digests } => digests_after(vec![BUCKET, *index], digests),
            Self::Part { first, last, digests } => {
                let range = [&[PART][..], &first.0.to_le_bytes(), &last.0.to_le_bytes()].concat();
                digests_after(range, digests)
            }
            Self::Have(digests) => digests_after(vec![HAVE], digests),
            Self::Want(digests) => digests_after(vec![WANT], digests),
            Self::Ping(nonce) => [&[PING][..], &nonce.to_le_bytes()].concat(),
            Self::Pong(nonce) => [&[PONG][..], &nonce.to_le_bytes()].concat(),
            Self::HelloKeys(keys) => {
                let mut bytes = vec![HELLO_KEYS];
                bytes.reserve_exact(40 * keys.len());
                for key in keys {
                    bytes.extend_from_slice(&key.epoch.to_le_bytes());
                    bytes.extend_from_slice(key.secret.expose());
                }
                bytes
            }
            Self::Observed(socket) => [&[OBSERVED][..], &write_sockets(&[*socket])].concat(),
        }
    }

    /// The sum over all that `roster` knows.
    pub fn summary(roster: &Roster) -> Self {
        let count = u32::try_from(roster.item_count()).unwrap_or(u32::MAX);
        Self::Summary { count, sum: roster.digest_sums().iter().fold(0, |all, sum| all ^ sum) }
    }

    /// The sums by bucket.
    pub fn buckets(roster: &Roster) -> Self {
        Self::Buckets(Box::new(*roster.digest_sums()))
    }
}

/// Messages with `items`, as few as their lengths allow.
pub(super) fn items(items: &[Arc<[u8]>]) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for item in items.iter().filter(|item| item.len() + 3 <= MAX_PAYLOAD) {
        let fits = messages.last().is_some_and(|message| message.len() + 2 + item.len() <= MAX_PAYLOAD);
        if !fits {
            messages.push(vec![ITEMS]);
        }
        if let Some(message) = messages.last_mut() {
            message.extend_from_slice(&(item.len() as u16).to_le_bytes());
            message.extend_from_slice(item);
        }
    }
    messages
}

pub(super) fn have(digests: &[ItemDigest]) -> Vec<Vec<u8>> {
    digests.chunks(MAX_DIGESTS).map(|part| Message::Have(part.to_vec()).encode()).collect()
}

pub(super) fn want(digests: &[ItemDigest]) -> Vec<Vec<u8>> {
    digests.chunks(MAX_DIGESTS).map(|part| Message::Want(part.to_vec()).encode()).collect()
}

/// Messages with the digests that `roster` has where its buckets differ from `theirs`. Each says where it begins and
/// ends, and can be compared alone. What differs and is near each other is said together.
pub(super) fn differing(roster: &Roster, theirs: &[u64; BUCKETS]) -> Vec<Vec<u8>> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let ours = roster.digest_sums().iter();
    for (index, _) in ours.zip(theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs) {
        match runs.last_mut() {
            Some((_, last)) if gap(roster, *last, index) <= MAX_GAP => *last = index,
            _ => runs.push((index, index)),
        }
    }
    runs.into_iter().flat_map(|(first, last)| parts(roster, ItemDigest::of_buckets(first, last))).collect()
}

/// Digests between two buckets.
fn gap(roster: &Roster, before: usize, after: usize) -> usize {
    if after == before + 1 {
        return 0;
    }
    roster.digests_in(ItemDigest::of_buckets(before + 1, after - 1)).take(MAX_GAP + 1).count()
}

fn parts(roster: &Roster, range: RangeInclusive<ItemDigest>) -> Vec<Vec<u8>> {
    let digests: Vec<_> = roster.digests_in(range.clone()).collect();
    // One that is empty is said, too.
    let count = digests.len().div_ceil(MAX_PART).max(1);
    let first_of = |n: usize| digests.get(n * MAX_PART).copied().filter(|_| n > 0 && n < count);
    (0..count)
        .map(|n| {
            let first = first_of(n).unwrap_or(*range.start());
            let last = first_of(n + 1).map_or(*range.end(), |next| ItemDigest(next.0.saturating_sub(1)));
            let digests = digests.iter().skip(n * MAX_PART).take(MAX_PART).copied().collect();
            Message::Part { first, last, digests }.encode()
        })
        .collect()
}

fn split_items(mut body: &[u8]) -> Option<Vec<&[u8]>> {
    let mut items = Vec::new();
    while let Some((len, rest)) = body.split_first_chunk::<2>() {
        let (item, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        items.push(item);
        body = rest;
    }
    body.is_empty().then_some(items)
}

fn numbers(body: &[u8]) -> Option<Vec<u64>> {
    if !body.len().is_multiple_of(8) {
        return None;
    }
    body.chunks_exact(8).map(|part| part.try_into().ok().map(u64::from_le_bytes)).collect()
}

fn digests_of(body: &[u8]) -> Result<Vec<ItemDigest>, BadMessage> {
    numbers(body).map(|numbers| numbers.into_iter().map(ItemDigest).collect()).ok_or(BadMessage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_read_back() {
        let messages = [
            Message::Items(vec![b"one", b"", b"three"]),
            Message::Summary { count: 3, sum: 0x0102_0304_0506_0708 },
            Message::Buckets(Box::new([7; BUCKETS])),
            Message::Bucket { index: 63, digests: vec![ItemDigest(1), ItemDigest(2)] },
            Message::Part { first: ItemDigest(1), last: ItemDigest(9), digests: vec![ItemDigest(5)] },
            Message::Have(vec![ItemDigest(9)]),
            Message::Want(vec![]),
            Message::Ping(5),
            Message::Pong(6),
            Message::HelloKeys(vec![HelloKey { epoch: 3, secret: Secret::new([4; 32]) }]),
            Message::Observed("[2001:db8::1]:7".parse().unwrap()),
        ];
        for message in messages {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn items_are_packed_within_the_limit() {
        let all: Vec<Arc<[u8]>> = (0..10).map(|n| vec![n; 500].into()).collect();
        let messages = items(&all);
        assert_eq!(messages.len(), 5);
        assert!(messages.iter().all(|message| message.len() <= MAX_PAYLOAD));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
