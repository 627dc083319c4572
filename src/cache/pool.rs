//! Which pages of a pool each sequence holds, decided on the host: allocation, sharing, and what
//! has to be copied first.

use super::ranges::{AppendRange, CopyRange, SequenceRow, check_prefix, new_counts, to_u32};
use super::shape::PagedCacheShape;
use crate::error::Error;
use crate::problem::{PresentKeys, length};
use std::collections::BTreeMap;
use std::ops::Range;

/// A sequence of the [`PagedKvCache`](crate::cache::PagedKvCache) that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PagedSequence(u64);

/// The pages of a pool and who holds them. A page is written only by the one sequence that holds
/// it.
#[derive(Clone, Debug)]
pub struct PagePool {
    page_len: usize,
    longest: usize,
    /// How many sequences hold each page.
    pub holders: Vec<u32>,
    /// Pages that none holds, the next one last.
    pub free: Vec<u32>,
    /// What each sequence holds.
    pub sequences: BTreeMap<PagedSequence, HeldPages>,
    next: u64,
}

/// What a sequence holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldPages {
    /// Its tokens.
    pub len: usize,
    /// The pages that its tokens fill or begin, in order; none where one has been evicted.
    pub pages: Vec<Option<u32>>,
    /// Tokens that may have gone with their pages, whole ones; empty if none have.
    gone: Range<usize>,
}

/// The pages and copies that new tokens need; the pool has them once it is given to
/// [`PagePool::commit`].
#[derive(Debug, Default, PartialEq)]
pub struct PoolGrowth {
    /// Pages that others hold too, as far as they are filled: copied before anything is written.
    pub copies: Vec<CopyRange>,
    /// Where the tokens go.
    pub appends: Vec<AppendRange>,
    /// How many free pages are taken.
    pub taken: usize,
    grown: Vec<(PagedSequence, HeldPages)>,
    given_up: Vec<u32>,
}

impl PagePool {
    /// All pages free.
    pub fn new(shape: &PagedCacheShape) -> Result<Self, Error> {
        shape.as_one_sequence()?;
        let count = length("pages", shape.pages)?;
        Ok(Self {
            page_len: shape.page_len,
            longest: shape.longest(),
            holders: vec![0; shape.pages],
            // The lowest first, so that a prompt's pages follow one another.
            free: (0..count).rev().collect(),
            sequences: BTreeMap::new(),
            next: 0,
        })
    }

    /// A sequence without tokens.
    pub fn add(&mut self) -> PagedSequence {
        self.hold(HeldPages::default())
    }

    fn hold(&mut self, held: HeldPages) -> PagedSequence {
        let sequence = PagedSequence(self.next);
        self.next += 1;
        self.sequences.insert(sequence, held);
        sequence
    }

    fn held(&self, argument: &'static str, sequence: PagedSequence) -> Result<&HeldPages, Error> {
        self.sequences.get(&sequence).ok_or_else(|| unknown(argument))
    }

    fn held_mut(&mut self, sequence: PagedSequence) -> Result<&mut HeldPages, Error> {
        self.sequences.get_mut(&sequence).ok_or_else(|| unknown("sequence"))
    }

    fn all_held(&self, sequences: &[PagedSequence]) -> Result<Vec<&HeldPages>, Error> {
        sequences.iter().map(|&sequence| self.held("sequences", sequence)).collect()
    }

    /// Tokens of a sequence.
    pub fn len(&self, sequence: PagedSequence) -> Result<usize, Error> {
        Ok(self.held("sequence", sequence)?.len)
    }

    /// A new sequence that shares the pages of the first `len` tokens of `from`.
    pub fn fork(&mut self, from: PagedSequence, len: usize) -> Result<PagedSequence, Error> {
        let held = self.held("from", from)?;
        let gone = held.gone_before(len)?;
        let pages = held.pages[..len.div_ceil(self.page_len)].to_vec();
        pages.iter().flatten().for_each(|&page| self.holders[page as usize] += 1);
        Ok(self.hold(HeldPages { len, pages, gone }))
    }

    /// Frees the pages between the first tokens and the last ones.
    pub fn evict(&mut self, sequence: PagedSequence, present: PresentKeys) -> Result<(), Error> {
        let page_len = self.page_len;
        let held = self.held_mut(sequence)?;
        let begin = present.first.div_ceil(page_len);
        let end = held.len.saturating_sub(present.last) / page_len;
        if begin >= end {
            return Ok(());
        }
        let pages = held.pages[begin..end].iter_mut();
        let given_up: Vec<u32> = pages.filter_map(Option::take).collect();
        let gone = begin * page_len..end * page_len;
        held.gone = match &held.gone {
            earlier if earlier.is_empty() => gone,
            earlier => gone.start.min(earlier.start)..gone.end.max(earlier.end),
        };
        self.give_up(given_up);
        Ok(())
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, sequence: PagedSequence, len: usize) -> Result<(), Error> {
        let kept = len.div_ceil(self.page_len);
        let held = self.held_mut(sequence)?;
        held.gone = held.gone_before(len)?;
        held.len = len;
        let given_up = held.pages.split_off(kept);
        self.give_up(given_up.into_iter().flatten());
        Ok(())
    }

    /// Forgets a sequence.
    pub fn remove(&mut self, sequence: PagedSequence) -> Result<(), Error> {
        let held = self.sequences.remove(&sequence).ok_or_else(|| unknown("sequence"))?;
        self.give_up(held.pages.into_iter().flatten());
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

    /// Pages and copies for `len` new tokens of each sequence, or `lens` of them; the pool stays as
    /// it is.
    pub fn grow(
        &self,
        sequences: &[PagedSequence],
        len: usize,
        lens: Option<&[usize]>,
    ) -> Result<PoolGrowth, Error> {
        let held = self.all_held(sequences)?;
        let held_lens: Vec<usize> = held.iter().map(|held| held.len).collect();
        let counts = new_counts(&held_lens, self.longest, len, lens)?;
        let mut growth = PoolGrowth::default();
        let mut free = self.free.iter().rev().copied();
        for (at, (&sequence, count)) in sequences.iter().zip(counts).enumerate() {
            if sequences[..at].contains(&sequence) {
                return Err(Error::invalid("sequences", "each sequence once", "one twice"));
            }
            if count == 0 {
                continue;
            }
            let mut held = held[at].clone();
            let (start, end) = (held.len, held.len + count);
            // Nobody may write what another reads.
            let begun = start % self.page_len;
            let last = held.pages.last().copied().flatten().filter(|_| begun > 0);
            let shared = last.filter(|&page| self.shares(page, &growth));
            let new = end.div_ceil(self.page_len) - held.pages.len();
            growth.taken += new + usize::from(shared.is_some());
            growth.given_up.extend(shared);
            // Without enough pages there is nothing to say but how many are needed.
            if growth.taken > self.free.len() {
                continue;
            }
            if let Some(shared) = shared {
                let last = held.pages.len() - 1;
                held.pages[last] = free.next();
                let [from, to] = [shared, held.page(last)].map(|page| self.row(page, 0));
                growth.copies.push(CopyRange { from, to, count: to_u32(begun) });
            }
            held.pages.extend(free.by_ref().take(new).map(Some));
            held.len = end;
            AppendRange::add(&mut growth.appends, at, len - count, start..end, |position| {
                let row = position % self.page_len;
                (self.row(held.page(position / self.page_len), row), self.page_len - row)
            });
            growth.grown.push((sequence, held));
        }
        let (needed, free) = (growth.taken, self.free.len());
        if needed > free { Err(Error::Full { needed, free }) } else { Ok(growth) }
    }

    /// Whether a page is held by others, once those that have grown already have given theirs up.
    fn shares(&self, page: u32, growth: &PoolGrowth) -> bool {
        let given_up = growth.given_up.iter().filter(|&&given_up| given_up == page).count();
        self.holders[page as usize] as usize > 1 + given_up
    }

    /// A row of a page among all rows of the pool.
    fn row(&self, page: u32, row: usize) -> SequenceRow {
        SequenceRow::new(0, page as usize * self.page_len + row)
    }

    /// Takes the pages of a growth.
    pub fn commit(&mut self, growth: PoolGrowth) {
        let taken = self.free.split_off(self.free.len() - growth.taken);
        taken.into_iter().for_each(|page| self.holders[page as usize] += 1);
        self.give_up(growth.given_up);
        self.sequences.extend(growth.grown);
    }

    /// The pages of these sequences, `[sequences, pages of the longest]`, and which keys all of
    /// them still have, if pages of any have been evicted.
    pub fn table(
        &self,
        sequences: &[PagedSequence],
    ) -> Result<(Vec<u32>, Option<PresentKeys>), Error> {
        let held = self.all_held(sequences)?;
        let longest = held.iter().map(|held| held.pages.len()).max().unwrap_or_default();
        let row = |held: &&HeldPages| -> Vec<u32> { (0..longest).map(|n| held.page(n)).collect() };
        let with_gone = held.iter().filter(|held| !held.gone.is_empty());
        let present = with_gone.map(|held| [held.gone.start, held.len - held.gone.end]);
        let least = present.reduce(|[a, b], [c, d]| [a.min(c), b.min(d)]);
        let present = least.map(|[first, last]| PresentKeys { first, last });
        Ok((held.iter().flat_map(row).collect(), present))
    }
}

fn unknown(argument: &'static str) -> Error {
    Error::invalid(argument, "a sequence of this cache", "one that it does not hold")
}

impl HeldPages {
    /// A page, or any where there is none.
    fn page(&self, number: usize) -> u32 {
        self.pages.get(number).copied().flatten().unwrap_or_default()
    }

    /// The evicted range of the first `len` tokens; these must not end within it.
    fn gone_before(&self, len: usize) -> Result<Range<usize>, Error> {
        check_prefix(len, self.len)?;
        let Range { start, end } = self.gone;
        if len > start && len < end {
            let expected =
                format!("at most {start} tokens or at least {end}, as those between were evicted");
            return Err(Error::invalid("len", expected, len));
        }
        Ok(if len < end { 0..0 } else { start..end })
    }
}
