//! The first member of etcd, new or from a snapshot.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use ichor_proto::talos::common::Data;
use ichor_proto::talos::machine::{BootstrapRequest, EtcdRecoverResponse};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;

use super::call::{Reply, machine_service};
use super::{ApiError, Cause, NodeClient};

/// A snapshot is sent in pieces of so many bytes.
const PIECE: usize = 32 << 10;

/// Pieces on their way.
const AHEAD: usize = 8;

/// A node that takes no further piece for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// The node writes everything to its disk before it replies.
const SYNC_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// What the first member of etcd starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Nothing: a new cluster.
    New,
    /// The snapshot that [`NodeClient::etcd_recover`] has uploaded to the same node.
    Snapshot,
    /// The same without a look at its hash: a copy of the database file has none.
    DatabaseFile,
}

/// A snapshot that was not uploaded. The node keeps nothing of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The call failed.
    #[error("failed to upload the snapshot")]
    Api(#[from] ApiError),
    /// The file could not be read.
    #[error("failed to read the snapshot")]
    Read(#[source] io::Error),
}

impl NodeClient {
    /// Starts the first member of etcd, on one control plane node only: each node on which this is done has an etcd of
    /// its own.
    ///
    /// # Errors
    ///
    /// Those of every call; [`Cause::Precondition`] when the node is not that far yet; the code AlreadyExists when its
    /// etcd has data.
    pub async fn bootstrap(&self, from: Bootstrap) -> Result<(), ApiError> {
        let message = BootstrapRequest {
            recover_etcd: from != Bootstrap::New,
            recover_skip_hash_check: from == Bootstrap::DatabaseFile,
        };
        let reply = self.one("Bootstrap", message, |channel, request| async move {
            machine_service(channel).bootstrap(request).await
        });
        reply.await.map(drop)
    }

    /// Uploads a snapshot of etcd, for the [`NodeClient::bootstrap`] that follows on the same node. The file is read
    /// from its beginning, piece by piece. When it cannot be read to its end the call is cancelled, and not ended: the
    /// node would take what it has for the whole.
    ///
    /// # Errors
    ///
    /// Those of every call, and of reading; [`Cause::Precondition`] when the node has no place for it yet.
    pub async fn etcd_recover(&self, snapshot: &File) -> Result<(), RecoverError> {
        // What stopped the upload on this side.
        let stopped: Mutex<Option<Stopped>> = Mutex::new(None);
        let upload = self.attempt("EtcdRecover", (), None, false, |channel, request| {
            let (sender, receiver) = mpsc::channel(AHEAD);
            let request = request.map(|()| pieces(receiver));
            let stopped = &stopped;
            async move {
                let mut client = machine_service(channel);
                let mut call = std::pin::pin!(client.etcd_recover(request));
                let why = tokio::select! {
                    biased;
                    reply = &mut call => return reply,
                    fed = feed(snapshot, sender) => match fed {
                        Ok(()) => match timeout(SYNC_DEADLINE, &mut call).await {
                            Ok(reply) => return reply,
                            Err(_elapsed) => Stopped::Late(SYNC_DEADLINE),
                        },
                        Err(why) => why,
                    },
                };
                *stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                Err(Status::cancelled("the upload was given up"))
            }
        });
        let result = upload.await;
        match stopped.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Stopped::Read(error)) => return Err(RecoverError::Read(error)),
            Some(Stopped::Late(limit)) => {
                return Err(self.error("EtcdRecover", Cause::Deadline(limit)).into());
            }
            None => {}
        }
        let (reply, _link) = result?;
        let first = reply.into_messages().into_iter().next();
        match first.as_ref().and_then(EtcdRecoverResponse::metadata) {
            Some(metadata) => Ok(self.check_metadata("EtcdRecover", metadata)?),
            None => Ok(()),
        }
    }
}

enum Stopped {
    Read(io::Error),
    Late(Duration),
}

/// Gives the pieces of a file to a call that sends them, and then the mark that these were all.
async fn feed(file: &File, sender: mpsc::Sender<Option<Data>>) -> Result<(), Stopped> {
    let mut file = file.try_clone().map_err(Stopped::Read)?;
    let mut is_first = true;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            if is_first {
                file.rewind()?;
            }
            let mut bytes = Vec::with_capacity(PIECE);
            file.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
            Ok((file, bytes))
        });
        let (same, bytes) = read.await.map_err(io::Error::other).flatten().map_err(Stopped::Read)?;
        (file, is_first) = (same, false);
        let is_last = bytes.is_empty();
        let piece = (!is_last).then(|| Data { metadata: None, bytes: bytes.into() });
        match timeout(SILENCE, sender.send(piece)).await {
            Err(_elapsed) => return Err(Stopped::Late(SILENCE)),
            // The call has ended, and says why.
            Ok(Err(_closed)) => return Ok(()),
            Ok(Ok(())) if is_last => return Ok(()),
            Ok(Ok(())) => {}
        }
    }
}

/// The pieces that arrive. Only the mark ends the stream; a sender that is gone without it leaves it open, so that the
/// call can only be cancelled.
fn pieces(receiver: mpsc::Receiver<Option<Data>>) -> impl Stream<Item = Data> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Some(Some(data)) => Some((data, receiver)),
            Some(None) => None,
            None => std::future::pending().await,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::StreamExt as _;

    use super::*;

    /// What arrives of `bytes`.
    async fn sent(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (fed, pieces) = tokio::join!(feed(&file, sender), pieces(receiver).collect::<Vec<_>>());
        assert!(fed.is_ok());
        pieces.into_iter().map(|data| data.bytes.to_vec()).collect()
    }

    #[tokio::test]
    async fn a_file_is_sent_from_its_beginning_in_pieces() {
        let bytes: Vec<u8> = (0..2 * PIECE + 5).map(|n| (n % 251) as u8).collect();
        let pieces = sent(&bytes).await;
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [PIECE, PIECE, 5]);
        assert_eq!(pieces.concat(), bytes);
        assert!(sent(&[]).await.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_read_never_ends_the_stream() {
        // A directory is opened and not read.
        let directory = File::open(std::env::temp_dir()).unwrap();
        let (sender, receiver) = mpsc::channel(AHEAD);
        let mut pieces = std::pin::pin!(pieces(receiver));
        assert!(matches!(feed(&directory, sender).await, Err(Stopped::Read(_))));
        assert!(futures_util::poll!(pieces.next()).is_pending());
    }
}
