//! A reader of bbolt files: what etcd keeps its data in.
//!
//! Layout as in bbolt's `internal/common` (page.go, meta.go, bucket.go): pages of one size; the first two are meta
//! pages with a checksum, of which the younger valid one counts; buckets are B+ trees of branch and leaf pages, small
//! ones lie inline in the element that names them. Numbers are little-endian.
//!
//! The whole database is walked, as bbolt's `Tx.Check` does: each page belongs to one place, keys are in order, and no
//! page is lost. The file is read in bounded pieces. It may have been made by anybody: nothing in it is believed, and
//! the time for it is bounded by its size.

mod page;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use self::page::{Kind, Leaf, Page};

/// What the first four bytes of a meta page are.
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: u64 = 16;
/// Length of a meta page's content, of which the last 8 are the checksum.
const META_BYTES: usize = 64;
const META_SUMMED: usize = 56;
/// Page sizes that a system may have.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=17;
/// In place of the page of free pages: they are not written down.
const NO_FREE_LIST: u64 = u64::MAX;
/// Trees of billions of keys are less deep.
const MAX_DEPTH: usize = 24;
/// A database of etcd has a dozen buckets.
const MAX_BUCKETS: usize = 256;
/// Names of buckets are short, and inline buckets are smaller than a quarter of a page.
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_INLINE_BYTES: u64 = 64 << 10;
/// The header of a bucket: its root page, 0 when it is inline, and a counter.
const BUCKET_HEADER: usize = 16;

/// Bytes that can be read anywhere.
pub(super) trait ReadAt {
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Told of what is in a database, in the order of its keys.
pub(super) trait Visit {
    /// A bucket begins.
    fn bucket(&mut self, name: &[u8]) -> Result<(), Fault>;
    /// A key, with the length of its value.
    fn key(&mut self, key: &[u8], value: u64) -> Result<(), Fault>;
    /// A piece of the value of that key.
    fn value(&mut self, piece: &[u8]) -> Result<(), Fault>;
}

/// What makes a file no whole database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It could not be read.
    #[error("failed to read it")]
    Read(#[from] io::Error),
    /// Neither meta page is valid.
    #[error("it is no bbolt database: neither of its meta pages is valid")]
    Meta,
    /// It ends before its last page.
    #[error("it is cut: its {pages} pages of {page_size} bytes are more than its {bytes} bytes")]
    Cut {
        /// Pages that it should have.
        pages: u64,
        /// Size of a page in bytes.
        page_size: u32,
        /// What it has.
        bytes: u64,
    },
    /// A page that is named is not one.
    #[error("page {0} is outside the database")]
    Outside(u64),
    /// A page belongs to two places.
    #[error("page {0} is used twice")]
    Twice(u64),
    /// A page belongs to no place.
    #[error("page {0} is neither used nor free")]
    Lost(u64),
    /// What is in a page is not what should be.
    #[error("page {page} is damaged: {problem}")]
    Page {
        /// The page.
        page: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The tree of a bucket is deeper than any.
    #[error("a tree of pages is deeper than {MAX_DEPTH}")]
    Deep,
    /// It is a database, but not one of etcd.
    #[error("it is no database of etcd: {0}")]
    Foreign(&'static str),
}

/// What the meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: u32,
    root: u64,
    free_list: u64,
    /// The number of pages.
    pages: u64,
    transaction: u64,
}

impl Meta {
    /// The size of the database in bytes.
    pub(super) fn bytes(&self) -> u64 {
        // Checked when it was read.
        self.pages * u64::from(self.page_size)
    }
}

/// Walks the database in the first `length` bytes of `source`.
pub(super) fn walk<S: ReadAt + ?Sized>(
    source: &S,
    length: u64,
    visit: &mut impl Visit,
) -> Result<Meta, Fault> {
    let meta = meta(source, length)?;
    let mut database = Database { source, meta, used: Used::new(meta.pages) };
    let mut buckets = Buckets::default();
    database.tree(meta.root, &mut buckets)?;
    for (name, value) in buckets.found {
        visit.bucket(&name)?;
        let (header, inline) = value.split_at(BUCKET_HEADER);
        match number(header, 0) {
            0 => {
                let page = Page::inline(inline)?;
                leaf(&page, &mut Order::default(), &mut Entries(visit))?;
            }
            root => database.tree(root, &mut Entries(visit))?,
        }
    }
    database.free_list()?;
    Ok(meta)
}

/// The younger of the valid meta pages. Where the first is not valid, the place of the second is not known: it is the
/// size of a page.
fn meta<S: ReadAt + ?Sized>(source: &S, length: u64) -> Result<Meta, Fault> {
    let first = meta_at(source, 0, length)?;
    let second = match first {
        Some(first) => meta_at(source, first.page_size.into(), length)?,
        None => {
            let mut found = None;
            for size in PAGE_SIZES.map(|bits| 1_u32 << bits) {
                let meta = meta_at(source, size.into(), length)?;
                found = found.or(meta.filter(|meta| meta.page_size == size));
            }
            found
        }
    };
    let valid = first.into_iter().chain(second);
    let meta = valid.max_by_key(|meta| meta.transaction).ok_or(Fault::Meta)?;
    let bytes = meta.pages.checked_mul(meta.page_size.into());
    if bytes.is_none_or(|bytes| bytes > length) {
        return Err(Fault::Cut { pages: meta.pages, page_size: meta.page_size, bytes: length });
    }
    Ok(meta)
}

fn meta_at<S: ReadAt + ?Sized>(source: &S, at: u64, length: u64) -> Result<Option<Meta>, Fault> {
    let mut bytes = [0; META_BYTES];
    if at + PAGE_HEADER + META_BYTES as u64 > length {
        return Ok(None);
    }
    source.read_at(&mut bytes, at + PAGE_HEADER)?;
    let page_size = number32(&bytes, 8);
    let is_valid = number32(&bytes, 0) == MAGIC
        && number32(&bytes, 4) == VERSION
        && number(&bytes, META_SUMMED) == fnv1a(&bytes[..META_SUMMED])
        && page_size.is_power_of_two()
        && PAGE_SIZES.contains(&page_size.trailing_zeros());
    Ok(is_valid.then(|| Meta {
        page_size,
        root: number(&bytes, 16),
        free_list: number(&bytes, 32),
        pages: number(&bytes, 40),
        transaction: number(&bytes, 48),
    }))
}

struct Database<'a, S: ?Sized> {
    source: &'a S,
    meta: Meta,
    used: Used,
}

/// What is done with the elements of leaf pages.
trait Elements {
    fn element<S: ReadAt + ?Sized>(&mut self, leaf: &Leaf<'_, S>) -> Result<(), Fault>;
}

/// The tree of the root holds buckets.
#[derive(Default)]
struct Buckets {
    found: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The others hold keys.
struct Entries<'a, V>(&'a mut V);

impl Elements for Buckets {
    fn element<S: ReadAt + ?Sized>(&mut self, leaf: &Leaf<'_, S>) -> Result<(), Fault> {
        if !leaf.is_bucket {
            return Err(Fault::Foreign("it has keys outside of buckets"));
        }
        let is_short = leaf.key.len() <= MAX_NAME_BYTES && leaf.value_bytes <= MAX_INLINE_BYTES;
        if !is_short || self.found.len() >= MAX_BUCKETS {
            return Err(Fault::Foreign("it has too many or too large buckets"));
        }
        let mut value = Vec::new();
        leaf.value(&mut |piece| {
            value.extend_from_slice(piece);
            Ok(())
        })?;
        if value.len() < BUCKET_HEADER {
            return Err(leaf.damaged("a bucket has no header"));
        }
        self.found.push((leaf.key.to_vec(), value));
        Ok(())
    }
}

impl<V: Visit> Elements for Entries<'_, V> {
    fn element<S: ReadAt + ?Sized>(&mut self, leaf: &Leaf<'_, S>) -> Result<(), Fault> {
        if leaf.is_bucket {
            return Err(Fault::Foreign("it has buckets inside of buckets"));
        }
        self.0.key(leaf.key, leaf.value_bytes)?;
        leaf.value(&mut |piece| self.0.value(piece))
    }
}

/// The keys of a tree so far: they rise from page to page, and a subtree has none below the key that leads to it.
#[derive(Default)]
struct Order {
    last: Option<Vec<u8>>,
    floor: Option<Vec<u8>>,
}

impl Order {
    fn next(&mut self, key: &[u8]) -> bool {
        let rises = self.last.as_deref().is_none_or(|last| last < key);
        let is_above = self.floor.as_deref().is_none_or(|floor| floor <= key);
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        rises && is_above
    }

    /// A subtree begins to which `key` leads.
    fn descend(&mut self, key: Vec<u8>) -> bool {
        let is_above = self.last.as_ref().is_none_or(|last| *last < key);
        self.floor = Some(key);
        is_above
    }
}

impl<S: ReadAt + ?Sized> Database<'_, S> {
    /// Walks the tree with this root, in the order of its keys.
    fn tree(&mut self, root: u64, elements: &mut impl Elements) -> Result<(), Fault> {
        let mut order = Order::default();
        // Pages that come, the next one last, each with its depth and the key that leads to it.
        let mut ahead: Vec<(u64, usize, Option<Vec<u8>>)> = vec![(root, 1, None)];
        while let Some((id, depth, key)) = ahead.pop() {
            if depth > MAX_DEPTH {
                return Err(Fault::Deep);
            }
            if key.is_some_and(|key| !order.descend(key)) {
                return Err(Fault::Page { page: id, problem: "its keys are not in order" });
            }
            let page = self.page(id)?;
            match page.kind {
                Kind::Branch => {
                    let children = page.children()?;
                    let children = children.into_iter().rev();
                    ahead.extend(children.map(|(key, child)| (child, depth + 1, Some(key))));
                }
                Kind::Leaf => leaf(&page, &mut order, elements)?,
                Kind::FreeList => {
                    return Err(Fault::Page { page: id, problem: "it is no part of a tree" });
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, id: u64) -> Result<Page<'_, S>, Fault> {
        let page = Page::open(self.source, id, self.meta.page_size, self.meta.pages)?;
        self.used.take(id, page.pages)?;
        Ok(page)
    }

    /// Reads which pages are free, and makes sure that all others were seen. Where it is not written down, all others
    /// are free.
    fn free_list(&mut self) -> Result<(), Fault> {
        let id = self.meta.free_list;
        if id == NO_FREE_LIST {
            return Ok(());
        }
        let source = self.source;
        let page = Page::open(source, id, self.meta.page_size, self.meta.pages)?;
        self.used.take(id, page.pages)?;
        let used = &mut self.used;
        page.free(&mut |free| used.take(free, 1))?;
        self.used.all()
    }
}

fn leaf<S: ReadAt + ?Sized>(
    page: &Page<'_, S>,
    order: &mut Order,
    elements: &mut impl Elements,
) -> Result<(), Fault> {
    page.elements(&mut |leaf| {
        if !order.next(leaf.key) {
            return Err(leaf.damaged("its keys are not in order"));
        }
        elements.element(leaf)
    })
}

/// Which pages belong to a place. The two meta pages do.
struct Used {
    bits: Vec<u64>,
    pages: u64,
}

impl Used {
    fn new(pages: u64) -> Self {
        // One bit per page of a file that is that long.
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        let mut bits = vec![0; words];
        if let Some(first) = bits.first_mut() {
            *first = 0b11;
        }
        Self { bits, pages }
    }

    fn take(&mut self, first: u64, count: u64) -> Result<(), Fault> {
        let end = first.checked_add(count).filter(|end| *end <= self.pages).ok_or(Fault::Outside(first))?;
        for page in first..end {
            let word = usize::try_from(page / 64).ok().and_then(|index| self.bits.get_mut(index));
            let word = word.ok_or(Fault::Outside(page))?;
            let bit = 1 << (page % 64);
            if *word & bit != 0 {
                return Err(Fault::Twice(page));
            }
            *word |= bit;
        }
        Ok(())
    }

    fn all(&self) -> Result<(), Fault> {
        let lost = (0..self.pages).find(|page| {
            let word = usize::try_from(page / 64).ok().and_then(|index| self.bits.get(index));
            word.is_none_or(|word| word & (1 << (page % 64)) == 0)
        });
        lost.map_or(Ok(()), |page| Err(Fault::Lost(page)))
    }
}

/// The number at a place that is known to be there.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn number16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
