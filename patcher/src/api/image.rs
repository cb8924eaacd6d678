//! Images of a node, since 1.13.

use std::collections::BTreeMap;
use std::time::Duration;

use ichor_proto::talos::common::{ContainerDriver, ContainerdInstance, ContainerdNamespace};
use ichor_proto::talos::machine::image_service_pull_response::Response;
use ichor_proto::talos::machine::{
    ImageServicePullProgress, ImageServicePullRequest, ImageServicePullResponse,
};
use tokio::time::{Instant, timeout_at};

use super::call::image_service;
use super::{ApiError, Cause, NodeClient, NodeStream};

/// A pull in which nothing moves for so long is dead. Registries that answer with errors are retried by the node
/// without a word.
const STALLED: Duration = Duration::from_secs(90);

/// Layers whose progress is watched; an image has at most 127.
const MAX_LAYERS: usize = 256;

/// Where installer images are: on the disk, apart from those of workloads. What a pull and an upgrade name must be the
/// same, and the zero value is refused.
pub(super) fn system_images() -> Option<ContainerdInstance> {
    Some(ContainerdInstance {
        driver: ContainerDriver::Cri.into(),
        namespace: ContainerdNamespace::NsSystem.into(),
    })
}

/// A pull that goes on. Dropping it ends it.
#[derive(Debug)]
pub struct ImagePull {
    stream: NodeStream<ImageServicePullResponse>,
    /// The state of each layer, and its bytes so far.
    layers: BTreeMap<String, (i32, i64)>,
    /// When something moved last.
    moved: Instant,
    name: Option<String>,
}

impl NodeClient {
    /// Pulls an image to where [`NodeClient::lifecycle_upgrade`] finds it. What is there already is not pulled again.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::NotFound`] when there is no such image, [`Cause::Unimplemented`] up to 1.12.
    pub async fn image_pull(&self, reference: &str) -> Result<ImagePull, ApiError> {
        let message =
            ImageServicePullRequest { containerd: system_images(), image_ref: reference.to_owned() };
        let stream = self
            .stream("ImageService.Pull", message, Some(STALLED), None, |channel, request| async move {
                image_service(channel).pull(request).await
            })
            .await?;
        Ok(ImagePull { stream, layers: BTreeMap::new(), moved: Instant::now(), name: None })
    }
}

impl ImagePull {
    /// How far a layer is, or None when the image is there.
    ///
    /// # Errors
    ///
    /// Those of the call, and [`Cause::Deadline`] when nothing moves for a while.
    pub async fn next(&mut self) -> Result<Option<ImageServicePullProgress>, ApiError> {
        loop {
            let Ok(next) = timeout_at(self.moved + STALLED, self.stream.next()).await else {
                return Err(self.error(Cause::Deadline(STALLED)));
            };
            match next?.map(|reply| reply.response) {
                Some(Some(Response::Name(name))) => self.name = Some(name),
                Some(Some(Response::PullProgress(progress))) => {
                    self.watch(&progress);
                    return Ok(Some(progress));
                }
                // A kind of message that is not known here.
                Some(None) => {}
                None if self.name.is_none() => {
                    return Err(self.error(Cause::Incomplete("it ended without the name of the image")));
                }
                None => return Ok(None),
            }
        }
    }

    /// Waits for the end, and returns the name of the image by its digest: what an upgrade should name.
    ///
    /// # Errors
    ///
    /// As [`ImagePull::next`].
    pub async fn finish(mut self) -> Result<String, ApiError> {
        while self.next().await?.is_some() {}
        Ok(self.name.unwrap_or_default())
    }

    /// The name of the image by its digest, once [`ImagePull::next`] has returned None.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn watch(&mut self, progress: &ImageServicePullProgress) {
        let state = progress.progress.as_ref().map_or((0, 0), |it| (it.status, it.offset));
        let is_known = self.layers.contains_key(&progress.layer_id);
        if !is_known && self.layers.len() >= MAX_LAYERS {
            return;
        }
        if self.layers.insert(progress.layer_id.clone(), state) != Some(state) {
            self.moved = Instant::now();
        }
    }

    fn error(&self, cause: Cause) -> ApiError {
        self.stream.node().error(self.stream.call(), cause)
    }
}
