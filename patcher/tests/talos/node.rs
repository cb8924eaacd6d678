//! What a node has, does, and was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ichor_proto::talos::cosi::resource as cosi;
use ichor_proto::talos::machine;
use ichor_proto::talos::resource::config::MachineConfigSpec;
use prost::Message as _;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Status};

/// A node. `Node::new` gives a control plane node that is well.
pub(crate) struct Node {
    pub(crate) script: Mutex<Script>,
    pub(crate) resources: Mutex<Vec<cosi::Resource>>,
    /// Counts changes of `resources`, for watches.
    pub(crate) changes: watch::Sender<u64>,
    seen: Mutex<Vec<Seen>>,
    /// Counts the calls.
    asked: watch::Sender<usize>,
}

/// What it does.
#[derive(Clone)]
pub(crate) struct Script {
    /// What Version says.
    pub(crate) tag: String,
    /// Calls wait for this long first.
    pub(crate) delay: Duration,
    /// Calls wait for a permit.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// Calls fail with this.
    pub(crate) failure: Option<Status>,
    /// Calls after so many fail with this.
    pub(crate) dies_after: Option<(usize, Status)>,
    /// Calls of this name fail with this.
    pub(crate) failures: BTreeMap<&'static str, Status>,
    /// Version has no message.
    pub(crate) empty: bool,
    pub(crate) services: Vec<machine::ServiceInfo>,
    /// Pieces of the log of each service. A follower waits after them.
    pub(crate) logs: BTreeMap<String, Vec<Vec<u8>>>,
    pub(crate) dmesg: Vec<Vec<u8>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Each subscription gets one of these and then waits, or ends if there are more.
    pub(crate) events: Vec<Vec<machine::Event>>,
    pub(crate) etcd_members: Vec<machine::EtcdMember>,
    pub(crate) etcd_status: machine::EtcdMemberStatus,
    pub(crate) etcd_alarms: Vec<machine::EtcdMemberAlarm>,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) kubeconfig: Vec<u8>,
    pub(crate) health: Vec<String>,
    pub(crate) memory_kib: u64,
    /// Watches end after this many messages.
    pub(crate) watch_limit: Option<usize>,
    /// What happens between a dry run and the apply that follows.
    pub(crate) config_after_dry_run: Option<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tag: "v1.13.9".into(),
            delay: Duration::ZERO,
            gate: None,
            failure: None,
            dies_after: None,
            failures: BTreeMap::new(),
            empty: false,
            services: vec![],
            logs: BTreeMap::new(),
            dmesg: vec![],
            files: BTreeMap::new(),
            events: vec![],
            etcd_members: vec![],
            etcd_status: machine::EtcdMemberStatus::default(),
            etcd_alarms: vec![],
            snapshot: vec![],
            kubeconfig: vec![],
            health: vec![],
            memory_kib: 4 << 20,
            watch_limit: None,
            config_after_dry_run: None,
        }
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) call: &'static str,
    pub(crate) headers: BTreeMap<String, String>,
    /// The request, where it is worth a look.
    pub(crate) apply: Option<machine::ApplyConfigurationRequest>,
}

impl Node {
    pub(crate) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script),
            resources: Mutex::default(),
            changes: watch::Sender::new(0),
            seen: Mutex::default(),
            asked: watch::Sender::new(0),
        })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many calls have come.
    pub(crate) async fn until_asked(&self, calls: usize) {
        self.asked.subscribe().wait_for(|asked| *asked >= calls).await.unwrap();
    }

    /// Names of the calls so far.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.seen().into_iter().map(|seen| seen.call).collect()
    }

    /// The configs that were sent for good, with their modes.
    pub(crate) fn applied(&self) -> Vec<machine::ApplyConfigurationRequest> {
        self.seen().into_iter().filter_map(|seen| seen.apply).filter(|apply| !apply.dry_run).collect()
    }

    /// Adds a resource, or replaces it under a higher version.
    pub(crate) fn set(&self, namespace: &str, kind: &str, id: &str, yaml: &str) {
        self.put(namespace, kind, id, cosi::Spec { proto_spec: vec![], yaml_spec: yaml.to_owned() }, 0);
    }

    /// The machine config under `v1alpha1` or `persistent`.
    pub(crate) fn set_config(&self, id: &str, text: &str) {
        let proto_spec = MachineConfigSpec { yaml_marshalled: text.into() }.encode_to_vec();
        let spec = cosi::Spec { proto_spec, yaml_spec: text.to_owned() };
        // A trial and a staged config are told apart by which config is younger.
        let age = i64::try_from(*self.changes.borrow()).unwrap();
        self.put("config", "MachineConfigs.config.talos.dev", id, spec, age);
    }

    pub(crate) fn config(&self, id: &str) -> String {
        let resources = self.resources.lock().unwrap();
        let found = resources.iter().filter_map(|resource| {
            let is_it = resource.metadata.as_ref()?.id == id;
            resource.spec.as_ref().filter(|_| is_it).map(|spec| spec.yaml_spec.clone())
        });
        found.into_iter().next_back().unwrap_or_default()
    }

    pub(crate) fn remove(&self, id: &str) {
        self.resources.lock().unwrap().retain(|resource| resource.metadata.as_ref().unwrap().id != id);
        self.changes.send_modify(|count| *count += 1);
    }

    fn put(&self, namespace: &str, kind: &str, id: &str, spec: cosi::Spec, age: i64) {
        let mut resources = self.resources.lock().unwrap();
        let position = resources.iter().position(|resource| {
            let metadata = resource.metadata.as_ref().unwrap();
            metadata.r#type == kind && metadata.id == id
        });
        let version = position
            .map_or(0, |index| resources[index].metadata.as_ref().unwrap().version.parse::<u64>().unwrap());
        let moment = Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 });
        let metadata = cosi::Metadata {
            namespace: namespace.into(),
            r#type: kind.into(),
            id: id.into(),
            version: (version + 1).to_string(),
            owner: "test".into(),
            phase: "running".into(),
            created: moment,
            updated: Some(prost_types::Timestamp { seconds: 1_767_225_600 + age, nanos: 0 }),
            ..Default::default()
        };
        let resource = cosi::Resource { metadata: Some(metadata), spec: Some(spec) };
        match position {
            Some(index) => resources[index] = resource,
            None => resources.push(resource),
        }
        drop(resources);
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) async fn enter<T>(&self, call: &'static str, request: &Request<T>) -> Result<Script, Status> {
        self.note(call, request, None);
        let script = self.script.lock().unwrap().clone();
        tokio::time::sleep(script.delay).await;
        if let Some(gate) = &script.gate {
            gate.acquire().await.unwrap().forget();
        }
        if let Some((_, status)) = script.dies_after.as_ref().filter(|(calls, _)| self.calls().len() > *calls)
        {
            return Err(status.clone());
        }
        match script.failure.clone().or_else(|| script.failures.get(call).cloned()) {
            Some(status) => Err(status),
            None => Ok(script),
        }
    }

    pub(crate) fn note<T>(
        &self,
        call: &'static str,
        request: &Request<T>,
        apply: Option<machine::ApplyConfigurationRequest>,
    ) {
        let headers = request
            .metadata()
            .as_ref()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()));
        self.seen.lock().unwrap().push(Seen { call, headers: headers.collect(), apply });
        self.asked.send_modify(|asked| *asked += 1);
    }
}
