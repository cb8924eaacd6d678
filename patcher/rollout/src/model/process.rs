//! The program that carries a plan out, as the real one does it, and what can happen to it.

use std::time::Duration;

use super::fault::Crash;
use super::world::{RENEW, World};
use crate::action::{Action, Call, Outcome};
use crate::journal::{Entry, Journal};
use crate::next::{self, Next, Why};
use crate::plan::Plan;
use crate::proof::Doubt;
use crate::view::Lock;

/// How long looking takes.
const LOOK: Duration = Duration::from_millis(200);
/// How long it waits at least before it looks again.
const POLL: Duration = Duration::from_secs(2);
/// How long it waits at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Stopped,
    Crashed,
}

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    id: u32,
    plan: Plan,
    journal: Journal,
    disk: Vec<Entry>,
    wakes: Duration,
    flights: Vec<Flight>,
    /// Until when the lock is its own; `None` before it is taken.
    lock: Option<Duration>,
    renew_at: Duration,
    /// The node over whose config it stopped.
    over_config: Option<usize>,
}

/// A call whose end is not known yet.
#[derive(Debug)]
struct Flight {
    action: Action,
    lands: Duration,
    outcome: Outcome,
    crashes: bool,
}

impl Process {
    pub(super) fn new(id: u32, plan: Plan, disk: Vec<Entry>, world: &World) -> Self {
        let mut journal = Journal::replay(disk.iter().cloned());
        let mut disk = disk;
        disk.push(journal.begin_run(plan.goal, world.now()));
        let now = world.now();
        Self {
            id,
            plan,
            journal,
            disk,
            wakes: now,
            flights: Vec::new(),
            lock: None,
            renew_at: now,
            over_config: None,
        }
    }

    pub(super) fn into_disk(self) -> Vec<Entry> {
        self.disk
    }

    /// The node over whose config it stopped.
    pub(super) fn over_config(&self) -> Option<usize> {
        self.over_config
    }

    pub(super) fn wakes_at(&self) -> Duration {
        self.flights.iter().map(|flight| flight.lands).fold(self.wakes, Duration::min)
    }

    /// Does what is to be done now; how it ended, if it did.
    pub(super) fn turn(&mut self, world: &mut World) -> Option<End> {
        if self.land(world) {
            return Some(End::Crashed);
        }
        let lock = self.lock(world);
        let view = world.look(lock);
        world.pass(LOOK);
        self.journal.look(&view);
        match next::next(&self.plan, &self.journal, &view, world.now()) {
            Next::Act(action) => self.act(world, action, &view).then_some(End::Crashed),
            Next::Wait(pending) => {
                let is_quick = pending.iter().any(|it| matches!(it.why, Why::Look | Why::Lock));
                let given_up = pending.iter().filter_map(|it| it.until).min();
                let soaked = world.now() + self.plan.policy.soak;
                let event = [world.next_event(), given_up, Some(soaked)].into_iter().flatten().min();
                let latest = event.unwrap_or(world.now() + PATIENCE).min(world.now() + PATIENCE);
                self.wakes = match is_quick {
                    true => world.now() + LOOK,
                    false => latest.max(world.now() + POLL),
                };
                None
            }
            Next::Stop(stop) => {
                world.note(|| format!("process {}: stop: {stop:?}", self.id));
                if let next::Stop::Unproven { node, doubts } = &stop {
                    self.over_config = doubts.contains(&Doubt::Config).then_some(*node);
                }
                self.disk.push(self.journal.stop("stopped".into(), world.now()));
                world.release(self.id);
                Some(End::Stopped)
            }
            Next::Done => {
                world.note(|| format!("process {}: done", self.id));
                self.disk.push(self.journal.finish(world.now()));
                world.release(self.id);
                Some(End::Done)
            }
        }
    }

    /// Calls that have ended; true when the program died over one.
    fn land(&mut self, world: &mut World) -> bool {
        let now = world.now();
        let landed: Vec<Flight> = self.flights.extract_if(.., |flight| flight.lands <= now).collect();
        for flight in landed {
            if flight.crashes {
                return true;
            }
            let node = self.plan.nodes[flight.action.node].name.clone();
            let entry = self.journal.end(&node, &flight.action.call, &flight.outcome, now);
            self.disk.push(entry);
            world.note(|| format!("  {} {node}: {:?}", flight.action.call, flight.outcome));
            self.wakes = now;
        }
        false
    }

    /// Takes the lock, or renews it when it is time.
    fn lock(&mut self, world: &mut World) -> Lock {
        let now = world.now();
        match self.lock {
            None => {
                self.lock = world.renew(self.id, true);
                self.renew_at = now + RENEW;
            }
            Some(_) if now >= self.renew_at => {
                self.renew_at = now + RENEW;
                self.lock = world.renew(self.id, false);
            }
            Some(_) => {}
        }
        match self.lock {
            Some(until) if until > now => Lock::Held { until },
            _ => Lock::Lost,
        }
    }

    /// Makes a call; true when the program died over it.
    fn act(&mut self, world: &mut World, action: Action, view: &crate::view::View) -> bool {
        let (crash, lost_request, lost_reply, asleep) = world.next_call();
        if crash == Some(Crash::BeforeEntry) {
            return true;
        }
        let entry = self.journal.begin(&self.plan, &action, view, world.now());
        self.disk.push(entry);
        if crash == Some(Crash::BeforeCall) {
            return true;
        }
        world.pass(asleep);
        let held = self.lock.filter(|until| *until > world.now());
        let lock = held.map_or(Lock::Lost, |until| Lock::Held { until });
        let (time, outcome) = match next::is_in_time(&self.plan.policy, view, lock, world.now()) {
            false => (Duration::ZERO, Outcome::Refused("too late".into())),
            true if lost_request => (Duration::from_secs(30), Outcome::Unknown("lost".into())),
            true if action.call == Call::Conclude => (Duration::ZERO, Outcome::Done),
            true => {
                let before = self.journal.watch.before().unwrap_or(view.at);
                world.receive(self.id, self.plan.task(&action), &action, (before, view.at))
            }
        };
        let (time, outcome) = match lost_reply && outcome.is_done() {
            true => (time.max(Duration::from_secs(30)), Outcome::Unknown("lost".into())),
            false => (time, outcome),
        };
        let lands = world.now() + time;
        let crashes = crash == Some(Crash::DuringCall);
        self.flights.push(Flight { action, lands, outcome, crashes });
        // Others may be begun with meanwhile.
        self.wakes = world.now() + LOOK;
        if crash == Some(Crash::AfterCall) {
            world.pass_until(lands);
            self.land(world);
            return true;
        }
        false
    }
}
