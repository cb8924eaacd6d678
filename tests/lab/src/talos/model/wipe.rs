//! Resets.
//!
//! Talos: internal/app/machined/internal/server/v1alpha1 (Reset).

use std::time::Duration;

use ichor_proto::talos::machine as proto;
use proto::sequence_event::Action;

use super::cluster::Cluster;
use super::config::MachineType;
use super::node::{Node, Stage};
use super::refusal::Refusal;

/// What a reset asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    /// Whether the member leaves etcd first, if it runs.
    pub graceful: bool,
    /// Whether the node comes back.
    pub reboot: bool,
    /// Labels of the partitions that are wiped; all of them, if it is empty.
    pub partitions: Vec<String>,
}

/// What is lost when a node goes down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wiping {
    config: bool,
    data: bool,
    system: bool,
}

impl Node {
    /// Loses what it was told to lose.
    pub(super) fn wipe(&mut self) {
        let Some(wiping) = self.wiping.take() else { return };
        if wiping.config || wiping.system {
            self.persistent = None;
        }
        if wiping.data || wiping.system {
            self.pulled.clear();
            self.uploaded = None;
            self.lost_data = true;
        }
        if wiping.system {
            self.disk.wipe();
            self.meta.clear();
        }
    }
}

impl Cluster {
    /// Wipes a node. Returns the id under which the events of it speak.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn reset(&mut self, node: &str, reset: &Reset, now: Duration) -> Result<String, Refusal> {
        const KNOWN: [&str; 5] = ["EPHEMERAL", "STATE", "META", "BOOT", "EFI"];
        if let Some(unknown) = reset.partitions.iter().find(|label| !KNOWN.contains(&label.as_str())) {
            return Err(Refusal::plain(format!(
                "failed to get volume status with label {unknown:?}: resource doesn't exist"
            )));
        }
        let actor = self.actor(node);
        let found = self.node_mut(node)?;
        if found.is_busy() {
            found.refuse("reset", &actor, now);
            return Ok(actor);
        }
        found.enter(Stage::Resetting, now);
        let (boots, is_voter) = (found.boots(), found.machine_type() == Some(MachineType::ControlPlane));
        // A member that does not run stays behind (Talos: the task LeaveEtcd).
        let is_voter = is_voter && self.etcd().member(node).is_some_and(|member| member.up);
        if reset.graceful
            && is_voter
            && let Err(refusal) = self.etcd_mut().leave(node, boots)
        {
            let text = format!("task leaveEtcd (1/1) failed: {}", refusal.text);
            let node = self.node_mut(node)?;
            node.sequence("reset", Action::Start, &actor, now);
            node.fail("reset", &actor, &text, now);
            self.settle(now);
            return Ok(actor);
        }
        let has = |label: &str| reset.partitions.iter().any(|it| it == label);
        let node = self.node_mut(node)?;
        node.wiping = Some(Wiping {
            config: has("STATE"),
            data: has("EPHEMERAL"),
            system: reset.partitions.is_empty(),
        });
        node.leave("reset", &actor, reset.reboot, now);
        self.settle(now);
        Ok(actor)
    }
}
