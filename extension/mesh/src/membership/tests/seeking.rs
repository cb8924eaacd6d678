//! Who looks for others although it misses nobody.

use super::*;

#[test]
fn a_network_in_which_nobody_is_missing_asks_now_and_then_whether_there_is_anybody_else() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let mut asked = 0;
    for seconds in (8..3600).step_by(2) {
        for member in [&mut first, &mut second] {
            member.handle_timeout(at(seconds));
            let hellos = outputs(member).into_iter().filter(|output| match output {
                Output::Hello { to, .. } => to.contains(&Destination::Lan),
                _ => false,
            });
            asked += hellos.count();
        }
        talk(&mut first, &mut second, at(seconds));
    }
    // Every two minutes one of the two, on the average.
    assert!((10..60).contains(&asked), "{asked}");
}

#[test]
fn of_many_that_miss_a_neighbour_few_ask_others_about_it() {
    let mut first = first();
    let others: Vec<_> = (2..=40).map(|n| *admit(n, &mut first, at(5)).identity()).collect();
    let missing = *first.wanted().first().unwrap();
    for other in others.into_iter().filter(|other| *other != missing) {
        first.session_began(other, at(6));
    }
    let mut asked = 0;
    for seconds in (8..3600).step_by(2) {
        first.handle_timeout(at(seconds));
        let hellos = outputs(&mut first).into_iter().filter(|output| match output {
            Output::Hello { to, .. } => to.contains(&Destination::Lan),
            _ => false,
        });
        asked += hellos.count();
    }
    // It looks for it some thirty times, and each time four of forty would ask others.
    assert!((1..10).contains(&asked), "{asked}");
}

#[test]
fn who_answers_and_is_no_member_here_takes_not_the_place_of_one_that_is() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let network = *first.roster().network();
    // Another part let somebody in with the address of the second.
    let same_address = |grant| Grant { addresses: "10.213.0.2/32".parse().unwrap(), ..grant };
    let third = joining_with(3, join_string(3, same_address), at(7));
    let third = hostile::admit_by_force(third, 201, at(7));
    first.act(Item::Settled(Box::new(third.clone())), at(20));
    assert!(matches!(first.roster().status(&third.identity()), Some(Status::Conflict { .. })));
    let announced = Announcement { sequence: 9, ..second.saved().unwrap().announcement };
    let mut answers = |settled: &Settled, secret: [u8; 32]| {
        let announcement = announced.seal(&network, &Secret::new(secret), &ModelCrypto).unwrap();
        let items = [Item::Announcement(announcement), Item::Settled(Box::new(settled.clone()))];
        first.introduce(items.into(), at(21));
        first.met
    };
    assert_eq!(answers(second.settled().unwrap(), [202; 32]), Some(*second.identity()));
    assert_eq!(answers(&third, [203; 32]), Some(*second.identity()));
}
