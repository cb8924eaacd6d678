//! Emptying a node before it goes down, without breaking what a PodDisruptionBudget protects.
//!
//! Each round lists the pods of the node, decides about each ([`verdict`]), and asks for the eviction of those that
//! should go, until none of them is left.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube_core::Request;
use kube_core::params::PostParams;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep};

use super::{Kubernetes, KubernetesError};

/// The annotation of pods that a kubelet runs by itself, from files on its node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is done about a pod of a node that is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is evicted.
    Evict,
    /// It is on its way out: waited for.
    Leaving,
    /// It stays.
    Stays(Reason),
}

/// Why a pod stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kubelet runs it from a file: nobody else can stop it.
    Mirror,
    /// A DaemonSet would start it on this node again at once.
    DaemonSet,
    /// It has ended.
    Completed,
    /// Nothing would make it again elsewhere: evicting it would be its end, while it outlives a reboot of its node.
    Unmanaged,
}

/// How patient a drain is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long it may take until all pods are gone.
    pub budget: Duration,
    /// How long is waited between rounds.
    pub round: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { budget: Duration::from_secs(5 * 60), round: Duration::from_secs(3) }
    }
}

/// A pod that is not gone yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Which.
    pub pod: PodName,
    /// What holds it back: what the API said about its eviction, or None when it is shutting down.
    pub blocked: Option<String>,
}

/// A node that is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Pods that were evicted.
    pub evicted: Vec<PodName>,
    /// Pods that are still on it, on purpose.
    pub stayed: Vec<(PodName, Reason)>,
}

/// Why a node was not emptied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// Pods did not go in time.
    #[error("pods on {node} did not go within {} s: {}", .after.as_secs(), list(.pods))]
    Remain {
        /// The node.
        node: String,
        /// How long they had.
        after: Duration,
        /// Which pods, and what holds them back.
        pods: Vec<Remaining>,
    },
    /// The Kubernetes API did not do it.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

#[derive(Clone, Debug, Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: String,
}

/// What the API did about an eviction.
enum Evicted {
    /// The pod goes.
    Going,
    /// There is no such pod any more.
    Gone,
    /// Not now.
    Blocked(String),
}

impl Kubernetes {
    /// Evicts the pods of a node and waits until they are gone. `report` gets what is left, round by round.
    ///
    /// The node should be cordoned before, or the pods come back.
    ///
    /// # Errors
    ///
    /// When pods do not go in time, or the API does not do it.
    pub async fn drain(
        &self,
        node: &str,
        patience: Patience,
        mut report: impl FnMut(&[Remaining]),
    ) -> Result<Drained, DrainError> {
        let start = Instant::now();
        let mut drained = Drained::default();
        loop {
            let is_over = start.elapsed() >= patience.budget;
            match self.round(node, &mut drained).await {
                Ok(remaining) if remaining.is_empty() => return Ok(drained),
                Ok(pods) if is_over => {
                    return Err(DrainError::Remain { node: node.to_owned(), after: patience.budget, pods });
                }
                Ok(pods) => report(&pods),
                // A server that restarts is no reason to stop halfway.
                Err(error) if error.is_unreachable() && !is_over => {}
                Err(error) => return Err(error.into()),
            }
            sleep(patience.round.min(patience.budget.saturating_sub(start.elapsed()))).await;
        }
    }

    /// Asks for the eviction of all pods that should go, and returns those that are not gone.
    async fn round(&self, node: &str, drained: &mut Drained) -> Result<Vec<Remaining>, KubernetesError> {
        let pods: Vec<Pod> = self
            .list(
                &format!("list the pods of {node}"),
                &Request::new("/api/v1/pods"),
                Some(&format!("spec.nodeName={node}")),
            )
            .await?;
        drained.stayed.clear();
        let mut remaining = Vec::new();
        for pod in pods {
            let name = pod.name();
            let blocked = match verdict_of(&pod) {
                Verdict::Stays(reason) => {
                    drained.stayed.push((name, reason));
                    continue;
                }
                Verdict::Leaving => None,
                Verdict::Evict => match self.evict(&pod).await? {
                    Evicted::Going => {
                        if !drained.evicted.contains(&name) {
                            drained.evicted.push(name.clone());
                        }
                        None
                    }
                    Evicted::Gone => continue,
                    Evicted::Blocked(why) => Some(why),
                },
            };
            remaining.push(Remaining { pod: name, blocked });
        }
        Ok(remaining)
    }

    /// Asks for the eviction of this very pod, not of one that has its name by now.
    async fn evict(&self, pod: &Pod) -> Result<Evicted, KubernetesError> {
        let name = pod.name();
        let eviction = Eviction {
            delete_options: Some(DeleteOptions {
                preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                ..DeleteOptions::default()
            }),
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                ..ObjectMeta::default()
            },
        };
        let pods = Request::new(format!("/api/v1/namespaces/{}/pods", name.namespace));
        let request = serde_json::to_vec(&eviction)
            .map_err(kube_core::request::Error::SerializeBody)
            .and_then(|body| pods.create_subresource("eviction", &name.name, &PostParams::default(), body));
        match self.ask::<IgnoredAny>(&format!("evict {name}"), request).await {
            Ok(_) => Ok(Evicted::Going),
            Err(KubernetesError::Refused { status, .. }) if matches!(status.code, 404 | 409) => {
                Ok(Evicted::Gone)
            }
            Err(KubernetesError::Refused { status, .. }) if status.code == 429 => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let texts = std::iter::once(&status.message).chain(causes.map(|cause| &cause.message));
                let texts: Vec<&str> = texts.map(String::as_str).filter(|text| !text.is_empty()).collect();
                Ok(Evicted::Blocked(texts.join(" ")))
            }
            Err(error) => Err(error),
        }
    }
}

/// What is done about a pod: by its annotations, its controller's kind, whether it is being deleted, and its phase.
pub fn verdict(is_mirror: bool, controller: Option<&str>, is_leaving: bool, phase: &str) -> Verdict {
    match (is_mirror, controller, is_leaving, phase) {
        (true, ..) => Verdict::Stays(Reason::Mirror),
        (_, Some("DaemonSet"), ..) => Verdict::Stays(Reason::DaemonSet),
        (_, _, _, "Succeeded" | "Failed") => Verdict::Stays(Reason::Completed),
        (_, _, true, _) => Verdict::Leaving,
        (_, None, ..) => Verdict::Stays(Reason::Unmanaged),
        (_, Some(_), ..) => Verdict::Evict,
    }
}

fn verdict_of(pod: &Pod) -> Verdict {
    let metadata = &pod.metadata;
    let is_mirror = metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.kind.as_str());
    verdict(is_mirror, controller, metadata.deletion_timestamp.is_some(), &pod.status.phase)
}

impl Pod {
    fn name(&self) -> PodName {
        PodName {
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.blocked {
            Some(why) => write!(f, "{} ({why})", self.pod),
            None => write!(f, "{} (shutting down)", self.pod),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mirror => "run by its kubelet",
            Self::DaemonSet => "of a DaemonSet",
            Self::Completed => "ended",
            Self::Unmanaged => "has no controller that would make it again",
        })
    }
}

fn list(pods: &[Remaining]) -> String {
    pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Verdict {
        verdict_of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn pods_that_would_start_elsewhere_go() {
        let owner = |kind: &str| {
            format!(
                r#"{{"metadata": {{"name": "a", "namespace": "b", "ownerReferences": [{{"apiVersion": "apps/v1", "kind": "{kind}",
                "name": "o", "uid": "u", "controller": true}}]}}, "status": {{"phase": "Running"}}}}"#
            )
        };
        assert_eq!(of(&owner("ReplicaSet")), Verdict::Evict);
        assert_eq!(of(&owner("StatefulSet")), Verdict::Evict);
        assert_eq!(of(&owner("Job")), Verdict::Evict);
        assert_eq!(of(&owner("DaemonSet")), Verdict::Stays(Reason::DaemonSet));
    }

    #[test]
    fn pods_that_eviction_would_not_move_stay() {
        let mirror = r#"{"metadata": {"name": "kube-apiserver-cp-1", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "cp-1", "uid": "u", "controller": true}]}}"#;
        assert_eq!(of(mirror), Verdict::Stays(Reason::Mirror));
        assert_eq!(of(r#"{"metadata": {"name": "lone"}}"#), Verdict::Stays(Reason::Unmanaged));
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(verdict(false, Some("Job"), false, phase), Verdict::Stays(Reason::Completed));
        }
    }

    #[test]
    fn a_pod_on_its_way_out_is_waited_for_and_not_evicted_twice() {
        let leaving = r#"{"metadata": {"name": "a", "deletionTimestamp": "2026-11-21T10:00:00Z"}}"#;
        assert_eq!(of(leaving), Verdict::Leaving);
        assert_eq!(verdict(false, Some("DaemonSet"), true, "Running"), Verdict::Stays(Reason::DaemonSet));
    }
}
