//! Userspace WireGuards side by side: two network namespaces joined by one veth pair, a daemon in each.
//!
//! Both ends share the machine's cores, so throughput is bounded by the CPU time that both spend per byte. That
//! cost is what moves least between runs; throughput counts only as a ratio of runs that alternate.

pub mod arena;
pub mod contender;
pub mod measure;
pub mod processes;
pub mod report;
