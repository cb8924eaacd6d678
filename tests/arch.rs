//! The rules of the architecture that the compiler does not check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that the core may pull in, directly or not. A new entry is a decision: the core has no runtime, no
/// sockets, no clock, no randomness of its own.
const CORE_MAY_USE: &[&str] = &[
    "aead",
    "array-const-fn-init",
    "autocfg",
    "base64",
    "blake2",
    "block-buffer",
    "cfg-if",
    "chacha20",
    "chacha20poly1305",
    "cipher",
    "cpufeatures",
    "crypto-common",
    "curve25519-dalek",
    "curve25519-dalek-derive",
    "digest",
    "ed25519",
    "ed25519-dalek",
    "either",
    "generic-array",
    "ichor-mesh",
    "inout",
    "ipnet",
    "itertools",
    "num-traits",
    "once_cell",
    "opaque-debug",
    "pin-project-lite",
    "poly1305",
    "ppv-lite86",
    "prefix-trie",
    "proc-macro2",
    "quote",
    "rand_chacha",
    "rand_core",
    "rustc_version",
    "semver",
    "serde",
    "serde_core",
    "serde_derive",
    "sha2",
    "signature",
    "smallvec",
    "subtle",
    "syn",
    "thiserror",
    "thiserror-impl",
    "tracing",
    "tracing-attributes",
    "tracing-core",
    "typenum",
    "unicode-ident",
    "universal-hash",
    "version_check",
    "x25519-dalek",
    "zerocopy",
    "zeroize",
    "zeroize_derive",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is one level down").to_owned()
}

/// Packages that `package` needs at run time.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-e", "normal,build", "--prefix", "none", "-p", package])
        .current_dir(root())
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo tree prints text");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The Rust files of the repository that people write, with their paths from its root.
fn sources() -> Vec<(PathBuf, String)> {
    let output = Command::new("git").args(["ls-files", "-z", "*.rs"]).current_dir(root()).output();
    let listed = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let paths: Vec<PathBuf> = match listed {
        Some(list) => String::from_utf8_lossy(&list).split('\0').map(PathBuf::from).collect(),
        // Not a git checkout: a release archive.
        None => walk(&root()),
    };
    paths
        .into_iter()
        .filter(|path| {
            !path.as_os_str().is_empty() && !path.components().any(|part| part.as_os_str() == "gen")
        })
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(root().join(&path)).ok()?)))
        .collect()
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            found.extend(walk(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(path.strip_prefix(root()).map(Path::to_owned));
        }
    }
    found
}

/// The lines of a file that are code: without comments and documentation.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

#[test]
fn the_core_pulls_in_nothing_that_does_io() {
    let allowed: BTreeSet<String> = CORE_MAY_USE.iter().map(|name| (*name).to_owned()).collect();
    let extra: Vec<_> = dependencies("ichor-mesh").difference(&allowed).cloned().collect();
    assert!(extra.is_empty(), "the core must not depend on {extra:?}");
}

#[test]
fn the_core_of_rollouts_pulls_in_nothing_that_does_io() {
    let allowed = ["ichor-rollout", "itoa", "memchr", "serde_json", "zmij"];
    let allowed: BTreeSet<String> =
        CORE_MAY_USE.iter().chain(&allowed).map(|name| (*name).to_owned()).collect();
    let extra: Vec<_> = dependencies("ichor-rollout").difference(&allowed).cloned().collect();
    assert!(extra.is_empty(), "the core of rollouts must not depend on {extra:?}");
}

#[test]
fn the_cores_forbid_unsafe_code() {
    for core in ["extension/mesh/src/lib.rs", "patcher/rollout/src/lib.rs"] {
        let lib = std::fs::read_to_string(root().join(core)).expect("the core is there");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{core}");
    }
}

#[test]
fn unsafe_code_is_in_two_files() {
    let allowed = [Path::new("extension/src/io/slice.rs"), Path::new("extension/src/io/tun.rs")];
    for (path, text) in sources() {
        let uses = code(&text)
            .any(|line| line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " fn")));
        assert!(!uses || allowed.contains(&path.as_path()), "{} has unsafe code", path.display());
    }
}

#[test]
fn boringtun_is_named_in_one_file() {
    let allowed = Path::new("extension/src/noise.rs");
    for (path, text) in sources() {
        let names = code(&text).any(|line| line.contains(concat!("boring", "tun::")));
        assert!(!names || path == allowed, "{} names boringtun", path.display());
    }
}

#[test]
fn the_daemon_reads_clocks_in_one_file() {
    let allowed = Path::new("extension/src/clock.rs");
    for (path, text) in sources() {
        let is_daemon = path.starts_with("extension/src") || path.starts_with("extension/mesh/src");
        let is_test = path.ends_with("testing.rs");
        // tokio's clock drives its own timers; what the core sees comes from one place.
        let imports_std_clock =
            code(&text).any(|line| line.contains("std::time::") && line.contains("Instant"));
        let reads = imports_std_clock && code(&text).any(|line| line.contains("Instant::now"));
        assert!(!is_daemon || is_test || !reads || path == allowed, "{} reads the clock", path.display());
    }
}

#[test]
fn no_file_is_too_long_to_hold_in_the_head() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: split it by topic", path.display());
    }
}
