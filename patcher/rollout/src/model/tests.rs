use super::*;

fn no_faults(voters: usize, goal: Goal) -> Report {
    run(&case(voters, 2, goal, voters < 3), &[], false)
}

#[test]
fn without_a_fault_every_goal_is_reached_at_once() {
    for goal in Goal::ALL {
        for voters in 1..=7 {
            let report = no_faults(voters, goal);
            assert!(report.is_finished && report.runs == 1, "{goal:?} with {voters} voters");
            assert!(report.violations.is_empty(), "{goal:?} with {voters} voters: {:?}", report.violations);
        }
    }
}

#[test]
fn one_and_two_voters_are_left_alone_without_consent() {
    for voters in [1, 2] {
        let report = run(&case(voters, 0, Goal::Lifecycle, false), &[], false);
        assert!(!report.is_finished && report.accepted_outages == 0 && report.violations.is_empty());
    }
}

#[test]
fn a_few_thousand_schedules_have_no_violation_and_end() {
    let tally = explore(0..4000);
    assert_eq!(tally.violations, []);
    assert_eq!(tally.unfinished, Vec::<u64>::new());
    assert_eq!(tally.faults.len(), 22, "every kind of fault is among them");
}

#[test]
fn a_schedule_is_always_the_same() {
    for seed in 0..20 {
        let (case, faults) = schedule(seed);
        assert_eq!(run(&case, &faults, false).trace, run(&case, &faults, false).trace);
    }
}
