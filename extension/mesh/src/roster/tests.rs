//! The rules of the roster, over records that the generator draws: honest ones in every order, then colliding and
//! hostile ones.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crypto::{Crypto as _, ModelCrypto, RealCrypto, Secret};
use crate::key::PublicKey;
use crate::record::announcement::Announcement;
use crate::record::genesis::Owner;
use crate::record::grant::Grant;
use crate::record::member::Member;
use crate::record::name::Role;
use crate::record::owner::{OwnerChange, Rename};
use crate::record::receipt::Receipt;
use crate::record::tombstone::Tombstone;
use crate::record::{Envelope, Kind, RecordError, TokenKey};

mod hostile;

const NETWORK: NetworkId = NetworkId([3; 32]);

fn secret(kind: u8, n: u8) -> Secret {
    let mut bytes = [kind; 32];
    bytes[1] = n;
    Secret::new(bytes)
}

fn owner_secret(n: u8) -> Secret {
    secret(b'o', n)
}

fn identity_secret(n: u8) -> Secret {
    secret(b'i', n)
}

fn identity(n: u8) -> IdentityKey {
    IdentityKey(ModelCrypto.signing_public(&identity_secret(n)))
}

fn owner(n: u8, range: &str) -> Owner {
    Owner { key: OwnerKey(ModelCrypto.signing_public(&owner_secret(n))), range: range.parse().unwrap() }
}

fn roster() -> Roster {
    let genesis = Genesis {
        name: "home".parse().unwrap(),
        range: "10.0.0.0/16".parse().unwrap(),
        owners: vec![owner(1, "10.0.0.0/17"), owner(2, "10.0.128.0/17")],
        nonce: [0; 16],
    };
    Roster::new(genesis, NETWORK)
}

/// One admission, by default of a member that collides with nobody.
#[derive(Debug, Clone, Copy)]
struct Admission {
    /// Its identity, and all that is derived from it.
    n: u8,
    owner: u8,
    token: u8,
    name: u8,
    address: u8,
    admitter: u8,
    reach: u16,
    uses: u16,
    replaces: Option<RecordId>,
}

impl Admission {
    fn of(n: u8, admitter: u8) -> Self {
        let own =
            Self { n, owner: 1, token: n, name: n, address: n, admitter, reach: 1, uses: 1, replaces: None };
        // Every third is ephemeral, from a pool.
        if n.is_multiple_of(3) && admitter != n { Self { token: 200, uses: 100, ..own } } else { own }
    }

    fn settle(self, crypto: &dyn crate::crypto::Crypto) -> Settled {
        let token = secret(b't', self.token);
        let pool = self.uses > 1;
        let address = Ipv4Addr::new(10, 0, 4, self.address);
        let grant = Grant {
            token: TokenKey(crypto.signing_public(&token)),
            names: if pool { "node-*".into() } else { format!("node-{}", self.name) }.parse().unwrap(),
            role: Role::Worker,
            site: String::new(),
            addresses: if pool { "10.0.4.0/24".into() } else { format!("{address}/32") }.parse().unwrap(),
            routes: vec![],
            uses: self.uses,
            not_after: 2_000_000_000,
            ephemeral: pool.then_some(Duration::from_secs(600)),
            replaces: self.replaces,
            force: false,
            serial: 1,
            minted: 1_800_000_000,
        };
        let grant = grant.seal(&NETWORK, &owner_secret(self.owner), crypto).unwrap();
        let name = format!("node-{}", self.name).parse().unwrap();
        let member = Member { grant: grant.id, name, address, routes: vec![] };
        let member = member.seal(&NETWORK, &token, &identity_secret(self.n), crypto).unwrap();
        let receipt = Receipt { member: member.id, nonce: [0; 16], time: 0, reach: self.reach };
        let receipt = receipt.seal(&NETWORK, &identity_secret(self.admitter), crypto).unwrap();
        Settled { grant, member, receipt }
    }

    fn item(self) -> Item {
        Item::Settled(Box::new(self.settle(&ModelCrypto)))
    }
}

fn announcement(n: u8, sequence: u64, crypto: &dyn crate::crypto::Crypto) -> Item {
    let announcement = Announcement {
        sequence,
        wireguard: PublicKey::new([n; 32]),
        candidates: vec![],
        version: "0".into(),
        capabilities: 0,
        instance: [n; 8],
        boot: 0,
    };
    Item::Announcement(announcement.seal(&NETWORK, &identity_secret(n), crypto).unwrap())
}

fn tombstone(end: End, signer: &Secret, crypto: &dyn crate::crypto::Crypto) -> Item {
    Item::Tombstone(Tombstone { end, time: 0 }.seal(&NETWORK, signer, crypto).unwrap())
}

fn revoked(n: u8, by: u8) -> Item {
    tombstone(End::Revoked { identity: identity(n), keep_token: false }, &owner_secret(by), &ModelCrypto)
}

fn left(n: u8) -> Item {
    tombstone(End::Left { identity: identity(n), instance: [n; 8] }, &identity_secret(n), &ModelCrypto)
}

fn expired(n: u8, sequence: u64, by: u8) -> Item {
    tombstone(End::Expired { identity: identity(n), sequence }, &identity_secret(by), &ModelCrypto)
}

fn rename(n: u8, to: u8, serial: u64, by: u8) -> Item {
    let name = format!("new-{to}").parse().unwrap();
    let rename = Rename { member: identity(n), name, serial };
    Item::Rename(rename.seal(&NETWORK, &owner_secret(by), &ModelCrypto).unwrap())
}

fn owner_change(change: OwnerChange, by: u8) -> Item {
    Item::OwnerChange(change.seal(&NETWORK, [0; 8], &[&owner_secret(by)], &ModelCrypto).unwrap())
}

/// All that two nodes must agree upon.
fn view(roster: &Roster) -> impl PartialEq + std::fmt::Debug + use<> {
    let names: Vec<_> = roster.members().map(|member| (member.id(), roster.name(member).clone())).collect();
    let digests: Vec<_> = roster.digests().collect();
    (roster.installed.clone(), roster.status.clone(), names, digests, roster.owners.clone())
}

/// What would be concluded from the same records by looking at all of them, with the same ones installed before.
fn resolved_anew(roster: &Roster) -> Roster {
    let mut anew = roster.clone();
    anew.status.clear();
    anew.index = Index::default();
    for settled in anew.settled.values() {
        *anew.index.uses.entry(settled.grant.id).or_default() += 1;
        anew.index.replaced.extend(settled.grant.grant.replaces);
    }
    anew.resolve();
    anew
}

/// Offers all of `items` again and again, as gossip does with those that are not known, until nothing is new.
fn apply_all(roster: &mut Roster, items: &[Item]) {
    loop {
        let new = items.iter().filter(|item| roster.apply((*item).clone()) == Applied::New).count();
        if new == 0 {
            return;
        }
    }
}

/// A network as its records tell it: each member admitted by an earlier one, then what else happened, by `picks`.
fn honest(members: u8, picks: &[(u8, u8)]) -> Vec<Item> {
    let mut items: Vec<Item> = (1..=members).map(|n| Admission::of(n, (n / 2).max(1)).item()).collect();
    items.extend((1..=members).map(|n| announcement(n, u64::from(n), &ModelCrypto)));
    for (count, (what, n)) in picks.iter().enumerate() {
        let (count, n) = (count as u8, n % members + 1);
        items.push(match what % 8 {
            0 => revoked(n, 1 + count % 2),
            1 => left(n),
            2 if n.is_multiple_of(3) => expired(n, u64::from(n), 1),
            2 => announcement(n, 100, &ModelCrypto),
            3 => announcement(n, 10 + u64::from(count), &ModelCrypto),
            4 => rename(n, count, u64::from(count), 1),
            5 => {
                // A new incarnation, under the same name and address and another token.
                let old = Admission::of(n, (n / 2).max(1)).settle(&ModelCrypto);
                let again =
                    Admission { token: 100 + n, replaces: Some(old.id()), ..Admission::of(100 + n, 1) };
                Admission { name: n, address: n, uses: 1, ..again }.item()
            }
            6 => owner_change(OwnerChange::Add(owner(10 + count, &format!("10.0.{}.0/24", 160 + count))), 2),
            _ => tombstone(
                End::Token(Admission::of(n, 1).settle(&ModelCrypto).grant.id),
                &owner_secret(1),
                &ModelCrypto,
            ),
        });
    }
    items
}

/// Anything at all: collisions of names, addresses and tokens, strangers' signatures, claims of any reach.
fn anything() -> impl Strategy<Value = Item> {
    let n = || 1u8..7;
    let admission = (n(), 1u8..4, n(), n(), n(), n(), 0u16..4, 0u8..12).prop_map(
        |(n, owner, token, name, address, admitter, reach, extra)| {
            let plain = Admission::of(n, admitter);
            Admission {
                owner,
                token: if extra % 2 == 0 { token } else { plain.token },
                name,
                address: if extra % 3 == 0 { address } else { name },
                reach,
                uses: if extra == 7 { 2 } else { 1 },
                replaces: (extra > 8).then(|| Admission::of(token, 1).settle(&ModelCrypto).id()),
                ..plain
            }
            .item()
        },
    );
    prop_oneof![
        4 => admission,
        2 => (n(), n()).prop_map(|(n, admitter)| Admission::of(n, admitter).item()),
        2 => (n(), 0u64..6).prop_map(|(n, sequence)| announcement(n, sequence, &ModelCrypto)),
        1 => (n(), 1u8..4).prop_map(|(n, by)| revoked(n, by)),
        1 => n().prop_map(left),
        1 => (n(), 0u64..6, n()).prop_map(|(n, sequence, by)| expired(n, sequence, by)),
        1 => (n(), n(), 0u64..4, 1u8..4).prop_map(|(n, to, serial, by)| rename(n, to, serial, by)),
        1 => (1u8..5, 1u8..4, any::<bool>()).prop_map(|(n, by, void)| {
            let key = owner(n, "10.0.0.0/24").key;
            owner_change(OwnerChange::Remove { owner: key, void }, by)
        }),
        1 => (3u8..5, 1u8..4).prop_map(|(n, by)| {
            owner_change(OwnerChange::Add(owner(n, &format!("10.0.{}.0/24", 128 + n))), by)
        }),
    ]
}

proptest! {
    #[test]
    fn the_order_of_honest_records_does_not_matter(
        members in 2u8..12,
        picks in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8),
        order in proptest::collection::vec(any::<u64>(), 64),
    ) {
        let items = honest(members, &picks);
        let mut shuffled: Vec<_> = items.iter().cloned().zip(order).collect();
        shuffled.sort_by_key(|(_, order)| *order);
        let shuffled: Vec<_> = shuffled.into_iter().map(|(item, _)| item).collect();
        prop_assert_eq!(shuffled.len(), items.len());
        // As who begins takes them from the others. Who stays by what they sign is in `hostile`.
        let (mut one, mut two) = (roster(), roster());
        one.trust(true);
        two.trust(true);
        apply_all(&mut one, &items);
        apply_all(&mut two, &shuffled);
        prop_assert_eq!(view(&one), view(&two));
        prop_assert!(one.problems().is_empty(), "{:?}", one.problems());
    }

    #[test]
    fn the_short_way_concludes_what_a_look_at_everybody_does(
        items in proptest::collection::vec(anything(), 1..40),
    ) {
        let mut roster = roster();
        for item in items {
            roster.apply(item);
            let anew = resolved_anew(&roster);
            prop_assert_eq!(view(&roster), view(&anew));
            prop_assert_eq!(&roster.index.names, &anew.index.names);
            prop_assert_eq!(&roster.index.addresses, &anew.index.addresses);
            prop_assert_eq!(&roster.index.claimed, &anew.index.claimed);
            prop_assert_eq!(&roster.index.uses, &anew.index.uses);
            prop_assert_eq!(&roster.index.lengths, &anew.index.lengths);
            prop_assert_eq!(&roster.index.barred, &anew.index.barred);
        }
    }

    /// Names and addresses belong to one member each, and no member has two records.
    #[test]
    fn no_two_installed_members_collide(items in proptest::collection::vec(anything(), 1..40)) {
        let mut roster = roster();
        apply_all(&mut roster, &items);
        let names: BTreeSet<_> = roster.members().map(|member| roster.name(member).clone()).collect();
        let addresses: BTreeSet<_> = roster.members().map(|member| roster.addresses(member).0).collect();
        prop_assert_eq!(names.len(), roster.members().count());
        prop_assert_eq!(addresses.len(), roster.members().count());
    }

    /// Whoever merely comes along with a token of its own evicts nobody.
    #[test]
    fn nobody_is_evicted_by_a_newcomer(
        first in proptest::collection::vec(anything(), 1..20),
        n in 50u8..60,
        name in 1u8..7,
        admitter in 1u8..7,
        reach in any::<u16>(),
    ) {
        let mut roster = roster();
        apply_all(&mut roster, &first);
        let before = roster.installed.clone();
        let newcomer = Admission { name, address: name, reach, ..Admission::of(n, admitter) };
        roster.apply(Admission { token: n, uses: 1, ..newcomer }.item());
        prop_assert!(before.is_subset(&roster.installed));
    }

    /// Who holds a spent token of one name and admits itself gets nowhere, whatever it claims.
    #[test]
    fn who_replays_a_token_and_admits_itself_evicts_nobody(
        first_admitter in 1u8..3,
        n in 50u8..60,
        reach in any::<u16>(),
    ) {
        let mut roster = roster();
        apply_all(&mut roster, &[Admission::of(1, 1).item(), Admission::of(2, first_admitter).item()]);
        prop_assert!(roster.is_member(&identity(2)));
        let thief = Admission { n, admitter: n, reach, ..Admission::of(2, n) };
        roster.apply(thief.item());
        prop_assert!(roster.is_member(&identity(2)));
        prop_assert!(!roster.is_member(&identity(n)));
    }

    #[test]
    fn the_dead_stay_dead(
        members in 2u8..10,
        target in any::<u8>(),
        how in 0u8..3,
        later in proptest::collection::vec(anything(), 0..30),
    ) {
        let mut roster = roster();
        apply_all(&mut roster, &honest(members, &[]));
        roster.apply(announcement(3, 50, &ModelCrypto));
        let n = target % members + 1;
        let (end, n) = match how {
            0 => (revoked(n, 1), n),
            1 => (left(n), n),
            _ => (expired(3, 50, 1), 3),
        };
        prop_assume!(members >= 3 || how < 2);
        // Nobody's key is stolen here: that is the one thing that makes a revocation void.
        let is_void = |item: &Item| matches!(item, Item::OwnerChange(item)
            if matches!(item.change, OwnerChange::Remove { void: true, .. }));
        prop_assert_eq!(roster.apply(end), Applied::New);
        for item in later.into_iter().filter(|item| !is_void(item)) {
            roster.apply(item);
            prop_assert!(!roster.is_member(&identity(n)));
        }
        // Only who expired comes back, by saying that it is there.
        let newer = announcement(n, 51, &ModelCrypto);
        roster.apply(newer);
        prop_assert!(how == 2 || !roster.is_member(&identity(n)));
    }

    #[test]
    fn what_is_repeated_or_stale_changes_nothing(
        members in 2u8..10,
        picks in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8),
    ) {
        let items = honest(members, &picks);
        let mut roster = roster();
        apply_all(&mut roster, &items);
        let before = view(&roster);
        let stale = (1..=members).map(|n| announcement(n, 0, &ModelCrypto));
        for item in items.iter().cloned().chain(stale) {
            prop_assert!(roster.apply(item) != Applied::New);
        }
        prop_assert!(before == view(&roster));
    }
}

/// One item of every kind, each of which changes the roster when it is genuine.
fn one_of_each(crypto: &dyn crate::crypto::Crypto) -> Vec<Item> {
    let public = |secret: &Secret| crypto.signing_public(secret);
    let member = IdentityKey(public(&identity_secret(3)));
    let junior = Owner { key: OwnerKey(public(&owner_secret(3))), range: "10.0.160.0/24".parse().unwrap() };
    let change = OwnerChange::Add(junior).seal(&NETWORK, [0; 8], &[&owner_secret(2)], crypto).unwrap();
    let rename = Rename { member, name: "other".parse().unwrap(), serial: 1 };
    let ends = [
        (End::Expired { identity: member, sequence: 9 }, identity_secret(1)),
        (End::Left { identity: member, instance: [3; 8] }, identity_secret(3)),
        (End::Revoked { identity: member, keep_token: false }, owner_secret(1)),
    ];
    let mut items = vec![
        Item::Settled(Box::new(Admission::of(4, 1).settle(crypto))),
        announcement(3, 9, crypto),
        Item::Rename(rename.seal(&NETWORK, &owner_secret(1), crypto).unwrap()),
        Item::OwnerChange(change),
    ];
    items.extend(ends.map(|(end, signer)| tombstone(end, &signer, crypto)));
    items
}

/// A roster of two members, under `crypto`.
fn small(crypto: &dyn crate::crypto::Crypto) -> Roster {
    let key = |n: u8| OwnerKey(crypto.signing_public(&owner_secret(n)));
    let genesis = Genesis {
        name: "home".parse().unwrap(),
        range: "10.0.0.0/16".parse().unwrap(),
        owners: vec![
            Owner { key: key(1), range: "10.0.0.0/17".parse().unwrap() },
            Owner { key: key(2), range: "10.0.128.0/17".parse().unwrap() },
        ],
        nonce: [0; 16],
    };
    let mut roster = Roster::new(genesis, NETWORK);
    for (n, admitter) in [(1, 1), (3, 1)] {
        let settled = Admission::of(n, admitter).settle(crypto);
        assert_eq!(roster.apply(Item::Settled(Box::new(settled))), Applied::New);
    }
    roster
}

#[test]
fn every_kind_that_is_genuine_is_taken() {
    let mut roster = small(&RealCrypto);
    for item in one_of_each(&RealCrypto) {
        let opened = Item::open(&item.to_bytes(), &NETWORK, &RealCrypto).unwrap();
        assert_eq!(opened, item);
        assert_eq!(roster.apply(opened), Applied::New, "{item:?}");
    }
}

#[test]
fn no_kind_survives_damage_truncation_or_another_network() {
    for (item, step) in one_of_each(&RealCrypto).iter().zip([29, 11, 11, 11, 11, 11, 11]) {
        let bytes = item.to_bytes();
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Item::open(&damaged, &NETWORK, &RealCrypto).is_err(), "bit {bit} of {item:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Item::open(&longer, &NETWORK, &RealCrypto), Err(RecordError::Malformed));
        assert!(Item::open(&bytes, &NetworkId([2; 32]), &RealCrypto).is_err());
    }
    // The model is fast enough for every length.
    for item in one_of_each(&ModelCrypto) {
        let bytes = item.to_bytes();
        for len in 0..bytes.len() {
            assert!(Item::open(&bytes[..len], &NETWORK, &ModelCrypto).is_err(), "{len} bytes of {item:?}");
        }
    }
}

/// The body of each kind, signed by a stranger instead of by those with the authority.
#[test]
fn what_strangers_sign_changes_nothing() {
    let stranger = secret(b's', 0);
    let crypto = &ModelCrypto;
    let sign = |envelope: &Envelope, secrets: &[&Secret]| {
        Envelope::seal(envelope.kind(), &NETWORK, envelope.body(), secrets, crypto).unwrap()
    };
    let mut roster = small(crypto);
    let before = view(&roster);
    for item in one_of_each(crypto) {
        let envelopes = match &item {
            Item::Settled(settled) => {
                let Settled { grant, member, receipt } = &**settled;
                // A stranger's grant; a stranger's token; a receipt by nobody that is a member.
                let by_token = sign(&member.envelope, &[&stranger, &identity_secret(4)]);
                [
                    [&sign(&grant.envelope, &[&stranger]), &member.envelope, &receipt.envelope],
                    [&grant.envelope, &by_token, &receipt.envelope],
                    [&grant.envelope, &member.envelope, &sign(&receipt.envelope, &[&stranger])],
                ]
                .map(|parts| parts.map(|part| part.bytes().to_vec()).concat())
                .to_vec()
            }
            Item::Announcement(item) => vec![sign(&item.envelope, &[&stranger]).bytes().to_vec()],
            Item::Tombstone(item) => vec![sign(&item.envelope, &[&stranger]).bytes().to_vec()],
            Item::OwnerChange(item) => vec![sign(&item.envelope, &[&stranger]).bytes().to_vec()],
            Item::Rename(item) => vec![sign(&item.envelope, &[&stranger]).bytes().to_vec()],
        };
        for bytes in envelopes {
            if let Ok(forged) = Item::open(&bytes, &NETWORK, crypto) {
                let applied = roster.apply(forged);
                assert!(matches!(applied, Applied::Refused(_) | Applied::Pending), "{applied:?} {item:?}");
            }
            assert!(view(&roster) == before, "{item:?}");
        }
    }
}

#[test]
fn members_have_no_say_in_what_is_the_owners() {
    let mut roster = small(&ModelCrypto);
    let before = view(&roster);
    let revocation = End::Revoked { identity: identity(3), keep_token: false };
    let renaming = Rename { member: identity(3), name: "other".parse().unwrap(), serial: 1 };
    let by_member = [
        tombstone(revocation, &identity_secret(1), &ModelCrypto),
        Item::Rename(renaming.seal(&NETWORK, &identity_secret(1), &ModelCrypto).unwrap()),
        // The owner of the other half of the addresses, and a member that admits itself from a pool.
        Admission { owner: 2, ..Admission::of(4, 1) }.item(),
        Admission { uses: 2, ..Admission::of(4, 4) }.item(),
        // Who is not ephemeral does not expire.
        expired(1, 9, 3),
    ];
    for item in by_member {
        assert!(matches!(roster.apply(item.clone()), Applied::Refused(_)), "{item:?}");
    }
    assert!(view(&roster) == before);
}

#[test]
fn an_envelope_of_another_kind_is_no_item() {
    let settled = Admission::of(4, 1).settle(&ModelCrypto);
    for envelope in [&settled.member.envelope, &settled.receipt.envelope] {
        assert_eq!(Item::open(envelope.bytes(), &NETWORK, &ModelCrypto), Err(RecordError::Kind));
    }
    assert_ne!(settled.grant.envelope.kind(), Kind::Member);
}
