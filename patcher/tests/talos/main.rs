//! ichorctl against gRPC servers in this process, with certificates as Talos makes them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod access;
mod apid;
mod change;
mod cluster;
mod config;
mod damage;
mod edit;
mod etcd;
mod get;
mod node;
mod pki;
mod plan;
mod read;
mod schematic;
mod server;
mod transport;
