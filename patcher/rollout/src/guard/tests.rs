use std::sync::Arc;

use super::*;

fn member(id: u64) -> Member {
    Member { id, started: true, learner: false }
}

fn etcd(id: u64, voters: u64) -> Etcd {
    Etcd {
        id,
        members: (1..=voters).map(member).collect(),
        leader: 1,
        index: 500,
        applied: 500,
        ailing: false,
        advertised: Arc::default(),
    }
}

/// What `guard` says about node 0 of a cluster whose members say this; node n has the member n + 1.
fn verdict(said: &[Option<Etcd>], accept: bool) -> Verdict {
    let voters = said.iter().enumerate().map(|(node, said)| (node, said.as_ref())).collect();
    guard(&EtcdView { voters, floor: Some(490), max_lag: 100 }, 0, accept)
}

fn cluster(voters: u64) -> Vec<Option<Etcd>> {
    (1..=voters).map(|id| Some(etcd(id, voters))).collect()
}

fn reasons(said: &[Option<Etcd>]) -> Vec<Reason> {
    match verdict(said, false) {
        Verdict::Closed(reasons) => reasons,
        open => panic!("{open:?}"),
    }
}

#[test]
fn one_of_three_or_more_may_go_and_one_or_two_only_with_consent() {
    for voters in 3..=7 {
        let left = Left { healthy: voters - 1, voters };
        assert_eq!(verdict(&cluster(voters as u64), false), Verdict::Go { left });
    }
    for voters in [1, 2] {
        let said = cluster(voters);
        let left = voters as usize - 1;
        assert_eq!(reasons(&said), [Reason::NoQuorum(left, voters as usize)]);
        assert_eq!(
            verdict(&said, true),
            Verdict::Outage { left: Left { healthy: left, voters: voters as usize } }
        );
    }
}

#[test]
fn a_dead_member_may_be_repaired_and_no_other_touched() {
    let mut said = cluster(3);
    said[0] = None;
    assert!(matches!(verdict(&said, false), Verdict::Go { .. }), "the dead one itself");
    let mut said = cluster(3);
    said[2] = None;
    assert!(reasons(&said).contains(&Reason::Silent(2)));
    let mut said = cluster(5);
    said[4] = None;
    assert!(reasons(&said).contains(&Reason::Silent(4)), "also where a quorum would be left");
}

#[test]
fn consent_does_not_open_the_gate_for_anything_else() {
    let mut said = cluster(2);
    said[1] = None;
    assert!(matches!(verdict(&said, true), Verdict::Closed(_)));
}

#[test]
fn each_member_is_taken_by_its_own_word() {
    let break_one = |change: fn(&mut Etcd)| {
        let mut said = cluster(3);
        change(said[1].as_mut().unwrap());
        reasons(&said)
    };
    assert_eq!(break_one(|it| it.ailing = true), [Reason::Ailing(1)]);
    assert!(break_one(|it| it.leader = 0).contains(&Reason::Leaderless(1)));
    assert_eq!(break_one(|it| it.leader = 3), [Reason::TwoLeaders(2)]);
    assert_eq!(break_one(|it| it.members = [member(1), member(2)].into()).first(), Some(&Reason::Split(2)));
    assert_eq!(break_one(|it| (it.index, it.applied) = (480, 480)), [Reason::OldNews(1)]);
    assert_eq!(break_one(|it| it.applied = 390), [Reason::Lags(1, 110), Reason::OldNews(1)]);
}

#[test]
fn members_that_do_not_vote_have_not_started_or_are_not_known_keep_the_gate_closed() {
    let with = |extra: Member| {
        let mut said = cluster(3);
        let members: Arc<[Member]> = (1..=3).map(member).chain([extra]).collect();
        said.iter_mut().flatten().for_each(|it| it.members = members.clone());
        reasons(&said)
    };
    assert_eq!(with(member(9)), [Reason::Stranger(9)]);
    let learner = Member { id: 9, started: true, learner: true };
    assert_eq!(with(learner), [Reason::Learner(9), Reason::Stranger(9)]);
    let new = Member { id: 9, started: false, learner: false };
    assert_eq!(with(new), [Reason::NotStarted(9), Reason::Stranger(9)]);
}

#[test]
fn a_target_without_a_leader_is_touched_only_where_the_others_go_on() {
    let with = |applied: u64| {
        let mut said = cluster(3);
        said[0].as_mut().unwrap().leader = 0;
        said.iter_mut().skip(1).flatten().for_each(|it| (it.index, it.applied) = (applied, applied));
        said
    };
    assert_eq!(reasons(&with(490)), [Reason::Standstill]);
    assert!(matches!(verdict(&with(491), false), Verdict::Go { .. }));
}

#[test]
fn one_look_is_not_enough() {
    let said = cluster(3);
    let voters = said.iter().enumerate().map(|(node, said)| (node, said.as_ref())).collect();
    let verdict = guard(&EtcdView { voters, floor: None, max_lag: 100 }, 0, false);
    assert_eq!(verdict, Verdict::Closed(vec![Reason::SecondLook]));
}

#[test]
fn after_it_is_back_the_target_is_asked_too() {
    let whole = |said: &[Option<Etcd>]| {
        let voters = said.iter().enumerate().map(|(node, said)| (node, said.as_ref())).collect();
        is_whole(&EtcdView { voters, floor: Some(490), max_lag: 100 }, 0)
    };
    assert_eq!(whole(&cluster(3)), []);
    assert_eq!(whole(&cluster(1)), []);
    let mut said = cluster(3);
    said[0].as_mut().unwrap().applied = 380;
    assert_eq!(whole(&said), [Reason::Lags(0, 120), Reason::OldNews(0)]);
    said[0] = None;
    assert_eq!(whole(&said), [Reason::Silent(0)]);
}
