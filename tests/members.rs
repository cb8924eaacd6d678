//! Membership in a simulated network: random histories must end with everybody agreeing.

use ichor_tests::members::run;

/// Histories per run of the tests; `membership-sim histories` runs as many as one likes.
const HISTORIES: u64 = 40;

#[test]
fn every_history_ends_with_the_same_roster_everywhere() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..HISTORIES {
        let report = run(seed);
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        traces.insert(report.trace);
    }
    assert_eq!(traces.len() as u64, HISTORIES, "histories differ");
}
