//! What etcd keeps on its disk, and snapshots of it.

use ring::digest::{Context, SHA256};

use super::bolt::{self, Bucket, Database, Large};
use super::etcd::Etcd;
use super::refusal::Refusal;

/// What a snapshot brings back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(super) index: u64,
    pub(super) writes: Vec<(String, String)>,
}

/// A snapshot that is made while it is read: the database, and its SHA-256 behind it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    database: Database,
    saved: Saved,
}

impl Snapshot {
    /// The file in pieces. `done` is told the hash and what it stands for, before the hash comes.
    pub(crate) fn pieces(
        self,
        done: impl FnOnce([u8; 32], Saved) + Send,
    ) -> impl Iterator<Item = Vec<u8>> + Send {
        let mut pieces = self.database.pieces();
        let mut rest = Some((Context::new(&SHA256), done, self.saved));
        std::iter::from_fn(move || {
            if let Some(piece) = pieces.next() {
                rest.as_mut()?.0.update(&piece);
                return Some(piece);
            }
            let (hash, done, saved) = rest.take()?;
            let hash = hash.finish();
            done(hash.as_ref().try_into().unwrap_or_default(), saved);
            Some(hash.as_ref().to_vec())
        })
    }
}

/// The largest entry of those that make a database as large as is asked for, in pages: 1 MiB, less than etcd takes.
const PADDING_PAGES: u64 = 256;

impl Etcd {
    /// Makes databases so large, of keys that mean nothing; `None` for as large as they are.
    pub fn set_database_bytes(&mut self, bytes: Option<u64>) {
        self.database_bytes = bytes;
    }

    /// A snapshot of the member of `node`, made while it is read. It means something to a recovery only when its hash
    /// is remembered.
    pub(crate) fn stream(&self, node: &str) -> Result<Snapshot, Refusal> {
        self.running(node)?;
        let saved = Saved { index: self.index, writes: self.writes.clone() };
        Ok(Snapshot { database: self.database(node), saved })
    }

    pub(crate) fn remember(&mut self, sha256: [u8; 32], saved: Saved) {
        self.saved.insert(sha256, saved);
    }

    /// A whole snapshot of the member of `node`.
    #[cfg(test)]
    pub(crate) fn snapshot(&mut self, node: &str) -> Result<Vec<u8>, Refusal> {
        let mut made = None;
        let file = self.stream(node)?.pieces(|hash, saved| made = Some((hash, saved))).flatten().collect();
        if let Some((hash, saved)) = made {
            self.remember(hash, saved);
        }
        Ok(file)
    }

    /// What a snapshot whose database has this hash brings back. Only those of this model mean anything to it.
    pub(crate) fn saved(&self, sha256: &[u8; 32]) -> Option<&Saved> {
        self.saved.get(sha256)
    }

    pub(super) fn database(&self, node: &str) -> Database {
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
        let bucket = |name, entries| Bucket { name, entries, large: Vec::new() };
        let empty = ["alarm", "auth", "authRoles", "authUsers", "lease"];
        let mut buckets: Vec<Bucket> = empty.into_iter().map(|name| bucket(name, Vec::new())).collect();
        buckets.push(bucket("cluster", vec![(b"clusterVersion".to_vec(), b"3.6.0".to_vec())]));
        buckets.push(bucket("key", writes));
        buckets.push(bucket("members", members.collect()));
        buckets.push(bucket("members_removed", removed.collect()));
        buckets.push(bucket("meta", meta));
        let Some(bytes) = self.database_bytes else { return bolt::database(buckets, self.index) };
        let wanted = bytes / bolt::PAGE as u64;
        let least = bolt::database(buckets.clone(), self.index).len() / bolt::PAGE as u64;
        let first = self.writes.len() as u64 + 2;
        // What the pages of the tree take is taken from the padding again.
        let padded = |pages: u64| {
            let mut buckets = buckets.clone();
            let key = buckets.iter_mut().find(|bucket| bucket.name == "key");
            key.into_iter().for_each(|bucket| bucket.large = padding(first, pages));
            bolt::database(buckets, self.index)
        };
        let missing = wanted.saturating_sub(least);
        let database = padded(missing);
        let excess = (database.len() / bolt::PAGE as u64).saturating_sub(wanted);
        padded(missing.saturating_sub(excess))
    }
}

/// Entries of so many pages, from a revision on.
fn padding(first: u64, pages: u64) -> Vec<Large> {
    let sizes = std::iter::repeat_n(PADDING_PAGES, usize::try_from(pages / PADDING_PAGES).unwrap_or(0));
    let sizes = sizes.chain([pages % PADDING_PAGES]).filter(|pages| *pages > 0);
    let large = |(revision, pages): (u64, u64)| {
        let (key, pages) = (main(revision), usize::try_from(pages).unwrap_or(1));
        let length = Large::value_len(key.len(), pages);
        let mut start = stored(revision, &format!("/ichor-lab/padding/{revision}"), "");
        // The value, which is empty so far, takes the rest: its tag stays, its length comes anew.
        start.pop();
        let rest = length - start.len();
        let width = if rest - 2 < 1 << 14 { 2 } else { 3 };
        prost::encoding::encode_varint((rest - width) as u64, &mut start);
        Large { key, start, filler: revision as u8, pages }
    };
    (first..).zip(sizes).map(large).collect()
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
    prost::encoding::encode_key(5, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use ring::digest::digest;

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

    #[test]
    fn a_database_is_as_large_as_is_asked_for_and_every_value_in_it_is_whole() {
        let mut etcd = Etcd::default();
        etcd.start("b", vec!["10.0.0.1".to_owned()]);
        for pages in [0, 9, 10, 11, 13, 14, 265, 266, 1000, 30_000] {
            let bytes = pages * bolt::PAGE as u64;
            etcd.set_database_bytes(Some(bytes));
            let length = etcd.database("b").len();
            // A single page of padding brings a page of the tree along.
            let least = etcd.database_bytes.map(|_| 5 * bolt::PAGE as u64).unwrap_or_default();
            assert!(length.abs_diff(bytes.max(least)) <= 2 * bolt::PAGE as u64, "{pages} pages: {length}");
        }
        for pages in [1, 4, 5, 256] {
            let large = padding(9, pages).remove(0);
            let length = Large::value_len(large.key.len(), large.pages);
            let mut value = large.start.clone();
            value.resize(length, large.filler);
            // The last field ends where the value does.
            let mut rest = &large.start[stored(9, "/ichor-lab/padding/9", "").len() - 1..];
            let said = prost::encoding::decode_varint(&mut rest).unwrap();
            assert_eq!(large.start.len() as u64 + said, value.len() as u64, "{pages} pages");
        }
    }
}
