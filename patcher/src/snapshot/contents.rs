//! What is in a database of etcd: revisions, members, and how far it had applied what was agreed on.

use serde::{Deserialize, Serialize};

use super::bolt::{Fault, ReadAt, Visit, walk};

/// Longer values of the small buckets are not kept. A member has some hundred bytes.
const MAX_KEPT_BYTES: usize = 16 << 10;
/// There are more members and names of buckets in no cluster.
const MAX_MEMBERS: usize = 256;

/// The contents of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// The size of the database in bytes, without the hash at the end of a snapshot.
    pub database_bytes: u64,
    /// CRC-32C of all names, keys and values in order: what `etcdutl snapshot status` shows as the hash.
    pub crc32c: u32,
    /// The highest revision.
    pub revision: u64,
    /// Keys in all buckets: what `etcdutl snapshot status` counts.
    pub total_keys: u64,
    /// Revisions of keys, deletions among them.
    pub revisions: u64,
    /// Up to which entry of its log etcd had applied everything. None where it is not written down.
    pub consistent_index: Option<u64>,
    /// The term of that entry.
    pub term: Option<u64>,
    /// The version of the cluster.
    pub cluster_version: Option<String>,
    /// The version of the storage, since etcd 3.6.
    pub storage_version: Option<String>,
    /// The members.
    pub members: Vec<MemberInfo>,
}

/// A member, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberInfo {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name. Empty when it never started.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Whether it only listens.
    pub is_learner: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMember {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default)]
    is_learner: bool,
}

/// Reads the database in the first `length` bytes of `source`.
pub(super) fn read<S: ReadAt + ?Sized>(source: &S, length: u64) -> Result<Contents, Fault> {
    let mut reader =
        Reader { contents: Contents::default(), crc: !0, bucket: Bucket::Other, kept: None, has_keys: false };
    let meta = walk(source, length, &mut reader)?;
    reader.finish()?;
    if !reader.has_keys {
        return Err(Fault::Foreign("it has no bucket for keys"));
    }
    let mut contents = reader.contents;
    contents.database_bytes = meta.bytes();
    contents.crc32c = !reader.crc;
    Ok(contents)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Key,
    Meta,
    Members,
    Cluster,
    Other,
}

struct Reader {
    contents: Contents,
    crc: u32,
    bucket: Bucket,
    /// A key of a small bucket, and its value as far as it came.
    kept: Option<(Vec<u8>, Vec<u8>)>,
    has_keys: bool,
}

impl Visit for Reader {
    fn bucket(&mut self, name: &[u8]) -> Result<(), Fault> {
        self.finish()?;
        self.crc = crc32c(self.crc, name);
        self.bucket = match name {
            b"key" => Bucket::Key,
            b"meta" => Bucket::Meta,
            b"members" => Bucket::Members,
            b"cluster" => Bucket::Cluster,
            _ => Bucket::Other,
        };
        self.has_keys |= self.bucket == Bucket::Key;
        Ok(())
    }

    fn key(&mut self, key: &[u8], value: u64) -> Result<(), Fault> {
        self.finish()?;
        self.crc = crc32c(self.crc, key);
        self.contents.total_keys += 1;
        match self.bucket {
            Bucket::Key => {
                let revision = revision(key).ok_or(Fault::Foreign("a key of it is no revision"))?;
                self.contents.revisions += 1;
                self.contents.revision = self.contents.revision.max(revision);
            }
            Bucket::Meta | Bucket::Members | Bucket::Cluster if value <= MAX_KEPT_BYTES as u64 => {
                self.kept = Some((key.to_vec(), Vec::new()));
            }
            Bucket::Meta | Bucket::Members | Bucket::Cluster | Bucket::Other => {}
        }
        Ok(())
    }

    fn value(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.crc = crc32c(self.crc, piece);
        if let Some((_, value)) = &mut self.kept {
            value.extend_from_slice(piece);
        }
        Ok(())
    }
}

impl Reader {
    /// The value that was kept is whole.
    fn finish(&mut self) -> Result<(), Fault> {
        let Some((key, value)) = self.kept.take() else { return Ok(()) };
        let number = || <[u8; 8]>::try_from(&*value).ok().map(u64::from_be_bytes);
        let text = || Some(String::from_utf8_lossy(&value).into_owned());
        match (self.bucket, &*key) {
            (Bucket::Meta, b"consistent_index") => self.contents.consistent_index = number(),
            (Bucket::Meta, b"term") => self.contents.term = number(),
            (Bucket::Meta, b"storageVersion") => self.contents.storage_version = text(),
            (Bucket::Cluster, b"clusterVersion") => self.contents.cluster_version = text(),
            (Bucket::Members, _) => {
                let unreadable = |_| Fault::Foreign("a member of it cannot be read");
                let member: RawMember = serde_json::from_slice(&value).map_err(unreadable)?;
                if self.contents.members.len() >= MAX_MEMBERS {
                    return Err(Fault::Foreign("it has too many members"));
                }
                self.contents.members.push(MemberInfo {
                    id: format!("{:016x}", member.id),
                    name: member.name,
                    peer_urls: member.peer_urls,
                    is_learner: member.is_learner,
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// The revision in a key: 8 bytes, `_`, 8 bytes within a transaction, and `t` when it deletes (etcd:
/// server/storage/mvcc/revision.go).
fn revision(key: &[u8]) -> Option<u64> {
    let is_one =
        matches!(key.len(), 17 | 18) && key.get(8) == Some(&b'_') && key.get(17).is_none_or(|it| *it == b't');
    let main = <[u8; 8]>::try_from(key.get(..8)?).ok().filter(|_| is_one)?;
    // Revisions are signed in etcd.
    u64::try_from(i64::from_be_bytes(main)).ok()
}

/// Continues a CRC-32C (Castagnoli).
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0x82f6_3b78 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_castagnoli() {
        // The check value of CRC-32C: RFC 3720, appendix B.4, has others of the same polynomial.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn revisions_are_taken_out_of_keys() {
        let key = |main: u64, tail: &[u8]| [&main.to_be_bytes()[..], b"_", &[0; 8], tail].concat();
        assert_eq!(revision(&key(7, b"")), Some(7));
        assert_eq!(revision(&key(8, b"t")), Some(8));
        for wrong in [key(7, b"x"), key(7, b"tt"), key(u64::MAX, b""), b"short".to_vec(), vec![0; 17]] {
            assert_eq!(revision(&wrong), None, "{wrong:?}");
        }
    }
}
