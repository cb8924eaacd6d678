//! The hello: the only packet outside sessions.
//!
//! It is sealed to the network's hello key, whose private half only members have. Who does not know the public half
//! cannot make one, who does not know the private half cannot answer one, and nobody answers anything else: to
//! outsiders a member does not exist.
//!
//! ```text
//!  request                                   reply
//!  0  type 0x10 | 000            (4)         0  type 0x11 | 000            (4)
//!  4  hint: which hello key      (8)         4  hint: whose request        (8)
//!  12 ephemeral public key       (32)        12 sealed reply               (n)
//!  44 sealed envelope, padding   (n)            tag                        (16)
//!     tag                        (16)
//! ```
//!
//! The box is sealed with the key that the ephemeral and the hello key agree upon, one key per direction, each used
//! once. A request is padded to [`REQUEST_LEN`] and a reply is never longer, so nobody is amplified.

use std::collections::BTreeSet;

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

use crate::crypto::{Crypto, Direction, KEY_LEN, SEAL_OVERHEAD, Secret, hash};
use crate::record::tlv::{Fields, Writer};
use crate::record::{Envelope, IdentityKey, Kind, NetworkId, RecordError};

/// Length of every request in bytes: with IPv6 and UDP headers it fits the least MTU of IPv6.
pub const REQUEST_LEN: usize = 1232;
const REQUEST_TYPE: u8 = 0x10;
const REPLY_TYPE: u8 = 0x11;
const HINT_LEN: usize = 8;
const REQUEST_HEADER: usize = 4 + HINT_LEN + KEY_LEN;
const REPLY_HEADER: usize = 4 + HINT_LEN;
/// Longest reply payload.
pub const MAX_REPLY: usize = REQUEST_LEN - REPLY_HEADER - SEAL_OVERHEAD;

const SEQUENCE: u8 = 1;
const ASK: u8 = 2;
const CONTENT: u8 = 3;
const TARGET: u8 = 4;
const KNOWN: u8 = TARGET;

/// What a hello asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ask {
    /// Let me in: the content is a grant, a member record and an announcement, and a receipt if there is one.
    Join = 1,
    /// Here I am: the content is an announcement.
    Meet = 2,
    /// An owner acts: the content is an item.
    Act = 3,
}

impl Ask {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Join, Self::Meet, Self::Act].into_iter().find(|ask| *ask as u8 == byte)
    }
}

/// What is in a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Who says it: a member's or joiner's identity, or an owner's key.
    pub signer: [u8; KEY_LEN],
    /// Rises with every hello of a signer. Each is answered at most once.
    pub sequence: u64,
    /// What it asks for.
    pub ask: Ask,
    /// What it brings.
    pub content: Vec<u8>,
    /// The member that it is for, if the sender knows whom it talks to. Others do not answer.
    pub target: Option<IdentityKey>,
}

/// The public half of a hello key, with what it takes to recognise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HelloPublic(pub [u8; KEY_LEN]);

impl HelloPublic {
    fn hint(&self) -> [u8; HINT_LEN] {
        short(&[b"ichor hello key", &self.0])
    }
}

/// A hello key: shared by all members, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloKey {
    /// Rises with every rotation.
    pub epoch: u64,
    /// The private half.
    pub secret: Secret,
}

impl HelloKey {
    /// The public half.
    pub fn public(&self, crypto: &dyn Crypto) -> HelloPublic {
        HelloPublic(crypto.box_public(&self.secret))
    }

    /// The order in which keys win: the higher epoch, and in one epoch, so that everybody agrees, the smaller hash.
    pub fn rank(&self) -> (u64, std::cmp::Reverse<[u8; KEY_LEN]>) {
        (self.epoch, std::cmp::Reverse(hash(&[self.secret.expose()])))
    }
}

/// What the sender of a request keeps to open its reply.
#[derive(Debug, Clone)]
pub struct Expected {
    hint: [u8; HINT_LEN],
    shared: Secret,
}

/// A request that was opened, and what it takes to answer it.
#[derive(Debug)]
pub struct Received {
    /// The request.
    pub hello: Hello,
    hint: [u8; HINT_LEN],
    shared: Secret,
}

/// Which keys this node can open requests with. Old ones are kept for join strings that were made before.
#[derive(Debug, Default)]
pub struct HelloKeys {
    /// Best first.
    keys: Vec<(HelloKey, HelloPublic)>,
    /// Those that were the first of their epoch here.
    first: BTreeSet<HelloPublic>,
}

/// Old hello keys that are kept.
const MAX_KEYS: usize = 32;
/// Keys of one epoch that are kept: the first, which join strings were made with, and the best, on which all agree. So
/// nobody pushes the others out by making up many.
const MAX_KEYS_OF_AN_EPOCH: usize = 2;

impl HelloKeys {
    /// Adds a key; whether it is new.
    pub fn add(&mut self, key: HelloKey, crypto: &dyn Crypto) -> bool {
        let public = key.public(crypto);
        if self.keys.iter().any(|(_, known)| *known == public) {
            return false;
        }
        let same = || self.keys.iter().filter(|(known, _)| known.epoch == key.epoch);
        match same().count() {
            0 => _ = self.first.insert(public),
            count if count >= MAX_KEYS_OF_AN_EPOCH => {
                if same().any(|(known, _)| known.rank() > key.rank()) {
                    return false;
                }
                self.keys.retain(|(known, public)| known.epoch != key.epoch || self.first.contains(public));
            }
            _ => {}
        }
        self.keys.push((key, public));
        self.keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.rank()));
        self.keys.truncate(MAX_KEYS);
        self.first.retain(|first| self.keys.iter().any(|(_, known)| known == first));
        self.keys.iter().any(|(_, known)| *known == public)
    }

    /// Gives up the keys of epochs after `epoch`.
    pub fn take_after(&mut self, epoch: u64) -> Vec<HelloKey> {
        let after = self.keys.extract_if(.., |(key, _)| key.epoch > epoch).map(|(key, _)| key).collect();
        self.first.retain(|first| self.keys.iter().any(|(_, known)| known == first));
        after
    }

    /// The key that new requests are sealed to.
    pub fn current(&self) -> Option<(&HelloKey, &HelloPublic)> {
        self.keys.first().map(|(key, public)| (key, public))
    }

    /// All keys, best first.
    pub fn iter(&self) -> impl Iterator<Item = &HelloKey> {
        self.keys.iter().map(|(key, _)| key)
    }

    /// The public halves of all keys, best first.
    pub fn publics(&self) -> impl Iterator<Item = HelloPublic> {
        self.keys.iter().map(|(_, public)| *public)
    }

    /// Whether a datagram can be a request for us: cheap enough to ask about every datagram of every stranger.
    pub fn recognises(&self, datagram: &[u8]) -> bool {
        self.find(datagram).is_some()
    }

    fn find(&self, datagram: &[u8]) -> Option<&HelloKey> {
        if datagram.len() != REQUEST_LEN || datagram.first() != Some(&REQUEST_TYPE) {
            return None;
        }
        let hint = datagram.get(4..4 + HINT_LEN)?;
        self.keys.iter().find(|(_, public)| public.hint() == *hint).map(|(key, _)| key)
    }

    /// Opens a request and checks its signature.
    pub fn open(&self, datagram: &[u8], network: &NetworkId, crypto: &dyn Crypto) -> Option<Received> {
        let key = self.find(datagram)?;
        let ephemeral: &[u8; KEY_LEN] = datagram.get(4 + HINT_LEN..REQUEST_HEADER)?.try_into().ok()?;
        let shared = crypto.agree(&key.secret, ephemeral)?;
        let (sealed, tag) = datagram.get(REQUEST_HEADER..)?.split_last_chunk::<SEAL_OVERHEAD>()?;
        let mut plain = sealed.to_vec();
        if !crypto.open(&shared, Direction::Request, &mut plain, tag) {
            return None;
        }
        // What follows the envelope is padding.
        let (envelope, _padding) = Envelope::open(&plain, network, crypto).ok()?;
        let hello = Hello::decode(&envelope).ok()?;
        Some(Received { hello, hint: reply_hint(ephemeral), shared })
    }
}

impl Hello {
    /// Signs and seals the hello for the members of `network`. The first of the results leaves, the second opens the
    /// reply. `None` if the content is too long.
    pub fn seal(
        &self,
        secret: &Secret,
        to: &HelloPublic,
        network: &NetworkId,
        crypto: &dyn Crypto,
        rng: &mut ChaCha12Rng,
    ) -> Option<(Vec<u8>, Expected)> {
        let body = Writer::default()
            .field(SEQUENCE, &self.sequence.to_le_bytes())
            .field(ASK, &[self.ask as u8])
            .field(CONTENT, &self.content)
            .optional(TARGET, self.target.as_ref().map(|identity| &identity.0[..]))
            .finish();
        let envelope = Envelope::seal(Kind::Hello, network, &body, &[secret], crypto).ok()?;
        let mut seed = [0; KEY_LEN];
        rng.fill_bytes(&mut seed);
        let ephemeral = Secret::new(seed);
        let public = crypto.box_public(&ephemeral);
        let shared = crypto.agree(&ephemeral, &to.0)?;

        let mut datagram = vec![0; REQUEST_LEN];
        datagram[0] = REQUEST_TYPE;
        datagram[4..4 + HINT_LEN].copy_from_slice(&to.hint());
        datagram[4 + HINT_LEN..REQUEST_HEADER].copy_from_slice(&public);
        let plain = &mut datagram[REQUEST_HEADER..REQUEST_LEN - SEAL_OVERHEAD];
        plain.get_mut(..envelope.bytes().len())?.copy_from_slice(envelope.bytes());
        let tag = crypto.seal(&shared, Direction::Request, plain);
        datagram[REQUEST_LEN - SEAL_OVERHEAD..].copy_from_slice(&tag);
        Some((datagram, Expected { hint: reply_hint(&public), shared }))
    }

    fn decode(envelope: &Envelope) -> Result<Self, RecordError> {
        if envelope.kind() != Kind::Hello {
            return Err(RecordError::Kind);
        }
        let [signer] = envelope.signers()[..] else { return Err(RecordError::Signature) };
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let [ask] = fields.array(ASK)?;
        Ok(Self {
            signer,
            sequence: u64::from_le_bytes(fields.array(SEQUENCE)?),
            ask: Ask::from_byte(ask).ok_or(RecordError::Field(ASK))?,
            content: fields.required(CONTENT)?.to_vec(),
            target: fields.optional_array(TARGET)?.map(IdentityKey),
        })
    }
}

impl Received {
    /// Seals the one reply to this request; `None` if it is too long.
    pub fn reply(self, payload: &[u8], crypto: &dyn Crypto) -> Option<Vec<u8>> {
        if payload.len() > MAX_REPLY {
            return None;
        }
        let mut datagram = vec![0; REPLY_HEADER];
        datagram[0] = REPLY_TYPE;
        datagram[4..].copy_from_slice(&self.hint);
        let mut sealed = payload.to_vec();
        let tag = crypto.seal(&self.shared, Direction::Reply, &mut sealed);
        datagram.extend_from_slice(&sealed);
        datagram.extend_from_slice(&tag);
        Some(datagram)
    }
}

impl Expected {
    /// Whether `datagram` claims to be the reply that is expected.
    pub fn is_for(&self, datagram: &[u8]) -> bool {
        datagram.first() == Some(&REPLY_TYPE) && datagram.get(4..REPLY_HEADER) == Some(&self.hint[..])
    }

    /// Opens the reply.
    pub fn open(&self, datagram: &[u8], crypto: &dyn Crypto) -> Option<Vec<u8>> {
        if !self.is_for(datagram) {
            return None;
        }
        let (sealed, tag) = datagram.get(REPLY_HEADER..)?.split_last_chunk::<SEAL_OVERHEAD>()?;
        let mut plain = sealed.to_vec();
        crypto.open(&self.shared, Direction::Reply, &mut plain, tag).then_some(plain)
    }
}

fn reply_hint(ephemeral: &[u8; KEY_LEN]) -> [u8; HINT_LEN] {
    short(&[b"ichor hello reply", ephemeral])
}

fn short(parts: &[&[u8]]) -> [u8; HINT_LEN] {
    let mut hint = [0; HINT_LEN];
    hint.copy_from_slice(&hash(parts)[..HINT_LEN]);
    hint
}

/// What a member answers to an owner whose operation it took: what the owner's next join strings should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acted {
    /// The public half of the present hello key.
    pub hello: HelloPublic,
    /// The sum of all tombstones that the member knows.
    pub tombstones: u64,
}

/// An answer to an owner's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What the member says beside; older versions say nothing.
    pub acted: Option<Acted>,
}

impl Taken {
    /// Reads what [`Acted::encode`] wrote; newer versions may say more.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[ACTED])?;
        Some(Self { acted: Acted::decode(rest) })
    }
}

/// The first byte of that answer; those of others are of [`Reply`](crate::join::Reply).
const ACTED: u8 = 3;

impl Acted {
    /// `3 | public key (32) | sum (8, little-endian)`.
    pub fn encode(&self) -> Vec<u8> {
        [&[ACTED][..], &self.hello.0, &self.tombstones.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (hello, rest) = bytes.split_first_chunk::<KEY_LEN>()?;
        let tombstones = rest.first_chunk::<8>()?;
        Some(Self { hello: HelloPublic(*hello), tombstones: u64::from_le_bytes(*tombstones) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::RealCrypto;
    use proptest::prelude::*;
    use rand_core::SeedableRng as _;

    const NETWORK: NetworkId = NetworkId([3; 32]);

    fn keys(epochs: &[u64]) -> HelloKeys {
        let mut keys = HelloKeys::default();
        for epoch in epochs {
            keys.add(HelloKey { epoch: *epoch, secret: Secret::new([*epoch as u8 + 1; 32]) }, &RealCrypto);
        }
        keys
    }

    #[test]
    fn many_keys_of_one_epoch_push_out_neither_the_first_nor_those_of_others() {
        let mut keys = keys(&[0, 1, 2]);
        let first: Vec<_> = keys.iter().cloned().collect();
        let made_up: Vec<_> =
            (100..250).map(|n| HelloKey { epoch: 2, secret: Secret::new([n; 32]) }).collect();
        for key in &made_up {
            keys.add(key.clone(), &RealCrypto);
        }
        assert!(first.iter().all(|key| keys.iter().any(|known| known == key)));
        assert_eq!(keys.iter().count(), 4);
        // Whatever came first, all end with the same one.
        let best = made_up.iter().chain(&first).max_by_key(|key| key.rank());
        assert_eq!(keys.current().map(|(key, _)| key), best);
    }

    fn hello() -> Hello {
        Hello {
            signer: RealCrypto.signing_public(&Secret::new([8; 32])),
            sequence: 7,
            ask: Ask::Meet,
            content: b"here I am".to_vec(),
            target: Some(IdentityKey([5; 32])),
        }
    }

    fn sealed(to: &HelloPublic) -> (Vec<u8>, Expected) {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        hello().seal(&Secret::new([8; 32]), to, &NETWORK, &RealCrypto, &mut rng).unwrap()
    }

    #[test]
    fn a_hello_and_its_reply_are_opened() {
        let keys = keys(&[0]);
        let (datagram, expected) = sealed(keys.current().unwrap().1);
        assert_eq!(datagram.len(), REQUEST_LEN);
        let received = keys.open(&datagram, &NETWORK, &RealCrypto).unwrap();
        assert_eq!(received.hello, hello());
        let reply = received.reply(b"welcome", &RealCrypto).unwrap();
        assert!(reply.len() < REQUEST_LEN);
        assert_eq!(expected.open(&reply, &RealCrypto), Some(b"welcome".to_vec()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let keys = keys(&[0]);
        let (datagram, expected) = sealed(keys.current().unwrap().1);
        for bit in (0..datagram.len() * 8).step_by(7) {
            let mut damaged = datagram.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The three bytes after the type mean nothing.
            let opened = keys.open(&damaged, &NETWORK, &RealCrypto).is_some();
            assert_eq!(opened, (8..32).contains(&bit), "bit {bit}");
        }
        let reply =
            keys.open(&datagram, &NETWORK, &RealCrypto).unwrap().reply(b"welcome", &RealCrypto).unwrap();
        for bit in 32..reply.len() * 8 {
            let mut damaged = reply.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(expected.open(&damaged, &RealCrypto).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn who_has_not_the_key_opens_nothing() {
        let (datagram, _) = sealed(keys(&[0]).current().unwrap().1);
        assert!(!keys(&[1]).recognises(&datagram));
        assert!(keys(&[1]).open(&datagram, &NETWORK, &RealCrypto).is_none());
        assert!(keys(&[0]).open(&datagram, &NetworkId([4; 32]), &RealCrypto).is_none());
    }

    #[test]
    fn old_keys_still_open_but_new_ones_seal() {
        let old = *keys(&[0]).current().unwrap().1;
        let rotated = keys(&[0, 1]);
        assert_ne!(*rotated.current().unwrap().1, old);
        let (datagram, _) = sealed(&old);
        assert!(rotated.open(&datagram, &NETWORK, &RealCrypto).is_some());
    }

    #[test]
    fn the_oldest_keys_go_first() {
        let many = keys(&(0..40).collect::<Vec<_>>());
        assert_eq!(many.iter().count(), MAX_KEYS);
        assert_eq!(many.iter().map(|key| key.epoch).min(), Some(8));
    }

    #[test]
    fn everybody_agrees_which_of_two_keys_of_one_epoch_wins() {
        let (one, two) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let mut orders = [[&one, &two], [&two, &one]].map(|secrets| {
            let mut keys = HelloKeys::default();
            for secret in secrets {
                keys.add(HelloKey { epoch: 5, secret: secret.clone() }, &RealCrypto);
            }
            *keys.current().unwrap().1
        });
        orders.sort();
        assert_eq!(orders[0], orders[1]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let keys = keys(&[0]);
            prop_assert!(keys.open(&bytes, &NETWORK, &RealCrypto).is_none());
        }
    }
}
