//! What members with bad intent say, and how little of it counts.

use super::*;

/// What a removed member, which has the old hello keys, could answer to somebody who calls: `items`.
fn answered_by(keys: &HelloKeys, caller: &mut Membership, items: Vec<Vec<u8>>, now: Now) {
    let hello = hello_of(caller);
    let network = *caller.roster().network();
    let received = keys.open(&hello, &network, &ModelCrypto).unwrap();
    let receipt = Box::new(caller.settled().unwrap().receipt.clone());
    let ground = HelloKey { epoch: 0, secret: Secret::new([91; 32]) };
    let reply = Reply::Admitted { receipt, keys: vec![ground], items };
    let reply = received.reply(&reply.encode(), &ModelCrypto).unwrap();
    assert!(caller.handle_hello(&reply, Via::Unicast, now).is_none());
}

#[test]
fn a_reply_brings_no_record_of_others_and_no_key() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut hostile = admit(3, &mut first, at(5));
    for other in [&mut second, &mut hostile] {
        meet(&mut first, other, at(6));
    }
    meet(&mut second, &mut hostile, at(7));
    let accomplice = admit_by_force(joining(4, at(8)), 203, at(8));
    // The second member was away when the third was removed, and calls for anybody.
    let saved = second.saved().unwrap();
    let mut second = Membership::resume(saved, [9; 8], [9; 32], at(100), &ModelCrypto).unwrap();
    outputs(&mut second);
    second.handle_timeout(at(102));
    let keys: Vec<_> = second.hello_keys().iter().cloned().collect();
    let mut removed = HelloKeys::default();
    keys.iter().for_each(|key| _ = removed.add(key.clone(), &ModelCrypto));
    let network = *second.roster().network();
    let own = hostile.settled().unwrap().to_bytes();
    let before: Vec<_> = second.roster().digests().collect();
    let items = vec![own, accomplice.to_bytes(), revocation(first.identity(), &network).to_bytes().to_vec()];
    answered_by(&removed, &mut second, items, at(102));
    assert!(second.roster().digests().eq(before));
    assert!(second.roster().status(&accomplice.identity()).is_none() && second.is_peer(first.identity()));
    assert!(second.hello_keys().iter().eq(keys.iter()));
}

/// A joiner, admitted by whoever has the secret `admitter`.
pub(super) fn admit_by_force(mut joiner: Membership, admitter: u8, now: Now) -> Settled {
    joiner.handle_timeout(now);
    let mut keys = HelloKeys::default();
    keys.add(HelloKey { epoch: 0, secret: FIRST_HELLO }, &ModelCrypto);
    let network = *joiner.roster().network();
    let received = keys.open(&hello_of(&mut joiner), &network, &ModelCrypto).unwrap();
    let request =
        Request::decode(&received.hello.content, &received.hello.signer, &network, &ModelCrypto).unwrap();
    let receipt = Receipt { member: request.member.id, nonce: [0; 16], time: 0, reach: 9 };
    let receipt = receipt.seal(&network, &Secret::new([admitter; 32]), &ModelCrypto).unwrap();
    Settled { grant: request.grant, member: request.member, receipt }
}

#[test]
fn whom_a_member_let_in_before_it_was_revoked_another_answers_for() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    meet(&mut first, &mut third, at(6));
    // Only the third hears of the fourth in time.
    let fourth = Item::Settled(Box::new(admit_by_force(joining(4, at(7)), 202, at(7)))).to_bytes();
    third.handle_control(*first.identity(), &Message::Items(vec![&fourth]).encode(), at(7));
    outputs(&mut third);
    let network = *first.roster().network();
    let end = revocation(second.identity(), &network);
    first.act(end.clone(), at(8));
    third.act(end, at(8));
    let member = |membership: &Membership| membership.roster().members().count();
    assert_eq!((member(&first), member(&third)), (2, 3));
    talk(&mut first, &mut third, at(8));
    assert_eq!(member(&first), 2, "the word of the second counts no more");
    for seconds in 9..60 {
        third.handle_timeout(at(seconds));
        first.handle_timeout(at(seconds));
        talk(&mut first, &mut third, at(seconds));
    }
    assert_eq!((member(&first), member(&third)), (3, 3));
    assert!(first.roster().digests().eq(third.roster().digests()));
}

/// A revoked member let `rival` in, of which only the third member hears. That one has installed it, and not itself.
/// Returned are the first and the third member after minutes with each other, and who the rival is.
fn with_rival(rival: Membership) -> (Membership, Membership, IdentityKey) {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let rival = admit_by_force(rival, 202, at(7));
    meet(&mut first, &mut second, at(8));
    let mut third = admit(3, &mut first, at(20));
    meet(&mut first, &mut third, at(21));
    let network = *first.roster().network();
    first.act(revocation(second.identity(), &network), at(22));
    outputs(&mut first);
    let item = Item::Settled(Box::new(rival.clone())).to_bytes();
    third.handle_control(*first.identity(), &Message::Items(vec![&item]).encode(), at(22));
    let saved = third.saved().unwrap();
    let saved = Saved { installed: vec![*first.identity(), *second.identity(), rival.identity()], ..saved };
    let mut third = Membership::resume(saved, [3; 8], [3; 32], at(22), &ModelCrypto).unwrap();
    third.act(revocation(second.identity(), &network), at(22));
    outputs(&mut third);
    assert!(!third.roster().is_member(third.identity()));
    assert!(third.roster().is_member(&rival.identity()));
    assert_eq!(first.roster().status(&rival.identity()), None);
    meet(&mut first, &mut third, at(23));
    assert_eq!(first.roster().status(&rival.identity()), None, "the word of the second counts no more");
    for seconds in 24..200 {
        third.handle_timeout(at(seconds));
        first.handle_timeout(at(seconds));
        talk(&mut first, &mut third, at(seconds));
    }
    assert!(first.roster().digests().eq(third.roster().digests()));
    (first, third, rival.identity())
}

#[test]
fn the_other_one_in_a_conflict_answers_if_nobody_else_knows_whom_a_revoked_member_let_in() {
    let same_address = |grant| Grant { addresses: "10.213.0.3/32".parse().unwrap(), ..grant };
    let (first, third, rival) = with_rival(joining_with(4, join_string(4, same_address), at(6)));
    // Each goes on with whom it installed first, until an owner decides.
    assert!(matches!(first.roster().status(&rival), Some(Status::Conflict { .. })));
    assert_eq!(third.roster().status(&rival), Some(&Status::Installed));
}

#[test]
fn who_is_put_behind_by_one_that_a_revoked_member_let_in_answers_if_nobody_else_knows_it() {
    let (first, third, rival) = with_rival(joining_with(4, join_string(3, |grant| grant), at(6)));
    // The word of the other holder of its token counts for little.
    for node in [&first, &third] {
        assert_eq!(node.roster().status(&rival), Some(&Status::Overused));
        assert!(node.roster().is_member(third.identity()));
    }
}

#[test]
fn a_member_that_shows_an_admission_by_a_revoked_one_is_met_all_the_same() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    meet(&mut first, &mut third, at(6));
    // The second hears that the first is revoked, and answers for the third, which does not hear of it.
    let network = *first.roster().network();
    second.act(revocation(first.identity(), &network), at(7));
    for seconds in 8..90 {
        second.handle_timeout(at(seconds));
    }
    let admitter = |roster: &Roster| roster.settled(third.identity()).map(|it| it.receipt.admitter);
    assert_eq!(admitter(second.roster()), Some(*second.identity()));
    assert_eq!(admitter(third.roster()), Some(*first.identity()));
    // It looks for it, and is answered with what the third knows of itself.
    outputs(&mut second);
    second.handle_timeout(at(200));
    let reply =
        third.handle_hello(&hello_of(&mut second), Via::Unicast, at(200)).expect("they know each other");
    second.handle_hello(&reply, Via::Unicast, at(200));
    assert_eq!(second.met, Some(*third.identity()));
}

fn hello_key(epoch: u64, secret: u8) -> HelloKey {
    HelloKey { epoch, secret: Secret::new([secret; 32]) }
}

fn tell_keys(to: &mut Membership, from: &IdentityKey, keys: Vec<HelloKey>, now: Now) {
    to.handle_control(*from, &Message::HelloKeys(keys).encode(), now);
}

#[test]
fn a_hello_key_waits_for_the_revocations_that_it_is_for() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let third = admit(3, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let current = |membership: &Membership| membership.hello_keys().current().unwrap().0.clone();
    let before = current(&first);
    // Of an epoch that nobody ever reaches, of very many, and of the one that comes next.
    let by = *second.identity();
    tell_keys(&mut first, &by, vec![hello_key(u64::MAX, 40), hello_key(1, 41)], at(6));
    for epoch in 100..200 {
        tell_keys(&mut first, &by, vec![hello_key(epoch, 42)], at(6));
    }
    assert_eq!(current(&first), before);
    let network = *first.roster().network();
    let revoked = revocation(third.identity(), &network).to_bytes();
    first.handle_control(by, &Message::Items(vec![&revoked]).encode(), at(7));
    assert_eq!(current(&first), hello_key(1, 41), "the revocation has come");

    // One for revocations that never come is forgotten, and rotation goes on.
    tell_keys(&mut first, &by, vec![hello_key(2, 43)], at(8));
    first.handle_timeout(at(700));
    first.act(decision_against(third.identity(), &network), at(701));
    assert_eq!(current(&first), hello_key(1, 41));
    first.handle_timeout(at(702));
    assert_eq!(current(&first).epoch, 2);
    assert_ne!(current(&first), hello_key(2, 43));
}

#[test]
fn who_is_let_in_with_a_key_out_of_reach_finds_the_one_of_the_others() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    second.keys.add(hello_key(u64::MAX, 40), &ModelCrypto);
    meet(&mut first, &mut second, at(6));
    for seconds in 7..20 {
        first.handle_timeout(at(seconds));
        second.handle_timeout(at(seconds));
        talk(&mut first, &mut second, at(seconds));
    }
    let current = |membership: &Membership| membership.hello_keys().current().unwrap().0.clone();
    assert_eq!(current(&second), current(&first));
    assert_eq!(current(&first).epoch, 0);
}

#[test]
fn who_is_told_of_other_tombstones_than_its_join_string_knows_says_so() {
    // None were known when it was made; one was, which the others hide; one was, and another came since.
    for (hidden, later, says) in [(false, false, false), (true, false, true), (false, true, false)] {
        let mut first = first();
        let network = *first.roster().network();
        let end = |of: u8, time: u64| {
            let end = End::Revoked { identity: IdentityKey([of; 32]), keep_token: false };
            Item::Tombstone(Tombstone { end, time }.seal(&network, &OWNER, &ModelCrypto).unwrap())
        };
        let minted = join_string(2, |grant| grant).grant.grant.minted;
        first.act(end(70, minted - 1), at(2));
        let sum = first.roster().tombstone_sum();
        if later {
            first.act(end(71, minted + 50), at(3));
        }
        let join = JoinString { tombstones: sum ^ u64::from(hidden), ..join_string(2, |grant| grant) };
        let mut second = admit_this(joining_with(2, join, at(5)), &mut first, at(5));
        second.session_began(*first.identity(), at(6));
        first.session_began(*second.identity(), at(6));
        let mut said = false;
        for seconds in 6..30 {
            first.handle_timeout(at(seconds));
            second.handle_timeout(at(seconds));
            for _ in 0..10 {
                for output in outputs(&mut second) {
                    said |= matches!(output, Output::Event(Event::TombstonesDiffer { .. }));
                    if let Output::Control { payload, .. } = output {
                        first.handle_control(*second.identity(), &payload, at(seconds));
                    }
                }
                for output in outputs(&mut first) {
                    if let Output::Control { payload, .. } = output {
                        second.handle_control(*first.identity(), &payload, at(seconds));
                    }
                }
            }
        }
        assert_eq!(said, says, "hidden {hidden}, later {later}");
    }
}

#[test]
fn what_a_member_draws_in_answer_is_bounded() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let by = *second.identity();
    let drawn = |first: &mut Membership, digests: Vec<ItemDigest>, now: Now| {
        outputs(first);
        first.handle_control(by, &Message::Want(digests).encode(), now);
        let outputs = outputs(first).into_iter();
        outputs
            .map(|output| if let Output::Control { payload, .. } = output { payload.len() } else { 0 })
            .sum::<usize>()
    };
    let all: Vec<_> = first.roster().digests().collect();
    let once = drawn(&mut first, all.clone(), at(10));
    assert!(once > 1000);
    let often = drawn(&mut first, all.iter().copied().cycle().take(150).collect(), at(20));
    assert_eq!(often, once, "each item once, however often it is named");
    let mut total = 0;
    for _ in 0..2000 {
        total += drawn(&mut first, all.clone(), at(30));
    }
    assert!((500_000..530_000).contains(&total), "{total}");
    assert_eq!(drawn(&mut first, all, at(32)), once, "later it may ask again");
}

#[test]
fn what_a_member_claims_to_have_is_asked_for_within_bounds() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let mut third = admit(3, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    meet(&mut first, &mut third, at(6));
    let asked = |first: &mut Membership| {
        let wants = outputs(first).into_iter().map(|output| match output {
            Output::Control { payload, .. } => match Message::decode(&payload) {
                Ok(Message::Want(digests)) => digests.len(),
                _ => 0,
            },
            _ => 0,
        });
        wants.sum::<usize>()
    };
    for part in 0..100 {
        let digests = (0..150).map(|n| ItemDigest(part * 1000 + n)).collect();
        first.handle_control(*second.identity(), &Message::Have(digests).encode(), at(7));
    }
    assert_eq!(asked(&mut first), 128, "so many are on their way");
    first.handle_control(*third.identity(), &Message::Have(vec![ItemDigest(u64::MAX)]).encode(), at(7));
    assert_eq!(asked(&mut first), 1, "others do not wait for it");
    // What does not come is asked for a few times and forgotten.
    let mut total = 0;
    for tenth in 0..1200 {
        let instant = at(7).instant + std::time::Duration::from_millis(100 * tenth);
        first.handle_timeout(Now { instant, ..at(7) });
        total += asked(&mut first);
    }
    assert_eq!(total, 2048 * 4 - 128 + 3);
}

#[test]
fn two_that_differ_in_very_many_records_come_to_know_the_same() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    let network = *first.roster().network();
    // All in one bucket, several times more than one message holds.
    let in_first_bucket = (0u32..).filter_map(|n| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let end = End::Token(RecordId(id));
        let item = Item::Tombstone(Tombstone { end, time: 0 }.seal(&network, &OWNER, &ModelCrypto).unwrap());
        (item.digest().0 >> 58 == 0).then_some(item)
    });
    for (n, item) in in_first_bucket.take(1200).enumerate() {
        let roster = if n % 3 == 0 { &mut first.roster } else { &mut second.roster };
        assert_eq!(roster.apply(item), Applied::New);
    }
    meet(&mut first, &mut second, at(6));
    for quarter in 0..40 {
        let now = Now { instant: at(6).instant + std::time::Duration::from_millis(quarter * 250), ..at(6) };
        first.handle_timeout(now);
        second.handle_timeout(now);
        talk(&mut first, &mut second, now);
    }
    assert_eq!(first.roster().tombstones().count(), 1200);
    assert!(first.roster().digests().eq(second.roster().digests()));
}

#[test]
fn a_request_that_was_refused_is_not_answered_when_the_reason_is_gone() {
    let mut first = first();
    let second = admit(2, &mut first, at(5));
    let join = join_string(3, |grant| Grant { names: "node-2".parse().unwrap(), ..grant });
    let mut joiner = joining_with(3, join, at(6));
    joiner.handle_timeout(at(6));
    let request = hello_of(&mut joiner);
    assert!(first.handle_hello(&request, Via::Unicast, at(6)).is_some(), "the name is taken");
    let network = *first.roster().network();
    first.act(revocation(second.identity(), &network), at(7));
    assert!(first.handle_hello(&request, Via::Unicast, at(8)).is_none());
    assert!(first.roster().settled(joiner.identity()).is_none());
}

#[test]
fn the_last_one_standing_admits_who_is_there_and_waits_for_its_word() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(5));
    let network = *first.roster().network();
    let saved = first.saved().unwrap();
    let mut first = Membership::resume(saved, [9; 8], [9; 32], at(100), &ModelCrypto).unwrap();
    // Let in by one that was revoked since: it has a session with the first, and nobody else to answer for it.
    let stranger = admit_by_force(joining(4, at(100)), 202, at(100));
    first.act(revocation(second.identity(), &network), at(101));
    let announcement = Announcement { sequence: 1, ..second.saved().unwrap().announcement };
    let announcement = announcement.seal(&network, &Secret::new([204; 32]), &ModelCrypto).unwrap();
    first.introducer = Some((stranger.clone(), announcement));
    first.session_began(stranger.identity(), at(102));
    let bytes = stranger.to_bytes();
    for round in 51..80 {
        first.handle_control(stranger.identity(), &Message::Items(vec![&bytes]).encode(), at(2 * round));
        first.handle_timeout(at(2 * round));
    }
    assert!(first.roster().is_member(&stranger.identity()));
}

#[test]
fn who_waits_in_vain_for_its_admitter_is_judged_by_its_token() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let stranger = admit_by_force(joining(4, at(7)), 250, at(7));
    let of_removed = admit_by_force(joining(5, at(7)), 250, at(7));
    let network = *first.roster().network();
    first.act(
        Item::Tombstone(
            Tombstone { end: End::Token(of_removed.grant.id), time: 0 }
                .seal(&network, &OWNER, &ModelCrypto)
                .unwrap(),
        ),
        at(7),
    );
    let items: Vec<_> = [&stranger, &of_removed].iter().map(|settled| settled.to_bytes()).collect();
    let items = items.iter().map(|item| &item[..]).collect();
    first.handle_control(*second.identity(), &Message::Items(items).encode(), at(8));
    first.handle_timeout(at(9));
    assert!(!first.roster().is_member(&stranger.identity()), "its admitter may still come");
    for round in 5..40 {
        first.handle_control(*second.identity(), &Message::Ping(1).encode(), at(2 * round));
        first.handle_timeout(at(2 * round));
    }
    assert!(first.roster().is_member(&stranger.identity()));
    assert!(!first.roster().is_member(&of_removed.identity()), "its token was revoked");
}
