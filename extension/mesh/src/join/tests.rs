use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::*;
use crate::crypto::{ModelCrypto, RealCrypto};
use crate::hello::{Ask, HelloKeys, HelloPublic, REQUEST_LEN};
use crate::join_string::JoinString;
use crate::key::PublicKey;
use crate::record::announcement::Announcement;
use crate::record::genesis::{Genesis, Owner};
use crate::record::grant::{Grant, tests::exact};
use crate::record::receipt::Receipt;
use crate::record::tombstone::{End, Tombstone};
use crate::record::{OwnerKey, RecordId};
use crate::roster::{Applied, Item};

const CLOCK: u64 = 1_800_000_100;

fn owner() -> Secret {
    Secret::new([1; 32])
}

fn hello_secret() -> Secret {
    Secret::new([3; 32])
}

/// A network with one member, `first`, that admits.
struct World {
    crypto: &'static dyn Crypto,
    genesis: Envelope,
    roster: Roster,
    keys: HelloKeys,
    now: Instant,
    rng: ChaCha12Rng,
}

impl World {
    fn new(crypto: &'static dyn Crypto) -> Self {
        let range = "10.213.0.0/16".parse().unwrap();
        let key = OwnerKey(crypto.signing_public(&owner()));
        let name = "home".parse().unwrap();
        let genesis = Genesis { name, range, owners: vec![Owner { key, range }], nonce: [7; 16] };
        let envelope = genesis.seal(&owner(), crypto).unwrap();
        let roster = Roster::new(genesis, NetworkId(envelope.id().0));
        let mut keys = HelloKeys::default();
        keys.add(HelloKey { epoch: 0, secret: hello_secret() }, crypto);
        let mut world = Self {
            crypto,
            genesis: envelope,
            roster,
            keys,
            now: crate::testing::epoch(),
            rng: ChaCha12Rng::from_seed([5; 32]),
        };
        let mut first = world.joiner(world.join_string(1, |grant| grant), profile(1, None));
        let at = world.now + Duration::from_secs(1);
        let outcome = first.begin_alone(at, CLOCK, crypto, &mut world.rng).unwrap();
        assert_eq!(world.roster.apply(Item::Settled(Box::new(outcome.settled))), Applied::New);
        world
    }

    /// A token for the name `node-N`, or what `change` makes of it.
    fn join_string(&self, n: u8, change: impl FnOnce(Grant) -> Grant) -> JoinString {
        let token = Secret::new([100 + n; 32]);
        let grant = change(exact(&format!("node-{n}"), &format!("10.213.0.{n}"), &token, self.crypto));
        let network = NetworkId(self.genesis.id().0);
        JoinString {
            token,
            grant: grant.seal(&network, &owner(), self.crypto).unwrap(),
            genesis: self.genesis.clone(),
            hello: HelloPublic(self.crypto.box_public(&hello_secret())),
            seeds: vec![],
            tombstones: 0,
            first_hello: (n == 1).then(hello_secret),
        }
    }

    fn joiner(&self, join: JoinString, profile: Profile) -> Joiner {
        Joiner::new(join, profile, self.now, self.crypto).unwrap()
    }

    /// The verdict on the next request of `joiner`.
    fn ask(&mut self, joiner: &mut Joiner, clock: Option<u64>) -> (Verdict, Request, crate::hello::Received) {
        self.now = self.now.max(joiner.deadline());
        let Attempt { datagram, .. } = joiner.poll(self.now, self.crypto, &mut self.rng).unwrap().unwrap();
        assert_eq!(datagram.len(), REQUEST_LEN);
        let received = self.keys.open(&datagram, self.roster.network(), self.crypto).unwrap();
        assert_eq!(received.hello.ask, Ask::Join);
        let request = Request::decode(
            &received.hello.content,
            &received.hello.signer,
            self.roster.network(),
            self.crypto,
        )
        .unwrap();
        (judge(&request, &self.roster, clock, |_| true), request, received)
    }

    fn verdict(&mut self, joiner: &mut Joiner) -> Verdict {
        self.ask(joiner, Some(CLOCK)).0
    }

    /// Admits `joiner` and carries the reply to it.
    fn admit(&mut self, joiner: &mut Joiner) -> Outcome {
        let (verdict, request, received) = self.ask(joiner, Some(CLOCK));
        assert_eq!(verdict, Verdict::Admit);
        let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: CLOCK, reach: 1 };
        let receipt = receipt.seal(self.roster.network(), &profile(1, None).identity, self.crypto).unwrap();
        let keys = self.keys.iter().cloned().collect();
        let first = IdentityKey(self.crypto.signing_public(&profile(1, None).identity));
        let items = self.roster.settled(&first).map(Settled::to_bytes).into_iter().collect();
        let reply = Reply::Admitted { receipt: Box::new(receipt), keys, items }.encode();
        let datagram = received.reply(&reply, self.crypto).unwrap();
        assert!(datagram.len() <= REQUEST_LEN);
        let Progress::Done(outcome) = joiner.handle_reply(&datagram, self.now, self.crypto) else {
            panic!("not admitted");
        };
        let applied = self.roster.apply(Item::Settled(Box::new(outcome.settled.clone())));
        assert_eq!(applied, Applied::New);
        self.roster.apply(Item::Announcement(request.announcement));
        *outcome
    }

    fn revoke(&mut self, end: End) {
        let tombstone = Tombstone { end, time: 0 };
        let tombstone = tombstone.seal(self.roster.network(), &owner(), self.crypto).unwrap();
        assert_eq!(self.roster.apply(Item::Tombstone(tombstone)), Applied::New);
    }
}

fn profile(n: u8, name: Option<&str>) -> Profile {
    Profile {
        identity: Secret::new([200 + n; 32]),
        name: name.map(|name| name.parse().unwrap()),
        routes: vec![],
        announcement: Announcement {
            sequence: 0,
            wireguard: PublicKey::new([n; 32]),
            candidates: vec!["192.0.2.7:51840".parse().unwrap()],
            version: "0.1.0".into(),
            capabilities: 0,
            instance: [n; 8],
            boot: 1,
        },
    }
}

#[test]
fn who_has_a_token_is_let_in() {
    let mut world = World::new(&RealCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let outcome = world.admit(&mut joiner);
    assert_eq!(outcome.settled.member.member.name.as_str(), "node-2");
    assert_eq!(outcome.keys[0].secret.expose(), hello_secret().expose());
    assert_eq!(outcome.items.len(), 1, "the admitter's own record");
    assert!(world.roster.is_member(&outcome.settled.identity()));
}

#[test]
fn a_request_is_good_once() {
    let mut world = World::new(&RealCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let (_, first, _) = world.ask(&mut joiner, Some(CLOCK));
    world.admit(&mut joiner);
    let repeated = judge(&first, &world.roster, Some(CLOCK), |_| true);
    assert_eq!(repeated, Verdict::Silence(Reason::Stale));
    // Who did not get the answer asks anew, and gets the same again.
    assert!(matches!(world.verdict(&mut joiner), Verdict::Known(_)));
}

#[test]
fn tokens_that_are_spent_expired_or_revoked_are_met_with_silence() {
    let mut world = World::new(&ModelCrypto);
    let spent = world.join_string(2, |grant| grant);
    let mut joiner = world.joiner(spent.clone(), profile(2, None));
    world.admit(&mut joiner);
    let mut replayer = world.joiner(spent, profile(9, None));
    assert_eq!(world.verdict(&mut replayer), Verdict::Silence(Reason::Spent));

    let expired = world.join_string(3, |grant| Grant { not_after: CLOCK - 1, ..grant });
    let mut joiner = world.joiner(expired, profile(3, None));
    assert_eq!(world.verdict(&mut joiner), Verdict::Silence(Reason::Expired));

    let revoked = world.join_string(4, |grant| grant);
    world.revoke(End::Token(revoked.grant.id));
    let mut joiner = world.joiner(revoked, profile(4, None));
    assert_eq!(world.verdict(&mut joiner), Verdict::Silence(Reason::TokenRevoked));
}

#[test]
fn who_does_not_know_the_time_lets_nobody_in() {
    let mut world = World::new(&ModelCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    for clock in [None, Some(0), Some(86_400)] {
        assert_eq!(world.ask(&mut joiner, clock).0, Verdict::Silence(Reason::NoClock));
    }
    assert_eq!(world.verdict(&mut joiner), Verdict::Admit);
}

#[test]
fn who_was_removed_gets_no_answer() {
    let mut world = World::new(&ModelCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let member = world.admit(&mut joiner).settled;
    world.revoke(End::Revoked { identity: member.identity(), keep_token: false });
    assert_eq!(world.verdict(&mut joiner), Verdict::Silence(Reason::Barred));
    // Nor does its token help somebody else.
    let mut other = world.joiner(world.join_string(2, |grant| grant), profile(9, None));
    assert_eq!(world.verdict(&mut other), Verdict::Silence(Reason::TokenRevoked));
}

#[test]
fn names_and_addresses_have_one_holder() {
    let mut world = World::new(&ModelCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let held = world.admit(&mut joiner).settled;
    let same_name = |grant| Grant { names: "node-2".parse().unwrap(), ..grant };
    let mut second = world.joiner(world.join_string(3, same_name), profile(3, None));
    assert_eq!(world.verdict(&mut second), Verdict::Taken);
    let same_address = |grant| Grant { addresses: "10.213.0.2/32".parse().unwrap(), ..grant };
    let mut third = world.joiner(world.join_string(4, same_address), profile(4, None));
    assert_eq!(world.verdict(&mut third), Verdict::Taken);

    // A token that names the incarnation takes its place: when it is gone, or with force.
    let replacing = |force, replaces: RecordId| {
        move |grant: Grant| Grant {
            names: "node-2".parse().unwrap(),
            addresses: "10.213.0.2/32".parse().unwrap(),
            replaces: Some(replaces),
            force,
            ..grant
        }
    };
    let mut gentle = world.joiner(world.join_string(5, replacing(false, held.id())), profile(5, None));
    let (verdict, request, _) = world.ask(&mut gentle, Some(CLOCK));
    assert_eq!(verdict, Verdict::Taken, "it still answers");
    assert_eq!(judge(&request, &world.roster, Some(CLOCK), |_| false), Verdict::Admit);
    let mut forced = world.joiner(world.join_string(6, replacing(true, held.id())), profile(6, None));
    assert_eq!(world.verdict(&mut forced), Verdict::Admit);
    let mut wrong = world.joiner(world.join_string(7, replacing(true, RecordId([9; 32]))), profile(7, None));
    assert_eq!(world.verdict(&mut wrong), Verdict::Taken);
    world.admit(&mut forced);
    assert!(!world.roster.is_member(&held.identity()));
}

#[test]
fn who_is_told_that_an_address_is_taken_asks_for_another_of_its_pool() {
    let mut world = World::new(&ModelCrypto);
    let pool = |grant| Grant {
        names: "w-*".parse().unwrap(),
        addresses: "10.213.9.0/29".parse().unwrap(),
        uses: 6,
        ..grant
    };
    let join = world.join_string(2, pool);
    for n in 0..6u8 {
        let mut joiner = world.joiner(join.clone(), profile(10 + n, Some(&format!("w-{n}"))));
        let mut tries = 0;
        loop {
            let (verdict, _, received) = world.ask(&mut joiner, Some(CLOCK));
            if verdict == Verdict::Admit {
                break;
            }
            assert_eq!(verdict, Verdict::Taken);
            let reply = received.reply(&Reply::Taken.encode(), world.crypto).unwrap();
            let progress = joiner.handle_reply(&reply, world.now, world.crypto);
            assert!(matches!(progress, Progress::Taken));
            tries += 1;
            assert!(tries < 500);
        }
        let outcome = world.admit(&mut joiner);
        let address = outcome.settled.member.member.address;
        assert!((1..=6).contains(&address.octets()[3]), "{address}");
    }
    assert_eq!(world.roster.members().count(), 7);
}

#[test]
fn a_name_outside_the_pool_cannot_even_ask() {
    let world = World::new(&ModelCrypto);
    let pool = world.join_string(2, |grant| Grant {
        names: "w-*".parse().unwrap(),
        addresses: "10.213.9.0/29".parse().unwrap(),
        ..grant
    });
    for name in [None, Some("cp-1")] {
        let asked = Joiner::new(pool.clone(), profile(2, name), world.now, world.crypto);
        assert_eq!(asked.map(|_| ()).unwrap_err(), JoinError::Name);
    }
    let routes = vec!["192.168.0.0/16".parse().unwrap()];
    let greedy = Profile { routes, ..profile(2, Some("w-1")) };
    let asked = Joiner::new(pool, greedy, world.now, world.crypto);
    assert_eq!(asked.map(|_| ()).unwrap_err(), JoinError::Routes);
}

#[test]
fn an_admission_by_nobody_or_by_oneself_makes_no_expired_token_good() {
    let mut world = World::new(&ModelCrypto);
    let expired = world.join_string(3, |grant| Grant { not_after: CLOCK - 1, ..grant });
    let mut joiner = world.joiner(expired, profile(3, None));
    let (_, mut request, _) = world.ask(&mut joiner, Some(CLOCK));
    for admitter in [profile(3, None).identity, Secret::new([77; 32])] {
        let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: 0, reach: 9 };
        request.receipt = Some(receipt.seal(world.roster.network(), &admitter, world.crypto).unwrap());
        let again =
            Request::decode(&request.encode(), &request.identity().0, world.roster.network(), world.crypto);
        let verdict = judge(&again.unwrap(), &world.roster, Some(CLOCK), |_| false);
        assert_eq!(verdict, Verdict::Silence(Reason::Expired));
    }
    // One that a member admitted elsewhere is simply known.
    let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: 0, reach: 9 };
    let receipt = receipt.seal(world.roster.network(), &profile(1, None).identity, world.crypto);
    request.receipt = Some(receipt.unwrap());
    let verdict = judge(&request, &world.roster, Some(CLOCK), |_| false);
    assert!(matches!(verdict, Verdict::Known(_)));
}

#[test]
fn a_request_by_another_identity_is_none() {
    let mut world = World::new(&ModelCrypto);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let (_, request, received) = world.ask(&mut joiner, Some(CLOCK));
    let network = *world.roster.network();
    let other = Request::decode(&received.hello.content, &[9; 32], &network, world.crypto);
    assert_eq!(other, Err(RecordError::Signature));
    let cut = &request.encode()[..300];
    assert!(Request::decode(cut, &request.identity().0, &network, world.crypto).is_err());
}

#[test]
fn only_who_may_begins_the_network_and_only_while_nobody_answers() {
    let mut world = World::new(&ModelCrypto);
    let later = world.now + Duration::from_secs(3600);
    let mut second = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    assert!(second.begin_alone(later, CLOCK, world.crypto, &mut world.rng).is_none(), "no hello secret");

    let with_seeds =
        JoinString { seeds: vec!["192.0.2.1:1".parse().unwrap()], ..world.join_string(1, |grant| grant) };
    let mut first = world.joiner(with_seeds.clone(), profile(8, None));
    let early = world.now + Duration::from_secs(9);
    assert!(first.begin_alone(early, CLOCK, world.crypto, &mut world.rng).is_none());
    let alone = first.begin_alone(later, CLOCK, world.crypto, &mut world.rng).unwrap();
    assert!(alone.settled.is_self_admitted());

    // An answer, even a refusal, shows that there is a network.
    let mut answered = world.joiner(with_seeds, profile(7, None));
    let (verdict, _, received) = world.ask(&mut answered, Some(CLOCK));
    assert_eq!(verdict, Verdict::Silence(Reason::Spent));
    let reply = received.reply(&Reply::Taken.encode(), world.crypto).unwrap();
    assert!(matches!(answered.handle_reply(&reply, world.now, world.crypto), Progress::Taken));
    assert!(answered.begin_alone(later, CLOCK, world.crypto, &mut world.rng).is_none());
}

#[test]
fn who_is_the_only_seed_waits_for_nobody() {
    let world = World::new(&ModelCrypto);
    let ours: std::net::SocketAddr = "192.0.2.1:51840".parse().unwrap();
    let deadline = |candidates: Vec<std::net::SocketAddr>| {
        let mut join = world.join_string(1, |grant| grant);
        (join.first_hello, join.seeds) = (Some(hello_secret()), vec![ours]);
        let mut joiner = world.joiner(join, profile(1, None));
        joiner.set_candidates(candidates);
        joiner.alone_at().unwrap()
    };
    assert!(deadline(vec![ours]) < deadline(vec![]));
}

#[test]
fn requests_thin_out_and_never_stop() {
    let world = World::new(&ModelCrypto);
    let mut rng = ChaCha12Rng::from_seed([1; 32]);
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let mut now = world.now;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let Attempt { to, .. } = joiner.poll(now, world.crypto, &mut rng).unwrap().unwrap();
        assert_eq!(to, [Destination::Lan]);
        assert!(joiner.poll(now, world.crypto, &mut rng).unwrap().is_none(), "early calls do nothing");
        waits.push(joiner.deadline() - now);
        now = joiner.deadline();
    }
    assert!(waits[0] <= Duration::from_millis(1500), "{waits:?}");
    assert!(waits[10..].iter().all(|wait| (7..=23).contains(&wait.as_secs())), "{waits:?}");
}

#[test]
fn each_request_of_a_stranger_is_answered_once_and_few_are_remembered() {
    let mut answered = Answered::default();
    assert!(answered.first_time(&[1; 32], 5));
    assert!(!answered.first_time(&[1; 32], 5));
    assert!(!answered.first_time(&[1; 32], 4));
    assert!(answered.first_time(&[1; 32], 6));
    let mut rng = ChaCha12Rng::from_seed([1; 32]);
    for _ in 0..3 * MAX_ANSWERED {
        let mut signer = [0; 32];
        rng.fill_bytes(&mut signer);
        assert!(answered.first_time(&signer, 1));
    }
    assert_eq!(answered.highest.len(), MAX_ANSWERED);
    assert_eq!(answered.order.len(), MAX_ANSWERED);
}

/// Who knows the hello key, as one that was removed does, but is nobody.
#[test]
fn a_receipt_by_somebody_who_does_not_prove_to_be_a_member_is_none() {
    let mut world = World::new(&ModelCrypto);
    let network = *world.roster.network();
    let mut joiner = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let first = world.roster.members().next().unwrap().clone();
    // A stranger that was granted its place by itself.
    let mut stranger = world.joiner(world.join_string(9, |grant| grant), profile(9, None));
    let (_, request, _) = world.ask(&mut stranger, Some(CLOCK));
    let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: 0, reach: 1 };
    let receipt = receipt.seal(&network, &profile(1, None).identity, world.crypto).unwrap();
    let grant = request.grant.grant.seal(&network, &profile(9, None).identity, world.crypto).unwrap();
    let forged = Settled { grant, member: request.member, receipt };
    let records = [vec![], vec![first.to_bytes()], vec![forged.to_bytes(), first.to_bytes()]];
    for (items, by) in records.into_iter().flat_map(|items| [(items.clone(), 9), (items, 2)]) {
        let (_, request, received) = world.ask(&mut joiner, Some(CLOCK));
        let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: 0, reach: 1 };
        let receipt = receipt.seal(&network, &profile(by, None).identity, world.crypto).unwrap();
        let keys = world.keys.iter().cloned().collect();
        let reply = Reply::Admitted { receipt: Box::new(receipt), keys, items }.encode();
        let datagram = received.reply(&reply, world.crypto).unwrap();
        let progress = joiner.handle_reply(&datagram, world.now, world.crypto);
        assert!(matches!(progress, Progress::Nothing), "by {by}");
    }
    world.admit(&mut joiner);
}

#[test]
fn replies_to_others_mean_nothing() {
    let mut world = World::new(&ModelCrypto);
    let mut one = world.joiner(world.join_string(2, |grant| grant), profile(2, None));
    let mut two = world.joiner(world.join_string(3, |grant| grant), profile(3, None));
    let (_, _, received) = world.ask(&mut one, Some(CLOCK));
    world.ask(&mut two, Some(CLOCK));
    let reply = received.reply(&Reply::Taken.encode(), world.crypto).unwrap();
    assert!(matches!(two.handle_reply(&reply, world.now, world.crypto), Progress::Nothing));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let network = NetworkId([3; 32]);
        prop_assert!(Request::decode(&bytes, &[1; 32], &network, &ModelCrypto).is_err());
        if let Ok(reply) = Reply::decode(&bytes, &network, &ModelCrypto) {
            prop_assert!(matches!(reply, Reply::Taken));
        }
    }

    #[test]
    fn an_address_is_picked_within_the_range(prefix in 16u8..=32, name in "[a-z]{1,10}", attempt in 0u32..50) {
        let range: Ipv4Net = format!("10.213.0.0/{prefix}").parse().unwrap();
        let range = range.trunc();
        let address = pick_address(&range, &name.parse().unwrap(), attempt);
        prop_assert!(range.contains(&address));
        prop_assert!(prefix >= 31 || (address != range.network() && address != range.broadcast()));
    }
}
