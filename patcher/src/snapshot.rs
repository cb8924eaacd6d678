//! Snapshots of etcd: streamed to disk with constant memory, and verified before they get their name.
//!
//! etcd sends its database, whose size is a multiple of 512, and then the SHA-256 of it (etcd: client/v3/snapshot).
//! What does not end that way was cut or damaged on its way and is of no use after a disaster, so it is refused.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};

use crate::api::{ApiError, NodeClient};
use crate::files::AtomicFile;

/// Length of the hash at the end.
const TRAILER_BYTES: usize = 32;

/// What the size of a database is a multiple of.
const BLOCK_BYTES: u64 = 512;

/// A snapshot that is on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Size of the file in bytes, with the hash at its end.
    pub bytes: u64,
    /// The SHA-256 of the database.
    pub sha256: [u8; TRAILER_BYTES],
}

impl SnapshotInfo {
    /// The hash in hexadecimal.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for SnapshotInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotInfo")
            .field("bytes", &self.bytes)
            .field("sha256", &self.sha256_hex())
            .finish()
    }
}

/// A snapshot that was not taken. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The call failed.
    #[error("failed to take a snapshot")]
    Api(#[from] ApiError),
    /// The file could not be written.
    #[error("failed to write the snapshot to {path}")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node sent nothing.
    #[error("the node sent an empty snapshot")]
    Empty,
    /// The size is not that of a database with a hash.
    #[error("the snapshot has no hash at its end: {bytes} bytes are not a multiple of 512 and 32 more")]
    NoHash {
        /// The size.
        bytes: u64,
    },
    /// The hash is that of something else.
    #[error("the snapshot is damaged: its hash does not match")]
    WrongHash,
}

/// Takes a snapshot of the node's etcd member into `path`, with mode 0600: it holds every secret of the cluster.
///
/// # Errors
///
/// Those of the call and of writing, and when what arrived is not a whole snapshot. `path` is as it was then.
pub async fn save(node: &NodeClient, path: &Path) -> Result<SnapshotInfo, SnapshotError> {
    let write = |source| SnapshotError::Write { path: path.display().to_string(), source };
    // Before the node is asked: a path that cannot be written should cost nothing.
    let file = AtomicFile::create(path).map_err(write)?;
    let mut verifier = Verifier::new(file);
    let mut stream = node.etcd_snapshot().await?;
    while let Some(data) = stream.next().await? {
        stream.check(&data)?;
        verifier.push(&data.bytes).map_err(write)?;
    }
    let (info, file) = verifier.finish()?;
    file.commit().map_err(write)?;
    Ok(info)
}

/// Passes a snapshot on and verifies it. The last bytes are held back from the hash until it is clear whether they
/// belong to the database.
struct Verifier<W> {
    output: W,
    digest: Context,
    held: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Verifier<W> {
    fn new(output: W) -> Self {
        Self { output, digest: Context::new(&SHA256), held: Vec::with_capacity(TRAILER_BYTES), bytes: 0 }
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.output.write_all(piece)?;
        self.bytes += piece.len() as u64;
        let settled = (self.held.len() + piece.len()).saturating_sub(TRAILER_BYTES);
        let from_held = settled.min(self.held.len());
        self.digest.update(&self.held[..from_held]);
        self.digest.update(&piece[..settled - from_held]);
        self.held.drain(..from_held);
        self.held.extend_from_slice(&piece[settled - from_held..]);
        Ok(())
    }

    fn finish(self) -> Result<(SnapshotInfo, W), SnapshotError> {
        if self.bytes == 0 {
            return Err(SnapshotError::Empty);
        }
        let no_hash = SnapshotError::NoHash { bytes: self.bytes };
        let Ok(sha256) = <[u8; TRAILER_BYTES]>::try_from(&*self.held) else { return Err(no_hash) };
        if self.bytes % BLOCK_BYTES != TRAILER_BYTES as u64 {
            return Err(no_hash);
        }
        if self.digest.finish().as_ref() != sha256 {
            return Err(SnapshotError::WrongHash);
        }
        Ok((SnapshotInfo { bytes: self.bytes, sha256 }, self.output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_snapshot_passes_however_it_is_cut() {
        let whole = snapshot(3);
        for piece in [1, 7, 31, 32, 33, 512, 1024, whole.len()] {
            let mut verifier = Verifier::new(Vec::new());
            whole.chunks(piece).for_each(|piece| verifier.push(piece).unwrap());
            let (info, written) = verifier.finish().unwrap();
            assert_eq!((info.bytes, &info.sha256[..]), (whole.len() as u64, &whole[whole.len() - 32..]));
            assert_eq!(written, whole);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let verdict = |bytes: &[u8]| {
            let mut verifier = Verifier::new(Vec::new());
            verifier.push(bytes).unwrap();
            verifier.finish().unwrap_err()
        };
        let whole = snapshot(2);
        assert!(matches!(verdict(b""), SnapshotError::Empty));
        for length in [1, 31, 512, whole.len() - 1, whole.len() - 32] {
            assert!(matches!(verdict(&whole[..length]), SnapshotError::NoHash { .. }), "{length}");
        }
        // A whole block is missing: the size looks right.
        assert!(matches!(verdict(&whole[512..]), SnapshotError::WrongHash));
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        assert!(matches!(verdict(&flipped), SnapshotError::WrongHash));
    }

    fn snapshot(blocks: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..blocks * 512).map(|index| (index % 251) as u8).collect();
        let hash = ring::digest::digest(&SHA256, &bytes);
        bytes.extend_from_slice(hash.as_ref());
        bytes
    }
}
