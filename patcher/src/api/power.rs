//! What stops, starts or replaces the system of a node.
//!
//! A reply means that the node has taken the request, not that anything has begun: when another sequence holds the
//! lock of the node, the reply is the same, and only an event (`SequenceEvent` with the error LOCKED) says so. A
//! sequence that fails ends in a reboot, which from outside looks like one that worked. So after each of these calls
//! the boot id and the version decide what has happened. None of them looks at etcd, but for the two that say so.

use std::time::Duration;

use ichor_proto::talos::common::ContainerdNamespace;
use ichor_proto::talos::machine::reset_request::WipeMode;
use ichor_proto::talos::machine::upgrade_request;
use ichor_proto::talos::machine::{
    ImagePullRequest, RebootRequest, ResetPartitionSpec, ResetRequest, RollbackRequest, ShutdownRequest,
    Upgrade, UpgradeRequest,
};

pub use ichor_proto::talos::machine::reboot_request::Mode as RebootMode;

use super::call::machine_service;
use super::{ApiError, Cause, NodeClient};

/// The call of an upgrade pulls the image first, for which Talos takes up to 20 minutes, and then looks at etcd.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(25 * 60);

/// Time for pulling an image by a call that says nothing until it is done.
const PULL_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// The partition with everything that is not config: etcd's data, images, pods.
pub const EPHEMERAL: &str = "EPHEMERAL";

/// What a reset does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Drain the node and take its member out of etcd first. A reset without it leaves a member behind that counts
    /// for the quorum and never comes back.
    pub graceful: bool,
    /// Come back afterwards; else the node is off.
    pub reboot: bool,
    /// What is lost.
    pub wipe: Wipe,
}

/// What a reset wipes. Disks that are not the system's are never wiped from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wipe {
    /// Partitions of the system disk, by their labels.
    Partitions(Vec<String>),
    /// The whole system disk: the node has neither config nor system any more.
    SystemDisk,
}

impl NodeClient {
    /// Reboots, and returns the id that the events of it carry. Nothing is drained, and etcd is not looked at.
    ///
    /// After an upgrade by [`NodeClient::lifecycle_upgrade`] this is what starts the new system. [`RebootMode::Force`]
    /// is known since 1.12.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn reboot(&self, mode: RebootMode) -> Result<String, ApiError> {
        let message = RebootRequest { mode: mode.into() };
        let reply = self.one("Reboot", message, |channel, request| async move {
            machine_service(channel).reboot(request).await
        });
        Ok(reply.await?.actor_id)
    }

    /// Cordons, drains and shuts down, and returns the id that the events of it carry. etcd is not looked at.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn shutdown(&self) -> Result<String, ApiError> {
        let message = ShutdownRequest { force: false };
        let reply = self.one("Shutdown", message, |channel, request| async move {
            machine_service(channel).shutdown(request).await
        });
        Ok(reply.await?.actor_id)
    }

    /// Makes the other system of the disk the one that boots, and reboots at once, whatever the node is doing. Nothing
    /// is drained, and etcd is not looked at. Done twice, it is undone.
    ///
    /// After two upgrades without a reboot between them the other system is not the one that ran.
    ///
    /// # Errors
    ///
    /// Those of every call; an error without a code of its own when there is no other system.
    pub async fn rollback(&self) -> Result<(), ApiError> {
        let reply = self.one("Rollback", RollbackRequest {}, |channel, request| async move {
            machine_service(channel).rollback(request).await
        });
        reply.await.map(drop)
    }

    /// Wipes what `reset` says, and returns the id that the events of it carry.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::Invalid`], and nothing is sent, for a list of partitions that is empty: the API
    /// would take that for all of them.
    pub async fn reset(&self, reset: &Reset) -> Result<String, ApiError> {
        let partitions = match &reset.wipe {
            Wipe::SystemDisk => Vec::new(),
            Wipe::Partitions(labels) if labels.is_empty() => {
                let text = "a reset without a partition would wipe all of them".to_owned();
                return Err(self.error("Reset", Cause::Invalid(text)));
            }
            Wipe::Partitions(labels) => {
                labels.iter().map(|label| ResetPartitionSpec { label: label.clone(), wipe: true }).collect()
            }
        };
        let message = ResetRequest {
            graceful: reset.graceful,
            reboot: reset.reboot,
            system_partitions_to_wipe: partitions,
            user_disks_to_wipe: Vec::new(),
            mode: WipeMode::SystemDisk.into(),
        };
        let reply = self.one("Reset", message, |channel, request| async move {
            machine_service(channel).reset(request).await
        });
        Ok(reply.await?.actor_id)
    }

    /// Upgrades to an installer image by the flow that every line has up to 1.17: the node pulls the image, looks at
    /// etcd if it is a control plane node, replies, and then drains, stops, installs and reboots by itself.
    ///
    /// The checks of etcd are made within the call, and the lock that they hold goes with its reply: they do not keep
    /// two nodes apart. What would skip them, and what would put the installation off to the next boot, is never sent.
    ///
    /// # Errors
    ///
    /// Those of every call. After [`Cause::Deadline`] and [`Cause::Lost`] the sequence may run all the same.
    pub async fn upgrade_legacy(&self, image: &str) -> Result<Upgrade, ApiError> {
        let message = UpgradeRequest {
            image: image.to_owned(),
            preserve: false,
            stage: false,
            force: false,
            reboot_mode: upgrade_request::RebootMode::Default.into(),
        };
        let patient = self.clone().with_deadline(self.deadline.max(UPGRADE_DEADLINE));
        let reply = patient.one("Upgrade", message, |channel, request| async move {
            machine_service(channel).upgrade(request).await
        });
        reply.await
    }

    /// Pulls an image on a node that has no `ImageService`. It goes where workloads have theirs, not where
    /// [`NodeClient::upgrade_legacy`] looks, which pulls once more: this shows that the node gets the image at all.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::NotFound`] when there is no such image.
    pub async fn image_pull_legacy(&self, reference: &str) -> Result<(), ApiError> {
        let namespace = ContainerdNamespace::NsSystem.into();
        let message = ImagePullRequest { namespace, reference: reference.to_owned() };
        let patient = self.clone().with_deadline(self.deadline.max(PULL_DEADLINE));
        let reply = patient.one("ImagePull", message, |channel, request| async move {
            machine_service(channel).image_pull(request).await
        });
        reply.await.map(drop)
    }
}
