//! `ichorctl lab exec`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Attempt as _, LabError};
use crate::lab::Lab;
use crate::protocol::Exit;

/// Runs `program` in a node with our own stdin, stdout and stderr; returns its exit code as a shell would.
pub(crate) async fn exec(lab: &Lab, node: &str, program: Vec<String>) -> Result<u8, LabError> {
    let what = || "pass on stdin, stdout and stderr".to_owned();
    let fds: [OwnedFd; 3] = [
        io::stdin().as_fd().try_clone_to_owned().attempt(what)?,
        io::stdout().as_fd().try_clone_to_owned().attempt(what)?,
        io::stderr().as_fd().try_clone_to_owned().attempt(what)?,
    ];
    let mut command = lab.node(node).command(program);
    // The directories that a node has for itself do not hold what they hold here.
    if let Ok(directory) = std::env::current_dir()
        && !["/run", "/etc", "/var/lib", "/proc", "/sys"].iter().any(|own| directory.starts_with(own))
    {
        command = command.directory(directory);
    }
    let mut running = command.spawn_with(fds).await?;
    let what = || "wait for signals".to_owned();
    let mut interrupt = signal(SignalKind::interrupt()).attempt(what)?;
    let mut quit = signal(SignalKind::quit()).attempt(what)?;
    let mut terminate = signal(SignalKind::terminate()).attempt(what)?;
    let mut hangup = signal(SignalKind::hangup()).attempt(what)?;
    loop {
        let passed_on = tokio::select! {
            exit = running.wait() => return Ok(code(exit?)),
            _ = interrupt.recv() => Signal::INT,
            _ = quit.recv() => Signal::QUIT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        running.signal(passed_on.as_raw()).await?;
    }
}

fn code(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
