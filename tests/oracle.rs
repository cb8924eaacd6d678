//! The patch engine beside the official library of each Talos line (`tests/oracle`).
//!
//! Where there is no Go these tests say so and pass, unless `ICHOR_REQUIRE_ORACLE` is set. `patch-oracle` compares
//! more pairs than a test should take time for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ichor_tests::compare::{self, Agreement, Pair, compare};
use ichor_tests::oracle::{Oracle, Request, validate};
use ichor_tests::tally::Tally;
use ichorctl::patch::TalosLine;
use serde::Deserialize;

/// Compared pairs per line, always the same ones.
const PAIRS: usize = 2_000;
const SEED: u64 = 20_261_121;

fn tests_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn the_field_table_is_the_one_of_the_library(line: TalosLine) -> Result<()> {
    let Some(mut oracle) = Oracle::start(&line.to_string())? else { return Ok(()) };
    let answer = oracle.ask(&Request::fields())?;
    let path = tests_directory().join(format!("../patcher/src/patch/fields/v{line}.txt"));
    let committed = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let changed = committed.lines().zip(answer.fields.lines()).position(|(ours, theirs)| ours != theirs);
    ensure!(
        committed == answer.fields,
        "{} differs from the library from line {} on: write the answer to `fields` there, and check what it changes",
        path.display(),
        changed.unwrap_or(committed.lines().count().min(answer.fields.lines().count())) + 1
    );
    Ok(())
}

fn generated_pairs_agree(line: TalosLine) -> Result<()> {
    let Some(mut oracle) = Oracle::start(&line.to_string())? else { return Ok(()) };
    let tally = Tally::run(&mut oracle, line, PAIRS, SEED, 3)?;
    if let Some((pair, difference)) = tally.examples.first() {
        let patches = pair.patches.join("\n--- patch\n");
        anyhow::bail!("[{}]\n{}\n--- patch\n{patches}\n--- {difference}\n{tally}", pair.label, pair.config);
    }
    ensure!(tally.pairs == PAIRS && tally.different == 0, "{tally}");
    ensure!(tally.refused * 4 >= tally.pairs && tally.refused < tally.pairs, "{tally}");
    Ok(())
}

/// A case worth keeping: `tests/oracle/vectors/*.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    /// What it shows.
    rule: String,
    /// The oldest line with these kinds and rules.
    from: String,
    config: String,
    patches: Vec<String>,
    /// What comes out, byte for byte.
    result: Option<String>,
    /// Or the class and the path of the refusal.
    refusal: Option<(String, String)>,
}

fn vectors() -> Result<Vec<Vector>> {
    let directory = tests_directory().join("oracle/vectors");
    let files = fs::read_dir(&directory)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.sort();
    let mut vectors = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let read: Vec<Vector> =
            yaml_serde::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        vectors.extend(read);
    }
    Ok(vectors)
}

#[test]
fn vectors_come_out_as_they_are_written_down() -> Result<()> {
    let vectors = vectors()?;
    ensure!(vectors.len() >= 12, "only {} vectors", vectors.len());
    for line in TalosLine::ALL {
        for vector in vectors.iter().filter(|vector| applies(vector, line)) {
            let pair = pair(vector);
            match (compare::ours(&pair, line), &vector.result, &vector.refusal) {
                (Ok(text), Some(result), None) => {
                    ensure!(text == *result, "{line} {}: {text}", vector.rule);
                }
                (Err(error), None, Some((class, path))) => {
                    let found = (format!("{:?}", error.class), error.path.clone());
                    ensure!(found == (class.clone(), path.clone()), "{line} {}: {found:?}", vector.rule);
                }
                (came, ..) => anyhow::bail!("{line} {}: {came:?}", vector.rule),
            }
        }
    }
    Ok(())
}

fn vectors_agree(line: TalosLine) -> Result<()> {
    let Some(mut oracle) = Oracle::start(&line.to_string())? else { return Ok(()) };
    let vectors: Vec<Vector> = vectors()?.into_iter().filter(|vector| applies(vector, line)).collect();
    let pairs: Vec<Pair> = vectors.iter().map(pair).collect();
    for (vector, verdict) in vectors.iter().zip(compare(&mut oracle, line, &pairs)?) {
        let patched = match verdict {
            Ok(Agreement::Patched(_) | Agreement::Contradicts(_)) => true,
            Ok(Agreement::Refused(_)) => false,
            Ok(Agreement::Unreadable) => anyhow::bail!("{}: no node reads this back", vector.rule),
            Err(difference) => anyhow::bail!("{}: {difference}", vector.rule),
        };
        ensure!(patched == vector.result.is_some(), "{}: patched: {patched}", vector.rule);
    }
    Ok(())
}

fn applies(vector: &Vector, line: TalosLine) -> bool {
    TalosLine::of_version(&vector.from).is_some_and(|from| line >= from)
}

fn pair(vector: &Vector) -> Pair {
    Pair { config: vector.config.clone(), patches: vector.patches.clone(), label: vector.rule.clone() }
}

const WORKER: &str = "\
version: v1alpha1
machine:
  type: worker
  token: abcdef.0123456789abcdef
  ca:
    crt: LS0t
  install:
    disk: /dev/sda
  network:
    hostname: old
cluster:
  id: aWQ=
  secret: c2VjcmV0
  token: abcdef.0123456789abcdef
  controlPlane:
    endpoint: https://10.0.0.1:6443
";

fn validation_tells_good_configs_from_bad_ones(line: TalosLine) -> Result<()> {
    let Some(good) = validate(line, WORKER, "metal")? else { return Ok(()) };
    ensure!(good.errors.is_empty(), "{good:?}");
    let etcd = format!("{WORKER}  etcd: {{}}\n");
    let no_disk = WORKER.replace("    disk: /dev/sda\n", "    wipe: true\n");
    let hostname = format!("{WORKER}---\napiVersion: v1alpha1\nkind: HostnameConfig\nhostname: new\n");
    let doubled = match line {
        TalosLine::V1_11 => "\"HostnameConfig\" \"v1alpha1\": not registered",
        _ => "static hostname is already set in v1alpha1 config",
    };
    for (config, expected) in [(etcd, "etcd"), (no_disk, "install disk"), (hostname, doubled)] {
        let errors = validate(line, &config, "metal")?.context("the oracle is gone")?.errors;
        ensure!(errors.iter().any(|error| error.contains(expected)), "{errors:?} without {expected}");
    }
    Ok(())
}

macro_rules! of_every_line {
    ($($name:ident),*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn v1_11() -> Result<()> {
                super::$name(TalosLine::V1_11)
            }

            #[test]
            fn v1_12() -> Result<()> {
                super::$name(TalosLine::V1_12)
            }

            #[test]
            fn v1_13() -> Result<()> {
                super::$name(TalosLine::V1_13)
            }

            #[test]
            fn v1_14() -> Result<()> {
                super::$name(TalosLine::V1_14)
            }
        }
    )*};
}

of_every_line!(
    the_field_table_is_the_one_of_the_library,
    generated_pairs_agree,
    vectors_agree,
    validation_tells_good_configs_from_bad_ones
);
