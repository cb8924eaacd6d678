//! Services, and what a node prints.

use std::time::Duration;

use ichor_proto::talos::cluster::{ClusterInfo, HealthCheckProgress, HealthCheckRequest};
use ichor_proto::talos::common::{ContainerDriver, Data};
use ichor_proto::talos::machine::{
    DmesgRequest, Event, EventsRequest, LogsContainer, LogsRequest, ServiceInfo, ServiceRestartRequest,
    ServiceStartRequest, ServiceStopRequest,
};

use super::call::{cluster_service, machine_service};
use super::{ApiError, NodeClient, NodeStream};

/// A stream that has an end and sends data all the time is dead after this long without any.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Which log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// A service, or `namespace/pod:container` for those of Kubernetes.
    pub id: String,
    /// A container of Kubernetes.
    pub kubernetes: bool,
}

impl NodeClient {
    /// All services and their states.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn services(&self) -> Result<Vec<ServiceInfo>, ApiError> {
        let list = self
            .one("ServiceList", (), |channel, request| async move {
                machine_service(channel).service_list(request).await
            })
            .await?;
        Ok(list.services)
    }

    /// Starts a service; the reply is text for people. Talos allows it for kubelet and extension services.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn service_start(&self, id: &str) -> Result<String, ApiError> {
        let message = ServiceStartRequest { id: id.to_owned() };
        let reply = self.one("ServiceStart", message, |channel, request| async move {
            machine_service(channel).service_start(request).await
        });
        Ok(reply.await?.resp)
    }

    /// Stops a service, as [`NodeClient::service_start`] starts one.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn service_stop(&self, id: &str) -> Result<String, ApiError> {
        let message = ServiceStopRequest { id: id.to_owned() };
        let reply = self.one("ServiceStop", message, |channel, request| async move {
            machine_service(channel).service_stop(request).await
        });
        Ok(reply.await?.resp)
    }

    /// Restarts a service, as [`NodeClient::service_start`] starts one.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn service_restart(&self, id: &str) -> Result<String, ApiError> {
        let message = ServiceRestartRequest { id: id.to_owned() };
        let reply = self.one("ServiceRestart", message, |channel, request| async move {
            machine_service(channel).service_restart(request).await
        });
        Ok(reply.await?.resp)
    }

    /// Ids for which [`NodeClient::logs`] has something.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn log_sources(&self) -> Result<LogsContainer, ApiError> {
        self.one("LogsContainers", (), |channel, request| async move {
            machine_service(channel).logs_containers(request).await
        })
        .await
    }

    /// A log: everything, or its last `tail` lines, and with `follow` what comes after.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn logs(
        &self,
        source: &LogSource,
        follow: bool,
        tail: Option<u32>,
    ) -> Result<NodeStream<Data>, ApiError> {
        let (namespace, driver) = match source.kubernetes {
            true => ("k8s.io", ContainerDriver::Cri),
            false => ("system", ContainerDriver::Containerd),
        };
        let message = LogsRequest {
            namespace: namespace.to_owned(),
            id: source.id.clone(),
            driver: driver.into(),
            follow,
            // Zero would be no line at all.
            tail_lines: tail.map_or(-1, |lines| i32::try_from(lines).unwrap_or(i32::MAX)),
        };
        let limit = limit(follow);
        self.stream("Logs", message, limit, limit, |channel, request| async move {
            machine_service(channel).logs(request).await
        })
        .await
    }

    /// The kernel log, one message per record. `tail` leaves out what was there before.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn dmesg(&self, follow: bool, tail: bool) -> Result<NodeStream<Data>, ApiError> {
        let limit = limit(follow);
        self.stream("Dmesg", DmesgRequest { follow, tail }, limit, limit, |channel, request| async move {
            machine_service(channel).dmesg(request).await
        })
        .await
    }

    /// Events from here on, after those of the past that the request asks for. The first message is empty.
    ///
    /// The end of the stream is no error: a reader that was too slow gets it too, and subscribes again.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn events(&self, message: EventsRequest) -> Result<NodeStream<Event>, ApiError> {
        self.stream("Events", message, Some(self.deadline), None, |channel, request| async move {
            machine_service(channel).events(request).await
        })
        .await
    }

    /// Health checks that the node, a control plane one, runs over the cluster. They passed when the stream ends.
    ///
    /// # Errors
    ///
    /// Those of every call; a check that failed is one too.
    pub async fn health_check(
        &self,
        wait: Duration,
        cluster: ClusterInfo,
    ) -> Result<NodeStream<HealthCheckProgress>, ApiError> {
        let message = HealthCheckRequest {
            // A time that does not fit is as good as the longest that does.
            wait_timeout: Some(
                wait.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
            ),
            cluster_info: Some(cluster),
        };
        self.stream("HealthCheck", message, Some(self.deadline), None, |channel, request| async move {
            cluster_service(channel).health_check(request).await
        })
        .await
    }
}

/// A follower may be silent for ever.
fn limit(follow: bool) -> Option<Duration> {
    (!follow).then_some(SILENCE)
}
