//! The calls that a rollout makes.

use std::fmt;

use crate::view::{Digest, Text};

/// A call, on or about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Index of the node in the plan.
    pub node: usize,
    /// Which call.
    pub call: Call,
    /// The work that it is made for: [`Work::digest`](crate::plan::Work::digest).
    pub work: Digest,
    /// Whether it begins the work anew.
    pub anew: bool,
}

/// A call. None of them is made without a [`Journal`](crate::journal::Journal) that was told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Load the image onto the node, which changes nothing.
    Pull,
    /// Take a snapshot of etcd from this node, and verify it.
    Snapshot {
        /// The member that is asked.
        from: usize,
    },
    /// Hand the lead of etcd to another member.
    HandOver,
    /// Apply the config of the task at once; refused by the node if that needs a reboot.
    Apply,
    /// Put the config of the task onto the disk, for the next boot.
    Stage,
    /// Apply the config of the task until it is kept, or goes away by itself.
    Try,
    /// See that the node answers over the old and the new way.
    CheckWays,
    /// Keep what is tried.
    Keep,
    /// Write the image into the other slot, which the next boot takes (Talos: LifecycleService.Upgrade).
    Install,
    /// Upgrade and reboot in one call (Talos: MachineService.Upgrade).
    Upgrade,
    /// Keep new pods away and move those that are there.
    Drain,
    /// Reboot.
    Reboot,
    /// Boot the other slot.
    RollBack,
    /// Let pods come again.
    Uncordon,
    /// Nothing is called: the task is proven to be done.
    Conclude,
}

impl Call {
    /// Whether the node goes away by it, now or soon.
    pub const fn disrupts(&self) -> bool {
        matches!(self, Self::Upgrade | Self::Reboot | Self::RollBack)
    }

    /// Whether it changes the node.
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::Pull | Self::Snapshot { .. } | Self::CheckWays | Self::Conclude)
    }

    /// Whether it sends a config.
    pub const fn applies(&self) -> bool {
        matches!(self, Self::Apply | Self::Stage | Self::Try | Self::Keep)
    }

    /// One word for it, as journals and reports have it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Snapshot { .. } => "snapshot",
            Self::HandOver => "hand-over",
            Self::Apply => "apply",
            Self::Stage => "stage",
            Self::Try => "try",
            Self::CheckWays => "check-ways",
            Self::Keep => "keep",
            Self::Install => "install",
            Self::Upgrade => "upgrade",
            Self::Drain => "drain",
            Self::Reboot => "reboot",
            Self::RollBack => "roll-back",
            Self::Uncordon => "uncordon",
            Self::Conclude => "conclude",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The node did it, or has begun to.
    Done,
    /// It certainly did not do it.
    Refused(Text),
    /// Nobody knows: the request or the reply may have been lost, or whoever called has died.
    Unknown(Text),
}

impl Outcome {
    /// Whether it was done, for certain.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}
