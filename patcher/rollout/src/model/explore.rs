//! Many schedules, and what came of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng as _};

use super::{Case, Fault, Goal, Report, Violation, case, fault, run};

/// What came of many schedules.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many schedules were tried.
    pub schedules: u64,
    /// Their traces.
    pub traces: HashSet<u64>,
    /// How many calls were made.
    pub calls: u64,
    /// How often each fault was in a schedule.
    pub faults: BTreeMap<&'static str, u64>,
    /// Seeds of schedules with a violation, with what was violated. The first hundred.
    pub violations: Vec<(u64, BTreeSet<Violation>)>,
    /// How many schedules had a violation.
    pub violated: u64,
    /// Outages that the operator had accepted.
    pub accepted_outages: u64,
    /// Quorums lost because a voter failed between the last look and the call.
    pub unforeseeable: u64,
    /// Schedules in which one or two voters could not be touched, as no outage was accepted.
    pub kept_out: u64,
    /// By the number of faults: schedules, those that were finished, those that were in the first run.
    pub finished: BTreeMap<usize, (u64, u64, u64)>,
    /// Seeds of schedules with at most one fault that were not finished. The first hundred.
    pub unfinished: Vec<u64>,
}

/// The cluster, goal and faults of a seed.
pub fn schedule(seed: u64) -> (Case, Vec<Fault>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let voters = 1 + (random.next_u64() % 7) as usize;
    let workers = (random.next_u64() % 3) as usize;
    let goal = Goal::ALL[(random.next_u64() % Goal::ALL.len() as u64) as usize];
    // One and two voters cannot be touched without an outage, and often enough that is not accepted.
    let accept = random.next_u64() % if voters < 3 { 2 } else { 16 } == 0;
    let mut case = case(voters, workers, goal, accept);
    for machine in &mut case.machines {
        machine.boot_time = Duration::from_millis(20_000 + random.next_u64() % 160_000);
        machine.catch_up = Duration::from_millis(1_000 + random.next_u64() % 60_000);
    }
    let count = [0, 1, 1, 1, 2, 2, 3, 4][(random.next_u64() % 8) as usize];
    let faults = (0..count).map(|_| fault(&mut random, &case)).collect();
    (case, faults)
}

/// Faults for a case, by a seed.
pub fn faults(case: &Case, seed: u64) -> Vec<Fault> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = 1 + random.next_u64() % 3;
    (0..count).map(|_| fault(&mut random, case)).collect()
}

/// Tries the schedules of these seeds.
pub fn explore(seeds: impl IntoIterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let (case, faults) = schedule(seed);
        let report = run(&case, &faults, false);
        let voters = case.machines.iter().filter(|machine| machine.votes).count();
        let may_finish = voters > 2 || !case.plan.policy.accept_outage.is_empty();
        tally.add(seed, may_finish, &faults, &report);
    }
    tally
}

impl Tally {
    fn add(&mut self, seed: u64, may_finish: bool, faults: &[Fault], report: &Report) {
        self.schedules += 1;
        self.traces.insert(report.trace);
        self.calls += u64::from(report.calls);
        for fault in faults {
            *self.faults.entry(fault.kind.name()).or_default() += 1;
        }
        if !report.violations.is_empty() {
            self.violated += 1;
            if self.violations.len() < 100 {
                self.violations.push((seed, report.violations.clone()));
            }
        }
        self.accepted_outages += u64::from(report.accepted_outages);
        self.unforeseeable += u64::from(report.unforeseeable);
        if !may_finish {
            self.kept_out += 1;
            return;
        }
        let (schedules, finished, at_once) = self.finished.entry(faults.len()).or_default();
        *schedules += 1;
        *finished += u64::from(report.is_finished);
        *at_once += u64::from(report.is_finished && report.runs == 1);
        if !report.is_finished && faults.len() < 2 && self.unfinished.len() < 100 {
            self.unfinished.push(seed);
        }
    }

    /// Both together.
    pub fn join(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.traces.extend(other.traces);
        self.calls += other.calls;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.violations.extend(other.violations);
        self.violated += other.violated;
        self.accepted_outages += other.accepted_outages;
        self.unforeseeable += other.unforeseeable;
        self.kept_out += other.kept_out;
        for (faults, (schedules, finished, at_once)) in other.finished {
            let sum = self.finished.entry(faults).or_default();
            *sum = (sum.0 + schedules, sum.1 + finished, sum.2 + at_once);
        }
        self.unfinished.extend(other.unfinished);
    }
}
