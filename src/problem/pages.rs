//! Keys and values in pages of one pool, which a table names for each sequence.

use super::{Align, AttentionOptions, AttentionShape, Problem, length};
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::RangeInclusive;

/// How keys and values lie in pages: key `j` of sequence `b` is row `j % page_len` of the page that the table
/// `[batch, pages_per_sequence]` names at `[b, j / page_len]`.
///
/// [`AttentionShape::key`] and [`AttentionShape::value`] then are the layouts of the pool, `[pages, num_kv_heads, page_len, dim]`.
/// Sequences may share pages. On the GPU a number past the last page is taken for the last one; entries of pages that a
/// sequence does not reach are never read.
///
/// Source: Kwon et al. 2023, arXiv 2309.06180.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagedKeys {
    /// Keys of a page: a power of two from 16 to 256.
    pub page_len: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Entries of a sequence in the table: enough for `kv_len` keys, or more.
    pub pages_per_sequence: usize,
    /// What is there of each sequence's keys; none: all. Options have to hide the others, whose entries name any page.
    pub present: Option<PresentKeys>,
}

/// Keys of a sequence that are there once others have been evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresentKeys {
    /// So many first ones: at least [`AttentionOptions::window_keeps`].
    pub first: usize,
    /// So many last ones: at least `q_len` and [`AttentionOptions::window_left`] together.
    pub last: usize,
}

impl PagedKeys {
    /// Pages that hold all keys.
    #[must_use]
    pub fn new(page_len: usize, pages: usize, pages_per_sequence: usize) -> Self {
        Self { page_len, pages, pages_per_sequence, present: None }
    }
}

impl PresentKeys {
    /// Refuses options under which a query looks at a key that is not there.
    fn check(self, shape: &AttentionShape, options: &AttentionOptions) -> Result<(), Error> {
        let Self { first, last } = self;
        if options.align != Align::BottomRight {
            let found = format!("{:?}", options.align);
            return Err(Error::invalid("align", "BottomRight, as keys were evicted", found));
        }
        let reach = last.checked_sub(shape.q_len);
        if options.window_left.is_none_or(|left| reach.is_none_or(|most| left > most)) {
            let most = reach.map_or("none, of fewer queries".to_owned(), |most| most.to_string());
            let expected = format!("at most {most}, as all but the last {last} keys were evicted");
            let found = options.window_left.map_or("none".to_owned(), |left| left.to_string());
            return Err(Error::invalid("window_left", expected, found));
        }
        if options.window_keeps > first {
            let expected = format!("at most {first}, as keys behind them were evicted");
            return Err(Error::invalid("window_keeps", expected, options.window_keeps));
        }
        Ok(())
    }
}

/// A problem's pages, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Keys of a page.
    pub page_len: u32,
    /// Pages of the pool.
    pub count: u32,
}

/// Lengths that pages may have; powers of two alone.
const PAGE_LENS: RangeInclusive<usize> = 16..=256;

pub(crate) fn check_page_len(page_len: usize) -> Result<u32, Error> {
    if !PAGE_LENS.contains(&page_len) || !page_len.is_power_of_two() {
        return Err(Error::invalid("page_len", "a power of two from 16 to 256", page_len));
    }
    length("page_len", page_len)
}

impl Pages {
    pub(super) fn new(
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Option<Self>, Error> {
        let Some(PagedKeys { page_len, pages, pages_per_sequence, present }) = shape.pages else {
            return Ok(None);
        };
        if let Some(present) = present {
            present.check(shape, options)?;
        }
        if shape.cu_seqlens.is_some() {
            return Err(Error::invalid("pages", "none beside cu_seqlens", "some"));
        }
        let needed = shape.kv_len.div_ceil(check_page_len(page_len)? as usize);
        for (argument, found, least) in
            [("pages_per_sequence", pages_per_sequence, needed), ("pages", pages, needed.min(1))]
        {
            if found < least {
                let expected = format!("at least {least} for kv_len = {}", shape.kv_len);
                return Err(Error::invalid(argument, expected, found));
            }
        }
        Ok(Some(Self { page_len: length("page_len", page_len)?, count: length("pages", pages)? }))
    }
}

impl Problem {
    /// Where key `j` of a sequence lies: its page, or its sequence, and its row there.
    pub(crate) fn key_place(&self, table: Option<&[u32]>, batch: usize, j: usize) -> [usize; 2] {
        match (self.pages, self.views[Tensor::Pages], table) {
            (Some(Pages { page_len, .. }), Some(view), Some(table)) => {
                let page_len = page_len as usize;
                [table[view.index(batch, 0, j / page_len, 0)] as usize, j % page_len]
            }
            _ => [batch, j],
        }
    }

    /// Refuses a table that names pages which are not there, for keys that a sequence has; `lens` are their numbers, if a
    /// buffer holds them.
    pub(super) fn check_table(&self, table: &[u32], lens: Option<&[u32]>) -> Result<(), Error> {
        let (Some(Pages { page_len, count }), Some(view)) = (self.pages, self.views[Tensor::Pages])
        else {
            return Ok(());
        };
        for batch in 0..self.batch as usize {
            let seen_len = lens.map_or(self.sequence(batch).seen_len, |lens| lens[batch]);
            let reached = seen_len.div_ceil(page_len) as usize;
            let row = &table[view.index(batch, 0, 0, 0)..][..reached];
            if let Some(page) = row.iter().find(|page| **page >= count) {
                let expected = format!("numbers below {count}, as the pool has so many pages");
                return Err(Error::invalid("pages", expected, page));
            }
        }
        Ok(())
    }
}
