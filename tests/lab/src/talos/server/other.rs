//! The smaller services of a simulated node.

use std::time::Duration;

use ichor_proto::talos::cluster::cluster_service_server::ClusterService;
use ichor_proto::talos::cluster::{HealthCheckProgress, HealthCheckRequest};
use ichor_proto::talos::storage::storage_service_server::StorageService;
use ichor_proto::talos::storage::{Disk, Disks, DisksResponse};
use ichor_proto::talos::time::time_service_server::TimeService;
use ichor_proto::talos::time::{Time, TimeRequest, TimeResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::route::NodeApi;
use crate::talos::model::{Cluster, timestamp};
use crate::talos::simulation::now;

/// The disk of a simulated node.
const DISK_BYTES: u64 = 20 << 30;

#[tonic::async_trait]
impl ClusterService for NodeApi {
    async fn health_check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<BoxStream<HealthCheckProgress>>, Status> {
        self.look(|cluster| cluster.require_control_plane(&self.node, "cluster health"))?;
        // Without a time there is none.
        let limit = request.into_inner().wait_timeout.and_then(|limit| Duration::try_from(limit).ok());
        let (sender, receiver) = mpsc::channel(8);
        let simulation = self.simulation.clone();
        tokio::spawn(async move {
            let say = |message: String| sender.send(Ok(HealthCheckProgress { metadata: None, message }));
            let checks = simulation.look(Cluster::unhealthy).len();
            let work = async {
                for check in 0..checks {
                    let at =
                        |cluster: &Cluster| cluster.unhealthy().into_iter().nth(check).unwrap_or_default();
                    let (title, unwell) = simulation.look(at);
                    let text = if unwell.is_empty() { "OK".to_owned() } else { format!("... {unwell}") };
                    say(format!("waiting for {title}: {text}")).await?;
                    if !unwell.is_empty() {
                        simulation.until(|cluster| at(cluster).1.is_empty()).await;
                        say(format!("waiting for {title}: OK")).await?;
                    }
                }
                Ok::<_, mpsc::error::SendError<_>>(())
            };
            if tokio::time::timeout(limit.unwrap_or_default(), work).await.is_err() {
                // Who asked may be gone.
                let _ = sender.send(Err(Status::deadline_exceeded("context deadline exceeded"))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl StorageService for NodeApi {
    async fn disks(&self, _request: Request<()>) -> Result<Response<DisksResponse>, Status> {
        let disk = Disk {
            size: DISK_BYTES,
            device_name: "/dev/vda".to_owned(),
            name: "vda".to_owned(),
            system_disk: true,
            ..Default::default()
        };
        let message = Disks { metadata: None, disks: vec![disk] };
        Ok(Response::new(DisksResponse { messages: vec![message] }))
    }
}

#[tonic::async_trait]
impl TimeService for NodeApi {
    async fn time(&self, _request: Request<()>) -> Result<Response<TimeResponse>, Status> {
        Ok(Response::new(clock("time.cloudflare.com")))
    }

    async fn time_check(&self, request: Request<TimeRequest>) -> Result<Response<TimeResponse>, Status> {
        Ok(Response::new(clock(&request.into_inner().server)))
    }
}

/// The clocks of a simulated node are always right.
fn clock(server: &str) -> TimeResponse {
    let now = Some(timestamp(now()));
    let message = Time { metadata: None, server: server.to_owned(), localtime: now, remotetime: now };
    TimeResponse { messages: vec![message] }
}
