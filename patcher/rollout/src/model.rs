//! A cluster that is only thought of, in which everything goes wrong that may.
//!
//! One *schedule* is a cluster, a goal, and faults at chosen moments. A process carries the plan out by
//! [`next`](crate::next::next), dies, is started again, and a second operator may come in between. After each call that
//! takes a control plane down, and at the end, what must never be is looked for: [`Violation`].
//!
//! Of two things that are not our doing the account is kept apart: outages that the operator accepted, and
//! control planes that fail between the last look and the call, which nobody can see.

mod cases;
mod explore;
mod fault;
mod machine;
mod process;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

pub use cases::{Case, Goal, case, fault};
pub use explore::{Tally, explore, faults, schedule};
pub use fault::{BootFault, Crash, Fault, InstallFault, Kind, When};
pub use machine::{Machine, Slot};
pub use world::World;

use crate::journal::Journal;
use process::{End, Process};
use world::FIRST;

/// How often a rollout that was stopped is taken up again.
const RUNS: usize = 8;
/// How long the operator takes for that: longer than the lock lives on.
const RETURN: Duration = Duration::from_mins(90);
/// No run takes longer than that, whatever happens.
const ENDLESS: Duration = Duration::from_hours(24);

/// Something that must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// A call of ours took a voter away that the quorum needed.
    Quorum,
    /// A call of ours took a control plane down while another one was not up.
    TwoAtOnce,
    /// A call of ours changed a node while the lock was somebody else's.
    WithoutLock,
    /// An image was written over the slot that runs: there is no way back.
    LostSlot,
    /// A config was sent to a node that tries one, which made that one stay.
    LostTrial,
    /// A node went down with its pods.
    NotDrained,
    /// The rollout called itself done and was not.
    FalseSuccess,
    /// A node lost its config in a boot of ours, and nobody was told.
    LostConfig,
    /// A run came to no end.
    Endless,
}

/// What came of a schedule.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What must never be, and was.
    pub violations: BTreeSet<Violation>,
    /// Calls that took the quorum away with the operator's consent.
    pub accepted_outages: u32,
    /// Calls that took the quorum away because a voter failed after the last look.
    pub unforeseeable: u32,
    /// Whether everything was done in the end.
    pub is_finished: bool,
    /// How many runs that took.
    pub runs: usize,
    /// How many calls were made.
    pub calls: u32,
    /// The order of all that happened, as one number.
    pub trace: u64,
    /// What happened, when it was asked for.
    pub told: Vec<String>,
}

/// Lets a schedule happen. With `tell` the report has everything in words.
pub fn run(case: &Case, faults: &[Fault], tell: bool) -> Report {
    let mut world = World::new(case, faults, tell);
    let mut disk = Vec::new();
    let mut runs = 0;
    let mut is_finished = false;
    let (mut accepted, mut told) = (None, None);
    while runs < RUNS && !is_finished {
        runs += 1;
        let patience = world.now() + ENDLESS;
        while !world.all_answer() && world.now() < patience {
            world.pass(Duration::from_mins(1));
        }
        let journal = Journal::replay(disk.iter().cloned());
        let plan = cases::left(&case.plan, &world, &journal, accepted);
        world.note(|| format!("run {runs} begins"));
        let mut processes = vec![Process::new(FIRST, plan, std::mem::take(&mut disk), &world)];
        match drive(&mut world, &mut processes, case) {
            Some(End::Done) => is_finished = true,
            Some(End::Stopped | End::Crashed) => {}
            None => {
                world.violate(Violation::Endless);
                break;
            }
        }
        let process = processes.swap_remove(0);
        // Whoever is told once only runs it again.
        accepted = process.over_config().filter(|node| told == Some(*node));
        told = process.over_config();
        if let Some(node) = accepted {
            world.accept_config(node);
        }
        disk = process.into_disk();
        if !is_finished {
            world.pass(RETURN);
        }
    }
    if is_finished && world.has_lost_config() {
        world.violate(Violation::LostConfig);
    }
    if is_finished && !world.is_at(&case.plan) {
        world.violate(Violation::FalseSuccess);
    }
    world.report(runs, is_finished)
}

/// Lets processes run until the first of them ends; how it ended.
fn drive(world: &mut World, processes: &mut Vec<Process>, case: &Case) -> Option<End> {
    let end = world.now() + ENDLESS;
    loop {
        let next = processes.iter().enumerate().min_by_key(|(_, process)| process.wakes_at());
        let (index, at) = next.map(|(index, process)| (index, process.wakes_at()))?;
        if at > end {
            return None;
        }
        world.pass_until(at);
        if world.takes_second_operator() {
            let plan = cases::left(&case.plan, world, &Journal::default(), None);
            processes.push(Process::new(2, plan, Vec::new(), world));
            continue;
        }
        if let Some(end) = processes[index].turn(world) {
            if index == 0 {
                return Some(end);
            }
            processes.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
