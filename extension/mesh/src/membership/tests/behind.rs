//! Who was put behind: two machines came with one token, and this one is not the first.

use super::*;

/// Two members that are cut off from each other, and whom each lets in by the same token: `n` and another one.
fn halves_with_twins(n: u8) -> [Membership; 4] {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    first.session_ended(second.identity());
    second.session_ended(first.identity());
    let twin = |n: u8, now| joining_with(n, join_string(3, |grant| grant), now);
    let mut third = admit_this(twin(n, at(20)), &mut first, at(20));
    let mut fourth = admit_this(twin(n + 20, at(21)), &mut second, at(21));
    meet(&mut first, &mut third, at(22));
    meet(&mut second, &mut fourth, at(22));
    [first, second, third, fourth]
}

/// The same after the halves have met: the two members, who came first, and who was put behind and has nobody any more.
fn put_behind(n: u8) -> [Membership; 4] {
    let [mut first, mut second, mut third, mut fourth] = halves_with_twins(n);
    let [of_third, of_fourth] =
        [&third, &fourth].map(|twin| Item::Settled(Box::new(twin.settled().unwrap().clone())).to_bytes());
    third.handle_control(*first.identity(), &Message::Items(vec![&of_fourth]).encode(), at(23));
    fourth.handle_control(*second.identity(), &Message::Items(vec![&of_third]).encode(), at(23));
    meet(&mut first, &mut second, at(23));
    let (winner, mut loser) = if fourth.is_put_behind() { (third, fourth) } else { (fourth, third) };
    assert!(loser.is_put_behind() && !winner.is_put_behind());
    assert!(!first.is_peer(loser.identity()) && !second.is_peer(loser.identity()));
    loser.session_ended(first.identity());
    loser.session_ended(second.identity());
    outputs(&mut loser);
    [first, second, winner, loser]
}

/// The next hello of `caller`, and when it was sent.
fn hello_within(caller: &mut Membership, mut seconds: std::ops::Range<u64>) -> (Vec<u8>, u64) {
    let hello = seconds.find_map(|seconds| {
        caller.handle_timeout(at(seconds));
        Some((next_hello(caller)?, seconds))
    });
    hello.expect("it calls")
}

#[test]
fn who_was_put_behind_comes_back_when_an_owner_decides_for_it() {
    let [mut first, _, winner, mut loser] = put_behind(3);
    // Nobody answers it, and it lets nobody in.
    let (unheard, seconds) = hello_within(&mut loser, 26..120);
    assert_eq!(first.handle_hello(&unheard, Via::Unicast, at(seconds)), None);
    let (stranger, _) = hello_within(&mut joining(5, at(seconds)), seconds..seconds + 60);
    assert_eq!(loser.handle_hello(&stranger, Via::Unicast, at(seconds)), None);

    // After a restart it is no different. Then an owner decides.
    let mut loser =
        Membership::resume(loser.saved().unwrap(), [8; 8], [8; 32], at(200), &ModelCrypto).unwrap();
    assert!(loser.is_put_behind());
    first.act(decision_against(winner.identity(), winner.roster().network()), at(201));
    assert!(first.is_peer(loser.identity()));
    let (heard, seconds) = hello_within(&mut loser, 201..320);
    let reply = first.handle_hello(&heard, Via::Unicast, at(seconds)).expect("it is a member now");
    loser.handle_hello(&reply, Via::Unicast, at(seconds));
    meet(&mut first, &mut loser, at(seconds));
    assert!(!loser.is_put_behind());
    assert_eq!(loser.roster().status(loser.identity()), Some(&Status::Installed));
    assert!(first.roster().digests().eq(loser.roster().digests()));
}

#[test]
fn who_was_put_behind_answers_those_that_it_knows() {
    let [mut first, _, winner, mut loser] = put_behind(3);
    first.act(decision_against(winner.identity(), winner.roster().network()), at(24));
    outputs(&mut first);
    // It can hear of the decision from who calls it, too: by a hello to a key that it has.
    let (reply, seconds) = (25..200)
        .find_map(|seconds| {
            first.handle_timeout(at(seconds));
            let replies = outputs(&mut first).into_iter().filter_map(|output| match output {
                Output::Hello { datagram, .. } => loser.handle_hello(&datagram, Via::Unicast, at(seconds)),
                _ => None,
            });
            Some((replies.last()?, seconds))
        })
        .expect("it knows who calls");
    first.handle_hello(&reply, Via::Unicast, at(seconds));
    meet(&mut first, &mut loser, at(seconds));
    assert!(!loser.is_put_behind());
}

#[test]
fn who_was_put_behind_takes_up_whom_one_let_in_that_left() {
    let [mut first, mut second, winner, mut loser] = put_behind(3);
    // It has caught up, and believes no more what it is told.
    let same = Message::summary(loser.roster()).encode();
    loser.handle_control(*first.identity(), &same, at(24));
    assert!(loser.gossip.has_agreed());
    let mut fifth = admit(5, &mut first, at(24));
    meet(&mut first, &mut fifth, at(25));
    fifth.act(decision_against(winner.identity(), winner.roster().network()), at(26));
    assert!(fifth.is_peer(loser.identity()));
    // Only the one that was put behind hears of that: for the others the fifth is what it was.
    second.leave(at(27));
    first.leave(at(27));
    for gone in [&first, &second] {
        let left = gone.roster().tombstones().next().unwrap().clone();
        loser.act(Item::Tombstone(left), at(27));
    }
    assert!(loser.roster().is_barred(first.identity()));
    let (hello, seconds) = hello_within(&mut loser, 28..120);
    let reply = fifth.handle_hello(&hello, Via::Unicast, at(seconds)).expect("it is a member there");
    loser.handle_hello(&reply, Via::Unicast, at(seconds));
    assert!(loser.is_peer(fifth.identity()));
}

/// Carries what all say to each other until they fall silent.
fn talk_together(all: &mut [Membership], now: Now) {
    loop {
        let said: Vec<_> = all.iter_mut().map(|one| (*one.identity(), outputs(one))).collect();
        if said.iter().all(|(_, outputs)| outputs.is_empty()) {
            return;
        }
        for (from, outputs) in said {
            for output in outputs {
                let Output::Control { to, payload } = output else { continue };
                let receiver = all.iter_mut().find(|one| *one.identity() == to).expect("one of them");
                receiver.handle_control(from, &payload, now);
            }
        }
    }
}

#[test]
fn who_is_put_behind_hears_of_it_from_who_catches_up_itself() {
    // Whoever of the two it is, and whoever of the others leads the comparison.
    for n in 10..30 {
        let [first, second, third, fourth] = halves_with_twins(n);
        // Since they started, the first two have agreed with nobody.
        let resumed = |before: &Membership, n: u8| {
            Membership::resume(before.saved().unwrap(), [n; 8], [n; 32], at(30), &ModelCrypto).unwrap()
        };
        let mut all = [resumed(&first, 8), resumed(&second, 9), third, fourth];
        for (one, two) in [(0, 2), (1, 3), (0, 1)] {
            // With those that they let in they have sessions and have said nothing yet.
            for each in &mut all {
                outputs(each);
            }
            let identities = [one, two].map(|n| *all[n].identity());
            all[one].session_began(identities[1], at(31));
            all[two].session_began(identities[0], at(31));
        }
        talk_together(&mut all, at(31));
        assert!(all[2].is_put_behind() != all[3].is_put_behind());
        let loser = all.iter().find(|one| one.is_put_behind()).unwrap().identity();
        assert!(all[..2].iter().all(|member| !member.is_peer(loser)));
    }
}
