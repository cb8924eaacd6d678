//! What a tree of processes and the machine have used.

use std::fs;
use std::time::Duration;

/// Clock ticks a second in `/proc`, a constant of the Linux ABI.
const TICKS: u64 = 100;

/// The processes below and including `roots`.
pub fn tree(roots: &[u32]) -> Vec<u32> {
    let mut all = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// CPU time of processes, in user and kernel mode.
pub fn cpu(pids: &[u32]) -> Duration {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15 of proc_pid_stat(5).
        let Some((_, fields)) = stat.rsplit_once(") ") else { return 0 };
        fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    Duration::from_millis(pids.iter().map(ticks).sum::<u64>() * 1000 / TICKS)
}

/// CPU time that the whole machine was busy since it started.
pub fn machine() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal ...: all but idle, iowait and what the guest columns repeat.
    let busy = fields.iter().take(8).enumerate().filter(|(index, _)| ![3, 4].contains(index));
    Duration::from_millis(busy.map(|(_, ticks)| ticks).sum::<u64>() * 1000 / TICKS)
}

/// Resident memory of processes, in bytes.
pub fn rss(pids: &[u32]) -> u64 {
    let resident = |pid: &u32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    pids.iter().map(resident).sum()
}
