//! Nodes as Kubernetes sees them, and keeping new pods away from them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::Request as HttpRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_core::Request;
use kube_core::params::{GetParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kubernetes, KubernetesError};

/// Marks a node that we cordoned, with who did: only such a node is uncordoned.
pub const CORDONED_BY: &str = "ichor/cordoned-by";

/// How often a change is tried again when somebody else changed the node meanwhile.
const CONFLICTS: usize = 5;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in Kubernetes.
    pub name: String,
    /// Whether its kubelet says that it is ready.
    pub is_ready: bool,
    /// Whether new pods may come to it.
    pub is_schedulable: bool,
    /// Who cordoned it, if we did.
    pub cordoned_by: Option<String>,
    /// Its addresses in the cluster.
    pub internal_ips: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The version of its kubelet, such as `v1.34.1`.
    pub kubelet_version: String,
    /// The id of its boot, as its kubelet last saw it.
    pub boot_id: String,
    version: String,
}

/// What became of a node that was to be cordoned or uncordoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// It was changed.
    Changed,
    /// It was so already.
    Unchanged,
    /// Somebody else cordoned it, and it stays as it is.
    NotOurs,
}

#[derive(Deserialize)]
struct Raw {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    node_info: Info,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Default, Deserialize)]
struct Info {
    #[serde(default, rename = "kubeletVersion")]
    kubelet_version: String,
    #[serde(default, rename = "bootID")]
    boot_id: String,
}

impl Kubernetes {
    /// All nodes.
    ///
    /// # Errors
    ///
    /// When the API does not give them.
    pub async fn nodes(&self) -> Result<Vec<Node>, KubernetesError> {
        let nodes: Vec<Raw> = self.list("list nodes", &resource(), None).await?;
        Ok(nodes.into_iter().map(Node::from).collect())
    }

    /// The node of this name, or None when there is none.
    ///
    /// # Errors
    ///
    /// When the API does not give it.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, KubernetesError> {
        let request = resource().get(name, &GetParams::default());
        match self.ask::<Raw>(&format!("get node {name}"), request).await {
            Err(error) if error.code() == Some(404) => Ok(None),
            result => result.map(|node| Some(node.into())),
        }
    }

    /// Keeps new pods away from a node, and notes that `by` did so. A node that somebody else cordoned stays theirs.
    ///
    /// # Errors
    ///
    /// When there is no such node, or the API does not do it.
    pub async fn cordon(&self, name: &str, by: &str) -> Result<Scheduling, KubernetesError> {
        self.reschedule(name, |node| match (node.is_schedulable, &node.cordoned_by) {
            (false, Some(_)) => Err(Scheduling::Unchanged),
            (false, None) => Err(Scheduling::NotOurs),
            (true, _) => Ok((true, Value::from(by))),
        })
        .await
    }

    /// Lets new pods come to a node again, if it was us who kept them away.
    ///
    /// # Errors
    ///
    /// When there is no such node, or the API does not do it.
    pub async fn uncordon(&self, name: &str) -> Result<Scheduling, KubernetesError> {
        self.reschedule(name, |node| match (node.is_schedulable, &node.cordoned_by) {
            (true, None) => Err(Scheduling::Unchanged),
            (false, None) => Err(Scheduling::NotOurs),
            // Schedulable and marked: somebody uncordoned it by hand, and the mark goes.
            (_, Some(_)) => Ok((false, Value::Null)),
        })
        .await
    }

    /// Changes whether a node is schedulable, and our mark on it, as `decide` says by what it is now.
    async fn reschedule(
        &self,
        name: &str,
        decide: impl Fn(&Node) -> Result<(bool, Value), Scheduling>,
    ) -> Result<Scheduling, KubernetesError> {
        let mut conflicts = 0;
        loop {
            let what = format!("get node {name}");
            let node = Node::from(self.ask::<Raw>(&what, resource().get(name, &GetParams::default())).await?);
            let (unschedulable, mark) = match decide(&node) {
                Ok(change) => change,
                Err(nothing) => return Ok(nothing),
            };
            let request = patch(&node, unschedulable, &mark);
            let what = format!("{} node {name}", if unschedulable { "cordon" } else { "uncordon" });
            match self.ask::<Raw>(&what, request).await {
                Ok(_) => return Ok(Scheduling::Changed),
                Err(error) if error.code() == Some(409) && conflicts < CONFLICTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Node {
    /// Whether this is its name or one of its addresses.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || name.parse().is_ok_and(|address: IpAddr| self.internal_ips.contains(&address))
    }
}

impl From<Raw> for Node {
    fn from(raw: Raw) -> Self {
        let status = raw.status;
        let ready = status.conditions.iter().find(|condition| condition.kind == "Ready");
        let internal = status.addresses.iter().filter(|address| address.kind == "InternalIP");
        Self {
            name: raw.metadata.name.unwrap_or_default(),
            is_ready: ready.is_some_and(|condition| condition.status == "True"),
            is_schedulable: !raw.spec.unschedulable,
            cordoned_by: raw.metadata.annotations.and_then(|mut all| all.remove(CORDONED_BY)),
            internal_ips: internal.filter_map(|address| address.address.parse().ok()).collect(),
            labels: raw.metadata.labels.unwrap_or_default(),
            kubelet_version: status.node_info.kubelet_version,
            boot_id: status.node_info.boot_id,
            version: raw.metadata.resource_version.unwrap_or_default(),
        }
    }
}

fn resource() -> Request {
    Request::new("/api/v1/nodes")
}

/// The change, which the API makes to this version of the node and no other.
fn patch(
    node: &Node,
    unschedulable: bool,
    mark: &Value,
) -> Result<HttpRequest<Vec<u8>>, kube_core::request::Error> {
    let change = json!({
        "metadata": {"resourceVersion": node.version, "annotations": {CORDONED_BY: mark}},
        "spec": {"unschedulable": unschedulable},
    });
    resource().patch(&node.name, &PatchParams::default(), &Patch::Merge(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        serde_json::from_str::<Raw>(text).unwrap().into()
    }

    #[test]
    fn a_node_is_read_from_what_the_api_says() {
        let node = node(
            r#"{"metadata": {"name": "w-1", "resourceVersion": "7", "labels": {"zone": "a"},
                "annotations": {"ichor/cordoned-by": "me"}},
                "spec": {"unschedulable": true, "podCIDR": "10.244.0.0/24"},
                "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}, {"type": "Hostname", "address": "w-1"},
                {"type": "InternalIP", "address": "fd00::5"}], "nodeInfo": {"kubeletVersion": "v1.34.1", "bootID": "b"}}}"#,
        );
        assert!(node.is_ready && !node.is_schedulable);
        assert_eq!(node.cordoned_by.as_deref(), Some("me"));
        assert!(node.is_called("w-1") && node.is_called("10.0.0.5") && node.is_called("fd00:0::5"));
        assert!(!node.is_called("10.0.0.6") && !node.is_called("w-2"));
        assert_eq!((&*node.kubelet_version, &*node.boot_id), ("v1.34.1", "b"));
    }

    #[test]
    fn a_node_that_says_nothing_is_not_ready() {
        let silent = node(r#"{"metadata": {"name": "w-1"}}"#);
        assert!(!silent.is_ready && silent.is_schedulable);
        let unknown = r#"{"metadata": {"name": "w-1"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}"#;
        assert!(!node(unknown).is_ready);
    }

    #[test]
    fn a_change_is_for_the_version_that_was_read() {
        let node = node(r#"{"metadata": {"name": "w-1", "resourceVersion": "7"}}"#);
        let request = patch(&node, true, &Value::from("me")).unwrap();
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body["metadata"]["resourceVersion"], "7");
        assert_eq!(body["metadata"]["annotations"][CORDONED_BY], "me");
        assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
    }
}
