//! The walls around a lab: namespaces of its own, and a supervisor that is their process 1.
//!
//! ```text
//! the program that wants a lab
//!   └ stage        outside; makes the namespaces, waits for the supervisor, tidies up after it
//!       └ supervisor   process 1 inside: when it ends, by whatever signal, the kernel ends all below it,
//!           └ ...      and with the last process go the namespaces, links, rules and mounts
//! ```
//!
//! The supervisor ends when its stage dies (`PR_SET_PDEATHSIG`), when the program that owns the lab closes its
//! control socket, which it does however it dies, and when it is told to.

pub(crate) mod refusal;
pub(crate) mod stage;

use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::process::{Child, Command};

use crate::error::{Attempt as _, LabError};
use crate::reentry::{LAB, STAGE};
use crate::wire;

/// How long everything inside may take to vanish.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A sandbox, seen from outside.
#[derive(Debug)]
pub(crate) enum Sandbox {
    /// Ours: it ends with us.
    Owned(Box<Owned>),
    /// It runs in the background.
    Joined {
        /// Where its supervisor listens.
        socket: PathBuf,
    },
}

/// What holds a sandbox of ours.
#[derive(Debug)]
pub(crate) struct Owned {
    /// Closing it ends the sandbox. New streams are handed over through it.
    control: Mutex<Option<UnixStream>>,
    stage: tokio::sync::Mutex<Child>,
    /// What stage and supervisor said.
    log: Mutex<std::fs::File>,
}

impl Sandbox {
    /// Starts a sandbox that ends when the value is dropped, or this process ends. `program` is one that calls
    /// [`reenter`](crate::reenter).
    pub(crate) fn start(program: &Path) -> Result<Self, LabError> {
        refusal::check_device()?;
        let (ours, theirs) = UnixStream::pair().attempt(|| "make a socket pair".to_owned())?;
        let (stage, log) = spawn_stage(program, theirs.into(), None)?;
        Ok(Self::Owned(Box::new(Owned {
            control: Mutex::new(Some(ours)),
            stage: tokio::sync::Mutex::new(stage),
            log: Mutex::new(log),
        })))
    }

    /// Starts a sandbox that outlives this process. Its supervisor listens on `listener`, and its stage removes
    /// `directory` in the end, and has `lock` until then. The returned closure tells what the stage said, if it failed.
    pub(crate) fn start_in_background(
        program: &Path,
        listener: UnixListener,
        directory: &Path,
        lock: &std::fs::File,
    ) -> Result<impl FnMut() -> LabError + use<>, LabError> {
        refusal::check_device()?;
        let (_stage, mut log) = spawn_stage(program, listener.into(), Some((directory, lock)))?;
        Ok(move || said(&mut log))
    }

    /// Opens a stream for one request, with descriptors.
    pub(crate) fn open(
        &self,
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<tokio::net::UnixStream, LabError> {
        let failed = |error: std::io::Error| LabError::Gone(error.to_string());
        let stream = match self {
            Self::Owned(owned) => {
                let control = owned.control.lock().unwrap_or_else(PoisonError::into_inner);
                let control =
                    control.as_ref().ok_or_else(|| LabError::Gone("it was taken down".to_owned()))?;
                let (ours, theirs) = UnixStream::pair().map_err(failed)?;
                wire::send_opening(control.as_fd(), &[theirs.as_fd()]).map_err(failed)?;
                ours
            }
            Self::Joined { socket } => UnixStream::connect(socket).map_err(failed)?,
        };
        wire::send_opening(stream.as_fd(), fds).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        tokio::net::UnixStream::from_std(stream).map_err(failed)
    }

    /// Why the supervisor is gone, as well as it can be known.
    pub(crate) async fn epitaph(&self) -> LabError {
        match self {
            Self::Owned(owned) => {
                let ended = tokio::time::timeout(END_TIMEOUT, owned.stage.lock().await.wait()).await;
                if ended.is_err() {
                    return LabError::Gone("its supervisor closed the connection".to_owned());
                }
                said(&mut owned.log.lock().unwrap_or_else(PoisonError::into_inner))
            }
            Self::Joined { .. } => LabError::Gone("its supervisor closed the connection".to_owned()),
        }
    }

    /// Ends an owned sandbox, and returns when everything in it is gone.
    pub(crate) async fn end(&self) -> Result<(), LabError> {
        let Self::Owned(owned) = self else { return Ok(()) };
        owned.close();
        let mut stage = owned.stage.lock().await;
        match tokio::time::timeout(END_TIMEOUT, stage.wait()).await {
            Ok(_status) => Ok(()),
            Err(_elapsed) => {
                // Its death takes the supervisor along.
                stage.start_kill().attempt(|| "kill the stage".to_owned())?;
                let awaited = "the processes of the lab to end".to_owned();
                Err(LabError::TimedOut { awaited, after: END_TIMEOUT })
            }
        }
    }
}

impl Owned {
    /// Closes the control socket, without which the supervisor ends.
    fn close(&self) {
        drop(self.control.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Owned {
    /// When its owner goes on, everything in the sandbox is gone, however it came to that.
    fn drop(&mut self) {
        self.close();
        let pid = self.stage.get_mut().id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // Without an id it has ended already.
        let Some(Ok(stage)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return };
        let limit = Timespec::try_from(END_TIMEOUT).ok();
        // Nobody could do anything about an error.
        let _ = poll(&mut [PollFd::new(&stage, PollFlags::IN)], limit.as_ref());
    }
}

fn spawn_stage(
    program: &Path,
    control: OwnedFd,
    directory: Option<(&Path, &std::fs::File)>,
) -> Result<(Child, std::fs::File), LabError> {
    let what = || format!("start {}", program.display());
    let log = rustix::fs::memfd_create("ichor-lab", rustix::fs::MemfdFlags::CLOEXEC).attempt(what)?;
    let log = std::fs::File::from(log);
    // A lock is held by whoever has the descriptor: it is the stage's stdout, which says nothing.
    let stdout = match directory {
        Some((_, lock)) => Stdio::from(lock.try_clone().attempt(what)?),
        None => Stdio::null(),
    };
    let stage = Command::new(program)
        .args([LAB, STAGE])
        .args(directory.map(|(path, _)| path))
        .stdin(Stdio::from(control))
        .stdout(stdout)
        .stderr(Stdio::from(log.try_clone().attempt(what)?))
        .spawn()
        .attempt(what)?;
    Ok((stage, log))
}

/// The error that a stage or supervisor left, which is its last line in JSON, or else all it said.
fn said(log: &mut std::fs::File) -> LabError {
    let mut text = String::new();
    if let Err(error) = log.rewind().and_then(|()| log.read_to_string(&mut text)) {
        return LabError::Gone(error.to_string());
    }
    let last = text.trim().lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_not_ours| match text.trim() {
        "" => LabError::Gone("its supervisor ended without a word".to_owned()),
        text => LabError::Gone(text.to_owned()),
    })
}

/// Leaves `error` for whoever started us: see [`said`].
#[expect(clippy::print_stderr, reason = "stderr is the way by which stage and supervisor report")]
pub(crate) fn leave(error: &LabError) {
    eprintln!("{}", serde_json::to_string(error).unwrap_or_else(|_| error.to_string()));
}
