//! The programs that are compared.

use std::env;
use std::path::{Path, PathBuf};

/// How a program is started and told about its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// No program: the bare veth pair.
    Bare,
    /// `PROGRAM [ARGUMENTS] IFACE` in the foreground, configured by wg(8).
    Tunnel(&'static [&'static str]),
    /// `ichord run --config FILE`.
    Run,
}

/// One that is compared.
#[derive(Clone, Debug)]
pub struct Contender {
    /// As the table names it.
    pub name: &'static str,
    /// How it is started.
    pub manner: Manner,
    /// Where it is; empty for the bare veth.
    pub program: PathBuf,
}

/// Name in the table, names of the program, environment variable that points at it, manner.
const KNOWN: [(&str, &str, &str, Manner); 6] = [
    ("ichord tunnel", "ichord", "ICHOR_ICHORD", Manner::Tunnel(&["tunnel", "-f"])),
    ("ichord run", "ichord", "ICHOR_ICHORD", Manner::Run),
    // `go install golang.zx2c4.com/wireguard@latest` gives it this name.
    ("wireguard-go newest", "wireguard", "ICHOR_WIREGUARD_GO_NEWEST", Manner::Tunnel(&["-f"])),
    ("wireguard-go packaged", "wireguard-go", "ICHOR_WIREGUARD_GO", Manner::Tunnel(&["-f"])),
    (
        "boringtun-cli",
        "boringtun-cli",
        "ICHOR_BORINGTUN",
        Manner::Tunnel(&["-f", "--disable-drop-privileges"]),
    ),
    ("gotatun", "gotatun", "ICHOR_GOTATUN", Manner::Tunnel(&["-f", "--disable-drop-privileges"])),
];

/// All that are here, the bare veth first, and the names of those that are not.
pub fn find() -> (Vec<Contender>, Vec<&'static str>) {
    let mut found = vec![Contender { name: "veth", manner: Manner::Bare, program: PathBuf::new() }];
    let mut missing = Vec::new();
    for (name, program, variable, manner) in KNOWN {
        match locate(program, variable) {
            Some(program) => found.push(Contender { name, manner, program }),
            None => missing.push(name),
        }
    }
    (found, missing)
}

/// The variable's word counts, then a program beside this one, then `PATH`.
fn locate(program: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(program)));
    let path = env::var_os("PATH").unwrap_or_default();
    let places =
        beside.into_iter().chain(env::split_paths(&path).map(|folder: PathBuf| folder.join(program)));
    places.into_iter().find(|path: &PathBuf| Path::is_file(path))
}
