//! `boot-fuzz [COUNT [SEED]]`: thousands of starts of the daemon with damaged files, and what came of them.

use std::process::ExitCode;

use ichor_lab::{Lab, LabError, Nat, NodeSpec, Site, Topology};
use ichor_tests::boots::{self, Boots, Report};
use ichor_tests::netns::block_on;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the output of a program")]
fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = ichor_lab::reenter(&args) {
        return code;
    }
    let text: Vec<String> = args[1..].iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    // The probes of a lab come back to this program, too.
    if text.first().is_some_and(|first| first.starts_with(['{', '"'])) {
        return ichor_tests::probe::main(&args[1..]);
    }
    let number = |n: usize, default: u64| text.get(n).map_or(Ok(default), |text| text.parse());
    let (Ok(count), Ok(seed)) = (number(0, 10_000), number(1, 1)) else {
        eprintln!("usage: boot-fuzz [COUNT [SEED]]");
        return ExitCode::from(2);
    };
    match block_on(run(count, seed)) {
        Ok(report) => {
            println!("{report:#?}");
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(count: u64, seed: u64) -> Result<Report, LabError> {
    let mut site = Site::new("here", Nat::None);
    site.nodes = vec![NodeSpec { daemon: false, ..NodeSpec::new("a") }];
    let topology = Topology { sites: vec![site], ..Topology::default() };
    let lab = Lab::builder().topology(topology).up().await?;
    let report = boots::run(&lab.node("a"), Boots { seed, count, member: boots::first_member() }).await;
    lab.down().await?;
    report
}
