//! What one hostile member, or the holder of somebody's token, tries, and what it must not achieve.

use super::*;

/// A member of a pool of two, whose token is that of all others of it.
fn of_pool(n: u8, admitter: u8) -> Admission {
    Admission { token: 200, uses: 2, ..Admission::of(n, admitter) }
}

/// One that takes the place, name and address of member 2, as an owner granted.
fn heir(n: u8, old: &Settled) -> Admission {
    Admission { n, token: n, replaces: Some(old.id()), ..Admission::of(2, 1) }
}

#[test]
fn a_member_of_a_pool_cannot_outvote_the_others_with_identities_of_its_own() {
    let mut roster = roster();
    let (honest, hostile) = (of_pool(10, 1), of_pool(11, 1));
    apply_all(&mut roster, &[Admission::of(1, 1).item(), honest.item(), hostile.item()]);
    // It knows the token, and vouches for whom it likes, as often as it likes, with any reach.
    for n in 20..40 {
        roster.apply(Admission { reach: u16::MAX, ..of_pool(n, 11) }.item());
    }
    assert!(roster.is_member(&identity(10)));
    assert_eq!(roster.members().count(), 3);
}

#[test]
fn a_member_of_a_pool_cannot_talk_the_others_down() {
    let mut roster = roster();
    apply_all(&mut roster, &[Admission::of(1, 1).item(), of_pool(10, 1).item(), of_pool(11, 1).item()]);
    // It admits the honest one again, and then identities of its own that stand no worse.
    let again = Admission { reach: u16::MAX, ..of_pool(10, 11) }.item();
    assert_eq!(roster.apply(again), Applied::Known);
    for n in 20..40 {
        roster.apply(Admission { reach: u16::MAX, ..of_pool(n, 11) }.item());
    }
    assert!(roster.is_member(&identity(10)));
}

#[test]
fn who_stole_a_token_does_not_come_in_when_its_owner_goes() {
    for end in [revoked(2, 1), left(2)] {
        let mut roster = roster();
        // Both used the token of member 2 while the network was split; 2 was admitted where most members were.
        let thief = Admission { n: 50, ..Admission::of(2, 1) };
        let robbed = Admission { reach: 9, ..Admission::of(2, 1) };
        apply_all(&mut roster, &[Admission::of(1, 1).item(), robbed.item(), thief.item()]);
        assert!(roster.is_member(&identity(2)));
        apply_all(&mut roster, &[end]);
        assert!(!roster.is_member(&identity(2)));
        assert!(!roster.is_member(&identity(50)), "{:?}", roster.status(&identity(50)));
    }
}

#[test]
fn an_owner_can_decide_for_the_one_that_was_put_behind() {
    let mut roster = roster();
    let thief = Admission { n: 50, reach: 9, ..Admission::of(2, 1) };
    apply_all(&mut roster, &[Admission::of(1, 1).item(), Admission::of(2, 1).item(), thief.item()]);
    assert_eq!(roster.status(&identity(2)), Some(&Status::Overused));
    let end = End::Revoked { identity: identity(50), keep_token: true };
    apply_all(&mut roster, &[tombstone(end, &owner_secret(1), &ModelCrypto)]);
    assert!(roster.is_member(&identity(2)));
}

/// Whichever identity is smaller: it can be chosen.
#[test]
fn a_replacement_gets_the_name_before_a_thief_and_before_whoever_waits_for_it() {
    for (thief, n) in [(50, 60), (60, 50)] {
        for token in [2, 99] {
            let mut roster = roster();
            let robbed = Admission { reach: 9, ..Admission::of(2, 1) };
            let old = robbed.settle(&ModelCrypto);
            // One with the same token, or with another for the same name.
            let thief_record = Admission { n: thief, token, ..Admission::of(2, 1) }.item();
            apply_all(&mut roster, &[Admission::of(1, 1).item(), robbed.item(), thief_record]);
            assert!(roster.is_member(&identity(2)));
            apply_all(&mut roster, &[heir(n, &old).item()]);
            assert!(roster.is_member(&identity(n)), "{:?}", roster.status(&identity(n)));
            assert!(!roster.is_member(&identity(thief)), "{:?}", roster.status(&identity(thief)));
        }
    }
}

#[test]
fn the_end_of_a_replacement_does_not_bring_back_what_it_replaced() {
    let mut roster = roster();
    let old = Admission::of(2, 1);
    let heir = of_pool(50, 1);
    let heir = Admission { replaces: Some(old.settle(&ModelCrypto).id()), ..heir };
    apply_all(&mut roster, &[Admission::of(1, 1).item(), old.item(), heir.item()]);
    apply_all(&mut roster, &[announcement(50, 1, &ModelCrypto), expired(50, 1, 1)]);
    assert_eq!(roster.status(&identity(50)), Some(&Status::Expired));
    assert_eq!(roster.status(&identity(2)), Some(&Status::Replaced { by: identity(50) }));
}

#[test]
fn nobody_lets_an_ephemeral_member_go_for_announcements_that_it_never_made() {
    let mut roster = roster();
    apply_all(&mut roster, &[Admission::of(1, 1).item(), Admission::of(3, 1).item()]);
    apply_all(&mut roster, &[announcement(3, 5, &ModelCrypto)]);
    for sequence in [6, u64::MAX] {
        assert_eq!(roster.apply(expired(3, sequence, 1)), Applied::Pending);
        assert!(roster.is_member(&identity(3)));
    }
    assert_eq!(roster.apply(expired(3, 4, 1)), Applied::Known);
    assert_eq!(roster.apply(expired(3, 5, 1)), Applied::New);
    assert!(!roster.is_member(&identity(3)));
    // It is back, and what let it go means nothing any more.
    apply_all(&mut roster, &[announcement(3, 6, &ModelCrypto)]);
    assert!(roster.is_member(&identity(3)));
    assert_eq!(roster.tombstones().count(), 0);
}

#[test]
fn one_member_fills_no_memory_with_tombstones() {
    let leaves = |instance: u8| {
        let end = End::Left { identity: identity(3), instance: [instance; 8] };
        tombstone(end, &identity_secret(3), &ModelCrypto)
    };
    let lets_go = |time: u64| {
        let end = End::Expired { identity: identity(6), sequence: 0 };
        Item::Tombstone(Tombstone { end, time }.seal(&NETWORK, &identity_secret(3), &ModelCrypto).unwrap())
    };
    let members = [Admission::of(1, 1).item(), Admission::of(3, 1).item(), Admission::of(6, 1).item()];
    let flood: Vec<_> = (0..50).flat_map(|n| [leaves(n), lets_go(u64::from(n))]).collect();
    let (mut one, mut two) = (roster(), roster());
    apply_all(&mut one, &members);
    apply_all(&mut two, &members);
    for item in &flood {
        one.apply(item.clone());
    }
    for item in flood.iter().rev() {
        two.apply(item.clone());
    }
    assert_eq!(one.tombstones().count(), 2);
    // And all keep the same ones.
    assert_eq!(view(&one), view(&two));
}

/// Claimants of the token of member 2, by whoever has it, from `n` on.
fn claimants(n: u8, count: u8, admitter: u8) -> Vec<Item> {
    let claim =
        |n| Admission { token: 2, name: 2, address: 2, reach: u16::from(n), ..Admission::of(n, admitter) };
    (n..n + count).map(|n| Admission { uses: 1, ..claim(n) }.item()).collect()
}

#[test]
fn a_spent_token_fills_no_memory_and_all_keep_the_same_claimants() {
    let first = Admission { reach: 9000, ..Admission::of(2, 1) }.item();
    let known = [Admission::of(1, 1).item(), first, Admission::of(4, 1).item()];
    let (some, others) = (claimants(20, 60, 4), claimants(70, 60, 4));
    let (mut one, mut two) = (roster(), roster());
    for (roster, claimants) in [(&mut one, &some), (&mut two, &others)] {
        apply_all(roster, &known);
        apply_all(roster, claimants);
        assert!(roster.item_count() <= 3 + 1 + bounds::MAX_BEYOND, "{}", roster.item_count());
        assert!(roster.is_member(&identity(2)));
    }
    exchange(&mut one, &mut two);
    assert_eq!(view(&one), view(&two));
    let all: Vec<_> = known.into_iter().chain(others).chain(some).collect();
    let mut three = roster();
    apply_all(&mut three, &all);
    assert_eq!(view(&one), view(&three));
    // What is forgotten is not passed on.
    assert_eq!(three.apply(all[3].clone()), Applied::Known);
}

#[test]
fn a_claimant_that_let_somebody_in_is_kept_and_what_others_said_of_it_goes_with_it() {
    let mut roster = roster();
    let known = [Admission::of(1, 1).item(), Admission { reach: 9000, ..Admission::of(2, 1) }.item()];
    apply_all(&mut roster, &known);
    let claims = claimants(20, 60, 1);
    // The worst of all, which is forgotten otherwise; it has admitted one by way of another.
    apply_all(&mut roster, &claims[..2]);
    apply_all(
        &mut roster,
        &[Admission::of(5, 20).item(), left(20), left(21), announcement(21, 3, &ModelCrypto)],
    );
    apply_all(&mut roster, &claims);
    assert!(roster.status(&identity(20)).is_some() && roster.is_member(&identity(5)));
    assert!(roster.status(&identity(21)).is_none());
    assert_eq!(roster.tombstones().count(), 1);
    assert!(roster.announcement(&identity(21)).is_none());
    assert_eq!(resolved_anew(&roster).status, roster.status);
}

/// A member of the pool, whose token expires at `not_after`, or another one that was minted at `minted`.
fn minted(n: u8, minted: u64, not_after: u64) -> Item {
    let token = secret(b't', n);
    let settled = of_pool(n, 1).settle(&ModelCrypto);
    let grant = Grant {
        minted,
        not_after,
        token: TokenKey(ModelCrypto.signing_public(&token)),
        ..settled.grant.grant
    };
    let grant = grant.seal(&NETWORK, &owner_secret(1), &ModelCrypto).unwrap();
    let member = Member { grant: grant.id, ..settled.member.member };
    let member = member.seal(&NETWORK, &token, &identity_secret(n), &ModelCrypto).unwrap();
    let receipt = Receipt { member: member.id, nonce: [0; 16], time: 0, reach: 1 };
    let receipt = receipt.seal(&NETWORK, &identity_secret(1), &ModelCrypto).unwrap();
    Item::Settled(Box::new(Settled { grant, member, receipt }))
}

#[test]
fn ephemeral_members_that_ended_are_forgotten_a_week_after_their_token() {
    const MINTED: u64 = 1_800_000_000;
    let ended = [
        Admission::of(1, 1).item(),
        minted(30, MINTED, MINTED + 60),
        minted(33, MINTED, MINTED + 60),
        minted(36, MINTED, MINTED + 60),
        announcement(30, 7, &ModelCrypto),
        expired(30, 7, 1),
        left(33),
    ];
    let (early, late) = (MINTED + 60 + bounds::FORGET_AFTER, MINTED + 61 + bounds::FORGET_AFTER);
    let mut one = roster();
    apply_all(&mut one, &ended);
    apply_all(&mut one, &[minted(39, early, early + 60)]);
    assert_eq!(one.status(&identity(30)), Some(&Status::Expired));
    apply_all(&mut one, &[minted(42, late, late + 60)]);
    for gone in [30, 33] {
        assert!(one.status(&identity(gone)).is_none());
    }
    assert!(one.is_member(&identity(36)), "it is there");
    assert_eq!((one.tombstones().count(), one.item_count()), (0, 4));
    // Whatever came first.
    let mut two = roster();
    apply_all(
        &mut two,
        &[Admission::of(1, 1).item(), minted(42, late, late + 60), minted(39, early, early + 60)],
    );
    for item in &ended {
        two.apply(item.clone());
    }
    assert_eq!(view(&one), view(&two));
}

#[test]
fn a_stolen_owner_key_pins_no_name() {
    let mut roster = roster();
    apply_all(&mut roster, &[Admission::of(1, 1).item(), rename(1, 7, 1, 1), rename(1, 8, u64::MAX, 2)]);
    assert_eq!(roster.name(roster.settled(&identity(1)).unwrap()).as_str(), "new-8");
    let stolen = OwnerChange::Remove { owner: owner(2, "10.0.128.0/17").key, void: true };
    apply_all(&mut roster, &[owner_change(stolen, 1)]);
    let name = |roster: &Roster| roster.name(roster.settled(&identity(1)).unwrap()).as_str().to_owned();
    assert_eq!(name(&roster), "new-7", "what the thief displaced is there again");
    apply_all(&mut roster, &[rename(1, 9, 2, 1)]);
    assert_eq!(name(&roster), "new-9");
}

#[test]
fn names_for_those_who_are_unknown_are_not_kept() {
    let mut roster = roster();
    assert_eq!(roster.apply(rename(9, 1, 1, 1)), Applied::Pending);
    assert_eq!(roster.digests().count(), 0);
}

/// Gives each of two all that the other has, until neither learns anything.
fn exchange(one: &mut Roster, two: &mut Roster) {
    loop {
        let (ones, twos): (Vec<_>, Vec<_>) = (one.items().collect(), two.items().collect());
        let new = twos.into_iter().filter(|item| one.apply(item.clone()) == Applied::New).count()
            + ones.into_iter().filter(|item| two.apply(item.clone()) == Applied::New).count();
        if new == 0 {
            return;
        }
    }
}

/// Admits those once more, by `n`, who depend on the word of a barred member.
fn answer_for_others(roster: &mut Roster, n: u8) {
    let unproven: Vec<_> = roster.unproven().cloned().collect();
    for settled in unproven {
        let receipt =
            Receipt { member: settled.id(), nonce: [n; 16], time: 0, reach: settled.receipt.receipt.reach };
        let receipt = receipt.seal(&NETWORK, &identity_secret(n), &ModelCrypto).unwrap();
        let again = Settled { receipt, ..settled };
        if roster.helps(&again) && again.identity() != identity(n) {
            roster.apply(Item::Settled(Box::new(again)));
        }
    }
}

#[test]
fn the_word_of_one_that_was_revoked_or_left_lets_nobody_in() {
    for end in [revoked(2, 1), left(2)] {
        let mut roster = roster();
        apply_all(&mut roster, &[Admission::of(1, 1).item(), of_pool(2, 1).item(), end]);
        let before = view(&roster);
        // With the rest of its own token, with that of another, and by way of one that it made up.
        let hostile = [of_pool(50, 2), Admission::of(51, 2), Admission::of(52, 51)];
        for admission in hostile.iter().chain(&hostile) {
            assert_eq!(roster.apply(admission.item()), Applied::Pending);
        }
        assert!(view(&roster) == before);
    }
}

#[test]
fn two_that_admitted_each_other_are_nobody() {
    let mut roster = roster();
    apply_all(&mut roster, &[Admission::of(1, 1).item()]);
    let before = view(&roster);
    apply_all(&mut roster, &[of_pool(50, 52).item(), of_pool(52, 53).item(), of_pool(53, 50).item()]);
    assert!(view(&roster) == before);
    // Nor does it help them to hang on to one that is known, and whose word counts no more.
    apply_all(&mut roster, &[Admission::of(2, 1).item(), revoked(2, 1)]);
    apply_all(&mut roster, &[of_pool(50, 52).item(), of_pool(52, 2).item()]);
    assert_eq!(roster.members().count(), 1);
}

/// One part of a network revoked who began it and the members answer for each other; then it turns out that the key of the
/// owner that did so was stolen. The other part has not heard of any of them.
#[test]
fn a_circle_in_which_one_could_have_admitted_itself_is_taken_up_beside_a_founder() {
    let known = [Admission::of(1, 1).item(), Admission::of(2, 1).item()];
    let circle = [Admission::of(4, 52).item(), of_pool(52, 4).item(), Admission::of(5, 4).item()];
    for first in 0..circle.len() {
        let mut roster = roster();
        apply_all(&mut roster, &known);
        let mut told = circle.clone();
        told.rotate_left(first);
        apply_all(&mut roster, &told);
        assert_eq!(roster.members().count(), 5);
        assert_eq!(roster.waiting().count(), 0);
    }
    // Whoever hangs on to the circle does not make one of its own into one that counts.
    let mut roster = roster();
    apply_all(&mut roster, &known);
    apply_all(&mut roster, &[Admission::of(5, 50).item(), of_pool(50, 52).item(), of_pool(52, 50).item()]);
    assert_eq!(roster.members().count(), 2);
}

#[test]
fn who_was_let_in_before_its_admitter_was_barred_stays_and_comes_to_be_known_to_all() {
    let known = [Admission::of(1, 1).item(), Admission::of(2, 1).item(), Admission::of(4, 1).item()];
    let late = [Admission::of(5, 2).item(), Admission::of(7, 5).item()];
    let (mut one, mut two) = (roster(), roster());
    apply_all(&mut one, &known);
    apply_all(&mut two, &known);
    apply_all(&mut one, &late);
    apply_all(&mut one, &[revoked(2, 1)]);
    apply_all(&mut two, &[revoked(2, 1)]);
    exchange(&mut one, &mut two);
    assert!(one.is_member(&identity(5)) && one.is_member(&identity(7)));
    assert!(!two.is_member(&identity(5)), "nobody answers for it yet");
    let unproven: Vec<_> = one.unproven().map(Settled::identity).collect();
    assert_eq!(unproven, [identity(5)], "and whoever depends on it is helped with it");
    answer_for_others(&mut one, 4);
    exchange(&mut one, &mut two);
    assert!(two.is_member(&identity(5)) && two.is_member(&identity(7)));
    assert_eq!(view(&one), view(&two));
    assert_eq!(one.unproven().count(), 0);
}

#[test]
fn nobody_is_evicted_when_the_one_that_began_the_network_is_revoked() {
    let members: Vec<_> =
        [(1, 1), (2, 1), (4, 1), (5, 2)].map(|(n, by)| Admission::of(n, by).item()).to_vec();
    let mut one = roster();
    apply_all(&mut one, &members);
    apply_all(&mut one, &[revoked(1, 1)]);
    assert_eq!(one.members().count(), 3);
    answer_for_others(&mut one, 2);
    answer_for_others(&mut one, 4);
    assert_eq!(one.unproven().count(), 2, "no chain leads any more");
    let admitters = one.members().map(|settled| settled.receipt.admitter);
    assert!(admitters.into_iter().all(|admitter| !one.is_barred(&admitter)));
    // Who begins now believes whom it talks to, and others know everybody.
    let mut two = roster();
    two.trust(true);
    exchange(&mut two, &mut one);
    assert_eq!(view(&one), view(&two));
    // Whoever is admitted by one of them is known to all as ever.
    apply_all(&mut one, &[Admission::of(8, 5).item()]);
    assert!(one.is_member(&identity(8)));
}

#[test]
fn where_no_founder_is_left_members_that_admitted_each_other_are_taken_up() {
    let mut roster = roster();
    apply_all(&mut roster, &[Admission::of(1, 1).item(), Admission::of(2, 1).item(), revoked(1, 1)]);
    apply_all(&mut roster, &[Admission::of(4, 5).item(), Admission::of(5, 4).item()]);
    assert!(roster.is_member(&identity(4)) && roster.is_member(&identity(5)));
    // The word of the founder itself counts for nobody new all the same.
    assert_eq!(roster.apply(Admission::of(7, 1).item()), Applied::Pending);
}

/// Each node heard of two of four admissions, which would be a circle if all were kept by their reach.
#[test]
fn admissions_in_a_circle_are_resolved_in_the_same_way_by_all() {
    for reach in [[9, 1, 1, 9], [1, 9, 9, 1], [9, 9, 1, 1], [1, 1, 9, 9]] {
        let of = |n, by, at: usize| Admission { reach: reach[at], ..Admission::of(n, by) }.item();
        let known = [Admission::of(1, 1).item(), Admission::of(2, 1).item()];
        let (mut one, mut two) = (roster(), roster());
        for roster in [&mut one, &mut two] {
            apply_all(roster, &known);
        }
        apply_all(&mut one, &[of(4, 1, 0), of(5, 4, 1)]);
        apply_all(&mut two, &[of(5, 2, 2), of(4, 5, 3)]);
        exchange(&mut one, &mut two);
        assert_eq!(view(&one), view(&two));
        assert_eq!(one.unproven().count() + two.unproven().count(), 0);
    }
}

proptest! {
    /// Whoever is revoked and whatever comes first: when those with a chain that leads have answered for the others, all
    /// know the same, and whoever anybody knew before it heard of the end of its admitter.
    #[test]
    fn all_come_to_know_the_same_whoever_is_revoked(
        admitters in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u16..4), 2..10),
        ends in proptest::collection::vec(any::<u8>(), 1..4),
        order in proptest::collection::vec(any::<(u64, u64)>(), 40),
    ) {
        let mut items = vec![Admission::of(1, 1).item()];
        for (count, (first, second, reach)) in admitters.iter().enumerate() {
            let n = count as u8 + 2;
            // Most are admitted twice.
            items.push(Admission { reach: *reach, ..Admission::of(n, first % (n - 1) + 1) }.item());
            items.push(Admission::of(n, second % (n - 1) + 1).item());
        }
        let members = admitters.len() as u8 + 1;
        items.extend(ends.iter().map(|n| revoked(n % (members - 1) + 2, 1)));
        let sorted = |key: fn(&(u64, u64)) -> u64| {
            let mut items: Vec<_> = items.iter().cloned().zip(&order).collect();
            items.sort_by_key(|(_, order)| key(order));
            items.into_iter().map(|(item, _)| item).collect::<Vec<_>>()
        };
        let (mut one, mut two) = (roster(), roster());
        for item in sorted(|(first, _)| *first) {
            one.apply(item);
        }
        for item in sorted(|(_, second)| *second) {
            two.apply(item);
        }
        let knew: BTreeSet<_> = one.statuses().chain(two.statuses()).map(|(identity, _)| *identity).collect();
        for _ in 0..members {
            exchange(&mut one, &mut two);
            answer_for_others(&mut one, 1);
            answer_for_others(&mut two, 1);
        }
        exchange(&mut one, &mut two);
        prop_assert_eq!(view(&one), view(&two));
        prop_assert_eq!(one.unproven().count(), 0);
        prop_assert!(knew.iter().all(|identity| one.status(identity).is_some()));
    }
}
