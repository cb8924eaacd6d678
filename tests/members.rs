//! Membership in a simulated network: random histories must end with everybody agreeing.

use std::time::Duration;

use ichor_tests::members::{Faults, Flapping, flapping, partition, run, spread, twice};

/// Across a continent, with one datagram of a hundred lost.
const FAR: Faults = Faults { delay: Duration::from_millis(10), jitter: Duration::from_millis(60), loss: 10 };

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

#[test]
fn news_reaches_a_hundred_members_within_a_second() {
    let result = spread(100, 5, 1, FAR);
    for times in [&result.join, &result.change, &result.revocation] {
        assert!(times.iter().all(|time| *time <= Duration::from_secs(1)), "{result:?}");
    }
    assert!(result.idle_on_the_wire <= 1000.0, "{result:?}");
}

#[test]
fn two_halves_of_a_network_come_together_within_three_seconds() {
    let result = partition(50, Duration::from_secs(120), 1, FAR);
    assert!(result.healed <= Duration::from_secs(3), "{result:?}");
    assert_eq!((result.members, result.bad_peers), (50 + 6 - 4, 0));
    // If all asked around for those that they miss it would be twice as much, and grow with their number.
    assert!(result.gossip <= 8_000.0, "{result:?}");
}

#[test]
fn halves_that_used_one_token_both_agree_within_three_seconds_however_short_they_were_apart() {
    for members in [2, 4, 10] {
        for milliseconds in [0, 300, 2_000, 14_000, 60_000] {
            for seed in 1..=5 {
                let agreed = twice(members, Duration::from_millis(milliseconds), seed, FAR);
                let what = format!("{members} members, {milliseconds} ms, seed {seed}: {agreed:?}");
                assert!(agreed <= Duration::from_secs(3), "{what}");
            }
        }
    }
}

#[test]
fn members_whose_links_flap_are_nothing_to_the_others() {
    let seen = flapping(100, 10, Duration::from_secs(20), 1, FAR);
    let nothing =
        Flapping { changes: 0, other_peers: 0, other_records: 0, ended: 0, announced: seen.announced };
    assert_eq!(seen, nothing);
}
