//! What a simulated Kubernetes API keeps, and what it answers: no clock, no socket.
//!
//! As much of the API as a rollout uses: nodes, pods with eviction, and leases. Objects have resource versions, and a
//! write of an old version is a conflict. The rest of an object is whatever was written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A pod, as a test sets it.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Kubernetes name of its node.
    pub node: String,
    /// The kind of what controls it, such as `ReplicaSet`.
    pub controller: Option<String>,
    /// Whether a kubelet runs it from a file.
    pub is_mirror: bool,
    /// Its phase. Empty: `Running`.
    pub phase: String,
    /// How often its eviction is refused for the sake of a budget.
    pub refusals: u32,
    /// For how many lists it is still there after its eviction.
    pub lingers: u32,
}

/// A node, as it is right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) is_ready: bool,
    pub(super) is_control_plane: bool,
    pub(super) addresses: Vec<String>,
    pub(super) boot_id: String,
}

/// An answer: the HTTP status, and an object.
pub(super) type Answer = (u16, Value);

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// By namespace and name.
    leases: BTreeMap<(String, String), Value>,
    pods: BTreeMap<(String, String), Kept>,
}

#[derive(Debug)]
struct Kept {
    object: Value,
    refusals: u32,
    lingers: u32,
}

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
}

impl Store {
    /// Takes in how the nodes are. A node that was seen once stays.
    pub(super) fn observe(&mut self, nodes: Vec<Seen>) {
        for node in nodes {
            let ready = if node.is_ready { "True" } else { "False" };
            let addresses = node.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
            let status = json!({
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": addresses.collect::<Vec<_>>(),
                "nodeInfo": {"kubeletVersion": "v1.34.1", "bootID": node.boot_id},
            });
            let mut labels = Map::from_iter([("kubernetes.io/hostname".to_owned(), json!(node.name))]);
            if node.is_control_plane {
                labels.insert("node-role.kubernetes.io/control-plane".to_owned(), json!(""));
            }
            let object = self.nodes.entry(node.name.clone()).or_insert_with(|| {
                let metadata =
                    json!({"name": node.name, "uid": format!("node-{}", node.name), "labels": labels});
                json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}})
            });
            if object["status"] != status {
                object["status"] = status;
                self.version += 1;
                stamp(object, self.version);
            }
        }
    }

    pub(super) fn add_pod(&mut self, pod: &Pod) {
        self.version += 1;
        let version = self.version;
        let mut metadata = json!({
            "name": pod.name, "namespace": pod.namespace, "uid": format!("pod-{version}"),
        });
        if let Some(kind) = &pod.controller {
            metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": "owner", "controller": true}]);
        }
        if pod.is_mirror {
            metadata["annotations"] = json!({"kubernetes.io/config.mirror": "mirror"});
        }
        let phase = if pod.phase.is_empty() { "Running" } else { &pod.phase };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": pod.node, "containers": [{"name": "main"}]}, "status": {"phase": phase},
        });
        stamp(&mut object, version);
        let kept = Kept { object, refusals: pod.refusals, lingers: pod.lingers };
        self.pods.insert((pod.namespace.clone(), pod.name.clone()), kept);
    }

    /// The names of the pods on a node.
    pub(super) fn pods_on(&self, node: &str) -> Vec<String> {
        let on = self.pods.values().filter(|pod| pod.object["spec"]["nodeName"] == node);
        on.filter_map(|pod| pod.object["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    pub(super) fn lease(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.leases.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Writes a lease, or deletes it, past all checks.
    pub(super) fn set_lease(&mut self, namespace: &str, name: &str, lease: Option<Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        self.version += 1;
        match lease {
            Some(mut lease) => {
                stamp(&mut lease, self.version);
                self.leases.insert(key, lease);
            }
            None => drop(self.leases.remove(&key)),
        }
    }

    pub(super) fn answer(&mut self, ask: &Ask<'_>) -> Answer {
        let parts: Vec<&str> = ask.path.trim_matches('/').split('/').collect();
        match (ask.method, &*parts) {
            ("GET", ["api", "v1", "nodes"]) => list("NodeList", self.nodes.values().cloned(), ask.query),
            ("GET", ["api", "v1", "nodes", name]) => found(self.nodes.get(*name), "nodes", name),
            ("PATCH", ["api", "v1", "nodes", name]) => self.patch_node(name, ask.body),
            ("GET", ["api", "v1", "pods"]) => self.list_pods(ask.query),
            ("POST", ["api", "v1", "namespaces", namespace, "pods", name, "eviction"]) => {
                self.evict(namespace, name, ask.body)
            }
            (_, ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", rest @ ..]) => {
                self.lease_call(ask, namespace, rest)
            }
            _ => failure(404, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn patch_node(&mut self, name: &str, body: &[u8]) -> Answer {
        let Ok(patch) = serde_json::from_slice::<Value>(body) else { return bad() };
        let Some(node) = self.nodes.get_mut(name) else { return missing("nodes", name) };
        let wanted = patch["metadata"]["resourceVersion"].as_str();
        if wanted.is_some_and(|wanted| node["metadata"]["resourceVersion"] != wanted) {
            return conflict("nodes", name);
        }
        merge(node, &patch);
        self.version += 1;
        stamp(node, self.version);
        (200, node.clone())
    }

    fn list_pods(&mut self, query: &str) -> Answer {
        // Each look takes a pod that is being deleted closer to its end.
        self.pods.retain(|_, pod| {
            let is_leaving = !pod.object["metadata"]["deletionTimestamp"].is_null();
            let stays = !is_leaving || pod.lingers > 0;
            if is_leaving {
                pod.lingers = pod.lingers.saturating_sub(1);
            }
            stays
        });
        let node = parameter(query, "fieldSelector")
            .and_then(|it| it.strip_prefix("spec.nodeName=").map(str::to_owned));
        let pods = self.pods.values().map(|pod| pod.object.clone());
        let on = pods.filter(|pod| node.as_ref().is_none_or(|node| pod["spec"]["nodeName"] == **node));
        list("PodList", on, query)
    }

    fn evict(&mut self, namespace: &str, name: &str, body: &[u8]) -> Answer {
        let Ok(eviction) = serde_json::from_slice::<Value>(body) else { return bad() };
        let pod = self.pods.get_mut(&(namespace.to_owned(), name.to_owned()));
        let Some(pod) = pod else { return missing("pods", name) };
        let uid = eviction["deleteOptions"]["preconditions"]["uid"].as_str();
        if uid.is_some_and(|uid| pod.object["metadata"]["uid"] != uid) {
            return conflict("pods", name);
        }
        if pod.refusals > 0 {
            pod.refusals -= 1;
            let (code, mut status) = failure(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
            );
            let message = format!("The disruption budget {name} needs 2 healthy pods and has 2 currently");
            status["details"] = json!({"causes": [{"reason": "DisruptionBudget", "message": message}]});
            return (code, status);
        }
        pod.object["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        (201, json!({"apiVersion": "v1", "kind": "Status", "status": "Success"}))
    }

    fn lease_call(&mut self, ask: &Ask<'_>, namespace: &str, rest: &[&str]) -> Answer {
        let body: Value = serde_json::from_slice(ask.body).unwrap_or_default();
        let name = rest.first().copied().or_else(|| body["metadata"]["name"].as_str()).unwrap_or_default();
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.leases.get(&key);
        match (ask.method, old) {
            ("GET", old) => found(old, "leases", name),
            ("POST", Some(_)) => failure(409, "AlreadyExists", &format!("leases \"{name}\" already exists")),
            ("PUT", None) => missing("leases", name),
            ("PUT", Some(old))
                if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] =>
            {
                conflict("leases", name)
            }
            ("POST" | "PUT", _) if body.is_object() => {
                let is_new = old.is_none();
                let name = name.to_owned();
                self.set_lease(namespace, &name, Some(body));
                (if is_new { 201 } else { 200 }, self.lease(namespace, &name).cloned().unwrap_or_default())
            }
            _ => bad(),
        }
    }
}

fn stamp(object: &mut Value, version: u64) {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if let Some(target) = target.as_object_mut() {
            match value {
                Value::Null => drop(target.remove(key)),
                _ => merge(target.entry(key.clone()).or_insert(Value::Null), value),
            }
        }
    }
}

/// A page of a list: `limit` and `continue` as in the real one, with the number of the next object as the token.
fn list(kind: &str, items: impl Iterator<Item = Value>, query: &str) -> Answer {
    let number = |name| parameter(query, name).and_then(|text| text.parse::<usize>().ok());
    let start = number("continue").unwrap_or(0);
    let limit = number("limit").unwrap_or(usize::MAX);
    let mut items: Vec<Value> = items.skip(start).take(limit.saturating_add(1)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { (start + limit).to_string() } else { String::new() };
    (200, json!({"apiVersion": "v1", "kind": kind, "metadata": {"continue": next}, "items": items}))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3D", "=").replace("%2F", "/"))
}

fn found(object: Option<&Value>, what: &str, name: &str) -> Answer {
    object.map_or_else(|| missing(what, name), |object| (200, object.clone()))
}

fn missing(what: &str, name: &str) -> Answer {
    failure(404, "NotFound", &format!("{what} \"{name}\" not found"))
}

fn conflict(what: &str, name: &str) -> Answer {
    let text = format!(
        "Operation cannot be fulfilled on {what} \"{name}\": the object has been modified; please apply your changes to the \
         latest version and try again"
    );
    failure(409, "Conflict", &text)
}

fn bad() -> Answer {
    failure(400, "BadRequest", "the object provided is unrecognized")
}

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    });
    (code, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

    fn call(store: &mut Store, method: &str, path: &str, body: &Value) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        store.answer(&Ask { method, path, query, body: body.to_string().as_bytes() })
    }

    #[test]
    fn a_write_of_an_old_version_is_a_conflict() {
        let mut store = Store::default();
        let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "x"}});
        let (code, made) = call(&mut store, "POST", LEASES, &lease);
        assert_eq!(code, 201);
        assert_eq!(call(&mut store, "POST", LEASES, &lease).0, 409);
        let path = format!("{LEASES}/a");
        assert_eq!(call(&mut store, "PUT", &path, &made).0, 200);
        assert_eq!(call(&mut store, "PUT", &path, &made).0, 409, "that version is gone");
        assert_eq!(call(&mut store, "PUT", &path, &lease).0, 409, "no version is an old version");
        assert_eq!(call(&mut store, "PUT", &format!("{LEASES}/b"), &made).0, 404);
    }

    #[test]
    fn lists_come_in_pages() {
        let mut store = Store::default();
        for index in 0..5 {
            let name = format!("p-{index}");
            store.add_pod(&Pod { name, namespace: "a".into(), node: "w-1".into(), ..Pod::default() });
        }
        let (_, first) =
            call(&mut store, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dw-1&limit=3", &Value::Null);
        assert_eq!(
            (first["items"].as_array().unwrap().len(), &first["metadata"]["continue"]),
            (3, &json!("3"))
        );
        let (_, rest) = call(&mut store, "GET", "/api/v1/pods?limit=3&continue=3", &Value::Null);
        assert_eq!((rest["items"].as_array().unwrap().len(), &rest["metadata"]["continue"]), (2, &json!("")));
        let (_, none) =
            call(&mut store, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dw-2", &Value::Null);
        assert!(none["items"].as_array().unwrap().is_empty());
    }

    #[test]
    fn an_eviction_is_of_one_pod_and_of_its_budget() {
        let mut store = Store::default();
        let pod = Pod {
            name: "p".into(),
            namespace: "a".into(),
            node: "w".into(),
            refusals: 1,
            lingers: 1,
            ..Pod::default()
        };
        store.add_pod(&pod);
        let path = "/api/v1/namespaces/a/pods/p/eviction";
        let other = json!({"deleteOptions": {"preconditions": {"uid": "another"}}});
        assert_eq!(call(&mut store, "POST", path, &other).0, 409);
        assert_eq!(call(&mut store, "POST", path, &json!({})).0, 429);
        assert_eq!(call(&mut store, "POST", path, &json!({})).0, 201);
        let count = |store: &mut Store| {
            call(store, "GET", "/api/v1/pods", &Value::Null).1["items"].as_array().unwrap().len()
        };
        assert_eq!((count(&mut store), count(&mut store)), (1, 0));
        assert_eq!(call(&mut store, "POST", path, &json!({})).0, 404);
    }

    #[test]
    fn a_node_keeps_what_was_written_while_its_status_changes() {
        let mut store = Store::default();
        let seen = |is_ready| Seen {
            name: "w-1".into(),
            is_ready,
            is_control_plane: false,
            addresses: vec!["10.5.0.11".into()],
            boot_id: "b".into(),
        };
        store.observe(vec![seen(true)]);
        let path = "/api/v1/nodes/w-1";
        let (_, node) = call(&mut store, "GET", path, &Value::Null);
        let version = node["metadata"]["resourceVersion"].clone();
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {"a": "b"}}, "spec": {"unschedulable": true}});
        assert_eq!(call(&mut store, "PATCH", path, &patch).0, 200);
        assert_eq!(call(&mut store, "PATCH", path, &patch).0, 409);
        store.observe(vec![seen(false)]);
        let (_, node) = call(&mut store, "GET", path, &Value::Null);
        assert_eq!(
            (&node["spec"]["unschedulable"], &node["metadata"]["annotations"]["a"]),
            (&json!(true), &json!("b"))
        );
        assert_eq!(node["status"]["conditions"][0]["status"], "False");
        let clear = json!({"metadata": {"annotations": {"a": null}}, "spec": {"unschedulable": false}});
        assert!(call(&mut store, "PATCH", path, &clear).1["metadata"]["annotations"]["a"].is_null());
    }
}
