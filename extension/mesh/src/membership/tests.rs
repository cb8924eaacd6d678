use super::*;
use crate::crypto::ModelCrypto;
use crate::hello::{HelloKey, HelloPublic};
use crate::join::{Destination, Reply, Request, Via};
use crate::key::PublicKey;
use crate::record::genesis::Owner;
use crate::record::grant::{Grant, tests::exact};
use crate::record::owner::OwnerChange;
use crate::record::receipt::Receipt;
use crate::record::{OwnerKey, RecordId, TokenKey};
use crate::roster::ItemDigest;
use crate::testing::{epoch, secs};

mod behind;
mod hostile;
mod introduced;
mod replacing;
mod seeking;

const CLOCK: u64 = 1_800_000_100;
const OWNER: Secret = Secret::new([1; 32]);
const FIRST_HELLO: Secret = Secret::new([3; 32]);

fn at(seconds: u64) -> Now {
    Now { instant: epoch() + secs(seconds), clock: Some(CLOCK + seconds) }
}

/// A join string for `node-N`; that of node 1 may begin the network.
fn join_string(n: u8, change: impl FnOnce(Grant) -> Grant) -> JoinString {
    let range = "10.213.0.0/16".parse().unwrap();
    let key = OwnerKey(ModelCrypto.signing_public(&OWNER));
    let genesis =
        Genesis { name: "home".parse().unwrap(), range, owners: vec![Owner { key, range }], nonce: [7; 16] };
    let genesis = genesis.seal(&OWNER, &ModelCrypto).unwrap();
    let network = NetworkId(genesis.id().0);
    let token = Secret::new([100 + n; 32]);
    let grant = exact(&format!("node-{n}"), &format!("10.213.0.{n}"), &token, &ModelCrypto);
    assert_eq!(grant.token, TokenKey(ModelCrypto.signing_public(&token)));
    JoinString {
        token,
        grant: change(grant).seal(&network, &OWNER, &ModelCrypto).unwrap(),
        genesis,
        hello: HelloPublic(ModelCrypto.box_public(&FIRST_HELLO)),
        seeds: vec![],
        tombstones: 0,
        first_hello: (n == 1).then_some(FIRST_HELLO),
    }
}

fn joining(n: u8, now: Now) -> Membership {
    joining_with(n, join_string(n, |grant| grant), now)
}

fn joining_with(n: u8, join: JoinString, now: Now) -> Membership {
    let announcement = Announcement {
        sequence: 0,
        wireguard: PublicKey::new([n; 32]),
        candidates: vec![],
        version: "0".into(),
        capabilities: 0,
        instance: [n; 8],
        boot: 0,
    };
    let profile = Profile { identity: Secret::new([200 + n; 32]), name: None, routes: vec![], announcement };
    Membership::join(join, profile, [n; 32], now, &ModelCrypto).unwrap()
}

fn outputs(membership: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| membership.poll_output()).collect()
}

fn next_hello(membership: &mut Membership) -> Option<Vec<u8>> {
    outputs(membership).into_iter().find_map(|output| match output {
        Output::Hello { datagram, .. } => Some(datagram),
        _ => None,
    })
}

fn hello_of(membership: &mut Membership) -> Vec<u8> {
    next_hello(membership).expect("a hello was due")
}

/// The first member of the network.
pub(super) fn first() -> Membership {
    let mut first = joining(1, at(0));
    first.handle_timeout(at(0));
    first.handle_timeout(at(1));
    assert!(outputs(&mut first).contains(&Output::Event(Event::Joined)));
    first
}

/// Lets `n` in at `admitter`.
fn admit(n: u8, admitter: &mut Membership, now: Now) -> Membership {
    admit_this(joining(n, now), admitter, now)
}

fn admit_this(mut joiner: Membership, admitter: &mut Membership, now: Now) -> Membership {
    joiner.handle_timeout(now);
    let request = hello_of(&mut joiner);
    let reply = admitter.handle_hello(&request, Via::Unicast, now).expect("it is let in");
    assert!(reply.len() <= request.len());
    assert!(joiner.handle_hello(&reply, Via::Unicast, now).is_none());
    assert!(joiner.is_member());
    joiner
}

/// Begins a session between two and carries what they say until both fall silent.
fn meet(a: &mut Membership, b: &mut Membership, now: Now) {
    let (one, two) = (*a.identity(), *b.identity());
    a.session_began(two, now);
    b.session_began(one, now);
    talk(a, b, now);
}

fn talk(a: &mut Membership, b: &mut Membership, now: Now) {
    let (one, two) = (*a.identity(), *b.identity());
    loop {
        let there = outputs(a);
        let back = outputs(b);
        if there.is_empty() && back.is_empty() {
            return;
        }
        let carry = |outputs: Vec<Output>, from, to: &mut Membership| {
            for output in outputs {
                if let Output::Control { to: receiver, payload } = output
                    && receiver == *to.identity()
                {
                    to.handle_control(from, &payload, now);
                }
            }
        };
        carry(there, one, b);
        carry(back, two, a);
    }
}

fn revocation(of: &IdentityKey, network: &NetworkId) -> Item {
    revocation_of(End::Revoked { identity: *of, keep_token: false }, network)
}

/// The same, but its token stays good for others.
fn decision_against(member: &IdentityKey, network: &NetworkId) -> Item {
    revocation_of(End::Revoked { identity: *member, keep_token: true }, network)
}

fn revocation_of(end: End, network: &NetworkId) -> Item {
    Item::Tombstone(Tombstone { end, time: 0 }.seal(network, &OWNER, &ModelCrypto).unwrap())
}

#[test]
fn who_is_let_in_and_its_admitter_become_peers() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    assert!(first.is_peer(second.identity()) && second.is_peer(first.identity()));
    meet(&mut first, &mut second, at(5));
    assert!(first.roster().digests().eq(second.roster().digests()));
    for membership in [&first, &second] {
        assert_eq!(membership.peers().filter(|peer| peer.installed).count(), 1);
    }
}

#[test]
fn an_announcement_may_come_before_its_member() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let third = admit(3, &mut first, at(6));
    // Second and first have a session; nothing was compared yet.
    second.session_began(*first.identity(), at(7));
    outputs(&mut second);
    let announcement = first.roster().announcement(third.identity()).unwrap().envelope.bytes().to_vec();
    let settled = first.roster().settled(third.identity()).unwrap().to_bytes();
    for item in [&announcement, &settled] {
        assert!(!second.is_peer(third.identity()));
        second.handle_control(*first.identity(), &Message::Items(vec![&item[..]]).encode(), at(7));
    }
    let known = second.peers().find(|peer| peer.settled.identity() == *third.identity());
    assert_eq!(known.unwrap().announcement.envelope.bytes()[..], announcement[..]);
}

#[test]
fn a_hello_to_a_member_that_is_off_is_no_news_to_others() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = joining(3, at(5));
    third.set_candidates(vec![address_of(3)], at(5));
    let third = admit_this(third, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let records: Vec<_> = second.roster().digests().collect();
    let mut hellos = 0;
    for round in 3..100 {
        let now = at(2 * round);
        first.handle_control(*second.identity(), &Message::Ping(1).encode(), now);
        first.handle_timeout(now);
        hellos += first.output.iter().filter(|output| matches!(output, Output::Hello { .. })).count();
        talk(&mut first, &mut second, now);
    }
    assert!(hellos > 3, "third is looked for");
    assert!(second.roster().is_member(third.identity()) && second.roster().digests().eq(records));
}

#[test]
fn who_does_not_show_that_it_knows_the_news_is_asked_until_it_does() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    for seconds in 7..30 {
        first.handle_timeout(at(seconds));
        second.handle_timeout(at(seconds));
        talk(&mut first, &mut second, at(seconds));
    }
    let said = |membership: &mut Membership| {
        let control = |output: &Output| matches!(output, Output::Control { .. });
        outputs(membership).into_iter().filter(control).count()
    };
    // They are cut off from each other, and what is said is lost.
    let third = admit(3, &mut first, at(30));
    assert!(said(&mut first) > 0);
    for seconds in 31..=33 {
        assert!(first.deadline() <= Some(at(seconds).instant));
        first.handle_timeout(at(seconds));
        assert!(said(&mut first) >= 2, "a question, and what it knows");
    }
    // It is heard again, and shows nothing of what it knows.
    first.handle_control(*second.identity(), &Message::Ping(1).encode(), at(33));
    assert_eq!(said(&mut first), 1);
    first.handle_timeout(at(34));
    talk(&mut first, &mut second, at(34));
    assert!(second.roster().is_member(third.identity()));
    first.handle_timeout(at(35));
    second.handle_timeout(at(35));
    talk(&mut first, &mut second, at(35));
    for seconds in 36..39 {
        first.handle_timeout(at(seconds));
        second.handle_timeout(at(seconds));
        assert_eq!(said(&mut first) + said(&mut second), 0, "both are heard");
    }
}

#[test]
fn an_item_is_told_by_its_bytes_as_by_itself() {
    let mut first = first();
    let second = admit(2, &mut first, at(5));
    let network = *first.roster().network();
    first.act(revocation(second.identity(), &network), at(6));
    let items: Vec<_> = first.roster().items().collect();
    assert!(items.len() >= 5);
    for item in items {
        let bytes = item.to_bytes();
        assert_eq!(Item::digest_of(&bytes, &network), Some(item.digest()));
        assert_eq!(Item::digest_of(&bytes[..bytes.len() - 1], &network), None);
        assert_eq!(Item::digest_of(&[&bytes[..], &[0]].concat(), &network), None);
    }
}

#[test]
fn who_is_let_in_by_a_member_of_a_later_owner_finds_everybody() {
    let later = Secret::new([9; 32]);
    let owner =
        Owner { key: OwnerKey(ModelCrypto.signing_public(&later)), range: "10.213.64.0/18".parse().unwrap() };
    let mut first = first();
    let network = *first.roster().network();
    let add = OwnerChange::Add(owner).seal(&network, [0; 8], &[&OWNER], &ModelCrypto).unwrap();
    assert_eq!(first.act(Item::OwnerChange(add), at(4)), Applied::New);
    let mut join = join_string(2, |grant| grant);
    let grant = Grant { addresses: "10.213.64.2/32".parse().unwrap(), ..join.grant.grant.clone() };
    join.grant = grant.seal(&network, &later, &ModelCrypto).unwrap();
    let mut second = admit_this(joining_with(2, join, at(5)), &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    // They compare notes once more, and agree.
    for seconds in 7..30 {
        first.handle_timeout(at(seconds));
        second.handle_timeout(at(seconds));
        talk(&mut first, &mut second, at(seconds));
    }
    // Of the second owner it knows nothing yet.
    let mut third = admit(3, &mut second, at(30));
    assert!(third.is_peer(second.identity()));
    assert_eq!(
        third.peers().filter(|peer| peer.installed).count(),
        0,
        "what it says of itself does not count yet"
    );
    meet(&mut second, &mut third, at(30));
    assert!(third.roster().digests().eq(second.roster().digests()));
    assert_eq!(third.peers().filter(|peer| peer.installed).count(), 2);
}

#[test]
fn a_repeated_request_is_met_with_silence_by_everybody() {
    let mut first = first();
    let mut second = joining(2, at(5));
    second.handle_timeout(at(5));
    let request = hello_of(&mut second);
    let reply = first.handle_hello(&request, Via::Unicast, at(5)).unwrap();
    assert!(first.handle_hello(&request, Via::Unicast, at(5)).is_none());
    second.handle_hello(&reply, Via::Unicast, at(5));
    meet(&mut first, &mut second, at(6));
    let mut third = admit(3, &mut first, at(7));
    meet(&mut first, &mut third, at(7));
    assert!(third.handle_hello(&request, Via::Unicast, at(8)).is_none());

    // Not after a restart either: the news is on disk.
    let saved = first.saved().unwrap();
    let mut again = Membership::resume(saved, [9; 8], [9; 32], at(9), &ModelCrypto).unwrap();
    assert!(again.handle_hello(&request, Via::Unicast, at(30)).is_none());
}

#[test]
fn who_was_let_in_just_now_admits_nobody_before_it_has_caught_up() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = joining(3, at(5));
    third.handle_timeout(at(5));
    let request = hello_of(&mut third);
    assert!(second.handle_hello(&request, Via::Unicast, at(5)).is_none());
    meet(&mut first, &mut second, at(6));
    // They compare notes once more, and agree.
    first.handle_timeout(at(7));
    second.handle_timeout(at(7));
    talk(&mut first, &mut second, at(7));
    assert!(second.handle_hello(&request, Via::Unicast, at(7)).is_some());
}

#[test]
fn the_last_one_standing_admits() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(5));
    let saved = second.saved().unwrap();
    let mut second = Membership::resume(saved, [9; 8], [9; 32], at(100), &ModelCrypto).unwrap();
    let mut third = joining(3, at(100));
    third.handle_timeout(at(100));
    let request = hello_of(&mut third);
    assert!(second.handle_hello(&request, Via::Unicast, at(100)).is_none(), "it may be behind");
    assert!(second.handle_hello(&request, Via::Unicast, at(120)).is_some(), "nobody else is there");
}

#[test]
fn a_restart_keeps_the_members_and_announces_anew() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(5));
    let before = second.saved().unwrap();
    let again = Membership::resume(before.clone(), [9; 8], [9; 32], at(100), &ModelCrypto).unwrap();
    assert!(again.is_peer(first.identity()));
    let announced = again.roster().announcement(second.identity()).unwrap().announcement.clone();
    assert!(announced.sequence > before.announcement.sequence);
    assert_eq!((announced.boot, announced.instance), (1, [9; 8]));
}

#[test]
fn the_revoked_fall_silent_and_get_no_answer() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(6));
    meet(&mut first, &mut second, at(7));
    meet(&mut first, &mut third, at(7));
    let network = *first.roster().network();
    first.act(revocation(second.identity(), &network), at(8));
    talk(&mut first, &mut third, at(8));
    for membership in [&first, &third] {
        assert!(!membership.is_peer(second.identity()));
        assert!(membership.peers().all(|peer| peer.settled.identity() != *second.identity()));
    }
    // What it says in a session that it still believes in goes nowhere.
    let digests: Vec<_> = third.roster().digests().collect();
    let ping = Message::Ping(7).encode();
    third.handle_control(*second.identity(), &ping, at(9));
    assert!(outputs(&mut third).is_empty());
    assert!(third.roster().digests().eq(digests));
    // It hears of it, and falls silent itself.
    second.act(revocation(&second.identity().clone(), &network), at(9));
    assert!(!second.is_member() && second.deadline().is_none());
    outputs(&mut second);
    second.handle_timeout(at(100));
    assert!(outputs(&mut second).is_empty());
}

#[test]
fn a_revocation_brings_a_new_hello_key_to_the_others() {
    let mut first = first();
    let second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(6));
    meet(&mut first, &mut third, at(7));
    let old = *first.hello_keys().current().unwrap().1;
    let network = *first.roster().network();
    first.act(revocation(second.identity(), &network), at(8));
    first.handle_timeout(at(8));
    talk(&mut first, &mut third, at(8));
    let new = *first.hello_keys().current().unwrap().1;
    assert_ne!(new, old);
    assert_eq!(*third.hello_keys().current().unwrap().1, new);
    assert!(second.hello_keys().iter().all(|key| key.public(&ModelCrypto) != new));
}

#[test]
fn who_leaves_is_gone_everywhere_and_for_good() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(5));
    second.leave(at(6));
    assert!(!second.is_member());
    let farewell = outputs(&mut second);
    for output in farewell {
        if let Output::Control { payload, .. } = output {
            first.handle_control(*second.identity(), &payload, at(6));
        }
    }
    assert_eq!(first.roster().status(second.identity()), Some(&Status::Left));
    assert!(!first.is_peer(second.identity()));
}

#[test]
fn a_clone_cannot_make_the_established_machine_leave() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    meet(&mut first, &mut third, at(6));
    let end = End::Left { identity: *second.identity(), instance: [66; 8] };
    let by_clone = Tombstone { end, time: 0 }
        .seal(first.roster().network(), &Secret::new([202; 32]), &ModelCrypto)
        .unwrap();
    let bytes = Item::Tombstone(by_clone).to_bytes();
    first.handle_control(*third.identity(), &Message::Items(vec![&bytes]).encode(), at(7));
    assert!(first.is_peer(second.identity()));
}

#[test]
fn somebody_elses_announcement_of_us_is_overtaken_and_reported() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(5));
    let clone =
        Announcement { sequence: 50, instance: [66; 8], boot: 5, ..second.saved().unwrap().announcement };
    let clone = clone.seal(first.roster().network(), &Secret::new([202; 32]), &ModelCrypto).unwrap();
    let bytes = Item::Announcement(clone).to_bytes();
    second.handle_control(*first.identity(), &Message::Items(vec![&bytes]).encode(), at(6));
    let events = outputs(&mut second);
    assert!(events.contains(&Output::Event(Event::Cloned { instance: [66; 8] })));
    second.handle_timeout(at(8));
    let ours = second.roster().announcement(second.identity()).unwrap();
    assert!(ours.announcement.sequence > 50);
    assert_eq!(ours.announcement.instance, [2; 8]);
}

#[test]
fn outsiders_get_no_answer() {
    let mut first = first();
    for datagram in [&[][..], &[0x10; 1232], &[0xff; 1232], &[0x11; 100]] {
        assert!(first.handle_hello(datagram, Via::Unicast, at(5)).is_none());
    }
    // Who knows the genesis and a key of its own, but not the hello key.
    let mut wrong = join_string(2, |grant| grant);
    wrong.hello = HelloPublic(ModelCrypto.box_public(&Secret::new([77; 32])));
    let profile = Profile {
        identity: Secret::new([222; 32]),
        name: None,
        routes: vec![],
        announcement: first.saved().unwrap().announcement,
    };
    let mut outsider = Membership::join(wrong, profile, [5; 32], at(5), &ModelCrypto).unwrap();
    outsider.handle_timeout(at(5));
    let request = hello_of(&mut outsider);
    assert!(first.handle_hello(&request, Via::Unicast, at(5)).is_none());
}

fn address_of(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 51840))
}

#[test]
fn while_neighbours_are_missing_others_are_asked_too_and_then_the_whole_segment() {
    let mut first = first();
    for n in 2..=12 {
        let mut joiner = joining(n, at(5));
        joiner.set_candidates(vec![address_of(n)], at(5));
        admit_this(joiner, &mut first, at(5));
    }
    let there = *first.wanted().first().unwrap();
    first.session_began(there, at(6));
    outputs(&mut first);
    let mut asked = BTreeSet::new();
    for round in 3..500 {
        first.handle_control(there, &Message::Ping(1).encode(), at(2 * round));
        first.handle_timeout(at(2 * round));
        for output in outputs(&mut first) {
            if let Output::Hello { to, .. } = output {
                asked.extend(to);
            }
        }
    }
    let is_asked = |n: &u8| asked.contains(&Destination::Address(address_of(*n)));
    assert_eq!((2..=12).filter(is_asked).count(), 10, "all but the one that is there: {asked:?}");
    assert!(asked.contains(&Destination::Lan));
}

#[test]
fn hello_keys_are_told_again_if_the_first_message_was_lost() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let third = admit(3, &mut first, at(6));
    let network = *first.roster().network();
    first.session_began(*second.identity(), at(7));
    first.act(revocation(third.identity(), &network), at(8));
    first.handle_timeout(at(8));
    assert_eq!(first.hello_keys().iter().count(), 2);
    // All that was said until now is lost.
    outputs(&mut first);
    outputs(&mut second);
    for round in 5..10 {
        first.handle_timeout(at(2 * round));
        talk(&mut first, &mut second, at(2 * round));
    }
    assert!(first.hello_keys().iter().all(|key| second.hello_keys().iter().any(|known| known == key)));
}
