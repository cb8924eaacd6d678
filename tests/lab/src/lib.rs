//! A throw-away mesh on one Linux machine.
//!
//! A [`Lab`] is a few sites, joined by an internet, with a NAT each and nodes in their LANs. Each node is a set
//! of namespaces with a real `ichord` in it; nothing of it can be seen from outside, nothing outside is changed,
//! and all of it is gone when the lab is dropped or the program that made it ends, in whatever way. It runs as
//! root, or unprivileged in a user namespace.
//!
//! ```no_run
//! # async fn example() -> Result<(), ichor_lab::LabError> {
//! use ichor_lab::{Lab, Nat, NodeSpec, Site};
//!
//! let mut home = Site::new("home", Nat::PortPreserving);
//! home.nodes.push(NodeSpec::new("a"));
//! let mut cloud = Site::new("cloud", Nat::None);
//! cloud.nodes.push(NodeSpec::new("b"));
//!
//! let lab = Lab::builder().site(home).site(cloud).up().await?;
//! lab.node("a").until_connected(&["b"]).await?;
//! lab.node("a").run(["ping", "-c1", "b"]).await?;
//! lab.down().await
//! # }
//! ```
//!
//! A program that uses this must call [`reenter`] first thing in its `main`: the processes of a lab are that
//! program again.

pub mod cli;
pub mod kubernetes;
pub mod talos;
pub mod traffic;

mod background;
mod dial;
mod error;
mod lab;
mod net;
mod node;
mod plan;
mod protocol;
mod reentry;
mod sandbox;
mod shaper;
mod supervisor;
mod topology;
mod wire;

pub use error::LabError;
pub use lab::{Builder, Lab, LinkHandle};
pub use node::{Child, Command, LinkWatch, Node, Output, StatusWatch};
pub use plan::Addresses;
pub use protocol::{
    Cut, Daemon, Exit, LinkEvent, LinkEventKind, LinkName, NodeView, ShapeCounters, SiteView, View,
};
pub use reentry::{reenter, reenter_with};
pub use topology::{
    Family, Ipv6, Link, MAX, Membership, Nat, NodeSpec, Nodes, Shape, Site, Talos, TalosFault, TalosImage,
    Topology,
};
