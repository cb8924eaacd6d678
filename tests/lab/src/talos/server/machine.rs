//! `machine.MachineService` of a simulated node. What is not here is not simulated, and answers Unimplemented.

use std::time::Duration;

use ichor_proto::talos::common::Data;
use ichor_proto::talos::machine as proto;
use proto::machine_service_server::MachineService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::files;
use super::route::NodeApi;
use super::stream::{Step, all, follow, pieces};
use super::upload;
use crate::talos::model::{Apply, Bootstrap, Cluster, Log, Refusal, Reset, Verb};
use crate::talos::role::Role;
use crate::talos::simulation::now;

type Reply<T> = Result<Response<T>, Status>;

/// The memory of a simulated node in KiB: more than Talos asks for.
const MEMORY_KIB: u64 = 4 << 20;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

impl NodeApi {
    fn change<R>(&self, f: impl FnOnce(&mut Cluster, Duration) -> Result<R, Refusal>) -> Result<R, Status> {
        Ok(self.simulation.change(f)?)
    }

    fn control(&self, id: &str, verb: Verb) -> Result<String, Status> {
        self.change(|cluster, now| cluster.control(&self.node, id, verb, now))
    }

    /// Refuses what only control plane nodes have.
    fn control_plane(&self, what: &str) -> Result<(), Status> {
        self.look(|cluster| cluster.require_control_plane(&self.node, what))
    }

    /// The lines of a log, each as a message of its own.
    fn lines(
        &self,
        tail: i32,
        follows: bool,
        log: impl for<'c> Fn(&'c Cluster, &str) -> Result<&'c Log, Refusal> + Send + 'static,
    ) -> Result<BoxStream<Data>, Status> {
        let node = self.node.clone();
        let mut next = self.look(|cluster| Ok(log(cluster, &node)?.tail(tail)))?;
        Ok(follow(&self.simulation, move |cluster| {
            let Ok(log) = log(cluster, &node) else { return Step::last([]) };
            let data: Vec<Data> = log.since(next).flat_map(|line| pieces(line.as_bytes())).collect();
            next = log.end();
            if follows { Step::more(data) } else { Step::last(data.into_iter().map(Ok)) }
        }))
    }
}

#[tonic::async_trait]
impl MachineService for NodeApi {
    async fn apply_configuration(
        &self,
        request: Request<proto::ApplyConfigurationRequest>,
    ) -> Reply<proto::ApplyConfigurationResponse> {
        let request = request.into_inner();
        let mode = proto::apply_configuration_request::Mode::try_from(request.mode).map_err(|_unknown| {
            let mode = request.mode;
            Status::invalid_argument(format!("incorrect mode '{mode}' specified for the apply config call"))
        })?;
        let apply = Apply {
            data: request.data,
            mode,
            dry_run: request.dry_run,
            try_timeout: request.try_mode_timeout.and_then(|timeout| Duration::try_from(timeout).ok()),
        };
        let applied = self.change(|cluster, now| cluster.apply(&self.node, apply, now))?;
        reply(proto::ApplyConfigurationResponse {
            messages: vec![proto::ApplyConfiguration {
                metadata: None,
                warnings: applied.warnings,
                mode: applied.mode.into(),
                mode_details: applied.details,
            }],
        })
    }

    async fn version(&self, _request: Request<()>) -> Reply<proto::VersionResponse> {
        let tag = self.look(|cluster| Ok(cluster.node(&self.node)?.tag().to_owned()))?;
        let version = proto::VersionInfo {
            tag,
            sha: "0000000".to_owned(),
            go_version: "go1.26".to_owned(),
            os: "linux".to_owned(),
            arch: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
            ..Default::default()
        };
        let platform = proto::PlatformInfo { name: "metal".to_owned(), mode: "metal".to_owned() };
        let features = Some(proto::FeaturesInfo { rbac: true });
        let message =
            proto::Version { metadata: None, version: Some(version), platform: Some(platform), features };
        reply(proto::VersionResponse { messages: vec![message] })
    }

    async fn hostname(&self, _request: Request<()>) -> Reply<proto::HostnameResponse> {
        let hostname = self.look(|cluster| Ok(cluster.node(&self.node)?.hostname().to_owned()))?;
        reply(proto::HostnameResponse { messages: vec![proto::Hostname { metadata: None, hostname }] })
    }

    async fn memory(&self, _request: Request<()>) -> Reply<proto::MemoryResponse> {
        let meminfo = proto::MemInfo {
            memtotal: MEMORY_KIB,
            memfree: MEMORY_KIB / 2,
            memavailable: MEMORY_KIB / 2,
            ..Default::default()
        };
        let message = proto::Memory { metadata: None, meminfo: Some(meminfo) };
        reply(proto::MemoryResponse { messages: vec![message] })
    }

    async fn system_stat(&self, _request: Request<()>) -> Reply<proto::SystemStatResponse> {
        let boot_time = self.look(|cluster| Ok(cluster.node(&self.node)?.booted_at().as_secs()))?;
        let message = proto::SystemStat { boot_time, ..Default::default() };
        reply(proto::SystemStatResponse { messages: vec![message] })
    }

    async fn service_list(&self, _request: Request<()>) -> Reply<proto::ServiceListResponse> {
        let services = self.look(|cluster| Ok(cluster.node(&self.node)?.service_list()))?;
        reply(proto::ServiceListResponse { messages: vec![proto::ServiceList { metadata: None, services }] })
    }

    async fn service_start(
        &self,
        request: Request<proto::ServiceStartRequest>,
    ) -> Reply<proto::ServiceStartResponse> {
        let resp = self.control(&request.into_inner().id, Verb::Start)?;
        reply(proto::ServiceStartResponse { messages: vec![proto::ServiceStart { metadata: None, resp }] })
    }

    async fn service_stop(
        &self,
        request: Request<proto::ServiceStopRequest>,
    ) -> Reply<proto::ServiceStopResponse> {
        let resp = self.control(&request.into_inner().id, Verb::Stop)?;
        reply(proto::ServiceStopResponse { messages: vec![proto::ServiceStop { metadata: None, resp }] })
    }

    async fn service_restart(
        &self,
        request: Request<proto::ServiceRestartRequest>,
    ) -> Reply<proto::ServiceRestartResponse> {
        let resp = self.control(&request.into_inner().id, Verb::Restart)?;
        let message = proto::ServiceRestart { metadata: None, resp };
        reply(proto::ServiceRestartResponse { messages: vec![message] })
    }

    async fn logs(&self, request: Request<proto::LogsRequest>) -> Reply<BoxStream<Data>> {
        let request = request.into_inner();
        let id = request.id;
        reply(self.lines(request.tail_lines, request.follow, move |cluster, node| cluster.log(node, &id))?)
    }

    async fn logs_containers(&self, _request: Request<()>) -> Reply<proto::LogsContainersResponse> {
        let ids = self.look(|cluster| Ok(cluster.node(&self.node)?.log_ids()))?;
        let messages = vec![proto::LogsContainer { metadata: None, ids }];
        reply(proto::LogsContainersResponse { messages })
    }

    async fn dmesg(&self, request: Request<proto::DmesgRequest>) -> Reply<BoxStream<Data>> {
        let request = request.into_inner();
        // A tail is what comes from now on.
        let tail = if request.tail { 0 } else { -1 };
        reply(self.lines(tail, request.follow, |cluster, node| Ok(cluster.node(node)?.dmesg()))?)
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Reply<BoxStream<proto::Event>> {
        let request = request.into_inner();
        let given = [request.tail_events != 0, !request.tail_id.is_empty(), request.tail_seconds != 0];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return Err(Status::unknown("tail events, tail id and tail seconds are mutually exclusive"));
        }
        let mut next = self.look(|cluster| {
            let events = cluster.node(&self.node)?.events();
            let seconds = u64::try_from(request.tail_seconds).unwrap_or(0);
            Ok(match given {
                [_, true, _] => events.after(&request.tail_id),
                [_, _, true] => events.younger_than(Duration::from_secs(seconds), now()),
                _ => events.tail(request.tail_events),
            })
        })?;
        let (node, actor) = (self.node.clone(), request.with_actor_id);
        // The first message says that the stream is live.
        let mut hello = Some(proto::Event { data: Some(prost_types::Any::default()), ..Default::default() });
        reply(follow(&self.simulation, move |cluster| {
            let Ok(node) = cluster.node(&node) else { return Step::last([]) };
            // A reader that was overrun sees the end.
            let Some(new) = node.events().since(next) else { return Step::last([]) };
            let fitting = new.filter(|event| actor.is_empty() || event.actor_id == actor).cloned();
            let events: Vec<_> = hello.take().into_iter().chain(fitting).collect();
            next = node.events().end();
            Step::more(events)
        }))
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Reply<BoxStream<Data>> {
        let path = request.into_inner().path;
        let found = self.look(|cluster| Ok(files::read(cluster, cluster.node(&self.node)?, &path)))?;
        let content =
            found.ok_or_else(|| Status::not_found(format!("stat {path}: no such file or directory")))?;
        reply(all(pieces(&content)))
    }

    async fn reboot(&self, _request: Request<proto::RebootRequest>) -> Reply<proto::RebootResponse> {
        let actor_id = self.change(|cluster, now| cluster.leave(&self.node, true, now))?;
        reply(proto::RebootResponse { messages: vec![proto::Reboot { metadata: None, actor_id }] })
    }

    async fn shutdown(&self, _request: Request<proto::ShutdownRequest>) -> Reply<proto::ShutdownResponse> {
        let actor_id = self.change(|cluster, now| cluster.leave(&self.node, false, now))?;
        reply(proto::ShutdownResponse { messages: vec![proto::Shutdown { metadata: None, actor_id }] })
    }

    async fn rollback(&self, _request: Request<proto::RollbackRequest>) -> Reply<proto::RollbackResponse> {
        self.change(|cluster, now| cluster.rollback(&self.node, now))?;
        reply(proto::RollbackResponse { messages: vec![proto::Rollback::default()] })
    }

    async fn reset(&self, request: Request<proto::ResetRequest>) -> Reply<proto::ResetResponse> {
        let request = request.into_inner();
        if request.mode() == proto::reset_request::WipeMode::UserDisks {
            return Err(Status::unimplemented("a simulated node has no user disks"));
        }
        let wiped = request.system_partitions_to_wipe.into_iter().filter(|partition| partition.wipe);
        let reset = Reset {
            graceful: request.graceful,
            reboot: request.reboot,
            partitions: wiped.map(|partition| partition.label).collect(),
        };
        let actor_id = self.change(|cluster, now| cluster.reset(&self.node, &reset, now))?;
        reply(proto::ResetResponse { messages: vec![proto::Reset { metadata: None, actor_id }] })
    }

    async fn upgrade(&self, request: Request<proto::UpgradeRequest>) -> Reply<proto::UpgradeResponse> {
        let request = request.into_inner();
        if request.force || request.preserve || request.stage {
            return Err(Status::unimplemented("a simulated node upgrades in one way only"));
        }
        let actor_id = self.change(|cluster, now| cluster.upgrade(&self.node, &request.image, now))?;
        let ack = "Upgrade request received".to_owned();
        reply(proto::UpgradeResponse { messages: vec![proto::Upgrade { metadata: None, ack, actor_id }] })
    }

    async fn image_pull(&self, request: Request<proto::ImagePullRequest>) -> Reply<proto::ImagePullResponse> {
        self.change(|cluster, _| cluster.pull(&self.node, &request.get_ref().reference))?;
        reply(proto::ImagePullResponse { messages: vec![proto::ImagePull::default()] })
    }

    async fn bootstrap(&self, request: Request<proto::BootstrapRequest>) -> Reply<proto::BootstrapResponse> {
        let request = request.into_inner();
        let from = match (request.recover_etcd, request.recover_skip_hash_check) {
            (false, _) => Bootstrap::New,
            (true, false) => Bootstrap::Snapshot,
            (true, true) => Bootstrap::DatabaseFile,
        };
        self.change(|cluster, now| cluster.bootstrap(&self.node, from, now))?;
        reply(proto::BootstrapResponse { messages: vec![proto::Bootstrap::default()] })
    }

    async fn etcd_recover(&self, request: Request<Streaming<Data>>) -> Reply<proto::EtcdRecoverResponse> {
        self.control_plane("etcd recover")?;
        let upload = upload::read(request.into_inner()).await?;
        self.change(|cluster, _| cluster.recover(&self.node, upload))?;
        reply(proto::EtcdRecoverResponse { messages: vec![proto::EtcdRecover::default()] })
    }

    async fn kubeconfig(&self, _request: Request<()>) -> Reply<BoxStream<Data>> {
        self.control_plane("kubeconfig")?;
        let server = self.simulation.kubernetes();
        let failed = |error: crate::talos::PkiError| Status::internal(error.to_string());
        let user = files::kubernetes_user(self.simulation.pki(), server.is_some()).map_err(failed)?;
        let archive =
            self.look(|cluster| Ok(files::kubeconfig(cluster, cluster.node(&self.node)?, server, &user)))?;
        reply(all(pieces(&archive?)))
    }

    async fn generate_client_configuration(
        &self,
        request: Request<proto::GenerateClientConfigurationRequest>,
    ) -> Reply<proto::GenerateClientConfigurationResponse> {
        self.control_plane("client configuration (talosconfig)")?;
        let request = request.into_inner();
        let lifetime = request.crt_ttl.and_then(|lifetime| Duration::try_from(lifetime).ok());
        let lifetime = lifetime.filter(|lifetime| !lifetime.is_zero());
        let lifetime = lifetime.ok_or_else(|| Status::invalid_argument("crt_ttl should be positive"))?;
        let roles: Vec<Role> = request.roles.iter().filter_map(|role| Role::of(role)).collect();
        let pki = self.simulation.pki();
        let failed = |error: crate::talos::PkiError| Status::internal(error.to_string());
        let lifetime = time::Duration::try_from(lifetime).ok();
        let client = pki.client(&roles, lifetime).map_err(failed)?;
        let message = proto::GenerateClientConfiguration {
            metadata: None,
            ca: pki.ca_pem().into_bytes(),
            crt: client.pem().as_bytes().to_vec(),
            key: client.key_pem().into_bytes(),
            talosconfig: pki.talosconfig_of("lab", &client, &[], &[]).into_bytes(),
        };
        reply(proto::GenerateClientConfigurationResponse { messages: vec![message] })
    }

    async fn etcd_member_list(
        &self,
        request: Request<proto::EtcdMemberListRequest>,
    ) -> Reply<proto::EtcdMemberListResponse> {
        self.control_plane("member list")?;
        let members = self.look(|cluster| cluster.etcd().list(request.get_ref().query_local))?;
        let message = proto::EtcdMembers { members, ..Default::default() };
        reply(proto::EtcdMemberListResponse { messages: vec![message] })
    }

    async fn etcd_status(&self, _request: Request<()>) -> Reply<proto::EtcdStatusResponse> {
        self.control_plane("etcd status")?;
        let status = self.look(|cluster| {
            let version = cluster.node(&self.node)?.line().etcd();
            cluster.etcd().status(&self.node, version)
        })?;
        let message = proto::EtcdStatus { metadata: None, member_status: Some(status) };
        reply(proto::EtcdStatusResponse { messages: vec![message] })
    }

    async fn etcd_alarm_list(&self, _request: Request<()>) -> Reply<proto::EtcdAlarmListResponse> {
        self.control_plane("etcd alarm list")?;
        let member_alarms = self.look(|cluster| Ok(cluster.etcd().alarms()))?;
        let message = proto::EtcdAlarm { metadata: None, member_alarms };
        reply(proto::EtcdAlarmListResponse { messages: vec![message] })
    }

    async fn etcd_alarm_disarm(&self, _request: Request<()>) -> Reply<proto::EtcdAlarmDisarmResponse> {
        self.control_plane("etcd alarm disarm")?;
        let member_alarms = self.change(|cluster, _| Ok(cluster.etcd_mut().disarm()))?;
        let message = proto::EtcdAlarmDisarm { metadata: None, member_alarms };
        reply(proto::EtcdAlarmDisarmResponse { messages: vec![message] })
    }

    async fn etcd_defragment(&self, _request: Request<()>) -> Reply<proto::EtcdDefragmentResponse> {
        self.control_plane("etcd defragmentation")?;
        reply(proto::EtcdDefragmentResponse { messages: vec![proto::EtcdDefragment::default()] })
    }

    async fn etcd_forfeit_leadership(
        &self,
        _request: Request<proto::EtcdForfeitLeadershipRequest>,
    ) -> Reply<proto::EtcdForfeitLeadershipResponse> {
        self.control_plane("forfeit leadership")?;
        let member = self.change(|cluster, _| cluster.etcd_mut().forfeit(&self.node))?.unwrap_or_default();
        let message = proto::EtcdForfeitLeadership { metadata: None, member };
        reply(proto::EtcdForfeitLeadershipResponse { messages: vec![message] })
    }

    async fn etcd_leave_cluster(
        &self,
        _request: Request<proto::EtcdLeaveClusterRequest>,
    ) -> Reply<proto::EtcdLeaveClusterResponse> {
        self.control_plane("leave cluster")?;
        self.change(|cluster, now| cluster.leave_etcd(&self.node, now))?;
        reply(proto::EtcdLeaveClusterResponse { messages: vec![proto::EtcdLeaveCluster::default()] })
    }

    async fn etcd_remove_member_by_id(
        &self,
        request: Request<proto::EtcdRemoveMemberByIdRequest>,
    ) -> Reply<proto::EtcdRemoveMemberByIdResponse> {
        self.control_plane("remove member")?;
        self.change(|cluster, now| cluster.remove_member(request.get_ref().member_id, now))?;
        let messages = vec![proto::EtcdRemoveMemberById::default()];
        reply(proto::EtcdRemoveMemberByIdResponse { messages })
    }

    async fn etcd_snapshot(&self, _request: Request<proto::EtcdSnapshotRequest>) -> Reply<BoxStream<Data>> {
        self.control_plane("etcd snapshot")?;
        let snapshot = self.look(|cluster| cluster.etcd().stream(&self.node))?;
        let simulation = self.simulation.clone();
        let bytes = snapshot.pieces(move |hash, saved| {
            simulation.change(|cluster, _| cluster.etcd_mut().remember(hash, saved));
        });
        reply(Box::pin(tokio_stream::iter(bytes.flat_map(|bytes| pieces(&bytes)).map(Ok))))
    }
}
