//! Writes a cluster of 1,000 nodes for a measurement of `ichorctl plan`.
//!
//! ```text
//! cargo run -p ichor-tests --bin plan-nodes -- DIR
//! /usr/bin/time -v ichorctl plan -f DIR/ichor.yaml --configs DIR/nodes > /dev/null
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const NODES: u32 = 1000;
const LINES: [&str; 4] = ["1.11", "1.12", "1.13", "1.14"];

fn main() -> Result<()> {
    let target: PathBuf = std::env::args_os().nth(1).context("usage: plan-nodes DIR")?.into();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/plan");
    fs::create_dir_all(target.join("nodes"))?;
    let mut file =
        "mesh: {name: big, range: 10.213.0.0/16}\nsites:\n  - {name: rack, lans: [192.168.0.0/16]}\nnodes:\n"
            .to_owned();
    for index in 1..=NODES {
        let role = if index <= 5 { "controlplane" } else { "worker" };
        let line = LINES[index as usize % LINES.len()];
        let (high, low) = (index / 250, index % 250 + 1);
        writeln!(
            file,
            "  - {{name: n-{index}, role: {role}, site: rack, address: 10.213.{high}.{low}, api: 192.168.{high}.{low}}}"
        )?;
        fs::copy(
            fixtures.join(format!("v{line}-{role}.yaml")),
            target.join(format!("nodes/n-{index}.yaml")),
        )?;
    }
    fs::write(target.join("ichor.yaml"), file)?;
    Ok(())
}
