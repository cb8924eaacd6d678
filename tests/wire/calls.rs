//! Every call, from our generated clients and to our generated servers. That the list is complete is tested.

use std::sync::{Arc, Mutex};

use ichor_proto::talos::cosi::resource;
use ichor_proto::talos::{cluster, common, inspect, machine, storage, time};
use prost::Message;
use prost_reflect::MessageDescriptor;
use tonic::codegen::BoxStream;
use tonic::transport::Channel;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{API, decode, path};
use crate::filler::Filler;

/// A stream has so many messages.
const STREAM_LENGTH: usize = 3;

/// A call as our side saw it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) path: String,
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) replies: Vec<Vec<u8>>,
}

/// Makes calls with random requests.
pub(crate) struct Caller<'a> {
    pub(crate) channel: Channel,
    pub(crate) filler: Filler,
    pub(crate) seed: u64,
    /// What is done with each call that came back.
    pub(crate) check: &'a mut dyn FnMut(Exchange),
}

/// Serves every call: it keeps the requests, and replies with random messages.
#[derive(Clone)]
pub(crate) struct Echo {
    filler: Arc<Mutex<Filler>>,
    seen: Arc<Mutex<Vec<Exchange>>>,
}

impl Caller<'_> {
    fn requests<Q: Message + Default>(
        &mut self,
        service: &str,
        function: &str,
        count: usize,
    ) -> (Exchange, Vec<Q>) {
        let method = API.method(service, function);
        let made = (0..count).map(|_| typed(&mut self.filler, method.input(), self.seed.is_multiple_of(2)));
        let made: Vec<Q> = made.collect();
        let requests = made.iter().map(Message::encode_to_vec).collect();
        (Exchange { path: path(&method), requests, replies: Vec::new() }, made)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("seed", self.seed.to_string().parse().unwrap());
        request.metadata_mut().insert("node", "10.0.0.2".parse().unwrap());
        request
    }

    fn finish(&mut self, mut exchange: Exchange, replies: Vec<Vec<u8>>) {
        exchange.replies = replies;
        (self.check)(exchange);
    }
}

impl Echo {
    pub(crate) fn new(seed: u64) -> Self {
        Self { filler: Arc::new(Mutex::new(Filler::new(seed))), seen: Arc::default() }
    }

    /// The calls since the last question.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn answer<Q: Message, R: Message + Default>(
        &self,
        service: &str,
        function: &str,
        requests: &[Q],
        count: usize,
    ) -> Vec<R> {
        let method = API.method(service, function);
        let mut filler = self.filler.lock().unwrap();
        let replies: Vec<R> =
            (0..count).map(|index| typed(&mut filler, method.output(), index == 0)).collect();
        self.seen.lock().unwrap().push(Exchange {
            path: path(&method),
            requests: requests.iter().map(Message::encode_to_vec).collect(),
            replies: replies.iter().map(Message::encode_to_vec).collect(),
        });
        replies
    }

    fn unary<Q: Message, R: Message + Default>(
        &self,
        service: &str,
        function: &str,
        requests: &[Q],
    ) -> Result<Response<R>, Status> {
        Ok(Response::new(self.answer(service, function, requests, 1).remove(0)))
    }

    fn stream<Q: Message, R: Message + Default + 'static>(
        &self,
        service: &str,
        function: &str,
        requests: &[Q],
    ) -> Result<Response<BoxStream<R>>, Status> {
        let replies: Vec<R> = self.answer(service, function, requests, STREAM_LENGTH);
        Ok(Response::new(Box::pin(tokio_stream::iter(replies.into_iter().map(Ok)))))
    }
}

/// A random message as a generated type, which must hold all that its description holds.
fn typed<M: Message + Default>(filler: &mut Filler, descriptor: MessageDescriptor, is_full: bool) -> M {
    let bytes = filler.message(descriptor.clone(), is_full).encode_to_vec();
    let message = M::decode(&*bytes).unwrap();
    let again = decode(descriptor.clone(), &message.encode_to_vec());
    assert_eq!(again, decode(descriptor, &bytes));
    message
}

async fn all<M: Message>(mut stream: Streaming<M>) -> Result<Vec<M>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn encoded<M: Message>(messages: &[M]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::encode_to_vec).collect()
}

/// Declares the calls of a service by the shape of their streams: `down` from the server, `up` to it.
macro_rules! service {
    (
        $function:ident $name:literal $package:ident $client_module:ident::$client:ident $server_module:ident::$server:ident;
        unary { $($unary:ident($unary_request:ty) -> $unary_reply:ty;)* }
        down { $($down:ident($down_request:ty) -> $down_reply:ty;)* }
        up { $($up:ident($up_request:ty) -> $up_reply:ty;)* }
        $(both { $($both:ident($both_request:ty) -> $both_reply:ty;)* })?
    ) => {
        async fn $function(caller: &mut Caller<'_>) {
            let mut client = $package::$client_module::$client::new(caller.channel.clone());
            $({
                let (exchange, mut messages) = caller.requests::<$unary_request>($name, stringify!($unary), 1);
                let reply = client.$unary(caller.request(messages.remove(0))).await.unwrap().into_inner();
                caller.finish(exchange, encoded::<$unary_reply>(&[reply]));
            })*
            $({
                let (exchange, mut messages) = caller.requests::<$down_request>($name, stringify!($down), 1);
                let replies = client.$down(caller.request(messages.remove(0))).await.unwrap().into_inner();
                caller.finish(exchange, encoded::<$down_reply>(&all(replies).await.unwrap()));
            })*
            $({
                let (exchange, messages) = caller.requests::<$up_request>($name, stringify!($up), STREAM_LENGTH);
                let reply = client.$up(caller.request(tokio_stream::iter(messages))).await.unwrap().into_inner();
                caller.finish(exchange, encoded::<$up_reply>(&[reply]));
            })*
            $($({
                let (exchange, messages) = caller.requests::<$both_request>($name, stringify!($both), STREAM_LENGTH);
                let replies = client.$both(caller.request(tokio_stream::iter(messages))).await.unwrap().into_inner();
                caller.finish(exchange, encoded::<$both_reply>(&all(replies).await.unwrap()));
            })*)?
        }

        #[tonic::async_trait]
        impl $package::$server_module::$server for Echo {
            $(async fn $unary(&self, request: Request<$unary_request>) -> Result<Response<$unary_reply>, Status> {
                self.unary($name, stringify!($unary), &[request.into_inner()])
            })*
            $(async fn $down(
                &self,
                request: Request<$down_request>,
            ) -> Result<Response<BoxStream<$down_reply>>, Status> {
                self.stream($name, stringify!($down), &[request.into_inner()])
            })*
            $(async fn $up(&self, request: Request<Streaming<$up_request>>) -> Result<Response<$up_reply>, Status> {
                self.unary($name, stringify!($up), &all(request.into_inner()).await?)
            })*
            $($(async fn $both(
                &self,
                request: Request<Streaming<$both_request>>,
            ) -> Result<Response<BoxStream<$both_reply>>, Status> {
                self.stream($name, stringify!($both), &all(request.into_inner()).await?)
            })*)?
        }
    };
}

service! {
    debug_service "machine.DebugService" machine debug_service_client::DebugServiceClient debug_service_server::DebugService;
    unary {}
    down {}
    up {}
    both {
        container_run(machine::DebugContainerRunRequest) -> machine::DebugContainerRunResponse;
    }
}

service! {
    image_service "machine.ImageService" machine image_service_client::ImageServiceClient image_service_server::ImageService;
    unary {
        remove(machine::ImageServiceRemoveRequest) -> ();
        verify(machine::ImageServiceVerifyRequest) -> machine::ImageServiceVerifyResponse;
    }
    down {
        list(machine::ImageServiceListRequest) -> machine::ImageServiceListResponse;
        pull(machine::ImageServicePullRequest) -> machine::ImageServicePullResponse;
    }
    up {
        import(machine::ImageServiceImportRequest) -> machine::ImageServiceImportResponse;
    }
}

service! {
    lifecycle_service "machine.LifecycleService" machine lifecycle_service_client::LifecycleServiceClient lifecycle_service_server::LifecycleService;
    unary {}
    down {
        install(machine::LifecycleServiceInstallRequest) -> machine::LifecycleServiceInstallResponse;
        upgrade(machine::LifecycleServiceUpgradeRequest) -> machine::LifecycleServiceUpgradeResponse;
    }
    up {}
}

service! {
    machine_service "machine.MachineService" machine machine_service_client::MachineServiceClient machine_service_server::MachineService;
    unary {
        apply_configuration(machine::ApplyConfigurationRequest) -> machine::ApplyConfigurationResponse;
        bootstrap(machine::BootstrapRequest) -> machine::BootstrapResponse;
        containers(machine::ContainersRequest) -> machine::ContainersResponse;
        cpu_freq_stats(()) -> machine::CpuFreqStatsResponse;
        cpu_info(()) -> machine::CpuInfoResponse;
        disk_stats(()) -> machine::DiskStatsResponse;
        etcd_alarm_disarm(()) -> machine::EtcdAlarmDisarmResponse;
        etcd_alarm_list(()) -> machine::EtcdAlarmListResponse;
        etcd_defragment(()) -> machine::EtcdDefragmentResponse;
        etcd_downgrade_cancel(()) -> machine::EtcdDowngradeCancelResponse;
        etcd_downgrade_enable(machine::EtcdDowngradeEnableRequest) -> machine::EtcdDowngradeEnableResponse;
        etcd_downgrade_validate(machine::EtcdDowngradeValidateRequest) -> machine::EtcdDowngradeValidateResponse;
        etcd_forfeit_leadership(machine::EtcdForfeitLeadershipRequest) -> machine::EtcdForfeitLeadershipResponse;
        etcd_leave_cluster(machine::EtcdLeaveClusterRequest) -> machine::EtcdLeaveClusterResponse;
        etcd_member_list(machine::EtcdMemberListRequest) -> machine::EtcdMemberListResponse;
        etcd_remove_member_by_id(machine::EtcdRemoveMemberByIdRequest) -> machine::EtcdRemoveMemberByIdResponse;
        etcd_status(()) -> machine::EtcdStatusResponse;
        generate_client_configuration(machine::GenerateClientConfigurationRequest) -> machine::GenerateClientConfigurationResponse;
        hostname(()) -> machine::HostnameResponse;
        image_pull(machine::ImagePullRequest) -> machine::ImagePullResponse;
        load_avg(()) -> machine::LoadAvgResponse;
        logs_containers(()) -> machine::LogsContainersResponse;
        memory(()) -> machine::MemoryResponse;
        meta_delete(machine::MetaDeleteRequest) -> machine::MetaDeleteResponse;
        meta_write(machine::MetaWriteRequest) -> machine::MetaWriteResponse;
        mounts(()) -> machine::MountsResponse;
        netstat(machine::NetstatRequest) -> machine::NetstatResponse;
        network_device_stats(()) -> machine::NetworkDeviceStatsResponse;
        processes(()) -> machine::ProcessesResponse;
        reboot(machine::RebootRequest) -> machine::RebootResponse;
        reset(machine::ResetRequest) -> machine::ResetResponse;
        restart(machine::RestartRequest) -> machine::RestartResponse;
        rollback(machine::RollbackRequest) -> machine::RollbackResponse;
        service_list(()) -> machine::ServiceListResponse;
        service_restart(machine::ServiceRestartRequest) -> machine::ServiceRestartResponse;
        service_start(machine::ServiceStartRequest) -> machine::ServiceStartResponse;
        service_stop(machine::ServiceStopRequest) -> machine::ServiceStopResponse;
        shutdown(machine::ShutdownRequest) -> machine::ShutdownResponse;
        stats(machine::StatsRequest) -> machine::StatsResponse;
        system_stat(()) -> machine::SystemStatResponse;
        upgrade(machine::UpgradeRequest) -> machine::UpgradeResponse;
        version(()) -> machine::VersionResponse;
    }
    down {
        copy(machine::CopyRequest) -> common::Data;
        disk_usage(machine::DiskUsageRequest) -> machine::DiskUsageInfo;
        dmesg(machine::DmesgRequest) -> common::Data;
        etcd_snapshot(machine::EtcdSnapshotRequest) -> common::Data;
        events(machine::EventsRequest) -> machine::Event;
        image_list(machine::ImageListRequest) -> machine::ImageListResponse;
        kubeconfig(()) -> common::Data;
        list(machine::ListRequest) -> machine::FileInfo;
        logs(machine::LogsRequest) -> common::Data;
        packet_capture(machine::PacketCaptureRequest) -> common::Data;
        read(machine::ReadRequest) -> common::Data;
    }
    up {
        etcd_recover(common::Data) -> machine::EtcdRecoverResponse;
    }
}

service! {
    cluster_service "cluster.ClusterService" cluster cluster_service_client::ClusterServiceClient cluster_service_server::ClusterService;
    unary {}
    down {
        health_check(cluster::HealthCheckRequest) -> cluster::HealthCheckProgress;
    }
    up {}
}

service! {
    inspect_service "inspect.InspectService" inspect inspect_service_client::InspectServiceClient inspect_service_server::InspectService;
    unary {
        controller_runtime_dependencies(()) -> inspect::ControllerRuntimeDependenciesResponse;
    }
    down {}
    up {}
}

service! {
    storage_service "storage.StorageService" storage storage_service_client::StorageServiceClient storage_service_server::StorageService;
    unary {
        disks(()) -> storage::DisksResponse;
        block_device_wipe(storage::BlockDeviceWipeRequest) -> storage::BlockDeviceWipeResponse;
    }
    down {}
    up {}
}

service! {
    time_service "time.TimeService" time time_service_client::TimeServiceClient time_service_server::TimeService;
    unary {
        time(()) -> time::TimeResponse;
        time_check(time::TimeRequest) -> time::TimeResponse;
    }
    down {}
    up {}
}

service! {
    state "cosi.resource.State" resource state_client::StateClient state_server::State;
    unary {
        get(resource::GetRequest) -> resource::GetResponse;
        create(resource::CreateRequest) -> resource::CreateResponse;
        update(resource::UpdateRequest) -> resource::UpdateResponse;
        teardown(resource::TeardownRequest) -> resource::TeardownResponse;
        teardown_and_destroy(resource::TeardownAndDestroyRequest) -> resource::TeardownAndDestroyResponse;
        destroy(resource::DestroyRequest) -> resource::DestroyResponse;
    }
    down {
        list(resource::ListRequest) -> resource::ListResponse;
        watch(resource::WatchRequest) -> resource::WatchResponse;
    }
    up {}
}

/// Makes each call of the API once.
pub(crate) async fn call_all(caller: &mut Caller<'_>) {
    debug_service(caller).await;
    image_service(caller).await;
    lifecycle_service(caller).await;
    machine_service(caller).await;
    cluster_service(caller).await;
    inspect_service(caller).await;
    storage_service(caller).await;
    time_service(caller).await;
    state(caller).await;
}

/// Serves each call of the API.
pub(crate) fn serve_all(mut server: tonic::transport::Server, echo: &Echo) -> Router {
    server
        .add_service(machine::debug_service_server::DebugServiceServer::new(echo.clone()))
        .add_service(machine::image_service_server::ImageServiceServer::new(echo.clone()))
        .add_service(machine::lifecycle_service_server::LifecycleServiceServer::new(echo.clone()))
        .add_service(machine::machine_service_server::MachineServiceServer::new(echo.clone()))
        .add_service(cluster::cluster_service_server::ClusterServiceServer::new(echo.clone()))
        .add_service(inspect::inspect_service_server::InspectServiceServer::new(echo.clone()))
        .add_service(storage::storage_service_server::StorageServiceServer::new(echo.clone()))
        .add_service(time::time_service_server::TimeServiceServer::new(echo.clone()))
        .add_service(resource::state_server::StateServer::new(echo.clone()))
}
