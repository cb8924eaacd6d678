//! apid: forwards each call to the node that it names.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use ichor_proto::talos::cluster::cluster_service_server::ClusterService;
use ichor_proto::talos::cluster::{HealthCheckProgress, HealthCheckRequest};
use ichor_proto::talos::common::Data;
use ichor_proto::talos::cosi::resource::state_server::State;
use ichor_proto::talos::cosi::resource::{self as cosi, EventType};
use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichor_proto::talos::machine::machine_service_server::MachineService;
use ichor_proto::talos::machine::{self};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::node::Node;

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The nodes behind an endpoint. With a single node every name means it.
pub(crate) struct Apid {
    nodes: BTreeMap<String, Arc<Node>>,
}

impl Apid {
    pub(crate) fn of_one(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { nodes: BTreeMap::from([(String::new(), node)]) })
    }

    pub(crate) fn of_several(nodes: &[(&str, Arc<Node>)]) -> Arc<Self> {
        let nodes = nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone()));
        Arc::new(Self { nodes: nodes.collect() })
    }

    fn target<T>(&self, request: &Request<T>) -> Result<Arc<Node>, Status> {
        if let Some(node) = self.nodes.get("") {
            return Ok(node.clone());
        }
        match request.metadata().get("node").and_then(|name| name.to_str().ok()) {
            None => Ok(self.nodes.values().next().unwrap().clone()),
            Some(name) => self.nodes.get(name).cloned().ok_or_else(|| {
                Status::unavailable(format!(
                    "connection error: desc = \"transport: Error while dialing: dial tcp {name}:50000: i/o timeout\""
                ))
            }),
        }
    }
}

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

/// Sends everything, and then ends or stays silent for ever.
fn replies<T: Send + 'static>(items: impl IntoIterator<Item = T>, stay: bool) -> Reply<Replies<T>> {
    use futures_util::StreamExt as _;
    let items: Vec<_> = items.into_iter().map(Ok).collect();
    let rest: Replies<T> = if stay { Box::pin(stream::pending()) } else { Box::pin(stream::empty()) };
    reply(Box::pin(stream::iter(items).chain(rest)))
}

fn data(bytes: impl Into<Vec<u8>>) -> Data {
    Data { bytes: bytes.into().into(), metadata: None }
}

#[tonic::async_trait]
impl MachineService for Apid {
    async fn version(&self, request: Request<()>) -> Reply<machine::VersionResponse> {
        let script = self.target(&request)?.enter("Version", &request).await?;
        let version = machine::Version {
            version: Some(machine::VersionInfo {
                tag: script.tag,
                sha: "0badc0de".into(),
                go_version: "go1.26".into(),
                os: "linux".into(),
                arch: "amd64".into(),
                ..Default::default()
            }),
            features: Some(machine::FeaturesInfo { rbac: true }),
            platform: Some(machine::PlatformInfo { name: "metal".into(), mode: "metal".into() }),
            metadata: None,
        };
        reply(machine::VersionResponse { messages: if script.empty { vec![] } else { vec![version] } })
    }

    async fn memory(&self, request: Request<()>) -> Reply<machine::MemoryResponse> {
        let memtotal = self.target(&request)?.enter("Memory", &request).await?.memory_kib;
        let meminfo = Some(machine::MemInfo { memtotal, ..Default::default() });
        reply(machine::MemoryResponse { messages: vec![machine::Memory { meminfo, metadata: None }] })
    }

    async fn service_list(&self, request: Request<()>) -> Reply<machine::ServiceListResponse> {
        let services = self.target(&request)?.enter("ServiceList", &request).await?.services;
        reply(machine::ServiceListResponse {
            messages: vec![machine::ServiceList { services, metadata: None }],
        })
    }

    async fn service_restart(
        &self,
        request: Request<machine::ServiceRestartRequest>,
    ) -> Reply<machine::ServiceRestartResponse> {
        self.target(&request)?.enter("ServiceRestart", &request).await?;
        let id = request.into_inner().id;
        if !id.starts_with("ext-") {
            return Err(Status::unknown(format!("service {id:?} doesn't support restart operation via API")));
        }
        let resp = format!("Service {id:?} restarted");
        reply(machine::ServiceRestartResponse {
            messages: vec![machine::ServiceRestart { resp, metadata: None }],
        })
    }

    async fn logs(&self, request: Request<machine::LogsRequest>) -> Reply<Replies<Data>> {
        let script = self.target(&request)?.enter("Logs", &request).await?;
        let request = request.into_inner();
        let pieces = script.logs.get(&request.id).cloned();
        let pieces =
            pieces.ok_or_else(|| Status::unknown(format!("log {:?} was not registered", request.id)))?;
        let pieces = if request.tail_lines == 0 { vec![] } else { pieces };
        replies(pieces.into_iter().map(data), request.follow)
    }

    async fn dmesg(&self, request: Request<machine::DmesgRequest>) -> Reply<Replies<Data>> {
        let script = self.target(&request)?.enter("Dmesg", &request).await?;
        replies(script.dmesg.into_iter().map(data), request.into_inner().follow)
    }

    async fn read(&self, request: Request<machine::ReadRequest>) -> Reply<Replies<Data>> {
        let script = self.target(&request)?.enter("Read", &request).await?;
        let path = request.into_inner().path;
        let content =
            script.files.get(&path).ok_or_else(|| Status::not_found(format!("stat {path}: no such file")))?;
        replies(content.chunks(1024).map(data).collect::<Vec<_>>(), false)
    }

    async fn events(&self, request: Request<machine::EventsRequest>) -> Reply<Replies<machine::Event>> {
        let node = self.target(&request)?;
        node.enter("Events", &request).await?;
        let mut script = node.script.lock().unwrap();
        let stay = script.events.len() <= 1;
        let events = if script.events.is_empty() { vec![] } else { script.events.remove(0) };
        let hello = machine::Event { data: Some(prost_types::Any::default()), ..Default::default() };
        replies(std::iter::once(hello).chain(events), stay)
    }

    async fn etcd_member_list(
        &self,
        request: Request<machine::EtcdMemberListRequest>,
    ) -> Reply<machine::EtcdMemberListResponse> {
        let members = self.target(&request)?.enter("EtcdMemberList", &request).await?.etcd_members;
        let message = machine::EtcdMembers { members, ..Default::default() };
        reply(machine::EtcdMemberListResponse { messages: vec![message] })
    }

    async fn etcd_status(&self, request: Request<()>) -> Reply<machine::EtcdStatusResponse> {
        let status = self.target(&request)?.enter("EtcdStatus", &request).await?.etcd_status;
        let message = machine::EtcdStatus { member_status: Some(status), metadata: None };
        reply(machine::EtcdStatusResponse { messages: vec![message] })
    }

    async fn etcd_alarm_list(&self, request: Request<()>) -> Reply<machine::EtcdAlarmListResponse> {
        let member_alarms = self.target(&request)?.enter("EtcdAlarmList", &request).await?.etcd_alarms;
        reply(machine::EtcdAlarmListResponse {
            messages: vec![machine::EtcdAlarm { member_alarms, metadata: None }],
        })
    }

    async fn etcd_alarm_disarm(&self, request: Request<()>) -> Reply<machine::EtcdAlarmDisarmResponse> {
        let node = self.target(&request)?;
        let member_alarms = node.enter("EtcdAlarmDisarm", &request).await?.etcd_alarms;
        node.script.lock().unwrap().etcd_alarms.clear();
        let message = machine::EtcdAlarmDisarm { member_alarms, metadata: None };
        reply(machine::EtcdAlarmDisarmResponse { messages: vec![message] })
    }

    async fn etcd_forfeit_leadership(
        &self,
        request: Request<machine::EtcdForfeitLeadershipRequest>,
    ) -> Reply<machine::EtcdForfeitLeadershipResponse> {
        self.target(&request)?.enter("EtcdForfeitLeadership", &request).await?;
        let message = machine::EtcdForfeitLeadership { member: "cp-2".into(), metadata: None };
        reply(machine::EtcdForfeitLeadershipResponse { messages: vec![message] })
    }

    async fn etcd_remove_member_by_id(
        &self,
        request: Request<machine::EtcdRemoveMemberByIdRequest>,
    ) -> Reply<machine::EtcdRemoveMemberByIdResponse> {
        let node = self.target(&request)?;
        node.enter("EtcdRemoveMemberByID", &request).await?;
        let id = request.into_inner().member_id;
        let mut script = node.script.lock().unwrap();
        let before = script.etcd_members.len();
        script.etcd_members.retain(|member| member.id != id);
        if script.etcd_members.len() == before {
            return Err(Status::not_found("etcdserver: member not found"));
        }
        reply(machine::EtcdRemoveMemberByIdResponse {
            messages: vec![machine::EtcdRemoveMemberById::default()],
        })
    }

    async fn etcd_leave_cluster(
        &self,
        request: Request<machine::EtcdLeaveClusterRequest>,
    ) -> Reply<machine::EtcdLeaveClusterResponse> {
        self.target(&request)?.enter("EtcdLeaveCluster", &request).await?;
        reply(machine::EtcdLeaveClusterResponse { messages: vec![machine::EtcdLeaveCluster::default()] })
    }

    async fn etcd_defragment(&self, request: Request<()>) -> Reply<machine::EtcdDefragmentResponse> {
        self.target(&request)?.enter("EtcdDefragment", &request).await?;
        reply(machine::EtcdDefragmentResponse { messages: vec![machine::EtcdDefragment::default()] })
    }

    async fn etcd_snapshot(&self, request: Request<machine::EtcdSnapshotRequest>) -> Reply<Replies<Data>> {
        let script = self.target(&request)?.enter("EtcdSnapshot", &request).await?;
        // Pieces as etcd sends them.
        replies(script.snapshot.chunks(32 << 10).map(data).collect::<Vec<_>>(), false)
    }

    async fn kubeconfig(&self, request: Request<()>) -> Reply<Replies<Data>> {
        let script = self.target(&request)?.enter("Kubeconfig", &request).await?;
        replies(script.kubeconfig.chunks(1024).map(data).collect::<Vec<_>>(), false)
    }

    async fn generate_client_configuration(
        &self,
        request: Request<machine::GenerateClientConfigurationRequest>,
    ) -> Reply<machine::GenerateClientConfigurationResponse> {
        self.target(&request)?.enter("GenerateClientConfiguration", &request).await?;
        let talosconfig =
            b"context: made\ncontexts:\n    made:\n        endpoints: []\n        ca: eA==\n".to_vec();
        let message = machine::GenerateClientConfiguration { talosconfig, ..Default::default() };
        reply(machine::GenerateClientConfigurationResponse { messages: vec![message] })
    }

    async fn apply_configuration(
        &self,
        request: Request<machine::ApplyConfigurationRequest>,
    ) -> Reply<machine::ApplyConfigurationResponse> {
        let node = self.target(&request)?;
        let script = node.enter("ApplyConfiguration", &request).await?;
        node.note("ApplyConfiguration", &request, Some(request.get_ref().clone()));
        let request = request.into_inner();
        let text = String::from_utf8(request.data.clone()).unwrap();
        let mode = request.mode();
        if !request.dry_run {
            if matches!(mode, Mode::NoReboot | Mode::Auto | Mode::Try) {
                node.set_config("v1alpha1", &text);
            }
            if !matches!(mode, Mode::Try) {
                node.set_config("persistent", &text);
            }
        } else if let Some(other) = script.config_after_dry_run {
            node.set_config("v1alpha1", &other);
            node.set_config("persistent", &other);
        }
        let message = machine::ApplyConfiguration {
            warnings: vec!["a field is deprecated".into()],
            mode: mode.into(),
            mode_details: "Applied configuration without a reboot".into(),
            metadata: None,
        };
        reply(machine::ApplyConfigurationResponse { messages: vec![message] })
    }
}

#[tonic::async_trait]
impl ClusterService for Apid {
    async fn health_check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Reply<Replies<HealthCheckProgress>> {
        let node = self.target(&request)?;
        let script = node.enter("HealthCheck", &request).await?;
        assert!(request.get_ref().wait_timeout.is_some(), "an absent timeout is zero");
        replies(
            script.health.into_iter().map(|message| HealthCheckProgress { message, metadata: None }),
            false,
        )
    }
}

#[tonic::async_trait]
impl State for Apid {
    async fn get(&self, request: Request<cosi::GetRequest>) -> Reply<cosi::GetResponse> {
        let node = self.target(&request)?;
        node.enter("Get", &request).await?;
        let request = request.into_inner();
        let found = matching(&node, &request.namespace, &request.r#type, Some(&request.id))?.pop();
        let missing =
            || Status::not_found(format!("resource {}({}) doesn't exist", request.r#type, request.id));
        reply(cosi::GetResponse { resource: Some(found.ok_or_else(missing)?) })
    }

    async fn list(&self, request: Request<cosi::ListRequest>) -> Reply<Replies<cosi::ListResponse>> {
        let node = self.target(&request)?;
        node.enter("List", &request).await?;
        let request = request.into_inner();
        let found = matching(&node, &request.namespace, &request.r#type, None)?;
        replies(found.into_iter().map(|resource| cosi::ListResponse { resource: Some(resource) }), false)
    }

    async fn watch(&self, request: Request<cosi::WatchRequest>) -> Reply<Replies<cosi::WatchResponse>> {
        let node = self.target(&request)?;
        let limit = node.enter("Watch", &request).await?.watch_limit;
        let request = request.into_inner();
        assert_eq!(request.api_version, 1);
        let (sender, receiver) = mpsc::channel(4);
        matching(&node, &request.namespace, &request.r#type, None)?;
        tokio::spawn(send_changes(node, request, sender, limit));
        reply(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// Talos does not tell an unknown type from a forbidden one.
fn matching(
    node: &Node,
    namespace: &str,
    kind: &str,
    id: Option<&str>,
) -> Result<Vec<cosi::Resource>, Status> {
    if !kind.ends_with(".dev") {
        return Err(Status::permission_denied(format!("resource type {kind:?} is not supported")));
    }
    let resources = node.resources.lock().map_err(|_| Status::internal("a test has failed"))?;
    let matches = |resource: &&cosi::Resource| {
        let metadata = resource.metadata.as_ref().unwrap();
        metadata.namespace == namespace && metadata.r#type == kind && id.is_none_or(|id| metadata.id == id)
    };
    Ok(resources.iter().filter(matches).cloned().collect())
}

async fn send_changes(
    node: Arc<Node>,
    request: cosi::WatchRequest,
    sender: mpsc::Sender<Result<cosi::WatchResponse, Status>>,
    limit: Option<usize>,
) {
    let id = request.id.as_deref();
    let event = |kind: EventType, resource| cosi::Event {
        event_type: kind.into(),
        resource: Some(resource),
        ..Default::default()
    };
    let key = |resource: &cosi::Resource| resource.metadata.as_ref().unwrap().id.clone();
    let mut changes = node.changes.subscribe();
    let mut known: BTreeMap<String, cosi::Resource> = BTreeMap::new();
    let mut sent = 0;
    let mut batches = vec![vec![]];
    let bootstrap = request.options.is_some_and(|options| options.bootstrap_contents);
    loop {
        changes.mark_unchanged();
        let mut batch = vec![];
        let current = matching(&node, &request.namespace, &request.r#type, id).unwrap();
        for resource in &current {
            match known.insert(key(resource), resource.clone()) {
                None => batch.push(event(EventType::Created, resource.clone())),
                Some(before) if before != *resource => {
                    batch.push(event(EventType::Updated, resource.clone()))
                }
                Some(_) => {}
            }
        }
        let gone: Vec<String> = known
            .keys()
            .filter(|id| !current.iter().any(|resource| key(resource) == **id))
            .cloned()
            .collect();
        for id in gone {
            batch.push(event(EventType::Destroyed, known.remove(&id).unwrap()));
        }
        if sent == 0 && bootstrap {
            batch.push(cosi::Event { event_type: EventType::Bootstrapped.into(), ..Default::default() });
        }
        batches.push(batch);
        for event in batches.drain(..) {
            if sender.send(Ok(cosi::WatchResponse { event })).await.is_err() {
                return;
            }
            sent += 1;
        }
        if limit.is_some_and(|limit| sent >= limit) {
            let errored = cosi::Event {
                event_type: EventType::Errored.into(),
                error: Some("buffer overrun".into()),
                ..Default::default()
            };
            let _ = sender.send(Ok(cosi::WatchResponse { event: vec![errored] })).await;
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
