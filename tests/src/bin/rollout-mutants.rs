//! Shows that the model of rollouts notices wrong rules. It plants one after the other into a copy of the source, builds
//! `rollout-sim` from it and tries schedules: `cargo run -p ichor-tests --bin rollout-mutants`.
//!
//! What is planted is in the core. The model, which judges, stays as it is.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Parser;
use ichor_tests::mutants::{Copy, Mutant};

const GUARD: &str = "patcher/rollout/src/guard.rs";
const NEXT: &str = "patcher/rollout/src/next.rs";
const BOOT: &str = "patcher/rollout/src/next/boot.rs";
const GATE: &str = "patcher/rollout/src/next/gate.rs";

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "one voter less than a quorum is enough",
        file: GUARD,
        from: "match (left.healthy >= left.quorum(), accept) {",
        to: "match (left.healthy + 1 >= left.quorum(), accept) {",
    },
    Mutant {
        name: "old news are believed",
        file: GUARD,
        from: "if etcd.floor.is_some_and(|floor| said.applied < floor) {",
        to: "if etcd.floor.is_some_and(|floor| said.applied < floor && false) {",
    },
    Mutant {
        name: "the gate is not asked again before the reboot",
        file: BOOT,
        from: "drain.or_else(|| self.gate(task)).or_else(",
        to: "drain.or_else(",
    },
    Mutant {
        name: "etcd is looked at only once before a control plane goes down",
        file: BOOT,
        from: "first.or_else(|| self.second_look(task)).unwrap_or(",
        to: "first.unwrap_or(",
    },
    Mutant {
        name: "the target counts among those that stay",
        file: GUARD,
        from: "healthy: others().filter(|(_, it)| it.is_some()).count()",
        to: "healthy: etcd.voters.iter().filter(|(_, it)| it.is_some()).count()",
    },
    Mutant {
        name: "alarms do not close the gate",
        file: GUARD,
        from: "    if said.ailing {",
        to: "    if said.ailing && said.leader == 0 {",
    },
    Mutant {
        name: "an image that was written by an earlier process is not known",
        file: BOOT,
        from: "let Some(made) = attempt.made(&Call::Install) else {",
        to: "let Some(made) = attempt.made(&Call::Install).filter(|made| made.is_ours) else {",
    },
    Mutant {
        name: "the old version is good enough",
        file: "patcher/rollout/src/proof.rs",
        from: "        && node.version.as_ref() != Some(wanted)",
        to: "        && node.version.as_ref() != Some(wanted) && node.boot.is_none()",
    },
    Mutant {
        name: "nodes go down with their pods",
        file: GATE,
        from: "        if !self.policy.drain {",
        to: "        if self.policy.drain {",
    },
    Mutant {
        name: "a node that was left in the middle of something is forgotten",
        file: NEXT,
        from: "    case.rest().unwrap_or_else(|| case.unless_flying(Next::Done))",
        to: "    case.unless_flying(Next::Done)",
    },
    Mutant {
        name: "what a boot left of a config is taken for right by the next process",
        file: "patcher/rollout/src/journal.rs",
        from: "        attempt.config = begun.config;",
        to: "        attempt.config = None;",
    },
];

#[derive(Debug, Parser)]
struct Args {
    /// Within how many schedules each is to be found
    #[arg(long, default_value_t = 40_000)]
    schedules: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let passed = format!("{} schedules without a violation", args.schedules);
    Copy::new("rollout-mutants")?.plant(MUTANTS, &passed, |copy| explore(&copy.tree, &copy.target, &args))
}

/// Tries schedules with the source in the copy: what is wrong with the first that is bad.
fn explore(tree: &Path, target: &Path, args: &Args) -> Result<Option<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "-p", "ichor-rollout", "--example", "rollout-sim", "--"]);
    command.args(["explore", "--count", &args.schedules.to_string(), "--stop"]);
    let output = command.current_dir(tree).env("CARGO_TARGET_DIR", target.join("build")).output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).map(str::to_owned);
    match (output.status.code(), line("schedules "), line("first bad: ")) {
        (Some(0), Some(_), None) => Ok(None),
        (Some(1), Some(_), Some(found)) => Ok(Some(found)),
        _ => bail!("the schedules come to no end: {shown}{}", String::from_utf8_lossy(&output.stderr)),
    }
}
