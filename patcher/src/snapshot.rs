//! Snapshots of etcd: streamed to disk with constant memory, and verified before they get their name.
//!
//! etcd sends its database, whose size is a multiple of 512, and then the SHA-256 of it (etcd: client/v3/snapshot).
//! What does not end that way was cut or damaged on its way and is of no use after a disaster, so it is refused. What
//! does is opened as well: `bolt` walks the database as etcd's own library does, and `contents` says what is in it.

mod bolt;
mod contents;
pub mod restore;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};
use serde::Serialize;

pub use self::bolt::Fault;
pub use self::contents::{Contents, MemberInfo};
use crate::api::{ApiError, NodeClient};
use crate::files::AtomicFile;

/// Length of the hash at the end.
const TRAILER_BYTES: usize = 32;

/// What the size of a database is a multiple of.
const BLOCK_BYTES: u64 = 512;

/// What is read of a file at once.
const PIECE_BYTES: usize = 64 << 10;

/// A snapshot that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Size of the file in bytes, with the hash at its end.
    pub bytes: u64,
    /// The SHA-256 of the database in hexadecimal, as it is at the end. None: there is none, and none was wanted.
    pub sha256: Option<String>,
    /// What is in it.
    #[serde(flatten)]
    pub contents: Contents,
}

/// Whether a database must end with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashCheck {
    /// A snapshot does.
    Required,
    /// A copy of etcd's own file does not.
    Skipped,
}

/// A snapshot that was not taken, of which nothing is left, or one that is of no use.
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
    /// The file could not be read.
    #[error("failed to read {path}")]
    Read {
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
    /// The database is not one that etcd would open.
    #[error("the database in the snapshot is damaged")]
    Database(#[source] Fault),
}

/// Takes a snapshot of the node's etcd member into `path`, with mode 0600: it holds every secret of the cluster. It
/// gets its name only after its hash was checked and its database was opened.
///
/// # Errors
///
/// Those of the call and of writing, and when what arrived is not a whole snapshot. `path` is as it was then.
pub async fn take_verified(node: &NodeClient, path: &Path) -> Result<Verified, SnapshotError> {
    let write = |source| SnapshotError::Write { path: path.display().to_string(), source };
    // Before the node is asked: a path that cannot be written should cost nothing.
    let file = AtomicFile::create(path).map_err(write)?;
    let mut verifier = Verifier::new(file);
    let mut stream = node.etcd_snapshot().await?;
    while let Some(data) = stream.next().await? {
        stream.check(&data)?;
        verifier.push(&data.bytes).map_err(write)?;
    }
    let (bytes, sha256, file) = verifier.finish()?;
    let name = path.display().to_string();
    let work = move || {
        let write = |source| SnapshotError::Write { path: name.clone(), source };
        let read = |source| SnapshotError::Read { path: name.clone(), source };
        let written = file.reopen().map_err(read)?;
        let contents =
            contents::read(&written, bytes - TRAILER_BYTES as u64).map_err(SnapshotError::Database)?;
        file.commit().map_err(write)?;
        Ok(Verified { bytes, sha256: Some(hex(&sha256)), contents })
    };
    // Some hundred megabytes are read and made durable here, while the program goes on with other things.
    tokio::task::spawn_blocking(work).await.map_err(|error| write(io::Error::other(error)))?
}

/// Reads a snapshot, or a copy of etcd's database without a hash, and says what is in it. The file is read in pieces;
/// it takes as long as it takes to read it twice.
///
/// # Errors
///
/// When it cannot be read, or is damaged.
pub fn verify(path: &Path, hash: HashCheck) -> Result<Verified, SnapshotError> {
    let read = |source| SnapshotError::Read { path: path.display().to_string(), source };
    let file = File::open(path).map_err(read)?;
    let mut bytes = file.metadata().map_err(read)?.len();
    let mut sha256 = None;
    if bytes % BLOCK_BYTES == TRAILER_BYTES as u64 || hash == HashCheck::Required {
        let mut verifier = Verifier::new(io::sink());
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let count = (&file).read(&mut buffer).map_err(read)?;
            if count == 0 {
                break;
            }
            verifier.push(&buffer[..count]).map_err(read)?;
        }
        match verifier.finish() {
            Ok((count, trailer, _)) => (bytes, sha256) = (count, Some(trailer)),
            Err(_) if hash == HashCheck::Skipped => {}
            Err(SnapshotError::Empty) => return Err(SnapshotError::NoHash { bytes: 0 }),
            Err(error) => return Err(error),
        }
    }
    let trailer = bytes % BLOCK_BYTES;
    let contents = contents::read(&file, bytes - trailer).map_err(SnapshotError::Database)?;
    Ok(Verified { bytes, sha256: sha256.map(|sha256| hex(&sha256)), contents })
}

/// Reads a database that is in memory.
///
/// # Errors
///
/// When it is damaged.
pub fn read_database(bytes: &[u8]) -> Result<Contents, Fault> {
    contents::read(bytes, bytes.len() as u64)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    /// The size, the hash, and where it was passed on to.
    fn finish(self) -> Result<(u64, [u8; TRAILER_BYTES], W), SnapshotError> {
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
        Ok((self.bytes, sha256, self.output))
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
            let (bytes, sha256, written) = verifier.finish().unwrap();
            assert_eq!((bytes, &sha256[..]), (whole.len() as u64, &whole[whole.len() - 32..]));
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

    /// Made by etcd 3.4.23: 20 keys put, two of them deleted, one put again. What `etcdctl snapshot status` says of it:
    /// hash 497489668, revision 24, 27 keys, 24576 bytes.
    const REAL: &[u8] = include_bytes!("../tests/fixtures/etcd-3.4.snapshot");

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_snapshot_is_read_as_etcd_reads_it() {
        let verified = verify(written(REAL).path(), HashCheck::Required).unwrap();
        let contents = &verified.contents;
        assert_eq!((contents.crc32c, contents.revision), (497_489_668, 24));
        assert_eq!((contents.total_keys, contents.revisions), (27, 23));
        assert_eq!((verified.bytes, contents.database_bytes), (24608, 24576));
        assert_eq!(verified.sha256.as_deref(), Some(&*hex(&REAL[REAL.len() - 32..])));
        let member = &contents.members[0];
        // 3319814642761637952, as `etcdctl endpoint status` writes it.
        assert_eq!((&*member.id, &*member.name), ("2e1259d415f2a040", "cp-1"));
        assert_eq!(member.peer_urls, ["http://127.0.0.1:23800"]);
        assert_eq!(contents.cluster_version.as_deref(), Some("3.4.0"));
        assert_eq!(contents.consistent_index, Some(27));
    }

    #[test]
    fn a_copy_of_the_database_has_no_hash_and_is_taken_only_when_that_is_known() {
        let copy = written(&REAL[..REAL.len() - 32]);
        assert!(matches!(verify(copy.path(), HashCheck::Required), Err(SnapshotError::NoHash { .. })));
        let verified = verify(copy.path(), HashCheck::Skipped).unwrap();
        assert_eq!((verified.sha256, verified.contents.total_keys), (None, 27));
    }

    #[test]
    fn a_snapshot_with_any_bit_flipped_or_anything_cut_off_is_refused() {
        for place in (0..REAL.len()).step_by(97).chain(REAL.len() - 32..REAL.len()) {
            let mut flipped = REAL.to_vec();
            flipped[place] ^= 1 << (place % 8);
            let verdict = verify(written(&flipped).path(), HashCheck::Required);
            assert!(matches!(verdict, Err(SnapshotError::WrongHash)), "bit of byte {place}: {verdict:?}");
        }
        for length in (0..REAL.len()).step_by(211).chain([REAL.len() - 512, REAL.len() - 1]) {
            let verdict = verify(written(&REAL[..length]).path(), HashCheck::Required);
            assert!(verdict.is_err(), "cut to {length}: {verdict:?}");
        }
    }

    /// Without the hash some damage cannot be seen: bytes of values, and of pages that nothing uses. But what is read is
    /// then read to its end or refused, whatever byte is changed to whatever.
    #[test]
    fn a_damaged_database_is_refused_or_read_and_nothing_else() {
        let database = &REAL[..REAL.len() - 32];
        let mut refused = 0;
        for place in 0..database.len() {
            let mut damaged = database.to_vec();
            damaged[place] ^= [0x01, 0x80, 0xff][place % 3];
            refused += u32::from(read_database(&damaged).is_err());
        }
        assert!(refused > 400, "{refused}");
        for length in (0..database.len()).step_by(512) {
            let cut = read_database(&database[..length]);
            assert!(matches!(cut, Err(Fault::Meta | Fault::Cut { .. })), "{length}: {cut:?}");
        }
    }

    fn snapshot(blocks: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..blocks * 512).map(|index| (index % 251) as u8).collect();
        let hash = ring::digest::digest(&SHA256, &bytes);
        bytes.extend_from_slice(hash.as_ref());
        bytes
    }
}
