//! The processes of the lab. As process 1 the supervisor must collect all of them, also those whose parents
//! died, and nobody else may.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::sync::watch;

use crate::protocol::Exit;

/// All processes that the lab started and that have not ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Arc<Mutex<HashMap<Pid, watch::Sender<Option<Exit>>>>>);

/// One process. Dropping this does not end it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    processes: Processes,
}

impl Processes {
    /// Starts a process in the namespaces of the calling thread, as the first of a process group.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        use std::os::unix::process::CommandExt as _;
        // While a process is being started nobody collects any: the standard library collects one that failed
        // to start, and one that ends at once must be known before.
        let mut live = self.lock();
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        let (sender, exit) = watch::channel(None);
        live.insert(pid, sender);
        drop(live);
        Ok(Process { pid, exit, processes: self.clone() })
    }

    /// Collects all that have ended.
    pub(crate) fn collect(&self) {
        let mut live = self.lock();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            if let Some(sender) = live.remove(&pid) {
                sender.send_replace(Some(exit));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, watch::Sender<Option<Exit>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The sender goes only after it has said how the process ended.
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        ended.unwrap_or(Exit::Code(-1))
    }

    /// Sends it a signal, if it has not ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let live = self.processes.lock();
        if live.contains_key(&self.pid) {
            // It can have ended since, but its id is not free before it is collected, for which the lock is
            // needed.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Sends a signal to it and all that it started in its group.
    pub(crate) fn signal_group(&self, signal: Signal) {
        let live = self.processes.lock();
        if live.contains_key(&self.pid) {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Kills the processes that it started itself, and tells how many those were.
    pub(crate) fn kill_children(&self) -> io::Result<usize> {
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if parent_of(pid) == Some(self.pid)
                && let Some(pid) = Pid::from_raw(pid)
            {
                rustix::process::kill_process(pid, Signal::KILL)?;
                killed += 1;
            }
        }
        Ok(killed)
    }
}

/// The parent of a process that may have ended.
fn parent_of(pid: i32) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split(' ').nth(1)?.parse().ok()?)
}
