//! The Ichor mesh daemon as a library.

pub mod cli;
pub mod clock;
pub mod driver;
pub mod io;
pub mod noise;
pub mod random;
pub mod telemetry;
pub mod uapi;

mod tunnel;
