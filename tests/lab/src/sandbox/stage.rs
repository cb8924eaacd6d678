//! The process that makes the namespaces. It has a single thread, as making a user namespace demands.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::{leave, refusal};
use crate::error::{Attempt as _, LabError};
use crate::reentry::{LAB, SUPERVISE};

/// Makes the sandbox, runs the supervisor in it, and removes `directory` when it has ended. Our stdout is the lock of
/// the directory, which is free when we are gone.
pub(crate) fn main(directory: Option<&Path>) -> ExitCode {
    let result = run();
    if let Some(directory) = directory
        && let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        leave(&LabError::failed(format!("remove {}", directory.display()), error));
    }
    match result {
        Ok(code) => code,
        Err(error) => {
            leave(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, LabError> {
    // Out of the terminal's session: Ctrl-C and hang-up are for who owns the lab, and it ends in good order.
    rustix::process::setsid().attempt(|| "leave the session".to_owned())?;
    make_namespaces()?;
    // The first child is process 1 of the new namespace. It inherits the control socket as stdin.
    let mut supervisor = Command::new("/proc/self/exe")
        .args([LAB, SUPERVISE])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| refusal::of_process(&error))?;
    // A lab that ends must not look as if it still listened.
    let null = File::open("/dev/null").attempt(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).attempt(|| "close stdin".to_owned())?;
    let status = supervisor.wait().attempt(|| "wait for the supervisor".to_owned())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn make_namespaces() -> Result<(), LabError> {
    let inner = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        match unshare(inner) {
            Ok(()) => return Ok(()),
            // Root without the capability, as in a container, may still be allowed a user namespace.
            Err(Errno::EPERM) => {}
            Err(error) => return Err(refusal::of_namespaces(error)),
        }
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(refusal::of_user_namespace)?;
    let map = |file: &str, content: String| {
        std::fs::write(file, content).map_err(|error| refusal::of_mapping(file, &error))
    };
    // Without this a group that is refused something could be left (user_namespaces(7)).
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    map("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    unshare(inner).map_err(refusal::of_namespaces)
}
