//! What etcd keeps on its disk, and snapshots of it.

use ring::digest::{SHA256, digest};

use super::bolt::{self, Bucket};
use super::etcd::Etcd;
use super::refusal::Refusal;

/// What a snapshot brings back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(super) index: u64,
    pub(super) writes: Vec<(String, String)>,
}

impl Etcd {
    /// The database of the member of `node`, and its SHA-256 behind it.
    pub(crate) fn snapshot(&mut self, node: &str) -> Result<Vec<u8>, Refusal> {
        self.running(node)?;
        let mut file = self.database(node);
        let hash = digest(&SHA256, &file);
        let saved = Saved { index: self.index, writes: self.writes.clone() };
        self.saved.insert(hash.as_ref().try_into().unwrap_or_default(), saved);
        file.extend_from_slice(hash.as_ref());
        Ok(file)
    }

    /// What a snapshot whose database has this hash brings back. Only those of this model mean anything to it.
    pub(crate) fn saved(&self, sha256: &[u8; 32]) -> Option<&Saved> {
        self.saved.get(sha256)
    }

    pub(super) fn database(&self, node: &str) -> Vec<u8> {
        let name = |id: u64| format!("{id:x}").into_bytes();
        let members = self.members().iter().map(|member| {
            let peers: Vec<String> =
                member.advertised.iter().map(|address| format!("https://{address}:2380")).collect();
            let value = serde_json::json!({"id": member.id, "name": member.node, "peerURLs": peers});
            (name(member.id), value.to_string().into_bytes())
        });
        let meta = vec![
            (b"consistent_index".to_vec(), self.index.to_be_bytes().to_vec()),
            (b"term".to_vec(), self.index.to_be_bytes().to_vec()),
        ];
        // The first says whose database it is.
        let first = (format!("/ichor-lab/{node}"), String::new());
        let writes = std::iter::once(&first).chain(&self.writes);
        let writes: Vec<(Vec<u8>, Vec<u8>)> = (1_u64..)
            .zip(writes)
            .map(|(revision, (key, value))| (main(revision), stored(revision, key, value)))
            .collect();
        let removed = self.removed.iter().map(|id| (name(*id), b"removed".to_vec()));
        let bucket = |name, entries| Bucket { name, entries };
        let empty = ["alarm", "auth", "authRoles", "authUsers", "lease"];
        let mut buckets: Vec<Bucket> = empty.into_iter().map(|name| bucket(name, Vec::new())).collect();
        buckets.push(bucket("cluster", vec![(b"clusterVersion".to_vec(), b"3.6.0".to_vec())]));
        buckets.push(bucket("key", writes));
        buckets.push(bucket("members", members.collect()));
        buckets.push(bucket("members_removed", removed.collect()));
        buckets.push(bucket("meta", meta));
        bolt::database(buckets, self.index)
    }
}

/// The key of the first change in a revision (etcd: mvcc's revision).
fn main(revision: u64) -> Vec<u8> {
    let mut bytes = revision.to_be_bytes().to_vec();
    bytes.push(b'_');
    bytes.extend(0_u64.to_be_bytes());
    bytes
}

/// A key and its value as they are stored (etcd: mvccpb.KeyValue).
fn stored(revision: u64, key: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(1, &key.as_bytes().to_vec(), &mut bytes);
    for tag in [2, 3] {
        prost::encoding::uint64::encode(tag, &revision, &mut bytes);
    }
    prost::encoding::uint64::encode(4, &1, &mut bytes);
    prost::encoding::bytes::encode(5, &value.as_bytes().to_vec(), &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_whole_blocks_and_their_hash() {
        let mut etcd = Etcd::default();
        etcd.start("b", vec!["10.0.0.1".to_owned()]);
        etcd.put("/registry/x", "1").unwrap();
        let file = etcd.snapshot("b").unwrap();
        assert_eq!(file.len() % 512, 32);
        let (body, trailer) = file.split_at(file.len() - 32);
        assert_eq!(digest(&SHA256, body).as_ref(), trailer);
        assert_eq!(etcd.saved(trailer.try_into().unwrap()).unwrap().writes.len(), 1);
    }
}
