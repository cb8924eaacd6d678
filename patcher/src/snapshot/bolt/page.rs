//! One page, with the pages that it flows over into.

use super::{Fault, PAGE_HEADER, ReadAt, number, number16, number32};

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const FREE_LIST: u16 = 0x10;
/// The length of an element of a branch or leaf page. Its key and value are elsewhere in the page.
const ELEMENT: usize = 16;
/// Marks an element that holds a bucket.
const IS_BUCKET: u32 = 0x01;
/// With so many free pages their number does not fit into the header: it comes first in the list.
const COUNT_INSIDE: u16 = 0xffff;
/// What is read at once.
const PIECE: usize = 64 << 10;
/// Longer keys are in no database (bbolt: `MaxKeySize`).
const MAX_KEY_BYTES: u64 = 32 << 10;
/// Branch pages hold keys and page numbers, no values.
const MAX_BRANCH_BYTES: u64 = 4 << 20;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Branch,
    Leaf,
    FreeList,
}

/// A page. Its beginning is in memory, the rest is read when it is wanted.
pub(super) struct Page<'a, S: ?Sized> {
    pub(super) kind: Kind,
    /// How many pages it takes.
    pub(super) pages: u64,
    id: u64,
    source: &'a S,
    start: u64,
    length: u64,
    count: u16,
    head: Vec<u8>,
}

/// An element of a leaf page.
pub(super) struct Leaf<'a, S: ?Sized> {
    pub(super) key: &'a [u8],
    pub(super) is_bucket: bool,
    pub(super) value_bytes: u64,
    page: &'a Page<'a, S>,
    value_at: u64,
}

impl<'a, S: ReadAt + ?Sized> Page<'a, S> {
    /// Opens page `id` of `pages`.
    pub(super) fn open(source: &'a S, id: u64, page_size: u32, pages: u64) -> Result<Self, Fault> {
        if id < 2 || id >= pages {
            return Err(Fault::Outside(id));
        }
        let size = u64::from(page_size);
        let start = id * size;
        let mut header = [0; PAGE_HEADER as usize];
        source.read_at(&mut header, start)?;
        let taken = u64::from(number32(&header, 12)) + 1;
        if taken > pages - id {
            return Err(Fault::Page { page: id, problem: "it flows over the end of the database" });
        }
        if number(&header, 0) != id {
            return Err(Fault::Page { page: id, problem: "it has the number of another page" });
        }
        Self::read(source, id, start, taken * size, taken, &header)
    }

    fn read(
        source: &'a S,
        id: u64,
        start: u64,
        length: u64,
        pages: u64,
        header: &[u8],
    ) -> Result<Self, Fault> {
        let kind = match number16(header, 8) {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            FREE_LIST => Kind::FreeList,
            _ => return Err(Fault::Page { page: id, problem: "it is of no known kind" }),
        };
        let mut head = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
        source.read_at(&mut head, start)?;
        Ok(Self { kind, pages, id, source, start, length, count: number16(header, 10), head })
    }

    /// The keys of a branch page and the pages to which they lead.
    pub(super) fn children(&self) -> Result<Vec<(Vec<u8>, u64)>, Fault> {
        if self.count == 0 || self.length > MAX_BRANCH_BYTES {
            return Err(self.damaged("a branch has no or too many children"));
        }
        let mut scratch = Vec::new();
        let mut budget = self.budget()?;
        let mut children: Vec<(Vec<u8>, u64)> = Vec::with_capacity(self.count.into());
        for index in 0..self.count {
            let at = PAGE_HEADER + u64::from(index) * ELEMENT as u64;
            let element = self.bytes(at, ELEMENT, &mut scratch)?;
            let (position, key_bytes, child) =
                (number32(element, 0), number32(element, 4), number(element, 8));
            let key = self.key(at, position, key_bytes, &mut budget, &mut scratch)?.to_vec();
            if children.last().is_some_and(|(last, _)| *last >= key) {
                return Err(self.damaged("its keys are not in order"));
            }
            children.push((key, child));
        }
        Ok(children)
    }

    /// Gives the elements of a leaf page, in their order.
    pub(super) fn elements(
        &self,
        each: &mut dyn FnMut(&Leaf<'_, S>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (mut scratch, mut key_scratch) = (Vec::new(), Vec::new());
        let mut budget = self.budget()?;
        for index in 0..self.count {
            let at = PAGE_HEADER + u64::from(index) * ELEMENT as u64;
            let element = self.bytes(at, ELEMENT, &mut scratch)?;
            let [flags, position, key_bytes, value_bytes] = [0, 4, 8, 12].map(|at| number32(element, at));
            let key = self.key(at, position, key_bytes, &mut budget, &mut key_scratch)?;
            let value_at = at + u64::from(position) + u64::from(key_bytes);
            let value_bytes = u64::from(value_bytes);
            budget = budget.checked_sub(value_bytes).ok_or(self.damaged("its elements overlap"))?;
            if value_at + value_bytes > self.length {
                return Err(self.damaged("a value is outside of it"));
            }
            each(&Leaf { key, is_bucket: flags & IS_BUCKET != 0, value_bytes, page: self, value_at })?;
        }
        Ok(())
    }

    /// Gives the numbers of free pages.
    pub(super) fn free(&self, each: &mut dyn FnMut(u64) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.kind != Kind::FreeList {
            return Err(self.damaged("it is no list of free pages"));
        }
        let mut scratch = Vec::new();
        let (mut at, mut count) = (PAGE_HEADER, u64::from(self.count));
        if self.count == COUNT_INSIDE {
            count = number(self.bytes(at, 8, &mut scratch)?, 0);
            at += 8;
        }
        if count > (self.length - at) / 8 {
            return Err(self.damaged("its list is longer than it"));
        }
        for index in 0..count {
            each(number(self.bytes(at + index * 8, 8, &mut scratch)?, 0))?;
        }
        Ok(())
    }

    /// How long all keys and values may be together: where they overlapped, a small page could be read for ever.
    fn budget(&self) -> Result<u64, Fault> {
        let elements = u64::from(self.count) * ELEMENT as u64;
        let left = self.length.checked_sub(PAGE_HEADER + elements);
        left.ok_or(self.damaged("its elements are longer than it"))
    }

    /// The key of the element at `at`.
    fn key<'b>(
        &'b self,
        at: u64,
        position: u32,
        bytes: u32,
        budget: &mut u64,
        scratch: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], Fault> {
        let (start, bytes) = (at + u64::from(position), u64::from(bytes));
        if start < PAGE_HEADER + u64::from(self.count) * ELEMENT as u64 {
            return Err(self.damaged("a key is where the elements are"));
        }
        if bytes > MAX_KEY_BYTES {
            return Err(self.damaged("a key is longer than any"));
        }
        *budget = budget.checked_sub(bytes).ok_or(self.damaged("its elements overlap"))?;
        self.bytes(start, usize::try_from(bytes).unwrap_or(0), scratch)
    }

    /// Bytes of the page, from what is in memory if they are there.
    fn bytes<'b>(&'b self, at: u64, count: usize, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Fault> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(bytes) = start.checked_add(count).and_then(|end| self.head.get(start..end)) {
            return Ok(bytes);
        }
        if at.checked_add(count as u64).is_none_or(|end| end > self.length) {
            return Err(self.damaged("a key is outside of it"));
        }
        scratch.resize(count, 0);
        self.source.read_at(scratch, self.start + at)?;
        Ok(scratch)
    }

    pub(super) const fn damaged(&self, problem: &'static str) -> Fault {
        Fault::Page { page: self.id, problem }
    }
}

impl<'a> Page<'a, [u8]> {
    /// The page of an inline bucket.
    pub(super) fn inline(bytes: &'a [u8]) -> Result<Self, Fault> {
        let is_leaf = bytes.len() as u64 >= PAGE_HEADER && number16(bytes, 8) == LEAF;
        if !is_leaf {
            return Err(Fault::Page { page: 0, problem: "an inline bucket has no leaf page" });
        }
        Self::read(bytes, 0, 0, bytes.len() as u64, 0, bytes)
    }
}

impl<S: ReadAt + ?Sized> Leaf<'_, S> {
    /// Gives the value in pieces.
    pub(super) fn value(&self, each: &mut dyn FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut scratch = Vec::new();
        let mut done = 0;
        while done < self.value_bytes {
            let count = usize::try_from(self.value_bytes - done).unwrap_or(PIECE).min(PIECE);
            each(self.page.bytes(self.value_at + done, count, &mut scratch)?)?;
            done += count as u64;
        }
        Ok(())
    }

    pub(super) const fn damaged(&self, problem: &'static str) -> Fault {
        self.page.damaged(problem)
    }
}
