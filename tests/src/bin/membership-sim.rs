//! Membership in a simulated network, as much of it as one likes.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ichor_tests::members::{Faults, percentile, run, spread};

#[derive(Debug, Parser)]
enum Args {
    /// Random histories; prints how often each kind of event occurred, and every violation with its seed.
    Histories {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// How fast joins, changes of endpoints and revocations reach all members, in virtual time.
    Spread {
        /// How many members.
        #[arg(long, default_value_t = 100)]
        members: usize,
        /// How many of each kind.
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Datagrams lost, of a thousand.
        #[arg(long, default_value_t = 10)]
        loss: usize,
    },
    /// One history, told in full.
    Tell {
        /// Which.
        seed: u64,
    },
}

fn main() -> ExitCode {
    match Args::parse() {
        Args::Histories { count, first } => histories(first, count),
        Args::Spread { members, rounds, seed, loss } => {
            // Across a continent and back.
            let (delay, jitter) = (Duration::from_millis(10), Duration::from_millis(60));
            let result = spread(members, rounds, seed, Faults { delay, jitter, loss });
            println!(
                "{members} members, {rounds} rounds, seed {seed}, {loss} of 1000 lost, 10 to 70 ms one way"
            );
            for (what, times) in [
                ("join", &result.join),
                ("endpoint change", &result.change),
                ("revocation", &result.revocation),
            ] {
                let [p50, p99, max] =
                    [50, 99, 100].map(|percent| percentile(times, percent).unwrap_or_default());
                println!("{what}: seen by all after P50 {p50:.2?}, P99 {p99:.2?}, longest {max:.2?}");
            }
            println!("idle: {:.0} bit/s of control messages a member", result.idle * 8.0);
            ExitCode::SUCCESS
        }
        Args::Tell { seed } => {
            let report = run(seed);
            report.log.iter().chain(&report.violations).for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
    }
}

fn histories(first: u64, count: u64) -> ExitCode {
    let start = Instant::now();
    let (mut events, mut traces, mut bad) = (BTreeMap::new(), BTreeSet::new(), 0u64);
    for seed in first..first + count {
        let report = run(seed);
        for (kind, times) in &report.events {
            *events.entry(*kind).or_insert(0u64) += times;
        }
        traces.insert(report.trace);
        if !report.violations.is_empty() {
            bad += 1;
            println!("seed {seed}: {} violations, first {}", report.violations.len(), report.violations[0]);
        }
    }
    for (kind, times) in &events {
        println!("{kind:?}: {times}");
    }
    println!(
        "{count} histories from seed {first}, {} distinct traces, {} events, {bad} with violations, {:.0?}",
        traces.len(),
        events.values().sum::<u64>(),
        start.elapsed(),
    );
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
