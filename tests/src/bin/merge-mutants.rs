//! Shows that the comparison with the official library notices wrong merge rules. It plants one after the other into a
//! copy of the source, builds `patch-oracle` from it and compares: `cargo run -p ichor-tests --bin merge-mutants`.
//!
//! Honest by construction: what runs is the engine with one rule changed in its text and nothing else, compared by
//! the same program, pairs and judge as always. The unchanged copy must agree in all pairs first. A text that is not
//! there exactly once, a copy that does not build, or a comparison that ends without a count is an error and no catch.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// A wrong rule.
struct Mutant {
    /// What it does.
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are below the root")?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("mutants");
    let copy = target.join("tree");
    copy_tracked(root, &copy)?;
    let mut out = io::stdout().lock();
    let different = compare(&copy, &args).context("the engine as it is")?;
    writeln!(out, "{different:5} of {} pairs differ: the engine as it is", args.pairs)?;
    ensure!(different == 0, "the comparison must agree before anything is planted");
    let mut missed = 0;
    for mutant in MUTANTS {
        let path = copy.join(mutant.file);
        let text = fs::read_to_string(&path)?;
        let count = text.matches(mutant.from).count();
        ensure!(count == 1, "{}: the rule stands {count} times in {}", mutant.name, mutant.file);
        fs::write(&path, text.replace(mutant.from, mutant.to))?;
        let different = compare(&copy, &args).with_context(|| mutant.name);
        fs::write(&path, text)?;
        let different = different?;
        missed += usize::from(different == 0);
        writeln!(out, "{different:5} of {} pairs differ: {}", args.pairs, mutant.name)?;
    }
    writeln!(out, "{} of {} wrong rules were noticed", MUTANTS.len() - missed, MUTANTS.len())?;
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes `to` the tracked files of `from`. What is the same already keeps its time, so that little is built anew.
fn copy_tracked(from: &Path, to: &Path) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(from).output()?;
    ensure!(listed.status.success(), "git ls-files failed in {}", from.display());
    let names = String::from_utf8(listed.stdout)?;
    for name in names.split_terminator('\0') {
        let (source, copy) = (from.join(name), to.join(name));
        let content = match fs::read(&source) {
            // Taken out, but not committed yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            content => content.with_context(|| format!("failed to read {}", source.display()))?,
        };
        if fs::read(&copy).is_ok_and(|there| there == content) {
            continue;
        }
        fs::create_dir_all(copy.parent().unwrap_or(to))?;
        fs::write(&copy, content).with_context(|| format!("failed to write {}", copy.display()))?;
    }
    Ok(())
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
