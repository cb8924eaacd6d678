//! A node that answers as it is told, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ichor_proto::talos::cluster::cluster_service_server::ClusterService;
use ichor_proto::talos::cosi::resource::state_server::State;
use ichor_proto::talos::machine;
use ichor_proto::talos::machine::machine_service_server::MachineService;
use tonic::{Request, Response, Status};

/// What a node does and has seen. `Default` is a well-behaved control plane node that forwards every call to
/// itself.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
}

/// What it does.
#[derive(Clone)]
pub(crate) struct Script {
    /// What Version says.
    pub(crate) tag: String,
    /// Unary calls wait for this long first.
    pub(crate) delay: Duration,
    /// Unary calls fail with this.
    pub(crate) failure: Option<Status>,
    /// The reply has no message.
    pub(crate) empty: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self { tag: "v1.13.9".into(), delay: Duration::ZERO, failure: None, empty: false }
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) call: &'static str,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Node {
    pub(crate) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script), seen: Mutex::default() })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn enter<T>(&self, call: &'static str, request: &Request<T>) -> Result<Script, Status> {
        let headers = request
            .metadata()
            .as_ref()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()));
        self.seen.lock().unwrap().push(Seen { call, headers: headers.collect() });
        let script = self.script.lock().unwrap().clone();
        tokio::time::sleep(script.delay).await;
        match script.failure {
            Some(status) => Err(status),
            None => Ok(script),
        }
    }
}

#[tonic::async_trait]
impl MachineService for Node {
    async fn version(&self, request: Request<()>) -> Result<Response<machine::VersionResponse>, Status> {
        let script = self.enter("Version", &request).await?;
        let version = machine::Version {
            version: Some(machine::VersionInfo { tag: script.tag, ..Default::default() }),
            ..Default::default()
        };
        let messages = if script.empty { vec![] } else { vec![version] };
        Ok(Response::new(machine::VersionResponse { messages }))
    }
}

impl ClusterService for Node {}

impl State for Node {}
