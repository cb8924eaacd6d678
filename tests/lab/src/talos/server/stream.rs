//! Replies that go on: what is there now, and then what is new.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::BoxStream;

use crate::talos::model::Cluster;
use crate::talos::simulation::Simulation;

/// Most replies that wait for a slow reader; then nothing more is read for it.
const WAITING: usize = 64;
/// Size of the pieces in which Talos sends bytes.
const PIECE: usize = 1024;

/// What is new, and whether more may come.
pub(super) struct Step<T> {
    pub(super) items: Vec<Result<T, Status>>,
    pub(super) goes_on: bool,
}

impl<T> Step<T> {
    pub(super) fn more(items: impl IntoIterator<Item = T>) -> Self {
        Self { items: items.into_iter().map(Ok).collect(), goes_on: true }
    }

    pub(super) fn last(items: impl IntoIterator<Item = Result<T, Status>>) -> Self {
        Self { items: items.into_iter().collect(), goes_on: false }
    }
}

/// Asks `step` what is new, now and after every change, until it says that this was all or the reader is gone.
pub(super) fn follow<T: Send + 'static>(
    simulation: &Simulation,
    mut step: impl FnMut(&Cluster) -> Step<T> + Send + 'static,
) -> BoxStream<T> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let simulation = simulation.clone();
    let mut changes = simulation.changes();
    tokio::spawn(async move {
        loop {
            changes.borrow_and_update();
            let Step { items, goes_on } = simulation.look(&mut step);
            for item in items {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
            if !goes_on {
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Sends `items` and ends.
pub(super) fn all<T: Send + 'static>(items: Vec<T>) -> BoxStream<T> {
    Box::pin(tokio_stream::iter(items.into_iter().map(Ok)))
}

/// Bytes in the pieces in which Talos sends them.
pub(super) fn pieces(bytes: &[u8]) -> Vec<ichor_proto::talos::common::Data> {
    let piece = |bytes: &[u8]| ichor_proto::talos::common::Data {
        metadata: None,
        bytes: bytes::Bytes::copy_from_slice(bytes),
    };
    bytes.chunks(PIECE).map(piece).collect()
}
