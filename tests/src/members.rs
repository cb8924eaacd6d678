//! A simulated network for membership: virtual time, nodes that crash, links that fail, an owner, and histories.
//!
//! Sessions are modelled: two nodes have one while their link is up and each is a peer of the other; what is sent in it
//! is authentic. Everything else is the code that runs in the daemon. All follows from the seed.

mod checks;
mod flapping;
mod history;
mod idle;
mod network;
mod owner;
mod partition;
mod spread;
mod twice;
mod world;

pub use flapping::{Flapping, flapping};
pub use history::{Kind, Report, run};
pub use idle::{Idle, idle};
pub use partition::{Healing, partition};
pub use spread::{Spread, percentile, spread};
pub use twice::twice;
pub use world::{Faults, NodeId, World};
