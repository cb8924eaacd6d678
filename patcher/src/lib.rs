//! The operator's tool of the Ichor mesh: a client of the Talos API, as a library.
//!
//! Data flows one way: `talosconfig` says where a cluster is and who we are, `transport` connects, `api` makes calls
//! to one node at a time, `cmd` turns flags into calls and replies into `output`.

pub mod api;
pub mod files;
pub mod output;
pub mod talosconfig;
pub mod transport;
