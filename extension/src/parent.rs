//! The small process above the worker: PID 1 of the daemon's container.
//!
//! It does nothing but keep what must not go away when the worker does (a detached queue of the device, which
//! keeps its carrier, and the UDP sockets, which keep the port and queue what arrives) and start the next
//! worker. It reads no byte from outside, so there is little in it that could fail.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::keeper::{self, Kept};

/// A worker that lived this long was healthy: the next one starts at once.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Wait before the second of several workers that die young, doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How long a worker may take to stop. Talos gives the whole container little more.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Runs workers until told to stop.
pub(crate) fn run(config: &Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(config))
}

async fn supervise(config: &Path) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let kept = Kept::default();
    let mut delay = Duration::ZERO;
    loop {
        let started = Instant::now();
        let mut worker = start(config, &kept)?;
        loop {
            tokio::select! {
                status = worker.wait() => {
                    let status = status.context("failed to wait for the worker")?;
                    tracing::error!(%status, "the worker ended; starting the next one");
                    break;
                }
                _ = hangup.recv() => forward(&worker, Signal::HUP),
                _ = terminate.recv() => return stop(worker).await,
                _ = interrupt.recv() => return stop(worker).await,
            }
        }
        delay = next_delay(delay, started.elapsed());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// How long to wait before the next worker when the last one lived for `lived`. The first is always started at
/// once: traffic waits.
fn next_delay(last: Duration, lived: Duration) -> Duration {
    if lived >= HEALTHY_AFTER {
        Duration::ZERO
    } else if last.is_zero() {
        // Zero once more would be a busy loop; a nanosecond marks that one worker died young.
        Duration::from_nanos(1)
    } else {
        (last * 2).clamp(FIRST_DELAY, MAX_DELAY)
    }
}

fn start(config: &Path, kept: &Kept) -> anyhow::Result<Child> {
    let (ours, theirs) = keeper::pair().context("failed to make a socket pair")?;
    let program = std::env::current_exe().context("failed to find our own executable")?;
    let worker = Command::new(program)
        .args(crate::cli::reenter(["run", "--worker", "--config"]))
        .arg(config)
        .stdin(Stdio::from(theirs))
        .kill_on_drop(true)
        .spawn()
        .context("failed to start the worker")?;
    let kept = kept.clone();
    std::thread::Builder::new().name("keeper".into()).spawn(move || {
        let handed = kept.hand_over(ours.as_fd()).and_then(|()| kept.receive_all(ours.as_fd()));
        if let Err(error) = handed {
            tracing::warn!(%error, "what the worker left cannot be kept");
        }
    })?;
    Ok(worker)
}

async fn stop(mut worker: Child) -> anyhow::Result<ExitCode> {
    forward(&worker, Signal::TERM);
    if tokio::time::timeout(STOP_TIMEOUT, worker.wait()).await.is_err() {
        tracing::warn!("the worker does not stop; killing it");
        worker.kill().await.context("failed to kill the worker")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn forward(worker: &Child, signal: Signal) {
    let Some(pid) = worker.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { return };
    if let Err(error) = kill_process(pid, signal) {
        tracing::warn!(%error, "the worker did not get the signal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_worker_is_replaced_at_once() {
        assert_eq!(next_delay(MAX_DELAY, HEALTHY_AFTER), Duration::ZERO);
    }

    #[test]
    fn workers_that_die_young_are_replaced_ever_more_slowly() {
        let mut delay = Duration::ZERO;
        let delays: Vec<Duration> = (0..9)
            .map(|_| {
                delay = next_delay(delay, Duration::ZERO);
                delay
            })
            .collect();
        assert!(delays[0] < Duration::from_millis(1));
        assert_eq!(delays[1], FIRST_DELAY);
        assert_eq!(delays[2], FIRST_DELAY * 2);
        assert_eq!(delays[8], MAX_DELAY);
    }
}
