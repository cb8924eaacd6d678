//! Membership in a simulated network, as much of it as one likes.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use ichor_tests::members::{Faults, Kind, Report, flapping, idle, partition, percentile, run, spread, twice};

/// Histories between two words about how far it is.
const PROGRESS: u64 = 5000;

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
        /// How many at a time.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Stop at the first that ends badly.
        #[arg(long)]
        stop: bool,
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
    /// How fast two halves of a network come together again, in virtual time.
    Partition {
        /// How many members.
        #[arg(long, default_value_t = 100)]
        members: usize,
        /// How many times, each with the next seed.
        #[arg(long, default_value_t = 10)]
        rounds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds that the halves do not reach each other.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Datagrams lost, of a thousand.
        #[arg(long, default_value_t = 10)]
        loss: usize,
    },
    /// How fast two halves agree that used one single-use token both, in virtual time.
    Twice {
        /// How many members.
        #[arg(long, default_value_t = 2)]
        members: usize,
        /// How many times, each with the next seed.
        #[arg(long, default_value_t = 100)]
        rounds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Milliseconds that the halves stay apart after both let somebody in.
        #[arg(long, default_value_t = 2000)]
        milliseconds: u64,
        /// Datagrams lost, of a thousand.
        #[arg(long, default_value_t = 10)]
        loss: usize,
    },
    /// What members whose links go up and down every second cost the others.
    Flapping {
        /// How many members.
        #[arg(long, default_value_t = 100)]
        members: usize,
        /// How many of them flap.
        #[arg(long, default_value_t = 10)]
        flapping: usize,
        /// For how many seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What a member costs while nothing happens: CPU time and memory of this process, per member.
    Idle {
        /// How many members.
        #[arg(long, default_value_t = 100)]
        members: usize,
        /// How many of them are switched off.
        #[arg(long, default_value_t = 0)]
        off: usize,
        /// Seconds of virtual time.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// One history, told in full.
    Tell {
        /// Which.
        seed: u64,
    },
}

fn main() -> ExitCode {
    match Args::parse() {
        Args::Histories { count, first, jobs, stop } => histories(first, count, jobs, stop),
        Args::Spread { members, rounds, seed, loss } => {
            let result = spread(members, rounds, seed, across_a_continent(loss));
            println!(
                "{members} members, {rounds} rounds, seed {seed}, {loss} of 1000 lost, 10 to 70 ms one way"
            );
            for (what, times) in [
                ("join", &result.join),
                ("join, and the newcomer knows all", &result.caught_up),
                ("endpoint change", &result.change),
                ("revocation", &result.revocation),
            ] {
                let [p50, p99, max] =
                    [50, 99, 100].map(|percent| percentile(times, percent).unwrap_or_default());
                println!("{what}: seen by all after P50 {p50:.2?}, P99 {p99:.2?}, longest {max:.2?}");
            }
            println!(
                "idle: {:.0} bit/s of control messages a member, {:.0} bit/s with all headers",
                result.idle, result.idle_on_the_wire
            );
            ExitCode::SUCCESS
        }
        Args::Partition { members, rounds, seed, seconds, loss } => {
            halves(members, seed..seed + rounds, seconds, loss)
        }
        Args::Twice { members, rounds, seed, milliseconds, loss } => {
            let length = Duration::from_millis(milliseconds);
            let each =
                (seed..seed + rounds).map(|seed| twice(members, length, seed, across_a_continent(loss)));
            let mut times: Vec<_> = each.collect();
            times.sort_unstable();
            let [p50, p99, max] =
                [50, 99, 100].map(|percent| percentile(&times, percent).unwrap_or_default());
            println!(
                "{members} members, one token used in both halves, apart for {milliseconds} ms more, {rounds} seeds \
                 from {seed}, {loss} of 1000 lost: all agree after P50 {p50:.2?}, P99 {p99:.2?}, longest {max:.2?}"
            );
            ExitCode::SUCCESS
        }
        Args::Flapping { members, flapping: some, seconds, seed } => {
            let result = flapping(members, some, Duration::from_secs(seconds), seed, across_a_continent(10));
            println!(
                "{some} of {members} members flap at 1 Hz for {seconds} s, seed {seed}; among the others:"
            );
            println!(
                "{} changes of peers told to drivers, {} other lists of peers, {} other records, {} sessions ended; \
                 of those that flap {} announcements",
                result.changes, result.other_peers, result.other_records, result.ended, result.announced
            );
            ExitCode::SUCCESS
        }
        Args::Idle { members, off, seconds, seed } => {
            let length = Duration::from_secs(seconds);
            let result = idle(members, off, length, seed, across_a_continent(10));
            println!(
                "{members} members, {off} of them off, nothing happens for {seconds} s, seed {seed}, simulation included"
            );
            println!(
                "each: {:.4} % of a core, {:.1} KiB of memory for each member that it knows, {:.0} bit/s of gossip",
                result.cpu * 100.0,
                result.memory as f64 / 1024.0,
                result.gossip
            );
            ExitCode::SUCCESS
        }
        Args::Tell { seed } => {
            let report = run(seed);
            report.log.iter().chain(&report.violations).for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
    }
}

/// Ten to seventy milliseconds one way.
fn across_a_continent(loss: usize) -> Faults {
    Faults { delay: Duration::from_millis(10), jitter: Duration::from_millis(60), loss }
}

fn halves(members: usize, seeds: std::ops::Range<u64>, seconds: u64, loss: usize) -> ExitCode {
    println!("{members} members in two halves for {seconds} s, seeds {seeds:?}, {loss} of 1000 lost");
    let results: Vec<_> = seeds
        .map(|seed| partition(members, Duration::from_secs(seconds), seed, across_a_continent(loss)))
        .collect();
    let mut times: Vec<_> = results.iter().map(|result| result.healed).collect();
    times.sort_unstable();
    let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&times, percent).unwrap_or_default());
    let bad = results.iter().map(|result| result.bad_peers).sum::<usize>();
    let gossip = results.iter().map(|result| result.gossip).sum::<f64>() / results.len().max(1) as f64;
    println!(
        "all rosters equal after P50 {p50:.2?}, P99 {p99:.2?}, longest {max:.2?}; {bad} with a revoked peer; in the second \
         half of the cut {gossip:.0} bit/s of gossip a member, with all headers"
    );
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What many histories came to.
#[derive(Default)]
struct Tally {
    done: u64,
    events: BTreeMap<Kind, u64>,
    traces: BTreeSet<u64>,
    bad: u64,
    fewest_members: Option<usize>,
    fewest_events: Option<u64>,
}

impl Tally {
    fn add(&mut self, seed: u64, report: &Report) {
        self.done += 1;
        for (kind, times) in &report.events {
            *self.events.entry(*kind).or_default() += times;
        }
        self.traces.insert(report.trace);
        let members = self.fewest_members.get_or_insert(report.most_members);
        *members = report.most_members.min(*members);
        let count = report.events.values().sum();
        let events = self.fewest_events.get_or_insert(count);
        *events = count.min(*events);
        if let Some(first) = report.violations.first() {
            self.bad += 1;
            println!("seed {seed}: {} violations, first {first}", report.violations.len());
        }
    }
}

fn histories(first: u64, count: u64, jobs: usize, stop: bool) -> ExitCode {
    let start = Instant::now();
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(count) {
                        break;
                    }
                    let report = run(seed);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    if stop && tally.bad > 0 {
                        break;
                    }
                    tally.add(seed, &report);
                    if tally.done.is_multiple_of(PROGRESS) {
                        println!(
                            "{} histories, {} with violations, {:.0?}",
                            tally.done,
                            tally.bad,
                            start.elapsed()
                        );
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    for kind in Kind::ALL {
        println!("{kind:?}: {}", tally.events.get(kind).copied().unwrap_or(0));
    }
    println!(
        "{} histories from seed {first}, {} distinct traces, {} events of {} kinds, at least {} events and {} members \
         in each, {} with violations, {:.0?}",
        tally.done,
        tally.traces.len(),
        tally.events.values().sum::<u64>(),
        tally.events.len(),
        tally.fewest_events.unwrap_or(0),
        tally.fewest_members.unwrap_or(0),
        tally.bad,
        start.elapsed(),
    );
    if tally.bad == 0 && tally.done == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
