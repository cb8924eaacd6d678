//! The Kubernetes API of a cluster, as far as changing runs need it: one lock for all of them, and nodes that are
//! drained before they go down.
//!
//! [`Kubernetes`] is a client made from the admin kubeconfig that Talos gives, or from the service account of a pod.
//! It knows several endpoints and uses the next one when one does not answer, so that a control plane node can
//! reboot without taking the client with it. [`lease`] is the lock, [`nodes`] looks at nodes and cordons them,
//! [`drain`] empties them. What they decide is pure; requests are made in one place, `client`.

mod access;
mod client;
pub mod drain;
mod error;
pub mod lease;
pub mod nodes;

pub use access::{API_SERVER_PORT, Access, AccessError};
pub use client::Kubernetes;
pub use error::{Attempt, AttemptProblem, KubernetesError};
