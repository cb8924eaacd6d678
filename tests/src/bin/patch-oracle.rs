//! Compares the patch engine with the official library of a Talos line on generated configs and patches:
//! `patch-oracle --line 1.14 --pairs 20000 --seed 1`.
//!
//! Prints how often each rule was shown, and every difference; fails when there was one.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ichor_tests::compare::{Agreement, Pair, compare};
use ichor_tests::oracle::Oracle;
use ichor_tests::pairs;
use ichor_tests::random::Random;
use ichorctl::patch::TalosLine;

#[derive(Debug, Parser)]
struct Args {
    /// Talos line: 1.11, 1.12, 1.13 or 1.14
    #[arg(long, default_value = "1.14")]
    line: String,
    /// How many pairs
    #[arg(long, default_value_t = 20_000)]
    pairs: usize,
    /// Seed of the generator
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only print differences of configs below this size
    #[arg(long, default_value_t = 100_000)]
    size: usize,
    /// How many differences are printed
    #[arg(long, default_value_t = 10)]
    show: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let line = TalosLine::of_version(&args.line).context("unknown line")?;
    let mut oracle = Oracle::start(&args.line)?.context("there is no Go here")?;
    let mut random = Random::new(args.seed);
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let (mut done, mut different, mut refused, mut unreadable) = (0, 0, 0, 0);
    while done < args.pairs {
        let batch: Vec<Pair> =
            (0..500.min(args.pairs - done)).map(|_| pairs::pair(line, &mut random)).collect();
        for (pair, verdict) in batch.iter().zip(compare(&mut oracle, line, &batch)?) {
            let count = counts.entry(pair.label.clone()).or_default();
            match verdict {
                Ok(Agreement::Patched(_)) => count.0 += 1,
                Ok(Agreement::Contradicts(_)) => {
                    count.1 += 1;
                    refused += 1;
                    *refusals.entry("Contradiction".into()).or_default() += 1;
                }
                Ok(Agreement::Unreadable) => unreadable += 1,
                Ok(Agreement::Refused(class)) => {
                    count.1 += 1;
                    refused += 1;
                    *refusals.entry(format!("{class:?}")).or_default() += 1;
                }
                Err(difference) => {
                    different += 1;
                    if different <= args.show && pair.config.len() < args.size {
                        println!("=== {} [{}]", difference.what, pair.label);
                        println!("--- config\n{}", String::from_utf8_lossy(&pair.config));
                        for patch in &pair.patches {
                            println!("--- patch\n{patch}");
                        }
                        println!(
                            "--- diff of ours and theirs\n{}",
                            short_diff(&difference.ours, &difference.theirs)
                        );
                    }
                }
            }
        }
        done += batch.len();
    }
    println!(
        "line {}: {done} pairs, {refused} refused by both, {unreadable} unreadable from them, {different} different",
        args.line
    );
    for (class, count) in refusals {
        println!("  refused {class}: {count}");
    }
    for (label, (patched, refused)) in counts {
        println!("  {label}: {patched} results, {refused} refusals");
    }
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn short_diff(ours: &str, theirs: &str) -> String {
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let end = ours[same..].iter().rev().zip(theirs[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(4);
    let mut out: Vec<String> = ours[from..same].iter().map(|line| format!("  {line}")).collect();
    out.extend(ours[same..ours.len() - end].iter().take(20).map(|line| format!("- {line}")));
    out.extend(theirs[same..theirs.len() - end].iter().take(20).map(|line| format!("+ {line}")));
    out.join("\n")
}
