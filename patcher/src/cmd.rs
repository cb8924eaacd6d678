//! One file per command: flags in, calls, output.

pub mod apply_config;
mod change;
mod cluster_file;
pub mod completion;
pub mod config;
pub mod connection;
pub mod edit;
pub mod etcd;
pub mod events;
pub mod fleet;
pub mod get;
pub mod health;
pub mod image;
pub mod kubeconfig;
pub mod logs;
pub mod machineconfig;
pub mod member;
pub mod mesh;
mod mesh_folder;
pub mod patch;
mod patches;
pub mod plan;
pub mod read;
pub mod schematic;
pub mod service;
pub mod token;
pub mod version;
