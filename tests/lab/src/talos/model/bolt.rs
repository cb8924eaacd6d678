//! A bbolt database, written in one go: what etcd keeps its data in.
//!
//! Layout as in bbolt's `page.go`, `bucket.go` and `db.go`: pages of 4096 bytes, of which the first two are meta
//! pages with a checksum, then the list of free pages and the leaf of the root bucket. Numbers are little-endian.
//! Buckets are stored inline, inside their element of the root.

/// Size of a page.
const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// Marks an element that holds a bucket.
const IS_BUCKET: u32 = 0x01;
/// The page number of the list of free pages, and of the root bucket.
const FREE_LIST_PAGE: u64 = 2;
const ROOT_PAGE: u64 = 3;
/// Free pages are not listed but found again when the file is opened.
const FREE_LIST_EMPTY: u16 = 0;

/// A bucket: keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is in it.
    pub(crate) entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The bytes of a database with `buckets`, as its transaction `txid` left it.
pub(crate) fn database(mut buckets: Vec<Bucket>, txid: u64) -> Vec<u8> {
    buckets.sort_by_key(|bucket| bucket.name);
    let elements = buckets.into_iter().map(|mut bucket| {
        bucket.entries.sort();
        let entries = bucket.entries.into_iter().map(|(key, value)| (0, key, value)).collect();
        // The header of an inline bucket: no root page, sequence 0.
        let mut value = vec![0; 16];
        value.extend(leaf(0, entries, 0));
        (IS_BUCKET, bucket.name.as_bytes().to_vec(), value)
    });
    let mut root = leaf(ROOT_PAGE, elements.collect(), 0);
    let pages = root.len().div_ceil(PAGE);
    let overflow = u32::try_from(pages - 1).unwrap_or(u32::MAX);
    root[12..16].copy_from_slice(&overflow.to_le_bytes());
    root.resize(pages * PAGE, 0);

    let high_water = ROOT_PAGE + pages as u64;
    let mut file = Vec::with_capacity(3 * PAGE + root.len());
    // The older of the two meta pages is of the transaction before.
    for (id, txid) in [(0, txid.saturating_sub(1)), (1, txid)] {
        file.extend(padded(meta(id, txid, high_water)));
    }
    file.extend(padded(header(FREE_LIST_PAGE, FREE_LIST, FREE_LIST_EMPTY, 0)));
    file.extend(root);
    file
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

fn leaf(id: u64, entries: Vec<(u32, Vec<u8>, Vec<u8>)>, overflow: u32) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    let mut page = header(id, LEAF, count, overflow);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
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

    #[test]
    fn both_meta_pages_carry_a_checksum_over_what_is_before_it() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        let file = database(vec![], 7);
        for (page, txid) in [(0, 6), (1, 7)] {
            let meta = &file[page * PAGE + PAGE_HEADER..];
            assert_eq!(number(meta, 48), txid);
            assert_eq!(number(meta, 56), fnv1a(&meta[..56]));
        }
    }

    #[test]
    fn a_bucket_longer_than_a_page_overflows_into_the_next() {
        let entries = vec![(b"key".to_vec(), vec![1; 3 * PAGE])];
        let file = database(vec![Bucket { name: "key", entries }], 2);
        assert_eq!(file.len() % PAGE, 0);
        let root = &file[3 * PAGE..];
        assert_eq!(u32::from_le_bytes(root[12..16].try_into().unwrap()), 3);
        // The high-water mark is the number of pages.
        assert_eq!(number(&file, PAGE_HEADER + 40), (file.len() / PAGE) as u64);
    }
}
