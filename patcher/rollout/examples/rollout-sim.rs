//! Tries rollouts on clusters that are only thought of.

use clap::{Parser, Subcommand};
use ichor_rollout::model::{Tally, explore, run, schedule};

#[derive(Parser)]
#[command(about = "Try rollouts on clusters that are only thought of")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try the schedules of many seeds; ends with 1 when something happened that must not
    Explore {
        /// The first seed
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// Threads
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// Do not go on after the first thousand in which something is wrong
        #[arg(long)]
        stop: bool,
    },
    /// Tell what happens with one seed
    Tell {
        /// The seed
        seed: u64,
    },
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> std::process::ExitCode {
    match Arguments::parse().command {
        Command::Explore { first, count, jobs, stop } => {
            let step = if stop { 1000.min(count) } else { count };
            let mut tally = Tally::default();
            let mut done = 0;
            while done < count && (!stop || is_good(&tally)) {
                tally.join(side_by_side(first + done, step.min(count - done), jobs.max(1)));
                done += step;
            }
            print(&tally);
            u8::from(!is_good(&tally)).into()
        }
        Command::Tell { seed } => {
            let (case, faults) = schedule(seed);
            println!("{} nodes, faults: {faults:#?}", case.machines.len());
            let report = run(&case, &faults, true);
            for line in &report.told {
                println!("{line}");
            }
            println!(
                "finished: {}, runs: {}, violations: {:?}",
                report.is_finished, report.runs, report.violations
            );
            u8::from(!report.violations.is_empty()).into()
        }
    }
}

/// Whether nothing happened that must not, and enough came to a good end: all without a fault, 99 of 100 with one.
fn is_good(tally: &Tally) -> bool {
    let is_live = tally.finished.iter().all(|(faults, (schedules, finished, _))| match faults {
        0 => schedules == finished,
        1 => finished * 100 >= schedules * 99,
        _ => true,
    });
    tally.violated == 0 && is_live
}

fn side_by_side(first: u64, count: u64, jobs: u64) -> Tally {
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let part = |job: u64| move || explore((first..first + count).filter(|seed| seed % jobs == job));
        let threads: Vec<_> = (0..jobs).map(|job| scope.spawn(part(job))).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => tally.join(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    tally
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn print(tally: &Tally) {
    println!("schedules         {}", tally.schedules);
    println!("distinct traces   {}", tally.traces.len());
    println!("calls             {}", tally.calls);
    println!("violations        {}", tally.violated);
    println!("accepted outages  {}", tally.accepted_outages);
    println!("unforeseeable     {}", tally.unforeseeable);
    println!("without consent   {}", tally.kept_out);
    for (faults, (schedules, finished, at_once)) in &tally.finished {
        println!(
            "{faults} faults: {schedules} schedules, {finished} finished, {at_once} of them in the first run"
        );
    }
    for (kind, count) in &tally.faults {
        println!("{count:>9} {kind}");
    }
    let bad = tally.violations.iter().map(|(seed, violations)| (*seed, format!("{violations:?}")));
    let unfinished = tally.unfinished.iter().map(|seed| (*seed, "not finished".to_owned()));
    if !is_good(tally)
        && let Some((seed, what)) = bad.chain(unfinished).min()
    {
        println!("first bad: seed {seed}, {what}");
    }
    for (seed, violations) in tally.violations.iter().take(20) {
        println!("seed {seed}: {violations:?}");
    }
    for seed in tally.unfinished.iter().take(20) {
        println!("seed {seed}: not finished");
    }
}
