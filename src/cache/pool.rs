//! Which pages of a pool each sequence holds, decided on the host: allocation, sharing, and what has to be copied first.

use super::shape::{CacheProblem, CacheRotary, KvCacheShape, Run, check_held, counts};
use crate::error::Error;
use crate::problem::{ElementType, PresentKeys, check_page_len, length};
use std::collections::BTreeMap;
use std::ops::Range;

/// Sizes of a paged cache: keys `[num_kv_heads, pages, page_len, head_dim]`, values `[num_kv_heads, pages, page_len, value_dim]`.
/// A head's pages lie together, so that a pool too large for a binding can be read a few heads at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagedCacheShape {
    /// Number of key/value heads.
    pub num_kv_heads: usize,
    /// Tokens of a page: a power of two from 16 to 256.
    pub page_len: usize,
    /// Pages of the pool, which all sequences share.
    pub pages: usize,
    /// Tokens that one sequence may have.
    pub longest: usize,
    /// Length of a key vector.
    pub head_dim: usize,
    /// Length of a value vector.
    pub value_dim: usize,
    /// What keys and values are stored as, as [`KvCacheShape::element`].
    pub element: ElementType,
}

impl PagedCacheShape {
    /// `pages` of `page_len` tokens in f32, all of which one sequence may have; change any field from there.
    #[must_use]
    pub fn new(num_kv_heads: usize, page_len: usize, pages: usize, head_dim: usize) -> Self {
        let longest = page_len.saturating_mul(pages);
        let (value_dim, element) = (head_dim, ElementType::F32);
        Self { num_kv_heads, page_len, pages, longest, head_dim, value_dim, element }
    }

    /// The pool as one sequence of as many rows.
    pub(crate) fn problem(&self, rotary: Option<CacheRotary<'_>>) -> Result<CacheProblem, Error> {
        let Self { num_kv_heads, page_len, pages, longest, head_dim, value_dim, element } = *self;
        check_page_len(page_len)?;
        let capacity = page_len.saturating_mul(pages);
        length("pages", capacity)
            .map_err(|_| Error::invalid("pages", "at most 2^30 tokens in all", capacity))?;
        length("longest", longest)?;
        let shape = KvCacheShape { batch: 1, num_kv_heads, capacity, head_dim, value_dim, element };
        CacheProblem::new(&shape, longest, rotary)
    }
}

/// What a pool's keys or values need of a device, where they need more than it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolExcess {
    /// Bytes that one binding has to span.
    pub(crate) expected: u64,
    /// Pages of which there may be as many.
    pub(crate) pages: usize,
}

impl PagedCacheShape {
    /// Attention reads the pool a head at a time at least, through bindings of at most `most` bytes that start at multiples of
    /// `alignment`: refuses a head's pages that are too many for that.
    pub(crate) fn check_heads(&self, most: u64, alignment: u64) -> Result<(), PoolExcess> {
        let row = self.head_dim.max(self.value_dim) as u64;
        let page = self.page_len as u64 * row * 4 / u64::from(self.element.per_word());
        let heads = (self.num_kv_heads as u64).min(alignment);
        // Where a head's pages do not start aligned, the binding starts before them.
        let bytes = |pages: u64| {
            let head = pages.saturating_mul(page);
            let before = (0..heads).map(|h| h.saturating_mul(head) % alignment).max();
            head.saturating_add(before.unwrap_or_default())
        };
        let expected = bytes(self.pages as u64);
        if expected <= most {
            return Ok(());
        }
        let pages = (0..=most / page).rev().find(|&pages| bytes(pages) <= most);
        Err(PoolExcess {
            expected,
            pages: usize::try_from(pages.unwrap_or_default()).unwrap_or_default(),
        })
    }
}

/// A sequence of a [`PagedKvCache`](crate::PagedKvCache), of the one that made it and no other; once removed it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PagedSequence(u64);

/// The pages of a pool and who holds them. A page is written only by the one sequence that holds it.
#[derive(Clone, Debug)]
pub(crate) struct PagePool {
    page_len: usize,
    longest: usize,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    /// Pages that none holds, the next one last.
    free: Vec<u32>,
    sequences: BTreeMap<PagedSequence, Held>,
    next: u64,
}

/// What a sequence holds: as many pages as its tokens fill or begin, but for those that have been evicted.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    len: usize,
    pages: Vec<Option<u32>>,
    /// Tokens that may have gone with their pages, whole ones; empty if none have.
    gone: Range<usize>,
}

/// Sequences as attention reads them.
#[derive(Debug)]
pub(crate) struct PageTable {
    pub(crate) lens: Vec<usize>,
    /// `[sequences, pages_per_sequence]`.
    pub(crate) pages: Vec<u32>,
    pub(crate) pages_per_sequence: usize,
    /// What all of them still have, if pages of any have been evicted.
    pub(crate) present: Option<PresentKeys>,
}

/// What has to be done for new tokens, of a pool that does not know of them yet.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Growth {
    /// From row to row of the pool, so many: pages that others hold too, before anything is written.
    pub(crate) copies: Vec<[u32; 3]>,
    /// Where the tokens go.
    pub(crate) runs: Vec<Run>,
    grown: Vec<(PagedSequence, Held)>,
    taken: usize,
    given_up: Vec<u32>,
}

impl PagePool {
    /// All pages free.
    pub(crate) fn new(shape: &PagedCacheShape) -> Result<Self, Error> {
        let count = length("pages", shape.pages)?;
        Ok(Self {
            page_len: shape.page_len,
            longest: shape.longest,
            holders: vec![0; shape.pages],
            // The lowest first, so that a prompt's pages follow one another.
            free: (0..count).rev().collect(),
            sequences: BTreeMap::new(),
            next: 0,
        })
    }

    pub(crate) fn free_pages(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn sequences(&self) -> impl Iterator<Item = PagedSequence> {
        self.sequences.keys().copied()
    }

    /// A sequence without tokens.
    pub(crate) fn add(&mut self) -> PagedSequence {
        self.hold(Held::default())
    }

    fn hold(&mut self, held: Held) -> PagedSequence {
        let sequence = PagedSequence(self.next);
        self.next += 1;
        self.sequences.insert(sequence, held);
        sequence
    }

    fn held(&self, argument: &'static str, sequence: PagedSequence) -> Result<&Held, Error> {
        self.sequences.get(&sequence).ok_or_else(|| {
            Error::invalid(argument, "a sequence of this cache", "one that it does not hold")
        })
    }

    pub(crate) fn len(&self, sequence: PagedSequence) -> Result<usize, Error> {
        Ok(self.held("sequence", sequence)?.len)
    }

    /// A new sequence that shares the pages of the first `len` tokens of `from`.
    pub(crate) fn fork(&mut self, from: PagedSequence, len: usize) -> Result<PagedSequence, Error> {
        let held = self.held("from", from)?;
        let gone = held.gone_before(len)?;
        let pages = held.pages[..len.div_ceil(self.page_len)].to_vec();
        pages.iter().flatten().for_each(|&page| self.holders[page as usize] += 1);
        Ok(self.hold(Held { len, pages, gone }))
    }

    /// Frees the pages between the first tokens and the last ones.
    pub(crate) fn evict(
        &mut self,
        sequence: PagedSequence,
        PresentKeys { first, last }: PresentKeys,
    ) -> Result<(), Error> {
        self.held("sequence", sequence)?;
        if let Some(held) = self.sequences.get_mut(&sequence) {
            let begin = first.div_ceil(self.page_len);
            let end = held.len.saturating_sub(last) / self.page_len;
            if begin < end {
                let given_up: Vec<u32> =
                    held.pages[begin..end].iter_mut().filter_map(Option::take).collect();
                let gone = begin * self.page_len..end * self.page_len;
                held.gone = match &held.gone {
                    earlier if earlier.is_empty() => gone,
                    earlier => gone.start.min(earlier.start)..gone.end.max(earlier.end),
                };
                self.give_up(given_up);
            }
        }
        Ok(())
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, sequence: PagedSequence, len: usize) -> Result<(), Error> {
        let gone = self.held("sequence", sequence)?.gone_before(len)?;
        let kept = len.div_ceil(self.page_len);
        if let Some(held) = self.sequences.get_mut(&sequence) {
            (held.len, held.gone) = (len, gone);
            let given_up = held.pages.split_off(kept);
            self.give_up(given_up.into_iter().flatten());
        }
        Ok(())
    }

    /// Forgets a sequence.
    pub(crate) fn remove(&mut self, sequence: PagedSequence) -> Result<(), Error> {
        self.held("sequence", sequence)?;
        if let Some(held) = self.sequences.remove(&sequence) {
            self.give_up(held.pages.into_iter().flatten());
        }
        Ok(())
    }

    /// Frees those that nobody else holds, the first to be taken first.
    fn give_up(&mut self, pages: impl IntoIterator<Item = u32, IntoIter: DoubleEndedIterator>) {
        for page in pages.into_iter().rev() {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }

    /// What new tokens need: `len` for each sequence, or `lens` of them.
    pub(crate) fn grow(
        &self,
        sequences: &[PagedSequence],
        len: usize,
        lens: Option<&[usize]>,
    ) -> Result<Growth, Error> {
        let mut growth = Growth::default();
        let mut free = self.free.iter().rev().copied();
        let mut needed = 0;
        for (at, (&sequence, count)) in
            sequences.iter().zip(counts(sequences.len(), len, lens)?).enumerate()
        {
            let mut held = self.held("sequences", sequence)?.clone();
            if sequences[..at].contains(&sequence) {
                return Err(Error::invalid("sequences", "each sequence once", "one twice"));
            }
            let room = self.longest - held.len;
            if count > room {
                let argument = if lens.is_some() { "lens" } else { "len" };
                let (held, longest) = (held.len, self.longest);
                let expected = format!(
                    "at most {room} new tokens, as sequence {at} holds {held} of {longest}"
                );
                return Err(Error::invalid(argument, expected, count));
            }
            if count == 0 {
                continue;
            }
            // Nobody may write what another reads.
            let begun = held.len % self.page_len;
            let last = held.pages.last().copied().flatten();
            let last = last.filter(|&page| begun > 0 && self.shares(page, &growth));
            let end = held.len + count;
            let new = end.div_ceil(self.page_len) - held.pages.len();
            needed += new + usize::from(last.is_some());
            if let Some(from) = last {
                held.pages.pop();
                growth.given_up.push(from);
                if let Some(to) = free.next() {
                    held.pages.push(Some(to));
                    let rows = [self.row(from, 0)?, self.row(to, 0)?];
                    growth.copies.push([rows[0], rows[1], length("len", begun)?]);
                }
            }
            held.pages.extend(free.by_ref().take(new).map(Some));
            // Without enough of them there is nothing to say of the others but how many they need.
            if needed <= self.free.len() {
                self.place(at, len - count, end, &held, &mut growth)?;
            }
            held.len = end;
            growth.grown.push((sequence, held));
        }
        if needed > self.free.len() {
            return Err(Error::Full { needed, free: self.free.len() });
        }
        growth.taken = needed;
        Ok(growth)
    }

    /// Whether a page is held by others, once those that have grown already have given theirs up.
    fn shares(&self, page: u32, growth: &Growth) -> bool {
        let given_up = growth.given_up.iter().filter(|&&given_up| given_up == page).count();
        self.holders[page as usize] as usize > 1 + given_up
    }

    /// Runs for the tokens from `first` on of the new ones of a sequence, up to `end` of the sequence's own.
    fn place(
        &self,
        at: usize,
        first: usize,
        end: usize,
        held: &Held,
        growth: &mut Growth,
    ) -> Result<(), Error> {
        let mut position = held.len;
        while position < end {
            let row = position % self.page_len;
            let count = (self.page_len - row).min(end - position);
            let run = Run {
                batches: length("batch", at)?..length("batch", at + 1)?,
                first_token: length("len", first + position - held.len)?,
                count: length("len", count)?,
                to: [0, self.row(held.page(position / self.page_len), row)?],
                position: length("len", position)?,
            };
            match growth.runs.last_mut() {
                Some(before) if before.is_followed_by(&run) => before.count += run.count,
                _ => growth.runs.push(run),
            }
            position += count;
        }
        Ok(())
    }

    /// A row of a page, as the pool counts.
    fn row(&self, page: u32, row: usize) -> Result<u32, Error> {
        length("pages", page as usize * self.page_len + row)
    }

    /// Makes it so.
    pub(crate) fn commit(&mut self, growth: Growth) {
        let taken = self.free.split_off(self.free.len() - growth.taken);
        taken.into_iter().for_each(|page| self.holders[page as usize] += 1);
        self.give_up(growth.given_up);
        self.sequences.extend(growth.grown);
    }

    /// These sequences, their rows of pages as long as the longest needs.
    pub(crate) fn table(&self, sequences: &[PagedSequence]) -> Result<PageTable, Error> {
        let held = sequences.iter().map(|&sequence| self.held("sequences", sequence));
        let held = held.collect::<Result<Vec<_>, _>>()?;
        let pages_per_sequence = held.iter().map(|held| held.pages.len()).max().unwrap_or_default();
        let row = |held: &&Held| {
            let held = (*held).clone();
            (0..pages_per_sequence).map(move |number| held.page(number)).collect::<Vec<_>>()
        };
        let present = held
            .iter()
            .filter(|held| !held.gone.is_empty())
            .map(|held| PresentKeys { first: held.gone.start, last: held.len - held.gone.end });
        Ok(PageTable {
            lens: held.iter().map(|held| held.len).collect(),
            pages: held.iter().flat_map(row).collect(),
            pages_per_sequence,
            present: present.reduce(|one, other| PresentKeys {
                first: one.first.min(other.first),
                last: one.last.min(other.last),
            }),
        })
    }
}

impl Held {
    /// A page, or any where there is none.
    fn page(&self, number: usize) -> u32 {
        self.pages.get(number).copied().flatten().unwrap_or_default()
    }

    /// What has gone of the first `len` tokens, none of which stands alone before or in it.
    fn gone_before(&self, len: usize) -> Result<Range<usize>, Error> {
        check_held(len, self.len)?;
        let Range { start, end } = self.gone;
        if len > start && len < end {
            let expected =
                format!("at most {start} tokens or at least {end}, as those between were evicted");
            return Err(Error::invalid("len", expected, len));
        }
        Ok(if len < end { 0..0 } else { start..end })
    }
}

#[cfg(test)]
mod tests;
