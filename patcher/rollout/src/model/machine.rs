//! One node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{BootFault, InstallFault};
use crate::view::{Digest, Text};

/// How long a node goes on answering after it was told to reboot.
pub(super) const GOODBYE: Duration = Duration::from_secs(8);
/// After this long a boot that does not end is given up (Talos: the boot sequence has 70 minutes).
const BOOT_BUDGET: Duration = Duration::from_mins(70);

/// What is in a slot for images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The version of Talos.
    pub version: Text,
    /// Its extensions.
    pub extensions: Arc<BTreeSet<String>>,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Whether it has a member of etcd.
    pub votes: bool,
    /// The image that runs.
    pub running: Slot,
    /// The other slot.
    pub other: Option<Slot>,
    /// The config that it runs with.
    pub active: Digest,
    /// The config on its disk.
    pub persistent: Digest,
    /// Whether pods are kept away from it.
    pub cordoned: bool,
    /// How long a boot takes.
    pub boot_time: Duration,
    /// How long its member of etcd needs after it is up.
    pub catch_up: Duration,
    pub(super) power: Power,
    pub(super) boots: u64,
    pub(super) boot: Text,
    /// Whether the next boot takes the other slot.
    pub(super) boots_other: bool,
    pub(super) marked: bool,
    pub(super) trial: Option<(Duration, Digest)>,
    /// From when on its member of etcd is well.
    pub(super) etcd_from: Duration,
    /// Since when it has not been a healthy voter.
    pub(super) lost_since: Option<Duration>,
    pub(super) next_boot: Option<BootFault>,
    pub(super) next_install: Option<InstallFault>,
    /// Whether the next boot is our doing.
    pub(super) is_ours: bool,
    /// Whether it lost its config in such a boot, and has not been given one since.
    pub(super) has_lost_config: bool,
    pub(super) slow_etcd: Duration,
    pub(super) stale: Option<(Duration, Box<crate::view::NodeView>)>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// It still answers, and is going down.
    Leaving(Duration),
    /// It does not answer.
    Off(Duration),
    /// It answers, and is not done.
    Booting(Duration),
    /// It boots again at that time, so many times.
    Looping(Duration, u32),
    /// It drains and installs by itself, and goes down then (the legacy upgrade).
    Upgrading(Duration),
}

impl Machine {
    /// A node that runs.
    pub fn new(name: &str, votes: bool, running: Slot, config: Digest) -> Self {
        Self {
            votes,
            running,
            other: None,
            active: config,
            persistent: config,
            cordoned: false,
            boot_time: Duration::from_secs(60),
            catch_up: Duration::from_secs(12),
            power: Power::On,
            boots: 0,
            boot: format!("{name}-0").into(),
            boots_other: false,
            marked: false,
            trial: None,
            etcd_from: Duration::ZERO,
            lost_since: None,
            next_boot: None,
            next_install: None,
            is_ours: false,
            has_lost_config: false,
            slow_etcd: Duration::ZERO,
            stale: None,
        }
    }

    pub(super) fn answers(&self) -> bool {
        !matches!(self.power, Power::Off(_) | Power::Looping(..))
    }

    /// Whether its etcd runs and has caught up.
    pub(super) fn is_healthy_voter(&self, now: Duration) -> bool {
        let runs = matches!(self.power, Power::On | Power::Upgrading(_) | Power::Leaving(_));
        self.votes && runs && self.etcd_from <= now
    }

    /// Begins to go down. `back` is when it would be on again.
    pub(super) fn leave(&mut self, now: Duration) {
        if matches!(self.power, Power::On | Power::Booting(_) | Power::Upgrading(_)) {
            self.power = Power::Leaving(now + GOODBYE);
        }
    }

    /// The next moment at which something happens by itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let power = match self.power {
            Power::On => None,
            Power::Leaving(at) | Power::Off(at) | Power::Booting(at) | Power::Looping(at, _) => Some(at),
            Power::Upgrading(at) => Some(at),
        };
        let trial = self.trial.as_ref().map(|(at, _)| *at);
        let stale = self.stale.as_ref().map(|(at, _)| *at);
        power.into_iter().chain(trial).chain(stale).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, name: &str, now: Duration) {
        self.stale.take_if(|(until, _)| *until <= now);
        if let Some((_, back)) = self.trial.take_if(|(at, _)| *at <= now) {
            self.active = back;
        }
        match self.power {
            Power::Leaving(at) if at <= now => self.power = Power::Off(at + self.boot_time / 2),
            Power::Off(at) if at <= now => self.come_up(name, at),
            Power::Looping(at, left) if at <= now => {
                self.new_boot(name);
                self.power = match left {
                    0 => Power::Booting(at + self.boot_time / 2),
                    left => Power::Looping(at + self.boot_time, left - 1),
                };
            }
            Power::Booting(at) if at <= now => self.finish(at),
            Power::Upgrading(at) if at <= now => self.power = Power::Leaving(at + GOODBYE),
            _ => {}
        }
    }

    fn new_boot(&mut self, name: &str) {
        self.boots += 1;
        self.boot = format!("{name}-{}", self.boots).into();
        self.trial = None;
    }

    fn come_up(&mut self, name: &str, at: Duration) {
        self.new_boot(name);
        self.active = self.persistent;
        if self.boots_other
            && let Some(other) = self.other.take()
        {
            self.other = Some(std::mem::replace(&mut self.running, other));
        }
        self.boots_other = false;
        let is_ours = std::mem::take(&mut self.is_ours);
        let usual = at + self.boot_time / 2;
        self.power = match self.next_boot.take() {
            None => Power::Booting(usual),
            Some(BootFault::Slow(by)) => Power::Booting(usual + by),
            Some(BootFault::Stuck(time)) if time < BOOT_BUDGET => Power::Booting(usual + time),
            // It is given up, and what was there before comes back.
            Some(BootFault::Stuck(_)) => {
                self.boots_other = self.marked;
                self.marked = false;
                Power::Leaving(at + BOOT_BUDGET)
            }
            Some(BootFault::Loop(times)) => Power::Looping(at + self.boot_time, times),
            Some(BootFault::RolledBack) if self.marked => {
                if let Some(other) = self.other.take() {
                    self.other = Some(std::mem::replace(&mut self.running, other));
                }
                Power::Booting(usual)
            }
            Some(BootFault::RolledBack) => Power::Booting(usual),
            Some(BootFault::CorruptConfig) => {
                (self.active, self.persistent) = (Digest(0xbad), Digest(0xbad));
                self.has_lost_config |= is_ours;
                Power::Booting(usual)
            }
        };
    }

    fn finish(&mut self, at: Duration) {
        self.power = Power::On;
        self.marked = false;
        self.etcd_from = at + self.catch_up + std::mem::take(&mut self.slow_etcd);
    }

    /// Whether it works and says so.
    pub(super) fn is_steady(&self) -> bool {
        matches!(self.power, Power::On | Power::Upgrading(_))
    }

    /// Whether a boot that is being given up still shows as booting.
    pub(super) fn is_booting(&self) -> bool {
        matches!(self.power, Power::Booting(_))
    }
}
