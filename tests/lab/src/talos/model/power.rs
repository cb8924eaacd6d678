//! How a node goes down and comes up, and what can keep it from either.

use std::time::Duration;

use ichor_proto::talos::common;
use ichor_proto::talos::machine as proto;
use proto::sequence_event::Action;

use super::config::MachineType;
use super::disk::UPGRADE_MARKER;
use super::event::Events;
use super::image::{Image, SystemFault};
use super::log::Log;
use super::node::{Job, Node, Stage};

/// How long a node that reboots still answers.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A node whose sequence failed reboots after this time.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Booting that takes longer than this has failed (Talos: the boot sequence's own limit).
const BOOT_LIMIT: Duration = Duration::from_secs(70 * 60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Services are stopped, and an installer runs until then.
    Upgrading {
        until: Duration,
        image: Box<Image>,
    },
    /// A sequence failed; it reboots then.
    Failed {
        until: Duration,
    },
    /// It answers until then.
    Leaving {
        until: Duration,
        back: bool,
    },
    /// It does not answer; until then, if it comes back.
    Off {
        until: Option<Duration>,
    },
    /// It answers, and starts its services until then.
    Booting {
        until: Duration,
    },
    /// It waits for services that do not start; then booting has failed.
    Waiting {
        until: Duration,
    },
}

impl Node {
    /// Whether it is up, but for the last moments before a reboot.
    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.power, Power::Off { .. })
    }

    /// Whether its etcd could run.
    pub(crate) fn runs_etcd(&self, now: Duration) -> bool {
        self.has_etcd() && now >= self.etcd_from
    }

    fn has_etcd(&self) -> bool {
        let is_stopped =
            matches!(self.power, Power::Off { .. } | Power::Upgrading { .. } | Power::Failed { .. });
        !is_stopped && self.machine_type() == Some(MachineType::ControlPlane)
    }

    /// The next moment at which something happens by itself.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let power = match self.power {
            Power::On => None,
            Power::Upgrading { until, .. }
            | Power::Failed { until }
            | Power::Leaving { until, .. }
            | Power::Booting { until }
            | Power::Waiting { until } => Some(until),
            Power::Off { until } => until,
        };
        let etcd = self.has_etcd() && !self.services.is_running("etcd") && self.etcd_from > self.seen;
        let others = [
            self.revert.as_ref().map(|revert| revert.at),
            etcd.then_some(self.etcd_from),
            self.installation.as_ref().and_then(|it| it.deadline()),
        ];
        power.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.seen = now;
        if let Some(revert) = self.revert.take_if(|revert| revert.at <= now) {
            self.say("machined", "configuration rollback due to the try mode timeout", now);
            self.activate(revert.to, now);
        }
        self.finish_installation(now);
        match self.power.clone() {
            Power::Leaving { until, back } if until <= now => {
                let services: Vec<String> = self.told.keys().cloned().collect();
                self.jobs.extend(services.into_iter().map(|service| Job::Stop { service }));
                self.interrupt_installation();
                self.wipe();
                self.power = Power::Off { until: back.then(|| until + self.time_to_boot()) };
                // It may be long past.
                self.tick(now);
            }
            Power::Off { until: Some(until) } if until <= now => self.boot(now),
            Power::Booting { until } if until <= now => self.start_all(now),
            Power::Waiting { until } if until <= now => self.fail_to_boot(now),
            Power::Upgrading { until, image } if until <= now => self.finish_upgrade(*image, now),
            Power::Failed { until } if until <= now => self.go_down(true, now),
            _ => {}
        }
    }

    /// Begins to reboot, or to shut down, unless something else has begun that it may not take over.
    pub(crate) fn leave(&mut self, sequence: &str, actor: &str, back: bool, now: Duration) {
        // Rollbacks and shutdowns take over everything.
        let takes_over = matches!(sequence, "shutdown" | "rollback");
        if self.is_leaving() || (self.is_busy() && !takes_over) {
            return self.refuse(sequence, actor, now);
        }
        let sequence = if sequence == "rollback" { "reboot" } else { sequence };
        self.sequence(sequence, Action::Start, actor, now);
        self.stop_services(actor, now);
        self.go_down(back, now);
    }

    /// Whether it is on its way down, which nothing can change.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.power, Power::Leaving { .. } | Power::Off { .. })
    }

    /// Whether a sequence runs that others do not take over. Booting is none of those.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.power, Power::Upgrading { .. } | Power::Failed { .. }) || self.is_leaving()
    }

    /// Says that another sequence has the lock. Nobody hears of it who does not listen to events.
    pub(super) fn refuse(&mut self, sequence: &str, actor: &str, now: Duration) {
        let error = common::Error {
            code: common::Code::Locked.into(),
            message: "sequence failed: locked".to_owned(),
            ..Default::default()
        };
        self.sequence_with(sequence, Action::Noop, Some(error), actor, now);
    }

    pub(super) fn stop_services(&mut self, actor: &str, now: Duration) {
        let phase = proto::PhaseEvent { phase: "stopServices".into(), action: 0 };
        self.events.push("PhaseEvent", &phase, actor, now);
        let task = proto::TaskEvent { task: "stopAllServices".into(), action: 0 };
        self.events.push("TaskEvent", &task, actor, now);
    }

    fn go_down(&mut self, back: bool, now: Duration) {
        if !matches!(self.stage, Stage::Resetting | Stage::Upgrading) {
            self.enter(if back { Stage::Rebooting } else { Stage::ShuttingDown }, now);
        }
        let cmd = if back { 0x0123_4567 } else { 0x4321_fedc };
        self.events.push("RestartEvent", &proto::RestartEvent { cmd }, "", now);
        self.power = Power::Leaving { until: now + LAST_WORDS, back };
    }

    /// A sequence failed. It reboots soon, and looks like one that did what it was told.
    pub(super) fn fail(&mut self, sequence: &str, actor: &str, text: &str, now: Duration) {
        let error = common::Error {
            code: common::Code::Fatal.into(),
            message: text.to_owned(),
            ..Default::default()
        };
        self.sequence_with(sequence, Action::Stop, Some(error), actor, now);
        self.say("machined", &format!("[talos] {sequence} sequence: failed: {text}"), now);
        self.power = Power::Failed { until: now + FAILURE_PAUSE };
    }

    /// What is wrong with the system that runs: with itself, or with every new one on this node.
    fn system_fault(&self) -> Option<SystemFault> {
        let is_new = self.meta.contains_key(&UPGRADE_MARKER);
        self.image().fault.or_else(|| self.faults.new_system.filter(|_| is_new))
    }

    fn time_to_boot(&self) -> Duration {
        self.spec.boot_time + self.faults.boot_delay
    }

    /// Comes up with what is on the disk.
    pub(super) fn boot(&mut self, now: Duration) {
        self.disk.boot();
        self.boots += 1;
        self.booted_at = now;
        self.seen = now;
        self.etcd_from = now + self.faults.etcd_delay;
        self.revert = None;
        self.reboots_by_apply = false;
        self.was_ready = false;
        if let Some(torn) = self.torn.take() {
            self.persistent = Some(torn);
        }
        self.active = self.persistent.clone();
        self.events = Events::default();
        self.dmesg = Log::default();
        self.told.clear();
        let fault = self.system_fault();
        if fault == Some(SystemFault::BootLoop) {
            self.power = Power::Off { until: Some(now + self.time_to_boot()) };
            return;
        }
        let booting = format!("Linux version 6.18.1-talos, Talos {}", self.tag());
        self.say("kern", &booting, now);
        self.say("kern", &format!("[talos] booting {}", self.spec.name), now);
        self.sequence("boot", Action::Start, "", now);
        self.enter(Stage::Booting, now);
        let of = self.machine_type();
        let stuck = fault == Some(SystemFault::StuckBooting);
        let extensions: Vec<String> = self.image().extensions.iter().map(|(name, _)| name.clone()).collect();
        self.services.boot(of, &extensions, stuck, &mut self.events, now);
        self.tell_extensions(true);
        let slow = match fault {
            Some(SystemFault::SlowBoot(longer)) => longer,
            _ => Duration::ZERO,
        };
        self.power = Power::Booting { until: now + self.time_to_boot() / 2 + slow };
    }

    /// Everything that depends on time only has started.
    pub(super) fn start_all(&mut self, now: Duration) {
        match self.system_fault() {
            Some(SystemFault::RollsBack) => self.fail_to_boot(now),
            _ => self.power = Power::Waiting { until: self.booted_at + BOOT_LIMIT },
        }
    }

    /// What the node has come to, now that what it shares with others is known: booted, and settled.
    pub(crate) fn progress(&mut self, now: Duration) {
        if matches!(self.power, Power::Waiting { .. }) && self.services.have_started() {
            self.power = Power::On;
            self.sequence("boot", Action::Stop, "", now);
            let maintenance = self.is_in_maintenance();
            self.enter(if maintenance { Stage::Maintenance } else { Stage::Running }, now);
            self.say("machined", &format!("[talos] machine is {}", self.stage.name()), now);
        }
        // Once in a boot: what an installer writes later is for the next one.
        if !self.was_ready && self.stage == Stage::Running && self.is_ready() {
            self.was_ready = true;
            if self.meta.remove(&UPGRADE_MARKER).is_some() {
                self.say("machined", "[talos] removing fallback entry", now);
            }
        }
    }

    /// Booting failed. After an upgrade Talos goes back to the other system by itself.
    fn fail_to_boot(&mut self, now: Duration) {
        if self.meta.remove(&UPGRADE_MARKER).is_some() {
            self.disk.flip();
        }
        self.fail("boot", "", "boot sequence failed", now);
    }

    pub(super) fn sequence(&mut self, name: &str, action: Action, actor: &str, now: Duration) {
        self.sequence_with(name, action, None, actor, now);
    }

    fn sequence_with(
        &mut self,
        name: &str,
        action: Action,
        error: Option<common::Error>,
        actor: &str,
        now: Duration,
    ) {
        let event = proto::SequenceEvent { sequence: name.to_owned(), action: action.into(), error };
        self.events.push("SequenceEvent", &event, actor, now);
    }
}
