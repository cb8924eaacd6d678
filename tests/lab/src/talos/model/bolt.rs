//! A bbolt database, written in one go: what etcd keeps its data in.
//!
//! Layout as in bbolt's `page.go`, `bucket.go` and `db.go`: pages of 4096 bytes, of which the first two are meta
//! pages with a checksum, then the list of free pages and the leaf of the root bucket. Numbers are little-endian.
//! Buckets are stored inline, inside their element of the root, except one with entries too large to be held here: that
//! one has pages of its own, which are made when they are read.

use std::iter;

/// Size of a page.
pub(crate) const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// Marks an element that holds a bucket.
const IS_BUCKET: u32 = 0x01;
/// The page number of the list of free pages, and of the root bucket.
const FREE_LIST_PAGE: u64 = 2;
const ROOT_PAGE: u64 = 3;
/// Most children of a branch: what fits into a page, for keys as short as revisions.
const FANOUT: usize = 100;
/// The bytes after the beginning of a large value come in pieces of this size.
const PIECE: usize = 32 << 10;
/// Free pages are not listed but found again when the file is opened.
const FREE_LIST_EMPTY: u16 = 0;

/// A bucket: keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is in it.
    pub(crate) entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is in it behind that, by their keys.
    pub(crate) large: Vec<Large>,
}

/// An entry with a large value, which fills whole pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Large {
    pub(crate) key: Vec<u8>,
    /// How its value begins.
    pub(crate) start: Vec<u8>,
    /// What the rest of it is made of.
    pub(crate) filler: u8,
    pub(crate) pages: usize,
}

impl Large {
    /// The length of a value whose entry fills so many pages.
    pub(crate) const fn value_len(key_len: usize, pages: usize) -> usize {
        pages * PAGE - PAGE_HEADER - ELEMENT - key_len
    }

    fn pieces(self, id: u64) -> impl Iterator<Item = Vec<u8>> + Send {
        let length = Self::value_len(self.key.len(), self.pages);
        let mut page = header(id, LEAF, 1, overflow(self.pages));
        page.extend(0_u32.to_le_bytes());
        page.extend(number(ELEMENT));
        page.extend(number(self.key.len()));
        page.extend(number(length));
        page.extend(&self.key);
        page.extend(&self.start);
        let rest = length - self.start.len();
        let filler = self.filler;
        let whole = iter::repeat_n(PIECE, rest / PIECE).chain([rest % PIECE]);
        iter::once(page).chain(whole.map(move |length| vec![filler; length]))
    }
}

/// A database that is made while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    head: Vec<u8>,
    large: Vec<Large>,
}

impl Database {
    pub(crate) fn len(&self) -> u64 {
        let pages: usize = self.large.iter().map(|large| large.pages).sum();
        (self.head.len() + pages * PAGE) as u64
    }

    pub(crate) fn pieces(self) -> impl Iterator<Item = Vec<u8>> + Send {
        let first = self.head.len() / PAGE;
        let ids = self.large.iter().scan(first, |next, large| {
            let id = *next;
            *next += large.pages;
            Some(id as u64)
        });
        let ids: Vec<u64> = ids.collect();
        let large = ids.into_iter().zip(self.large).flat_map(|(id, large)| large.pieces(id));
        iter::once(self.head).chain(large)
    }
}

/// A database with `buckets`, as its transaction `txid` left it. One bucket at most has large entries.
pub(crate) fn database(mut buckets: Vec<Bucket>, txid: u64) -> Database {
    buckets.sort_by_key(|bucket| bucket.name);
    buckets.iter_mut().for_each(|bucket| bucket.entries.sort());
    // Where the pages of their own begin is known when the root is, whose size does not depend on it.
    let root_pages = root(&buckets, 0).len().div_ceil(PAGE);
    let first = ROOT_PAGE + root_pages as u64;
    let mut root = root(&buckets, first);
    root[12..16].copy_from_slice(&overflow(root_pages).to_le_bytes());
    root.resize(root_pages * PAGE, 0);
    let own = buckets.iter_mut().find(|bucket| !bucket.large.is_empty()).map(|bucket| {
        let large = std::mem::take(&mut bucket.large);
        (tree(bucket, &large, first), large)
    });
    let (tree, large) = own.unwrap_or_default();
    let large_pages: usize = large.iter().map(|large| large.pages).sum();
    let high_water = first + (tree.len() / PAGE + large_pages) as u64;
    let mut head = Vec::with_capacity(3 * PAGE + root.len() + tree.len());
    // The older of the two meta pages is of the transaction before.
    for (id, txid) in [(0, txid.saturating_sub(1)), (1, txid)] {
        head.extend(padded(meta(id, txid, high_water)));
    }
    head.extend(padded(header(FREE_LIST_PAGE, FREE_LIST, FREE_LIST_EMPTY, 0)));
    head.extend(root);
    head.extend(tree);
    Database { head, large }
}

/// The leaf of the root bucket. `own` is where the pages of the bucket begin that has some.
fn root(buckets: &[Bucket], own: u64) -> Vec<u8> {
    let elements = buckets.iter().map(|bucket| {
        // The header of a bucket: its root page, and sequence 0. Inline buckets have page 0.
        let is_inline = bucket.large.is_empty();
        let mut value = if is_inline { 0 } else { own }.to_le_bytes().to_vec();
        value.extend(0_u64.to_le_bytes());
        if is_inline {
            let entries = bucket.entries.iter().map(|(key, value)| (0, key.clone(), value.clone())).collect();
            value.extend(leaf(0, entries));
        }
        (IS_BUCKET, bucket.name.as_bytes().to_vec(), value)
    });
    leaf(ROOT_PAGE, elements.collect())
}

/// The pages of a bucket but for those of its large entries: branches, the topmost first, and the leaf of the others.
fn tree(bucket: &Bucket, large: &[Large], first: u64) -> Vec<u8> {
    let entries: Vec<_> = bucket.entries.iter().map(|(key, value)| (0, key.clone(), value.clone())).collect();
    let mut small = if entries.is_empty() { Vec::new() } else { leaf(0, entries) };
    small.resize(small.len().div_ceil(PAGE) * PAGE, 0);
    let small_pages = small.len() / PAGE;
    let own = bucket.entries.first().map(|(key, _)| (key.as_slice(), small_pages));
    let leaves: Vec<(&[u8], usize)> =
        own.into_iter().chain(large.iter().map(|large| (large.key.as_slice(), large.pages))).collect();
    // How many nodes each level has, from the leaves up.
    let mut levels = vec![leaves.len()];
    while let Some(count) = levels.last().copied().filter(|count| *count > 1) {
        levels.push(count.div_ceil(FANOUT));
    }
    let branches: usize = levels[1..].iter().sum();
    let mut next_leaf = first + branches as u64;
    let mut children: Vec<(&[u8], u64)> = leaves
        .iter()
        .map(|(key, pages)| {
            let id = next_leaf;
            next_leaf += *pages as u64;
            (*key, id)
        })
        .collect();
    if let Some(count) = (small_pages > 0).then(|| overflow(small_pages)) {
        small[..8].copy_from_slice(&(first + branches as u64).to_le_bytes());
        small[12..16].copy_from_slice(&count.to_le_bytes());
    }
    let mut pages = Vec::new();
    let mut end = first + branches as u64;
    for count in &levels[1..] {
        end -= *count as u64;
        let level: Vec<Vec<u8>> =
            (end..).zip(children.chunks(FANOUT)).map(|(id, it)| branch(id, it)).collect();
        children = (end..).zip(children.chunks(FANOUT)).map(|(id, children)| (children[0].0, id)).collect();
        pages.push(level.concat());
    }
    pages.reverse();
    let mut pages = pages.concat();
    pages.extend(small);
    pages
}

fn branch(id: u64, children: &[(&[u8], u64)]) -> Vec<u8> {
    let mut page = header(id, BRANCH, u16::try_from(children.len()).unwrap_or(u16::MAX), 0);
    let mut distance = children.len() * ELEMENT;
    for (key, child) in children {
        page.extend(number(distance));
        page.extend(number(key.len()));
        page.extend(child.to_le_bytes());
        distance += key.len();
        distance -= ELEMENT;
    }
    children.iter().for_each(|(key, _)| page.extend(*key));
    padded(page)
}

fn overflow(pages: usize) -> u32 {
    u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn padded(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(PAGE, 0);
    page
}

fn header(id: u64, flags: u16, count: u16, overflow: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE);
    bytes.extend(id.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(overflow.to_le_bytes());
    bytes
}

fn leaf(id: u64, entries: Vec<(u32, Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    let mut page = header(id, LEAF, count, 0);
    // Where the data of an element is, from the element itself.
    let mut distance = entries.len() * ELEMENT;
    for (flags, key, value) in &entries {
        page.extend(flags.to_le_bytes());
        page.extend(number(distance));
        page.extend(number(key.len()));
        page.extend(number(value.len()));
        distance += key.len() + value.len();
        distance -= ELEMENT;
    }
    for (_, key, value) in entries {
        page.extend(key);
        page.extend(value);
    }
    page
}

fn meta(id: u64, txid: u64, high_water: u64) -> Vec<u8> {
    let mut page = header(id, META, 0, 0);
    page.extend(MAGIC.to_le_bytes());
    page.extend(VERSION.to_le_bytes());
    page.extend((PAGE as u32).to_le_bytes());
    page.extend(0_u32.to_le_bytes());
    for number in [ROOT_PAGE, 0, FREE_LIST_PAGE, high_water, txid] {
        page.extend(number.to_le_bytes());
    }
    let checksum = fnv1a(&page[PAGE_HEADER..]);
    page.extend(checksum.to_le_bytes());
    page
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn whole(buckets: Vec<Bucket>, txid: u64) -> Vec<u8> {
        let database = database(buckets, txid);
        let length = database.len();
        let file: Vec<u8> = database.pieces().flatten().collect();
        assert_eq!(file.len() as u64, length);
        file
    }

    /// The keys that are found below a page, in their order.
    fn keys(file: &[u8], page: u64) -> Vec<Vec<u8>> {
        let page = &file[page as usize * PAGE..];
        let short = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap()) as usize;
        let flags = u16::from_le_bytes(page[8..10].try_into().unwrap());
        let count = usize::from(u16::from_le_bytes(page[10..12].try_into().unwrap()));
        let elements = (0..count).map(|n| PAGE_HEADER + n * ELEMENT);
        match flags {
            LEAF => elements.map(|at| page[at + short(at + 4)..][..short(at + 8)].to_vec()).collect(),
            BRANCH => elements
                .flat_map(|at| {
                    let below = keys(file, number(page, at + 8));
                    assert_eq!(below[0], page[at + short(at)..][..short(at + 4)]);
                    below
                })
                .collect(),
            other => panic!("a page of kind {other}"),
        }
    }

    #[test]
    fn large_entries_are_found_through_branches_and_fill_whole_pages() {
        for (small, count) in [(0, 1), (1, 1), (3, 99), (2, 250)] {
            let key = |n: usize| format!("key {n:05}").into_bytes();
            let large = |n: usize| Large { key: key(n), start: vec![1, 2], filler: 7, pages: 1 + n % 3 };
            let bucket = Bucket {
                name: "key",
                entries: (0..small).map(|n| (key(n), vec![3; 9])).collect(),
                large: (small..small + count).map(large).collect(),
            };
            let file = whole(vec![bucket, Bucket { name: "meta", ..Bucket::default() }], 2);
            assert_eq!(number(&file, PAGE_HEADER + 40), (file.len() / PAGE) as u64, "the high-water mark");
            // The first page after the root is where the bucket begins.
            let found = keys(&file, ROOT_PAGE + 1);
            assert_eq!(found, (0..small + count).map(key).collect::<Vec<_>>());
        }
    }

    #[test]
    fn both_meta_pages_carry_a_checksum_over_what_is_before_it() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        let file = whole(vec![], 7);
        for (page, txid) in [(0, 6), (1, 7)] {
            let meta = &file[page * PAGE + PAGE_HEADER..];
            assert_eq!(number(meta, 48), txid);
            assert_eq!(number(meta, 56), fnv1a(&meta[..56]));
        }
    }

    #[test]
    fn a_bucket_longer_than_a_page_overflows_into_the_next() {
        let entries = vec![(b"key".to_vec(), vec![1; 3 * PAGE])];
        let file = whole(vec![Bucket { name: "key", entries, large: Vec::new() }], 2);
        assert_eq!(file.len() % PAGE, 0);
        let root = &file[3 * PAGE..];
        assert_eq!(u32::from_le_bytes(root[12..16].try_into().unwrap()), 3);
        // The high-water mark is the number of pages.
        assert_eq!(number(&file, PAGE_HEADER + 40), (file.len() / PAGE) as u64);
    }
}
