//! The operator's tool of the Ichor mesh, as a library: a client of the Talos API and a patch engine for its configs.
//!
//! Data flows one way: [`talosconfig`] says where a cluster is and who we are, [`transport`] connects, [`api`] makes
//! calls to one node at a time, [`machine`] reads machine configs and [`patch`] changes them, [`cmd`] turns flags into
//! calls and replies into [`output`], and [`exit`] says how it went.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod cmd;
pub mod config_update;
pub mod daemon_status;
pub mod duration;
pub mod exit;
pub mod extension;
pub mod files;
pub mod health;
pub mod image;
pub mod interrupt;
pub mod kubeconfig;
pub mod kubernetes;
#[cfg(feature = "lab")]
pub mod lab;
pub mod machine;
pub mod output;
pub mod owner;
pub mod patch;
pub mod plan;
pub mod ranges;
mod roll;
pub mod schematic;
pub mod snapshot;
pub mod talosconfig;
pub mod transport;
