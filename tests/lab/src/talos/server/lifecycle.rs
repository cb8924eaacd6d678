//! `machine.LifecycleService` and `machine.ImageService` of a simulated node, since 1.13.

use ichor_proto::talos::common::{ContainerDriver, ContainerdInstance, ContainerdNamespace};
use ichor_proto::talos::machine as proto;
use proto::image_service_pull_layer_progress::Status as LayerStatus;
use proto::image_service_pull_response::Response as Pulled;
use proto::image_service_server::ImageService;
use proto::lifecycle_service_install_progress::Response as Progress;
use proto::lifecycle_service_server::LifecycleService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::route::NodeApi;
use super::stream::{Step, all, follow};

/// Size of the only layer of an image.
const LAYER_BYTES: i64 = 90 << 20;

#[tonic::async_trait]
impl LifecycleService for NodeApi {
    async fn upgrade(
        &self,
        request: Request<proto::LifecycleServiceUpgradeRequest>,
    ) -> Result<Response<BoxStream<proto::LifecycleServiceUpgradeResponse>>, Status> {
        let request = request.into_inner();
        check_instance(request.containerd)?;
        let name = request.source.unwrap_or_default().image_name;
        let id = self.simulation.change(|cluster, now| cluster.lifecycle_upgrade(&self.node, &name, now))?;
        let reply = |response| proto::LifecycleServiceUpgradeResponse {
            progress: Some(proto::LifecycleServiceInstallProgress { response: Some(response) }),
        };
        let mut hello = Some(Progress::Message(format!("running the installer {name}\n")));
        let node = self.node.clone();
        let stream = follow(&self.simulation, move |cluster| {
            let installation = cluster.node(&node).ok().and_then(|node| node.installation(id));
            let begun = hello.take().into_iter();
            match installation.map(|it| it.result()) {
                // It ended with the boot in which it ran.
                None => Step::last([Err(Status::unavailable("error reading from server: EOF"))]),
                Some(None) => Step::more(begun.map(reply)),
                Some(Some((code, text))) => {
                    let end = [Progress::Message(format!("{text}\n")), Progress::ExitCode(code)];
                    Step::last(begun.chain(end).map(reply).map(Ok))
                }
            }
        });
        Ok(Response::new(stream))
    }
}

#[tonic::async_trait]
impl ImageService for NodeApi {
    async fn pull(
        &self,
        request: Request<proto::ImageServicePullRequest>,
    ) -> Result<Response<BoxStream<proto::ImageServicePullResponse>>, Status> {
        let request = request.into_inner();
        check_instance(request.containerd)?;
        let name = self.simulation.change(|cluster, _| cluster.pull(&self.node, &request.image_ref))?;
        let layer = name.rsplit_once('@').map_or("", |(_, digest)| digest).to_owned();
        let progress = |status: LayerStatus, offset| {
            Pulled::PullProgress(proto::ImageServicePullProgress {
                layer_id: layer.clone(),
                progress: Some(proto::ImageServicePullLayerProgress {
                    status: status.into(),
                    elapsed: None,
                    offset,
                    total: LAYER_BYTES,
                }),
            })
        };
        let steps = vec![
            progress(LayerStatus::Downloading, LAYER_BYTES / 2),
            progress(LayerStatus::DownloadComplete, LAYER_BYTES),
            progress(LayerStatus::ExtractComplete, LAYER_BYTES),
            Pulled::Name(name),
        ];
        let reply = |response| proto::ImageServicePullResponse { response: Some(response) };
        Ok(Response::new(all(steps.into_iter().map(reply).collect())))
    }
}

/// Only where the official tool puts installers: the zero value is none.
fn check_instance(instance: Option<ContainerdInstance>) -> Result<(), Status> {
    let wanted = ContainerdInstance {
        driver: ContainerDriver::Cri.into(),
        namespace: ContainerdNamespace::NsSystem.into(),
    };
    match instance {
        Some(instance) if instance == wanted => Ok(()),
        Some(other) => Err(Status::invalid_argument(format!("unsupported containerd instance {other:?}"))),
        None => Err(Status::invalid_argument("containerd instance is required")),
    }
}
