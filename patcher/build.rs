//! Names the compiler that makes this program, for `--version`.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok();
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let version = version.trim();
    println!(
        "cargo::rustc-env=ICHOR_COMPILER={}",
        if version.is_empty() { "an unknown rustc" } else { version }
    );
}
