//! How a call is made: connection, headers, deadline, and what its failure means.

use std::future::Future;
use std::time::Duration;

use ichor_proto::talos::cluster::cluster_service_client::ClusterServiceClient;
use ichor_proto::talos::cosi::resource::state_client::StateClient;
use ichor_proto::talos::machine::image_service_client::ImageServiceClient;
use ichor_proto::talos::machine::lifecycle_service_client::LifecycleServiceClient;
use ichor_proto::talos::machine::machine_service_client::MachineServiceClient;
use ichor_proto::talos::{common, machine};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::error::{Cause, was_closed, was_late};
use super::{ApiError, MAX_MESSAGE_BYTES, NodeClient, NodeStream};
use crate::transport::{Link, TlsProblem};

/// The client of `MachineService` over a connection.
pub(super) fn machine_service(channel: Channel) -> MachineServiceClient<Channel> {
    MachineServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client of the COSI state over a connection.
pub(super) fn state_service(channel: Channel) -> StateClient<Channel> {
    StateClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client of `ClusterService` over a connection.
pub(super) fn cluster_service(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client of `ImageService` over a connection.
pub(super) fn image_service(channel: Channel) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client of `LifecycleService` over a connection.
pub(super) fn lifecycle_service(channel: Channel) -> LifecycleServiceClient<Channel> {
    LifecycleServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl NodeClient {
    /// Makes a call with one request and one reply.
    pub(super) async fn unary<Q, R, F>(
        &self,
        call: &'static str,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, ApiError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.attempt(call, message, Some(self.deadline), true, send).await.map(|(reply, _)| reply)
    }

    /// Makes a call whose reply is a list with one message: the form of most replies of Talos.
    pub(super) async fn one<Q, R, F>(
        &self,
        call: &'static str,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R::Message, ApiError>
    where
        Q: Clone,
        R: Reply,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let reply = self.unary(call, message, send).await?;
        let first = reply.into_messages().into_iter().next();
        let message = first.ok_or_else(|| self.error(call, Cause::Incomplete("it has no message")))?;
        match R::metadata(&message) {
            Some(metadata) => self.check_metadata(call, metadata).map(|()| message),
            None => Ok(message),
        }
    }

    /// Starts a call with a stream of replies. With `first` the stream must start within it, which only streams do
    /// that begin with a message of their own accord; with `idle` each further message must come within that.
    pub(super) async fn stream<Q, R, F>(
        &self,
        call: &'static str,
        message: Q,
        first: Option<Duration>,
        idle: Option<Duration>,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<NodeStream<R>, ApiError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<Streaming<R>>, Status>>,
    {
        let (stream, link) = self.attempt(call, message, first, false, send).await?;
        Ok(NodeStream::new(self.clone(), call, idle, stream, link))
    }

    /// Sends the call over one connection after the other until one carries it. Once it has left, it is not sent
    /// again: most calls are not safe to repeat.
    pub(super) async fn attempt<Q, R, F>(
        &self,
        call: &'static str,
        message: Q,
        deadline: Option<Duration>,
        tell_server: bool,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<(R, Link), ApiError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut search = self.pool.search();
        loop {
            let link = self.pool.connect(&mut search, &self.avoid).await;
            let link = link.map_err(|unreachable| self.error(call, Cause::Unreachable(unreachable)))?;
            let mut request = Request::new(message.clone());
            self.add_headers(&mut request);
            let status = match deadline {
                None => send(link.channel(), request).await,
                Some(deadline) => {
                    if tell_server {
                        request.set_timeout(deadline);
                    }
                    match timeout(deadline, send(link.channel(), request)).await {
                        Ok(result) => result,
                        Err(_) => return Err(self.error(call, Cause::Deadline(deadline))),
                    }
                }
            };
            let status = match status {
                Ok(response) => return Ok((response.into_inner(), link)),
                Err(status) => status,
            };
            match link.tls_problem() {
                Some(problem @ TlsProblem::ClientRefused(_)) => {
                    self.pool.discard(&mut search, &link, Some(problem.clone())).await;
                }
                _ if was_closed(&status) => self.pool.discard(&mut search, &link, None).await,
                _ => return Err(self.failure(call, &status, deadline)),
            }
        }
    }

    fn failure(&self, call: &'static str, status: &Status, deadline: Option<Duration>) -> ApiError {
        match deadline.filter(|_| was_late(status)) {
            Some(deadline) => self.error(call, Cause::Deadline(deadline)),
            None => self.error(call, Cause::from_status(status)),
        }
    }

    /// A proxy in front of the API may report the failure of a node inside a reply that succeeded.
    pub(super) fn check_metadata(
        &self,
        call: &'static str,
        metadata: &common::Metadata,
    ) -> Result<(), ApiError> {
        let status = metadata.status.as_ref().filter(|status| status.code != 0);
        match status {
            Some(status) => {
                let status = Status::new(status.code.into(), status.message.clone());
                Err(self.error(call, Cause::from_status(&status)))
            }
            None if metadata.error.is_empty() => Ok(()),
            None => {
                let message = metadata.error.clone();
                Err(self.error(call, Cause::Other { code: tonic::Code::Unknown, message }))
            }
        }
    }

    fn add_headers<T>(&self, request: &mut Request<T>) {
        let metadata = request.metadata_mut();
        metadata.insert("runtime", tonic::metadata::MetadataValue::from_static("Talos"));
        let optional = [
            ("node", &self.node),
            ("context", &self.headers.context),
            ("authorization", &self.headers.authorization),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                metadata.insert(name, value.clone());
            }
        }
    }
}

/// A reply that is a list of messages, of which a call to one node has one.
pub(super) trait Reply {
    /// The message of one node.
    type Message;

    fn into_messages(self) -> Vec<Self::Message>;

    fn metadata(message: &Self::Message) -> Option<&common::Metadata>;
}

macro_rules! replies {
    ($($reply:ident => $message:ident),* $(,)?) => {$(
        impl Reply for machine::$reply {
            type Message = machine::$message;

            fn into_messages(self) -> Vec<Self::Message> {
                self.messages
            }

            fn metadata(message: &Self::Message) -> Option<&common::Metadata> {
                message.metadata.as_ref()
            }
        }
    )*};
}

replies! {
    ApplyConfigurationResponse => ApplyConfiguration,
    BootstrapResponse => Bootstrap,
    CpuInfoResponse => CpUsInfo,
    EtcdAlarmDisarmResponse => EtcdAlarmDisarm,
    EtcdAlarmListResponse => EtcdAlarm,
    EtcdDefragmentResponse => EtcdDefragment,
    EtcdForfeitLeadershipResponse => EtcdForfeitLeadership,
    EtcdLeaveClusterResponse => EtcdLeaveCluster,
    EtcdMemberListResponse => EtcdMembers,
    EtcdRecoverResponse => EtcdRecover,
    EtcdRemoveMemberByIdResponse => EtcdRemoveMemberById,
    EtcdStatusResponse => EtcdStatus,
    GenerateClientConfigurationResponse => GenerateClientConfiguration,
    HostnameResponse => Hostname,
    ImagePullResponse => ImagePull,
    LogsContainersResponse => LogsContainer,
    MemoryResponse => Memory,
    RebootResponse => Reboot,
    ResetResponse => Reset,
    RollbackResponse => Rollback,
    ServiceListResponse => ServiceList,
    ServiceRestartResponse => ServiceRestart,
    ServiceStartResponse => ServiceStart,
    ServiceStopResponse => ServiceStop,
    ShutdownResponse => Shutdown,
    SystemStatResponse => SystemStat,
    UpgradeResponse => Upgrade,
    VersionResponse => Version,
}
