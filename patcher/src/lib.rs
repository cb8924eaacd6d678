//! The operator's tool of the Ichor mesh, as a library: a client of the Talos API.
//!
//! Data flows one way: [`talosconfig`] says where a cluster is and who we are, [`transport`] connects, [`api`] makes
//! calls to one node at a time, [`cmd`] turns flags into calls and replies into [`output`], and [`exit`] says how it
//! went.

pub mod api;
pub mod cli;
pub mod cmd;
pub mod duration;
pub mod exit;
pub mod files;
pub mod health;
pub mod kubeconfig;
pub mod output;
pub mod snapshot;
pub mod talosconfig;
pub mod transport;
//! The operator's tool of the Ichor mesh, as a library: what the commands do, apart from the terminal.
pub mod machine;
pub mod patch;
