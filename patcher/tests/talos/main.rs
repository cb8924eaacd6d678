//! ichorctl against gRPC servers in this process, with certificates as Talos makes them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod node;
mod pki;
mod server;
mod transport;
