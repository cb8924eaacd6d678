//! A cluster of Talos nodes as a model: time comes in, answers and effects come out. No clock, no socket.

mod apply;
mod bolt;
mod cluster;
mod config;
mod database;
mod disk;
mod etcd;
mod event;
mod fault;
mod image;
mod kind;
mod line;
mod log;
mod node;
mod power;
mod publish;
mod recover;
mod refusal;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod upgrade;
mod wipe;

pub use apply::{Applied, Apply};
pub use cluster::{Cluster, ClusterSpec, Effect};
pub use config::{Config, ConfigRules, ExtensionConfig, MachineType, PlainRules};
pub use disk::UPGRADE_MARKER;
pub use etcd::{Etcd, Member};
pub use event::Events;
pub use fault::{Fate, Faults, Lost};
pub use image::{Image, SystemFault};
pub use line::{Line, UnknownLine};
pub use log::Log;
pub use node::{Api, Node, NodeSpec, Stage};
pub use recover::{Bootstrap, Upload};
pub use refusal::Refusal;
pub use service::Verb;
pub use store::{Change, Store, id_of, timestamp};
pub use upgrade::Installation;
pub use wipe::Reset;

pub(crate) use kind::Kind;

/// The SHA-256 of a text: where the model needs something that looks random and is always the same.
pub(crate) fn digest(text: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().unwrap_or_default()
}
