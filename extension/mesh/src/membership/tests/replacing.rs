//! Who takes the place of another, and who lets it in.

use super::*;

#[test]
fn an_incarnation_that_seems_to_be_there_is_asked_before_it_is_replaced() {
    let mut first = first();
    let mut second = admit(2, &mut first, at(5));
    meet(&mut first, &mut second, at(6));
    let incarnation = second.settled().unwrap().id();
    let replacing = |seed: u8| {
        let token = Secret::new([150; 32]);
        let key = TokenKey(ModelCrypto.signing_public(&token));
        let change = |grant| Grant { token: key, replaces: Some(incarnation), serial: 9, ..grant };
        let join = JoinString { token, ..join_string(2, change) };
        let announcement = Announcement { instance: [seed; 8], ..second.saved().unwrap().announcement };
        let profile = Profile { identity: Secret::new([seed; 32]), name: None, routes: vec![], announcement };
        Membership::join(join, profile, [seed; 32], at(10), &ModelCrypto).unwrap()
    };
    let mut newcomer = replacing(66);
    newcomer.handle_timeout(at(10));
    outputs(&mut first);
    let taken = first.handle_hello(&hello_of(&mut newcomer), Via::Unicast, at(10)).unwrap();
    newcomer.handle_hello(&taken, Via::Unicast, at(10));
    let asked = outputs(&mut first).into_iter().any(|output| match output {
        Output::Control { to, payload } => {
            to == *second.identity() && matches!(Message::decode(&payload), Ok(Message::Ping(_)))
        }
        _ => false,
    });
    assert!(asked);
    // It says nothing: the next request is granted.
    newcomer.handle_timeout(at(15));
    let admitted = first.handle_hello(&hello_of(&mut newcomer), Via::Unicast, at(15)).unwrap();
    newcomer.handle_hello(&admitted, Via::Unicast, at(15));
    assert!(newcomer.is_member());
    assert!(!first.roster().is_member(second.identity()));
}

#[test]
fn nobody_admits_its_own_replacement() {
    for force in [false, true] {
        let mut first = first();
        let mut second = admit(2, &mut first, at(5));
        meet(&mut first, &mut second, at(6));
        let incarnation = first.settled().unwrap().id();
        let token = Secret::new([150; 32]);
        let key = TokenKey(ModelCrypto.signing_public(&token));
        let change = |grant| Grant { token: key, replaces: Some(incarnation), force, serial: 9, ..grant };
        let join = JoinString { token, first_hello: None, ..join_string(1, change) };
        let mut newcomer = joining_with(50, join, at(10));
        newcomer.handle_timeout(at(10));
        let request = hello_of(&mut newcomer);
        let reply = first.handle_hello(&request, Via::Unicast, at(10));
        // It is there, so without force it says so.
        assert_eq!(reply.is_some(), !force);
        assert!(first.is_member() && first.roster().settled(newcomer.identity()).is_none());
        // Another does, and is there to tell the newcomer who the others are.
        let saved = second.saved().unwrap();
        let mut second = Membership::resume(saved, [9; 8], [9; 32], at(10), &ModelCrypto).unwrap();
        let admitted = second.handle_hello(&request, Via::Unicast, at(30)).expect("it is let in");
        newcomer.handle_hello(&admitted, Via::Unicast, at(30));
        assert!(newcomer.is_member() && !second.roster().is_member(first.identity()));
    }
}
