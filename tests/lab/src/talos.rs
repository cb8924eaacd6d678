//! Simulated Talos nodes: a model of what they do, and servers that speak their API.
//!
//! [`model`] decides everything and knows neither clock nor socket. [`Simulation`] gives it both: it serves each
//! node's API over mTLS, hands calls on to the node that they name as control plane nodes do, and takes the API away
//! while a node reboots. What the model wants of the world around it, such as an extension service that has to run,
//! comes out as [`model::Effect`]s.

pub mod model;

mod pki;
mod role;
mod server;
mod simulation;

pub use pki::{Pki, PkiError};
pub use role::Role;
pub use server::PORT;
pub use simulation::{Call, Directory, Simulation, SimulationError};
