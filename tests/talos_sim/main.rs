//! The operator's tool against simulated Talos nodes on loopback: no privileges, real TLS, real gRPC.

mod change;
mod client;
mod damage;
mod image;
mod kubernetes;
mod look;
mod mesh;
mod power;
mod rollout;
mod snapshot;
mod upgrade;
mod world;
