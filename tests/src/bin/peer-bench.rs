//! Compares ichord with every userspace WireGuard that is here: `make bench`.
//!
//! Needs root, and ip, wg, iperf3 and ping. Sends only between two namespaces of its own.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use ichor_tests::bench::contender;
use ichor_tests::bench::measure::{Round, round};
use ichor_tests::bench::report::{Row, table};
use ichor_tests::shell::output;

#[derive(Debug, Parser)]
struct Args {
    /// How often each is measured; they alternate, and medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each transfer lasts, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Only those whose name contains one of these words
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What is printed in the end
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Table,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(rustix::process::geteuid().is_root(), "needs root for network namespaces: run `sudo make bench`");
    for (tool, flag) in [("ip", "-V"), ("wg", "-v"), ("iperf3", "-v"), ("ping", "-V")] {
        output(Command::new(tool).arg(flag))?;
    }
    let mut said = std::io::stderr();
    let (mut contenders, missing) = contender::find();
    for name in missing {
        writeln!(said, "{name}: not here")?;
    }
    contenders.retain(|contender| {
        args.only.is_empty() || args.only.iter().any(|word| contender.name.contains(word))
    });
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contenders.len()];
    for number in 1..=args.rounds {
        for (contender, rounds) in contenders.iter().zip(&mut rounds) {
            let round = round(contender, args.seconds)?;
            writeln!(
                said,
                "round {number}/{}: {} {:.2} Gbit/s, {:.2} CPU-s/GB, {:.0} pps",
                args.rounds, contender.name, round.stream, round.cpu_per_gb, round.datagrams
            )?;
            rounds.push(round);
        }
    }
    let rows: Vec<Row> =
        contenders.iter().zip(&rounds).map(|(contender, rounds)| Row::new(contender.name, rounds)).collect();
    let mut out = std::io::stdout();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
        Output::Table => write!(out, "{}", table(&rows))?,
    }
    Ok(())
}
