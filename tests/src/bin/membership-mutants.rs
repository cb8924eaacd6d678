//! Shows that the simulated histories notice wrong rules of membership. It plants one after the other into a copy of the
//! source, builds `membership-sim` from it and plays histories until one ends badly:
//! `cargo run -p ichor-tests --bin membership-mutants`.
//!
//! Honest by construction: what runs is the membership with one rule changed in its text and nothing else, played and
//! judged by the same program as always. All histories of the unchanged copy must end well first. A text that is not there
//! exactly once, a copy that does not build, or a play that ends without a count is an error and no catch.
//!
//! The program is built in a package of its own around the same files, which needs the mesh core and nothing else: so a
//! wrong rule costs seconds and not minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Parser;
use ichor_tests::mutants::{Copy, Mutant, write_if_new};

const RESOLVE: &str = "extension/mesh/src/roster/resolve.rs";
const RULES: &str = "extension/mesh/src/roster/rules.rs";
const RECORD: &str = "extension/mesh/src/record.rs";
const JOIN: &str = "extension/mesh/src/join.rs";
const KEYS: &str = "extension/mesh/src/membership/keys.rs";
const UPKEEP: &str = "extension/mesh/src/membership/upkeep.rs";

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a revocation is kept, but does not end the member",
        file: RESOLVE,
        from: "                End::Revoked { identity, .. } => (identity, Status::Revoked),",
        to: "                End::Revoked { .. } => continue,",
    },
    Mutant {
        name: "who leaves stays a member",
        file: RESOLVE,
        from: "                End::Left { identity, .. } => (identity, Status::Left),",
        to: "                End::Left { .. } => continue,",
    },
    Mutant {
        name: "a newcomer takes the name of who is installed",
        file: RESOLVE,
        from: "self.installed.iter().copied().chain(newcomers).collect();",
        to: "newcomers.chain(self.installed.iter().copied()).collect();",
    },
    Mutant {
        name: "two members may have one address",
        file: RESOLVE,
        from: "if names.contains_key(&name) || addresses.contains_key(&address) {",
        to: "if names.contains_key(&name) {",
    },
    Mutant {
        name: "a replaced incarnation stays",
        file: RESOLVE,
        from: "let old = by_id.get(&successor.grant.grant.replaces?)?;",
        to: "let old = by_id.get(&successor.grant.grant.replaces.filter(|_| false)?)?;",
    },
    Mutant {
        name: "of those with a spent token whoever came first stays",
        file: RESOLVE,
        from: "(self.is_by_its_like(settled), alone, alone && !was_installed, settled.rank())",
        to: "(!was_installed, alone, alone && !was_installed, settled.rank())",
    },
    Mutant {
        name: "an announcement counts by its hash, not by its sequence",
        file: RULES,
        from: "let key = |item: &SignedAnnouncement| (item.announcement.sequence, item.envelope.id());",
        to: "let key = |item: &SignedAnnouncement| (0, item.envelope.id());",
    },
    Mutant {
        name: "anybody revokes",
        file: RULES,
        from: "End::Revoked { .. } | End::Token(_) => self.owners.was_one(&OwnerKey(item.signer)),",
        to: "End::Revoked { .. } | End::Token(_) => true,",
    },
    Mutant {
        name: "of two admissions the one that came first stands",
        file: RULES,
        from: "        order(new) < order(known)",
        to: "        order(new) < order(known) && false",
    },
    Mutant {
        name: "what members rename counts",
        file: RULES,
        from: "        if !self.owners.was_one(&item.owner) {",
        to: "        if false {",
    },
    Mutant {
        name: "signatures are not checked",
        file: RECORD,
        from: "if !crypto.verify(signer, &message, signature) {",
        to: "if false && !crypto.verify(signer, &message, signature) {",
    },
    Mutant {
        name: "an expired token is good",
        file: JOIN,
        from: "Some(clock) if clock > grant.grant.not_after => return",
        to: "Some(clock) if clock > grant.grant.not_after && false => return",
    },
    Mutant {
        name: "the hello key stays as it is after a revocation",
        file: KEYS,
        from: "if !self.owes_rotation() || self.reachable.is_empty()",
        to: "if true || self.reachable.is_empty()",
    },
    Mutant {
        name: "ephemeral members are not let go",
        file: UPKEEP,
        from: "now.instant >= self.upkeep.heard_at(identity) + *lifetime",
        to: "false && now.instant >= self.upkeep.heard_at(identity) + *lifetime",
    },
];

/// What is built: the simulation and its command line.
const MANIFEST: &str = r#"[package]
name = "membership-mutant"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
clap = { version = "4", default-features = false, features = ["std", "derive", "help", "usage", "error-context", "suggestions"] }
ichor-mesh = { path = "../tree/extension/mesh", features = ["model"] }
ipnet = { version = "2", default-features = false, features = ["std"] }

[lib]
name = "ichor_tests"
path = "src/lib.rs"

[[bin]]
name = "membership-sim"
path = "../tree/tests/src/bin/membership-sim.rs"

[profile.dev]
opt-level = 2
debug = false
"#;
const LIBRARY: &str = "pub mod members;\npub mod random;\n";

#[derive(Debug, Parser)]
struct Args {
    /// Within how many histories each is to be found
    #[arg(long, default_value_t = 1000)]
    histories: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let copy = Copy::new("membership-mutants")?;
    let package = copy.target.join("package");
    write_package(&copy.tree, &package)?;
    let passed = format!("{:5} histories end well", args.histories);
    copy.plant(MUTANTS, &passed, |copy| {
        let found = play(&package, &copy.target, &args)?;
        Ok(found.map(|count| format!("{count:5} histories until it is found")))
    })
}

/// Writes the package around the files of the simulation in `tree`.
fn write_package(tree: &Path, package: &Path) -> Result<()> {
    write_if_new(&package.join("Cargo.toml"), MANIFEST.as_bytes())?;
    write_if_new(&package.join("src/lib.rs"), LIBRARY.as_bytes())?;
    let source = tree.join("tests/src");
    let mut names = vec![PathBuf::from("members.rs"), PathBuf::from("random.rs")];
    let mut folders = vec![PathBuf::from("members")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(source.join(&folder))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() { folders.push(name) } else { names.push(name) }
        }
    }
    for name in names {
        write_if_new(&package.join("src").join(&name), &fs::read(source.join(&name))?)?;
    }
    // The same versions as everywhere.
    if !package.join("Cargo.lock").exists() {
        fs::copy(tree.join("Cargo.lock"), package.join("Cargo.lock"))?;
    }
    Ok(())
}

/// Plays histories with the source in the copy: after how many the first ended badly.
fn play(package: &Path, target: &Path, args: &Args) -> Result<Option<u64>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--bin", "membership-sim", "--", "histories", "--stop"]);
    command.args(["--first", &args.first.to_string(), "--count", &args.histories.to_string()]);
    command.current_dir(package).env("CARGO_TARGET_DIR", target.join("build"));
    let output = command.output()?;
    let shown = String::from_utf8_lossy(&output.stdout);
    // `17 histories from seed 0, ..., 1 with violations, 3s`
    let last = shown.lines().last().and_then(|line| line.split_once(" histories from seed "));
    let (played, rest) = match last {
        Some((played, rest)) => (played.parse::<u64>().ok(), rest),
        None => (None, ""),
    };
    match played {
        Some(played) if rest.contains(" 0 with violations") && played == args.histories => Ok(None),
        Some(played) if rest.contains(" 1 with violations") => Ok(Some(played)),
        _ => bail!("there is no play: {}{}", shown, String::from_utf8_lossy(&output.stderr)),
    }
}
