//! Newcomers whose introducer is new itself, so that its reply does not hold all that proves it.

use super::*;
use crate::testing::ms;

/// The first of four members of which each was let in by the one before, and the last.
fn chain() -> (Membership, Membership) {
    let mut first = first();
    let mut second = admit(2, &mut first, at(2));
    catch_up(&mut second, &mut first, at(2));
    let mut third = admit(3, &mut second, at(50));
    catch_up(&mut third, &mut second, at(50));
    let mut fourth = admit(4, &mut third, at(100));
    catch_up(&mut fourth, &mut third, at(100));
    meet(&mut second, &mut third, at(150));
    meet(&mut first, &mut second, at(151));
    assert_eq!((first.roster().members().count(), fourth.roster().members().count()), (4, 4));
    (first, fourth)
}

/// Lets a newcomer learn what another knows, and that this is all.
fn catch_up(newcomer: &mut Membership, other: &mut Membership, now: Now) {
    meet(newcomer, other, now);
    for step in 1..=8 {
        let later = Now { instant: now.instant + ms(250 * step), ..now };
        newcomer.handle_timeout(later);
        other.handle_timeout(later);
        talk(newcomer, other, later);
    }
    let summary = Message::summary(other.roster()).encode();
    newcomer.handle_control(
        *other.identity(),
        &summary,
        at(now.instant.duration_since(epoch()).as_secs() + 3),
    );
    assert!(newcomer.gossip.has_agreed(), "both know the same");
}

/// Who was let in by `fourth` two seconds after it began to ask, and who it was told of.
fn newcomer(fourth: &mut Membership) -> (Membership, BTreeSet<IdentityKey>) {
    let newcomer = admit_this(joining(5, at(200)), fourth, at(202));
    let told = BTreeSet::from([*fourth.identity()]);
    assert_eq!(peers(&newcomer), told);
    assert_eq!(newcomer.roster().members().count(), 0, "nothing is proven");
    (newcomer, told)
}

fn peers(membership: &Membership) -> BTreeSet<IdentityKey> {
    membership.peers().map(|peer| peer.settled.identity()).collect()
}

/// Hands the next call of `newcomer` for anybody to `member`, and the reply back.
fn answer_call(newcomer: &mut Membership, member: &mut Membership, now: Now) {
    newcomer.handle_timeout(now);
    let call = newcomer.output.iter().rev().find_map(|output| match output {
        Output::Hello { datagram, .. } => Some(datagram.clone()),
        _ => None,
    });
    let call = call.expect("it calls");
    let reply = member.handle_hello(&call, Via::Lan, now).expect("it is known");
    assert!(newcomer.handle_hello(&reply, Via::Unicast, now).is_none());
}

/// Looks at the peers that the driver is told of.
fn follow(membership: &mut Membership, known: &mut BTreeSet<IdentityKey>) {
    for output in outputs(membership) {
        if let Output::Event(Event::Changed(identity)) = output {
            known.remove(&identity);
            known.extend(membership.is_peer(&identity).then_some(identity));
        }
    }
}

#[test]
fn the_driver_is_told_of_another_introducer() {
    let (mut first, mut fourth) = chain();
    let (mut newcomer, mut known) = newcomer(&mut fourth);
    meet(&mut fourth, &mut first, at(202));
    outputs(&mut newcomer);
    answer_call(&mut newcomer, &mut first, at(204));
    assert_eq!(peers(&newcomer), BTreeSet::from([*first.identity()]));
    follow(&mut newcomer, &mut known);
    assert_eq!(known, peers(&newcomer));
    meet(&mut newcomer, &mut first, at(205));
    assert_eq!(newcomer.roster().members().count(), 5);
}

#[test]
fn who_was_let_in_waits_for_its_introducer_before_it_calls_others() {
    let (_, mut fourth) = chain();
    let (mut newcomer, _) = newcomer(&mut fourth);
    outputs(&mut newcomer);
    newcomer.handle_timeout(at(202));
    assert!(!outputs(&mut newcomer).iter().any(|output| matches!(output, Output::Hello { .. })));
    newcomer.handle_timeout(at(204));
    assert!(outputs(&mut newcomer).iter().any(|output| matches!(output, Output::Hello { .. })));
}

#[test]
fn an_introducer_that_is_there_is_heard_out_but_not_forever() {
    for (seconds, stays) in [(205, true), (220, false)] {
        let (mut first, mut fourth) = chain();
        let (mut newcomer, _) = newcomer(&mut fourth);
        meet(&mut fourth, &mut first, at(202));
        // Its call is answered after the session with its introducer began.
        newcomer.handle_timeout(at(204));
        newcomer.session_began(*fourth.identity(), at(204));
        answer_call(&mut newcomer, &mut first, at(seconds));
        let introducer = if stays { *fourth.identity() } else { *first.identity() };
        assert_eq!(peers(&newcomer), BTreeSet::from([introducer]));
        assert_eq!(newcomer.sponsor, Some(introducer));
        let introducer = if stays { &mut fourth } else { &mut first };
        meet(&mut newcomer, introducer, at(seconds + 1));
        assert_eq!(newcomer.roster().members().count(), 5);
    }
}
