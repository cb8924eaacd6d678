//! Tests that need namespaces: each makes a lab of its own, or says why it cannot.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ichor_lab::{Builder, Lab, LabError, Node};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Set where such tests must run: then one that cannot has failed.
pub const REQUIRE_VARIABLE: &str = "ICHOR_REQUIRE_NETNS";

/// Runs `test` with the lab that `builder` describes. `agent` is the program that it is made of.
///
/// # Panics
/// When the test fails, or the lab cannot be made though it must.
pub fn in_lab(agent: &str, builder: Builder, test: impl AsyncFnOnce(&Lab) -> Result<(), LabError>) {
    block_on(async {
        let Some(lab) = up(agent, builder).await else { return };
        if let Err(error) = test(&lab).await {
            show_logs(&lab).await;
            panic!("{error}");
        }
        if let Err(error) = lab.down().await {
            panic!("{error}");
        }
    });
}

/// Runs the shell's `command` in `node` until it succeeds. Starting a program paces it.
///
/// # Errors
/// [`LabError::Failed`] if it cannot be run.
///
/// # Panics
/// When it did not succeed in time.
pub async fn until_succeeds(node: &Node, command: &str) -> Result<(), LabError> {
    let succeeds = async {
        while !node.command(["sh", "-c", command]).output().await?.exit.success() {}
        Ok(())
    };
    let waited = tokio::time::timeout(Duration::from_secs(15), succeeds).await;
    waited.unwrap_or_else(|_| panic!("`{command}` never succeeded in {}", node.name()))
}

/// Runs `work` on a runtime of its own.
///
/// # Panics
/// When there is none to be had.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|error| panic!("no runtime: {error}")).block_on(work)
}

/// Makes the lab that `builder` describes; `None`, which is said, where this machine does not let us.
///
/// # Panics
/// When the lab cannot be made though it must.
pub async fn up(agent: &str, builder: Builder) -> Option<Lab> {
    match builder.program(agent).up().await {
        Ok(lab) => Some(lab),
        Err(error @ LabError::Refused { .. }) => {
            assert!(std::env::var_os(REQUIRE_VARIABLE).is_none(), "{REQUIRE_VARIABLE} is set, but {error}");
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Says why a test does not run, also where the output of tests that pass is not shown.
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr().lock(), "{name} skipped: {why}");
}

/// What the daemons said, for whoever has to find out what went wrong.
async fn show_logs(lab: &Lab) {
    let Ok(view) = lab.view().await else { return };
    for node in view.nodes.iter().filter(|node| node.member) {
        if let Ok(log) = lab.node(&node.name).log().await {
            let _ = writeln!(std::io::stderr().lock(), "--- ichord of {} ---\n{log}", node.name);
        }
    }
}

/// Handles of all processes below `pid`, which tell when they end.
pub fn descendants(pid: u32) -> Vec<OwnedFd> {
    // Whoever ends meanwhile is nobody to wait for.
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            Some((pid, rest.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let handle = |pid: &u32| {
        let pid = Pid::from_raw(i32::try_from(*pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    };
    found[1..].iter().filter_map(handle).collect()
}

/// Whether all of these processes end within `limit` each.
pub fn all_end(processes: &[OwnedFd], limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    let ends = |process| poll(&mut [PollFd::new(process, PollFlags::IN)], limit.as_ref()) == Ok(1);
    processes.iter().all(ends)
}
