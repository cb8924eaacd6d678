//! Shows that the comparison with the official library notices wrong merge rules. It plants one after the other into a
//! copy of the source, builds `patch-oracle` from it and compares: `cargo run -p ichor-tests --bin merge-mutants`.
//!
//! Honest by construction: what runs is the engine with one rule changed in its text and nothing else, compared by
//! the same program, pairs and judge as always. The unchanged copy must agree in all pairs first. A text that is not
//! there exactly once, a copy that does not build, or a comparison that ends without a count is an error and no catch.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Parser;
use ichor_tests::mutants::{Copy, Mutant};

const MERGE: &str = "patcher/src/patch/merge.rs";

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "interfaces are appended instead of found by name or selector",
        file: MERGE,
        from: r#"    ListRule { name: "NetworkDeviceList", keys: &["interface", "deviceSelector"], replace: false },"#,
        to: "",
    },
    Mutant {
        name: "extension files are found by content instead of mount path",
        file: MERGE,
        from: r#"keys: &["mountPath"]"#,
        to: r#"keys: &["content"]"#,
    },
    Mutant {
        name: "lists that replace are appended to, and the others replaced",
        file: MERGE,
        from: "Value::List(left) if !replace =>",
        to: "Value::List(left) if replace =>",
    },
    Mutant {
        name: "a plain false does not overwrite",
        file: MERGE,
        from: "Shape::Bool => set(left, right),",
        to: "Shape::Bool => if right.is_zero() { Ok(()) } else { set(left, right) },",
    },
    Mutant {
        name: "zero behind a pointer does not overwrite",
        file: MERGE,
        from: "let overwrite = self.line >= TalosLine::V1_12;",
        to: "let overwrite = false;",
    },
    Mutant {
        name: "arguments of one flag replace those of all",
        file: MERGE,
        from: "left.extend(right.iter().map(|(key, value)| (key.clone(), value.clone())));",
        to: "*left = right.clone();",
    },
];

#[derive(Debug, Parser)]
struct Args {
    /// Talos line: 1.11, 1.12, 1.13 or 1.14
    #[arg(long, default_value = "1.14")]
    line: String,
    /// How many pairs each is compared on
    #[arg(long, default_value_t = 4000)]
    pairs: usize,
    /// Seed of the generator
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let passed = format!("all of {} pairs agree", args.pairs);
    Copy::new("mutants")?.plant(MUTANTS, &passed, |copy| {
        let different = compare(&copy.tree, &args)?;
        Ok((different > 0).then(|| format!("{different:5} of {} pairs differ", args.pairs)))
    })
}

/// How many pairs come out differently with the source in `tree`.
fn compare(tree: &Path, args: &Args) -> Result<usize> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "-p", "ichor-tests", "--bin", "patch-oracle", "--"]);
    command.args(["--line", &args.line, "--seed", &args.seed.to_string(), "--show", "0"]);
    command.args(["--pairs", &args.pairs.to_string()]);
    let output = command.current_dir(tree).output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    // `line 1.14: 4000 pairs, ..., 12 different`
    let last =
        shown.lines().find(|line| line.starts_with(&format!("line {}: {} pairs", args.line, args.pairs)));
    let count = last.and_then(|line| line.strip_suffix(" different")?.rsplit(' ').next()?.parse().ok());
    match count {
        Some(count) => Ok(count),
        None => bail!("there is no comparison: {}{}", shown, String::from_utf8_lossy(&output.stderr)),
    }
}
