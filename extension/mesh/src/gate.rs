//! The gate before expensive handshake work: mac1, cookies and limits per source.
//!
//! A handshake message costs several scalar multiplications, so a flood of them must be cheap to refuse
//! (WireGuard paper sections 5.3 and 5.4.7). The order is: mac1 (does the sender know our public key at all),
//! then a budget per source and one for all sources together; whoever is over either budget gets a cookie and
//! must come back with mac2, which proves its address and port; proven sources have budgets of their own. One
//! flooding source therefore costs the others nothing, and a spoofed flood costs them one round trip.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _, consts::U16};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::{AeadInPlace as _, XChaCha20Poly1305};
use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::key::PublicKey;
use crate::wire::{COOKIE_REPLY_LEN, read_u32};

/// Length of mac1, mac2 and a cookie in bytes.
pub const MAC_LEN: usize = 16;

/// How long a cookie secret is used (WireGuard paper section 5.4.7: two minutes). A cookie made under the
/// secret before is still accepted.
const COOKIE_SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// Handshakes a second that one source may start without proving its address, and how many at once.
const UNPROVEN_PER_SOURCE: Rate = Rate::per_second(20, 40);
/// The same for all sources together. At about 0.5 ms a handshake this is a tenth of a core.
const UNPROVEN_TOGETHER: Rate = Rate::per_second(200, 400);
/// Handshakes a second of one source that has proven its address. Generous, because a thousand members may
/// stand behind one NAT.
const PROVEN_PER_SOURCE: Rate = Rate::per_second(100, 200);
/// Cookie replies a second: a spoofed flood must not turn us into a steady sender.
const COOKIE_REPLIES: Rate = Rate::per_second(5_000, 500);
/// Sources remembered in each table: bounds the memory that strangers can take.
const MAX_SOURCES: usize = 4_096;

/// What to do with a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do the expensive work.
    Process,
    /// Answer with the cookie reply in the buffer.
    Cookie,
    /// Drop without an answer: mac1 is wrong, the sender does not know our public key.
    Stranger,
    /// Drop without an answer: over its budget.
    Limited,
}

/// The gate of one identity.
pub struct Gate {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: CookieSecret,
    previous_secret: Option<CookieSecret>,
    unproven: Sources,
    unproven_together: Bucket,
    proven: Sources,
    replies: Bucket,
}

impl Gate {
    /// Makes the gate of the identity `public`.
    pub fn new(public: &PublicKey, now: Instant, rng: &mut ChaCha12Rng) -> Self {
        Self {
            mac1_key: mac1_key(public),
            cookie_key: cookie_key(public),
            secret: CookieSecret::new(now, rng),
            previous_secret: None,
            unproven: Sources::new(UNPROVEN_PER_SOURCE),
            unproven_together: Bucket::default(),
            proven: Sources::new(PROVEN_PER_SOURCE),
            replies: Bucket::default(),
        }
    }

    /// Judges an initiation or a response of known length. On [`Verdict::Cookie`] the first
    /// [`COOKIE_REPLY_LEN`] bytes of `reply` hold the answer.
    pub fn check(
        &mut self,
        source: SocketAddr,
        message: &[u8],
        now: Instant,
        rng: &mut ChaCha12Rng,
        reply: &mut [u8],
    ) -> Verdict {
        let Some(body) = message.len().checked_sub(2 * MAC_LEN) else { return Verdict::Stranger };
        let (signed, macs) = message.split_at(body);
        let (mac1, mac2) = macs.split_at(MAC_LEN);
        if !same(&mac(&self.mac1_key, &[signed]), mac1) {
            return Verdict::Stranger;
        }

        let within_budget =
            self.unproven.take(source.ip(), now) && self.unproven_together.take(UNPROVEN_TOGETHER, now);
        if within_budget {
            return Verdict::Process;
        }

        self.rotate_secret(now, rng);
        let proven = mac2.iter().any(|byte| *byte != 0)
            && [Some(&self.secret), self.previous_secret.as_ref()]
                .into_iter()
                .flatten()
                .any(|secret| same(&mac(&secret.cookie(source), &[signed, mac1]), mac2));
        if proven {
            return if self.proven.take(source.ip(), now) { Verdict::Process } else { Verdict::Limited };
        }
        if !self.replies.take(COOKIE_REPLIES, now) {
            return Verdict::Limited;
        }
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let cookie = self.secret.cookie(source);
        if write_cookie_reply(&self.cookie_key, read_u32(message, 4), &nonce, &cookie, mac1, reply) {
            Verdict::Cookie
        } else {
            Verdict::Limited
        }
    }

    fn rotate_secret(&mut self, now: Instant, rng: &mut ChaCha12Rng) {
        let age = now.saturating_duration_since(self.secret.born);
        if age >= COOKIE_SECRET_LIFETIME {
            let old = std::mem::replace(&mut self.secret, CookieSecret::new(now, rng));
            // A secret that was not in use for a while has nobody's cookies out.
            self.previous_secret = (age < 2 * COOKIE_SECRET_LIFETIME).then_some(old);
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// Writes mac1, and mac2 when there is a cookie, into the last 32 bytes of a handshake `message` for
/// `receiver` (WireGuard paper section 5.4.4).
pub fn append_macs(receiver: &PublicKey, cookie: Option<&[u8; MAC_LEN]>, message: &mut [u8]) {
    let Some(body) = message.len().checked_sub(2 * MAC_LEN) else { return };
    let (signed, macs) = message.split_at_mut(body);
    let (mac1, mac2) = macs.split_at_mut(MAC_LEN);
    mac1.copy_from_slice(&mac(&mac1_key(receiver), &[signed]));
    match cookie {
        Some(cookie) => mac2.copy_from_slice(&mac(cookie, &[signed, mac1])),
        None => mac2.fill(0),
    }
}

/// Opens a cookie reply that `responder` made for the message that carried `mac1`.
pub fn open_cookie_reply(responder: &PublicKey, mac1: &[u8; MAC_LEN], reply: &[u8]) -> Option<[u8; MAC_LEN]> {
    let reply: &[u8; COOKIE_REPLY_LEN] = reply.try_into().ok()?;
    let mut cookie = [0; MAC_LEN];
    cookie.copy_from_slice(&reply[32..48]);
    let cipher = XChaCha20Poly1305::new(&cookie_key(responder).into());
    cipher.decrypt_in_place_detached(reply[8..32].into(), mac1, &mut cookie, reply[48..64].into()).ok()?;
    Some(cookie)
}

fn write_cookie_reply(
    key: &[u8; 32],
    receiver: u32,
    nonce: &[u8; 24],
    cookie: &[u8; MAC_LEN],
    mac1: &[u8],
    out: &mut [u8],
) -> bool {
    let Some(out) = out.first_chunk_mut::<COOKIE_REPLY_LEN>() else { return false };
    out[..4].copy_from_slice(&3u32.to_le_bytes());
    out[4..8].copy_from_slice(&receiver.to_le_bytes());
    out[8..32].copy_from_slice(nonce);
    out[32..48].copy_from_slice(cookie);
    let cipher = XChaCha20Poly1305::new(key.into());
    let Ok(tag) = cipher.encrypt_in_place_detached(nonce.into(), mac1, &mut out[32..48]) else {
        return false;
    };
    out[48..64].copy_from_slice(&tag);
    true
}

/// A random secret from which the cookie of each source follows, so that cookies need no memory.
struct CookieSecret {
    key: [u8; 32],
    born: Instant,
}

impl CookieSecret {
    fn new(now: Instant, rng: &mut ChaCha12Rng) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self { key, born: now }
    }

    /// Binds address and port: behind one NAT, one member's cookie is no use to another.
    fn cookie(&self, source: SocketAddr) -> [u8; MAC_LEN] {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => mac(&self.key, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&self.key, &[&ip.octets(), &port]),
        }
    }
}

impl Drop for CookieSecret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

fn mac1_key(public: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(b"mac1----").chain_update(public.as_bytes()).finalize().into()
}

fn cookie_key(public: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(b"cookie--").chain_update(public.as_bytes()).finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output over the concatenation of `parts`.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    // Keys here are 16 or 32 bytes, which BLAKE2s always takes.
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else { return [0; MAC_LEN] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// So many events a second, so many at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    interval: Duration,
    tolerance: Duration,
}

impl Rate {
    const fn per_second(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_nanos(1_000_000_000 / rate as u64);
        Self { interval, tolerance: Duration::from_nanos(interval.as_nanos() as u64 * burst as u64) }
    }
}

/// A token bucket kept as one instant: when it will be full again (the generic cell rate algorithm, ITU-T
/// I.371). `None` is full.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket(Option<Instant>);

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.0.map_or(now, |at| at.max(now)) + rate.interval;
        let allowed = full_at.saturating_duration_since(now) <= rate.tolerance;
        if allowed {
            self.0 = Some(full_at);
        }
        allowed
    }

    fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|at| at <= now)
    }
}

/// Buckets per source: an IPv4 address, or an IPv6 /64, which is what one customer gets.
#[derive(Debug)]
struct Sources {
    rate: Rate,
    buckets: BTreeMap<u64, Bucket>,
}

impl Sources {
    const fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new() }
    }

    fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let key = match source.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            // Global unicast prefixes never fall into the IPv4 range of the key.
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        };
        if !self.buckets.contains_key(&key) && self.buckets.len() >= MAX_SOURCES {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= MAX_SOURCES {
                return false;
            }
        }
        self.buckets.entry(key).or_default().take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::INITIATION_LEN;
    use rand_core::SeedableRng as _;

    struct World {
        gate: Gate,
        public: PublicKey,
        rng: ChaCha12Rng,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let public = PublicKey::new([7; 32]);
            let mut rng = ChaCha12Rng::from_seed([1; 32]);
            let now = crate::testing::epoch();
            Self { gate: Gate::new(&public, now, &mut rng), public, rng, now }
        }

        fn check(&mut self, source: SocketAddr, message: &[u8]) -> (Verdict, Vec<u8>) {
            let mut reply = vec![0; 148];
            let verdict = self.gate.check(source, message, self.now, &mut self.rng, &mut reply);
            reply.truncate(COOKIE_REPLY_LEN);
            (verdict, reply)
        }

        fn initiation(&self, cookie: Option<&[u8; MAC_LEN]>) -> Vec<u8> {
            let mut message = vec![9; INITIATION_LEN];
            append_macs(&self.public, cookie, &mut message);
            message
        }

        fn flood(&mut self, source: SocketAddr) {
            let message = self.initiation(None);
            while self.check(source, &message).0 == Verdict::Process {}
        }

        fn cookie_for(&mut self, source: SocketAddr) -> [u8; MAC_LEN] {
            let message = self.initiation(None);
            let (verdict, reply) = self.check(source, &message);
            assert_eq!(verdict, Verdict::Cookie);
            let mac1: [u8; MAC_LEN] = message[INITIATION_LEN - 32..INITIATION_LEN - 16].try_into().unwrap();
            open_cookie_reply(&self.public, &mac1, &reply).expect("our own reply opens")
        }
    }

    fn source(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn a_wrong_mac1_is_dropped_without_an_answer() {
        let mut world = World::new();
        let mut message = world.initiation(None);
        message[50] ^= 1;
        assert_eq!(world.check(source(1, 1), &message).0, Verdict::Stranger);
        assert_eq!(world.check(source(1, 1), &[0; 20]).0, Verdict::Stranger);
    }

    #[test]
    fn a_flood_from_one_source_leaves_the_others_alone() {
        let mut world = World::new();
        world.flood(source(1, 1));
        let message = world.initiation(None);
        assert_eq!(world.check(source(1, 1), &message).0, Verdict::Cookie);
        assert_eq!(world.check(source(2, 1), &message).0, Verdict::Process);
    }

    #[test]
    fn a_cookie_opens_the_gate_for_its_address_and_port_only() {
        let mut world = World::new();
        world.flood(source(1, 1000));
        let cookie = world.cookie_for(source(1, 1000));
        let message = world.initiation(Some(&cookie));
        assert_eq!(world.check(source(1, 1000), &message).0, Verdict::Process);
        assert_eq!(world.check(source(1, 1001), &message).0, Verdict::Cookie);
    }

    #[test]
    fn cookies_outlive_one_rotation_of_the_secret_but_not_two() {
        let mut world = World::new();
        world.flood(source(1, 1));
        let cookie = world.cookie_for(source(1, 1));
        let message = world.initiation(Some(&cookie));

        world.now += COOKIE_SECRET_LIFETIME + Duration::from_secs(1);
        world.flood(source(1, 1));
        assert_eq!(world.check(source(1, 1), &message).0, Verdict::Process);

        world.now += COOKIE_SECRET_LIFETIME + Duration::from_secs(1);
        world.flood(source(1, 1));
        assert_eq!(world.check(source(1, 1), &message).0, Verdict::Cookie);
    }

    #[test]
    fn a_proven_source_is_limited_too() {
        let mut world = World::new();
        world.flood(source(1, 1));
        let cookie = world.cookie_for(source(1, 1));
        let message = world.initiation(Some(&cookie));
        let mut processed = 0;
        while world.check(source(1, 1), &message).0 == Verdict::Process {
            processed += 1;
        }
        assert_eq!(processed, 200);
        assert_eq!(world.check(source(1, 1), &message).0, Verdict::Limited);
    }

    #[test]
    fn spoofed_sources_cannot_grow_the_tables() {
        let mut world = World::new();
        let message = world.initiation(None);
        for n in 0..20_000u32 {
            let spoofed = SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 1));
            world.check(spoofed, &message);
        }
        assert!(world.gate.unproven.buckets.len() <= MAX_SOURCES);
    }

    #[test]
    fn cookie_replies_are_limited() {
        let mut world = World::new();
        let message = world.initiation(None);
        let mut replies = 0;
        for n in 0..10_000u32 {
            let spoofed = SocketAddr::from(((0x0a00_0000 + n % 2_000).to_be_bytes(), 1));
            if world.check(spoofed, &message).0 == Verdict::Cookie {
                replies += 1;
            }
        }
        assert_eq!(replies, 500);
    }
}
