//! A simulated world for the mesh core: virtual time, links with faults, and an account of every packet.
//!
//! Everything follows from the seed. Time jumps from one event to the next, so a day of a small mesh takes
//! seconds. The account knows what became of each packet: delivered, lost by a link, or dropped by a node for a
//! reason that its counters name. Whatever is left over is a defect.

mod account;
mod link;
mod world;

pub use account::{Account, Fate};
pub use link::Link;
pub use world::{NodeId, World};
