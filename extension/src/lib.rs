//! The Ichor mesh daemon as a library.

pub mod cli;
pub mod clock;
pub mod config;
pub mod dns;
pub mod driver;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod identity;
pub mod io;
pub mod noise;
pub mod random;
pub mod status;
pub mod telemetry;
pub mod uapi;

mod keeper;
mod metrics;
mod parent;
mod reconcile;
mod store;
mod tunnel;
mod worker;

pub use store::file as state_file;
pub use worker::PRIVATE_KEY_MADE;
