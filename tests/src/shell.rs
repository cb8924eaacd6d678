//! Running programs from tests and benchmarks, and waiting for what they lead to.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a condition may take: far more than it does, so that a slow machine is no failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails; with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to run {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until something holds, and says how long that took.
///
/// # Errors
/// When it does not come to hold.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        sleep(INTERVAL);
    }
    Ok(start.elapsed())
}

/// Runs a command with something to read, and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails.
pub fn pipe(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("the child has no standard input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `ip` with these arguments.
///
/// # Errors
/// When it cannot be started or fails; with what it said.
pub fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}
