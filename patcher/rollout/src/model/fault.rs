//! What may go wrong.

use std::time::Duration;

/// Something that goes wrong once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fault {
    /// When.
    pub when: When,
    /// What.
    pub kind: Kind,
}

/// When something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// So long after the beginning.
    At(Duration),
    /// With the call of this number, counted from 0 over all runs.
    Call(u32),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The process dies at the call.
    Crash(Crash),
    /// The call does not arrive.
    LostRequest,
    /// What the node says to the call does not arrive.
    LostReply,
    /// The process sleeps between the entry and the call.
    Asleep(Duration),
    /// The node goes on telling what is true now.
    Stale {
        /// The node.
        node: usize,
        /// For how long.
        time: Duration,
    },
    /// The next boot of the node goes wrong.
    Boot(usize, BootFault),
    /// The next image that is written on the node is a bad one.
    Install(usize, InstallFault),
    /// The member of etcd needs this much longer after the next boot of its node.
    SlowEtcd(usize, Duration),
    /// Another member takes the lead.
    Leader(usize),
    /// The node goes down and comes back after that time.
    Down(usize, Duration),
    /// The node goes down and comes back after that time, and until then something in between tells what was true
    /// before.
    Masked(usize, Duration),
    /// The member of etcd reports an alarm, or falls behind, for that time.
    Ailing(usize, Duration),
    /// Somebody else starts the same rollout.
    SecondOperator,
    /// Kubernetes forgets whose lock it is.
    LockLost,
}

/// At which point of a call the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crash {
    /// Before its entry is written.
    BeforeEntry,
    /// After its entry is written, before it is made.
    BeforeCall,
    /// After it is made, before its end is known.
    DuringCall,
    /// After its end is written.
    AfterCall,
}

/// How a boot goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootFault {
    /// The node answers, but does not finish to boot for that time. Talos reboots it after 70 minutes.
    Stuck(Duration),
    /// It boots over and over, so many times.
    Loop(u32),
    /// It comes up with the old image, as if nothing had been.
    RolledBack,
    /// It needs this much longer.
    Slow(Duration),
    /// It comes up with a config that nobody sent.
    CorruptConfig,
}

/// How an image is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstallFault {
    /// It cannot be written.
    Fails,
    /// It has none of the extensions that it should.
    LacksExtensions,
}

impl Kind {
    /// One word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash(Crash::BeforeEntry) => "crash before the entry",
            Self::Crash(Crash::BeforeCall) => "crash before the call",
            Self::Crash(Crash::DuringCall) => "crash during the call",
            Self::Crash(Crash::AfterCall) => "crash after the call",
            Self::LostRequest => "lost request",
            Self::LostReply => "lost reply",
            Self::Asleep(_) => "process asleep",
            Self::Stale { .. } => "stale reads",
            Self::Boot(_, BootFault::Stuck(_)) => "stuck in booting",
            Self::Boot(_, BootFault::Loop(_)) => "boot loop",
            Self::Boot(_, BootFault::RolledBack) => "silent rollback",
            Self::Boot(_, BootFault::Slow(_)) => "slow boot",
            Self::Boot(_, BootFault::CorruptConfig) => "corrupt config",
            Self::Install(_, InstallFault::Fails) => "installer fails",
            Self::Install(_, InstallFault::LacksExtensions) => "extension missing",
            Self::SlowEtcd(..) => "slow etcd",
            Self::Leader(_) => "leader change",
            Self::Down(..) => "node down",
            Self::Masked(..) => "node down behind stale reads",
            Self::Ailing(..) => "etcd alarm or lag",
            Self::SecondOperator => "second operator",
            Self::LockLost => "lock lost",
        }
    }
}
