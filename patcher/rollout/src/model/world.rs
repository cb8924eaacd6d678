//! The nodes, what they share, and what goes wrong with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::cases::Case;
use super::fault::{Crash, Fault, InstallFault, Kind, When};
use super::machine::{Machine, Power, Slot};
use super::{Report, Violation};
use crate::action::{Action, Call, Outcome};
use crate::plan::{Plan, Task, Work};
use crate::view::{Digest, Etcd, Kubernetes, Member, NodeView, Stage, View};

/// How many entries etcd agrees upon in a second, as long as it can.
const ENTRIES: f64 = 10.0;
/// How long a lock lives without being renewed.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(15);
/// The process whose runs are looked at.
pub(super) const FIRST: u32 = 1;
/// Who has a lock that was taken away by hand.
const NOBODY: u32 = u32::MAX;
/// How long after the request an image is written.
const INSTALL: Duration = Duration::from_secs(40);

/// A cluster, a clock, and faults that wait for their moment.
#[derive(Debug)]
pub struct World {
    now: Duration,
    pub(super) machines: Vec<Machine>,
    names: Vec<crate::view::Text>,
    members: Arc<[Member]>,
    everybody: Arc<BTreeSet<usize>>,
    advertised: Arc<BTreeSet<String>>,
    leader: Option<usize>,
    index: f64,
    ailing: Vec<(usize, Duration)>,
    /// Who has the lock, and until when.
    lock: Option<(u32, Duration)>,
    /// The last call: whose it was, when it arrived, when its reply left.
    acted: Option<(u32, Duration, Duration)>,
    faults: Vec<Fault>,
    calls: u32,
    second_operator: bool,
    accept: BTreeSet<usize>,
    drains: bool,
    report: Report,
    tells: bool,
}

impl World {
    pub(super) fn new(case: &Case, faults: &[Fault], tell: bool) -> Self {
        let machines = case.machines.clone();
        let voters = machines.iter().enumerate().filter(|(_, machine)| machine.votes);
        let member =
            |(index, _): (usize, &Machine)| Member { id: index as u64 + 1, started: true, learner: false };
        let members: Arc<[Member]> = voters.map(member).collect();
        let everybody = (0..machines.len()).collect();
        let mut world = Self {
            now: case.start,
            names: case.plan.nodes.iter().map(|node| node.name.clone()).collect(),
            members,
            everybody: Arc::new(everybody),
            advertised: Arc::default(),
            leader: machines.iter().position(|machine| machine.votes),
            machines,
            index: 1000.0,
            ailing: Vec::new(),
            lock: None,
            acted: None,
            faults: faults.to_vec(),
            calls: 0,
            second_operator: false,
            accept: case.plan.policy.accept_outage.clone(),
            drains: case.plan.policy.drain,
            report: Report { trace: 0xcbf2_9ce4_8422_2325, ..Report::default() },
            tells: tell,
        };
        world.fire();
        world
    }

    /// The time.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.pass_until(self.now + time);
    }

    /// Lets time pass; whatever is due happens at its moment.
    pub(super) fn pass_until(&mut self, end: Duration) {
        while let Some(due) = self.next_event().filter(|due| *due <= end) {
            self.advance(due);
            self.fire();
            for (machine, name) in self.machines.iter_mut().zip(&self.names) {
                machine.tick(name, due);
            }
            self.ailing.retain(|(_, until)| *until > due);
            self.settle();
        }
        self.advance(end);
        self.settle();
    }

    fn advance(&mut self, to: Duration) {
        if to > self.now {
            if self.has_quorum() {
                self.index += ENTRIES * (to - self.now).as_secs_f64();
            }
            self.now = to;
        }
    }

    /// The next moment at which something happens by itself.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let machines = self.machines.iter().filter_map(Machine::deadline);
        let etcd = self.machines.iter().map(|machine| machine.etcd_from);
        let ailing = self.ailing.iter().map(|(_, until)| *until);
        let faults = self.faults.iter().filter_map(|fault| match fault.when {
            When::At(at) => Some(at),
            When::Call(_) => None,
        });
        machines.chain(etcd.chain(ailing).filter(|at| *at > self.now)).chain(faults).min()
    }

    fn healthy(&self, index: usize) -> bool {
        self.machines[index].is_healthy_voter(self.now) && self.ailing.iter().all(|(node, _)| *node != index)
    }

    fn healthy_voters(&self) -> usize {
        (0..self.machines.len()).filter(|index| self.healthy(*index)).count()
    }

    fn has_quorum(&self) -> bool {
        let voters = self.members.len();
        // An alarm does not keep a member from voting.
        self.machines.iter().filter(|it| it.is_healthy_voter(self.now)).count() > voters / 2
    }

    /// Elections, and who has been lost since when.
    fn settle(&mut self) {
        let runs = |index: usize| self.machines[index].is_healthy_voter(self.now);
        if !self.has_quorum() {
            self.leader = None;
        } else if self.leader.is_none_or(|leader| !runs(leader)) {
            self.leader = (0..self.machines.len()).find(|index| runs(*index));
        }
        for index in 0..self.machines.len() {
            let is_healthy = !self.machines[index].votes || self.healthy(index);
            let machine = &mut self.machines[index];
            match is_healthy {
                true => machine.lost_since = None,
                false => machine.lost_since = machine.lost_since.or(Some(self.now)),
            }
        }
    }

    /// Faults whose time has come.
    fn fire(&mut self) {
        let now = self.now;
        let is_due = |fault: &mut Fault| matches!(fault.when, When::At(at) if at <= now);
        let due: Vec<Fault> = self.faults.extract_if(.., is_due).collect();
        for fault in due {
            self.note(|| format!("fault: {:?}", fault.kind));
            self.strike(fault.kind);
        }
    }

    fn strike(&mut self, kind: Kind) {
        self.trace(kind.name().len() as u64);
        match kind {
            Kind::Stale { node, time } => {
                let said = self.look_at(node);
                self.machines[node].stale = Some((self.now + time, Box::new(said)));
            }
            Kind::Boot(node, how) => self.machines[node].next_boot = Some(how),
            Kind::Install(node, how) => self.machines[node].next_install = Some(how),
            Kind::SlowEtcd(node, by) => self.machines[node].slow_etcd = by,
            Kind::Leader(node) if self.healthy(node) && self.has_quorum() => self.leader = Some(node),
            Kind::Down(node, time) => self.machines[node].power = Power::Off(self.now + time),
            Kind::Masked(node, time) => {
                let said = self.look_at(node);
                self.machines[node].stale = Some((self.now + time, Box::new(said)));
                self.machines[node].power = Power::Off(self.now + time);
            }
            Kind::Ailing(node, time) => self.ailing.push((node, self.now + time)),
            Kind::SecondOperator => self.second_operator = true,
            Kind::LockLost => self.lock = Some((NOBODY, self.now + LEASE)),
            _ => {}
        }
        self.settle();
    }

    pub(super) fn takes_second_operator(&mut self) -> bool {
        std::mem::take(&mut self.second_operator)
    }

    /// Takes the lock, or keeps it; until when it is held then.
    pub(super) fn renew(&mut self, holder: u32, is_new: bool) -> Option<Duration> {
        let until = self.now + LEASE;
        match &mut self.lock {
            Some((other, end)) if *other != holder && (*end > self.now || !is_new) => return None,
            lock => *lock = Some((holder, until)),
        }
        Some(until)
    }

    /// Gives the lock back.
    pub(super) fn release(&mut self, holder: u32) {
        self.lock.take_if(|(other, _)| *other == holder);
    }

    /// What goes wrong with the next call.
    pub(super) fn next_call(&mut self) -> (Option<Crash>, bool, bool, Duration) {
        let number = self.calls;
        self.calls += 1;
        let is_now = |fault: &mut Fault| fault.when == When::Call(number);
        let due: Vec<Fault> = self.faults.extract_if(.., is_now).collect();
        let (mut crash, mut request, mut reply, mut asleep) = (None, false, false, Duration::ZERO);
        for fault in due {
            self.note(|| format!("fault: {:?}", fault.kind));
            self.trace(fault.kind.name().len() as u64);
            match fault.kind {
                Kind::Crash(point) => crash = Some(point),
                Kind::LostRequest => request = true,
                Kind::LostReply => reply = true,
                Kind::Asleep(time) => asleep = time,
                other => self.strike(other),
            }
        }
        (crash, request, reply, asleep)
    }

    /// What is seen of all nodes now.
    pub(super) fn look(&self, lock: crate::view::Lock) -> View {
        let node = |index: usize| match &self.machines[index].stale {
            Some((_, said)) => (**said).clone(),
            None => self.look_at(index),
        };
        View { at: self.now, nodes: (0..self.machines.len()).map(node).collect(), lock }
    }

    fn look_at(&self, index: usize) -> NodeView {
        let machine = &self.machines[index];
        if !machine.answers() {
            return NodeView::default();
        }
        let stage = match machine.power {
            Power::On => Stage::Running,
            Power::Booting(_) => Stage::Booting,
            _ => Stage::Other,
        };
        NodeView {
            answers: true,
            version: Some(machine.running.version.clone()),
            boot: Some(machine.boot.clone()),
            stage: Some(stage),
            ready: !machine.is_booting(),
            unmet: Vec::new(),
            marked: Some(machine.marked),
            extensions: Some(machine.running.extensions.clone()),
            daemon: Some(machine.is_steady()),
            active: Some(machine.active),
            persistent: Some(machine.persistent),
            meshed: machine.is_steady().then(|| self.everybody.clone()),
            etcd: self.etcd(index),
            kubernetes: Some(Kubernetes { ready: machine.is_steady(), schedulable: !machine.cordoned }),
        }
    }

    fn etcd(&self, index: usize) -> Option<Etcd> {
        if !self.machines[index].is_healthy_voter(self.now) {
            return None;
        }
        let entries = self.index as u64;
        Some(Etcd {
            id: index as u64 + 1,
            members: self.members.clone(),
            leader: self.leader.map_or(0, |leader| leader as u64 + 1),
            index: entries,
            applied: entries,
            ailing: self.ailing.iter().any(|(node, _)| *node == index),
            advertised: self.advertised.clone(),
        })
    }

    /// A call arrives at its node. How long it takes until the reply, and which that is.
    pub(super) fn receive(
        &mut self,
        holder: u32,
        task: Option<&Task>,
        action: &Action,
        looked: (Duration, Duration),
    ) -> (Duration, Outcome) {
        let node = action.node;
        self.report.calls += 1;
        let name = self.names[node].clone();
        self.note(|| format!("process {holder}: {} {name}", action.call));
        let word = (u64::from(holder) << 32) | ((node as u64) << 8) | action.call.name().len() as u64;
        self.trace(word);
        if action.call.changes()
            && let Some((other, until)) = self.lock
            && other != holder
            && until > self.now
            // Who takes a lock away by hand does not wait until it has run out.
            && other != NOBODY
        {
            self.violate(Violation::WithoutLock);
        }
        if !matches!(action.call, Call::Snapshot { .. } | Call::Uncordon) && !self.machines[node].answers() {
            return (Duration::from_secs(5), Outcome::Unknown("it does not answer".into()));
        }
        if action.call.disrupts() {
            if self.drains && action.call != Call::Upgrade && !self.machines[node].cordoned {
                self.violate(Violation::NotDrained);
            }
            if self.machines[node].votes {
                self.judge(node, holder, looked);
            }
        }
        let reply = self.effect(task, action);
        self.acted = Some((holder, self.now, self.now + reply.0));
        let machine = &mut self.machines[node];
        machine.is_ours |= holder == FIRST && action.call.disrupts();
        machine.has_lost_config &= !action.call.applies();
        self.settle();
        reply
    }

    /// Whether this voter may be taken down now.
    fn judge(&mut self, node: usize, holder: u32, (before, looked): (Duration, Duration)) {
        // Whoever does something has time afterwards to look twice.
        let acted = self.acted.filter(|(who, ..)| *who == holder);
        let acted =
            acted.map_or(Duration::ZERO, |(_, began, ended)| if ended <= looked { ended } else { began });
        let left = self.healthy_voters() - usize::from(self.healthy(node));
        let quorum = self.members.len() / 2 + 1;
        let others = (0..self.machines.len()).filter(|index| *index != node && self.machines[*index].votes);
        let away: Vec<usize> = others.filter(|index| !self.healthy(*index)).collect();
        let is_visible = away.iter().any(|index| {
            let machine = &self.machines[*index];
            // Old news that began after the look before the last one cannot be told from news, nor those that began before
            // it and after the last entry that etcd agreed upon.
            let (seen, entry) = match machine.stale.is_some() {
                true => (before.max(acted), Duration::from_secs_f64(1.0 / ENTRIES)),
                false => (looked, Duration::ZERO),
            };
            machine.lost_since.is_some_and(|since| since + entry <= seen)
        });
        if left < quorum {
            match (self.accept.contains(&node), away.is_empty() || is_visible) {
                (true, _) if away.is_empty() => self.report.accepted_outages += 1,
                (_, true) => self.violate(Violation::Quorum),
                (_, false) => self.report.unforeseeable += 1,
            }
        } else if is_visible {
            self.violate(Violation::TwoAtOnce);
        }
    }

    fn effect(&mut self, task: Option<&Task>, action: &Action) -> (Duration, Outcome) {
        let now = self.now;
        let work = task.map_or(&Work::Reboot, |task| &task.work);
        let machine = &mut self.machines[action.node];
        let soon = Duration::from_millis(300);
        if action.call.applies() && action.call != Call::Keep && machine.trial.is_some() {
            machine.trial = None;
            self.violate(Violation::LostTrial);
            return (soon, Outcome::Done);
        }
        match (&action.call, work) {
            (Call::Apply, Work::Configure { to, .. }) => {
                (machine.active, machine.persistent) = (*to, *to);
            }
            (Call::Stage, Work::Configure { to, .. }) => machine.persistent = *to,
            (Call::Try, Work::Configure { to, .. }) => {
                machine.trial = Some((now + Duration::from_mins(1), machine.active));
                machine.active = *to;
            }
            (Call::Keep, Work::Configure { to, .. }) => {
                machine.trial = None;
                (machine.active, machine.persistent) = (*to, *to);
            }
            (Call::Install, _) => return self.install(task, action.node, INSTALL),
            (Call::Upgrade, _) => {
                let time = Duration::from_secs(5);
                // Another sequence runs: the call is taken, and nothing comes of it (Talos: LOCKED, as an event only).
                if machine.power != Power::On {
                    return (time, Outcome::Done);
                }
                machine.power = Power::Upgrading(now + INSTALL);
                // When the installer fails the node reboots into what it had.
                let _ = self.install(task, action.node, time);
                return (time, Outcome::Done);
            }
            (Call::Drain, _) => {
                machine.cordoned = true;
                return (Duration::from_secs(20), Outcome::Done);
            }
            (Call::Uncordon, _) => machine.cordoned = false,
            (Call::Reboot, _) => machine.leave(now),
            (Call::RollBack, _) => {
                machine.boots_other = machine.other.is_some();
                machine.leave(now);
            }
            (Call::HandOver, _) => {
                let other = (0..self.machines.len()).find(|it| *it != action.node && self.healthy(*it));
                if self.leader == Some(action.node) && other.is_some() {
                    self.leader = other;
                }
            }
            (Call::Snapshot { from }, _) if !self.machines[*from].is_healthy_voter(now) => {
                return (soon, Outcome::Unknown("no snapshot".into()));
            }
            _ => {}
        }
        (soon, Outcome::Done)
    }

    /// Writes the image of a task into the slot that the next boot does not take.
    fn install(&mut self, task: Option<&Task>, node: usize, time: Duration) -> (Duration, Outcome) {
        let machine = &mut self.machines[node];
        let fault = machine.next_install.take();
        if fault == Some(InstallFault::Fails) {
            return (time, Outcome::Refused("the installer failed".into()));
        }
        let Some(task) = task else { return (time, Outcome::Refused("no task".into())) };
        let version = task.expect.version.clone().unwrap_or_else(|| "?".into());
        let extensions = match fault {
            Some(InstallFault::LacksExtensions) => Arc::default(),
            _ => task.expect.extensions.clone(),
        };
        let slot = Slot { version, extensions };
        if machine.boots_other {
            machine.running = slot;
            self.violate(Violation::LostSlot);
        } else {
            machine.other = Some(slot);
            machine.boots_other = true;
        }
        self.machines[node].marked = true;
        (time, Outcome::Done)
    }

    /// Whether everything is as a plan wants it.
    pub(super) fn is_at(&self, plan: &Plan) -> bool {
        plan.tasks().all(|task| {
            let machine = &self.machines[task.node];
            let config = plan.last_config(task.node);
            // What goes wrong after a node was proven is another story.
            self.runs(task.node, &task.expect)
                && config.is_none_or(|config| machine.persistent == config)
                && !machine.cordoned
        })
    }

    /// Whether any node lost its config in a boot of ours and was not given one since.
    pub(super) fn has_lost_config(&self) -> bool {
        self.machines.iter().any(|machine| machine.has_lost_config)
    }

    /// The operator was told, and takes the config that the node has.
    pub(super) fn accept_config(&mut self, node: usize) {
        self.machines[node].has_lost_config = false;
    }

    /// Whether a node has the image that is expected of it.
    pub(super) fn runs(&self, node: usize, expect: &crate::plan::Expect) -> bool {
        let running = &self.machines[node].running;
        let is_version = expect.version.as_ref().is_none_or(|version| running.version == *version);
        is_version && expect.extensions.is_subset(&running.extensions)
    }

    /// What the configs of a node are: active, and on the disk.
    pub(super) fn configs(&self, node: usize) -> (Digest, Digest) {
        (self.machines[node].active, self.machines[node].persistent)
    }

    /// Whether all nodes answer: without that there is no plan.
    pub(super) fn all_answer(&self) -> bool {
        self.machines.iter().all(Machine::answers)
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.note(|| format!("VIOLATION {violation:?}"));
        self.report.violations.insert(violation);
    }

    pub(super) fn trace(&mut self, word: u64) {
        let word = word ^ (self.now.as_secs() << 16);
        self.report.trace = (self.report.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tells {
            let line = format!("{:>9.1} {}", self.now.as_secs_f64(), text());
            self.report.told.push(line);
        }
    }

    pub(super) fn report(self, runs: usize, is_finished: bool) -> Report {
        Report { runs, is_finished, ..self.report }
    }
}
