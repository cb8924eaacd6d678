//! Compares the patch engine with the official library of a Talos line on generated configs and patches:
//! `patch-oracle --line 1.14 --pairs 20000 --seed 1`.
//!
//! Prints how often each rule was shown, and the first differences. Fails when there was one, or when a run that is
//! long enough has not shown every rule often enough.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ichor_tests::oracle::Oracle;
use ichor_tests::tally::{FLOORS_FROM, Tally};
use ichorctl::patch::TalosLine;

#[derive(Debug, Parser)]
struct Args {
    /// Talos line: 1.11, 1.12, 1.13 or 1.14
    #[arg(long, default_value = "1.14")]
    line: String,
    /// How many pairs
    #[arg(long, default_value_t = FLOORS_FROM)]
    pairs: usize,
    /// Seed of the generator
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many differences are printed
    #[arg(long, default_value_t = 10)]
    show: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let line = TalosLine::of_version(&args.line).context("unknown line")?;
    let mut oracle = Oracle::start(&args.line)?.context("there is no Go here")?;
    let tally = Tally::run(&mut oracle, line, args.pairs, args.seed, args.show)?;
    let mut out = io::stdout().lock();
    for (pair, difference) in &tally.examples {
        writeln!(out, "=== [{}]\n--- config\n{}", pair.label, pair.config)?;
        for patch in &pair.patches {
            writeln!(out, "--- patch\n{patch}")?;
        }
        writeln!(out, "--- {difference}")?;
    }
    writeln!(out, "{tally}")?;
    let short = if args.pairs >= FLOORS_FROM { tally.shortfalls() } else { Vec::new() };
    for what in &short {
        writeln!(out, "not enough: {what}")?;
    }
    Ok(if tally.different == 0 && short.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
