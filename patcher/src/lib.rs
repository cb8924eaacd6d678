//! The operator's tool of the Ichor mesh.

pub mod files;
pub mod talosconfig;
