//! What a member costs while nothing happens.

use std::fs;
use std::time::Duration;

use super::network::{Network, WARM_UP};
use super::world::Faults;

/// Bytes of a page of memory.
const PAGE: usize = 4096;

/// What one member costs. The simulation around it is part of all figures.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Share of one core.
    pub cpu: f64,
    /// Bytes of memory for each member that it knows.
    pub memory: usize,
    /// Bits of gossip a second, without headers.
    pub gossip: f64,
}

/// Lets `length` of virtual time pass among `members`, of which `off` are switched off, with nothing to do.
pub fn idle(members: usize, off: usize, length: Duration, seed: u64, faults: Faults) -> Idle {
    let before = resident();
    let mut network = Network::new(members, seed, faults);
    network.world.run(WARM_UP);
    let memory = resident().saturating_sub(before) / members / members;
    for node in network.world.nodes().take(off) {
        network.world.stop(node);
    }
    // Those that are off are looked for often at first.
    network.world.run(WARM_UP * 5);
    let (began, bytes) = (cpu_time(), network.world.control_bytes);
    network.world.run(length);
    let used = cpu_time().saturating_sub(began);
    let each = |total: f64| total / length.as_secs_f64() / (members - off) as f64;
    let bits = (network.world.control_bytes - bytes) as f64 * 8.0;
    Idle { cpu: each(used.as_secs_f64()), memory, gossip: each(bits) }
}

/// Resident memory of this process, in bytes; 0 where `/proc` is missing.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * PAGE
}

/// Time that this thread has spent on a core; zero where `/proc` is missing.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|spent| spent.parse().ok()).unwrap_or(0))
}
