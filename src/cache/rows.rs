//! The keys or the values of a cache, and rows on their way into them.

use super::ranges::{AppendRange, CopyRange, SequenceRow, to_u32};
use super::shape::KvCacheShape;
use crate::buffer::output;
use crate::error::Error;
use crate::layers::{Encoding, TokenProblem};
use crate::problem::{Layout, View, length, move_view, resolve};
use std::ops::Range;

/// The keys or the values of a cache.
#[derive(Debug)]
pub(super) struct CachedRows {
    /// `key` or `value`.
    pub(super) name: &'static str,
    pub(super) buffer: wgpu::Buffer,
    /// New tokens for all rows of all sequences; out is `[batch, num_kv_heads, capacity, dim]`.
    all: TokenProblem,
}

/// New keys or new values: the cache's rows for them, and where they lie until then.
pub(super) struct NewRows<'a> {
    pub(super) rows: &'a CachedRows,
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) view: View,
    /// How many sequences take tokens, and how many there are for each.
    pub(super) sizes: [usize; 2],
}

impl CachedRows {
    /// Of a shape that has been checked.
    pub(super) fn new(
        device: &wgpu::Device,
        (name, label): (&'static str, &'static str),
        shape: &KvCacheShape,
        dim: usize,
        encoding: Encoding,
    ) -> Result<Self, Error> {
        let KvCacheShape { batch, num_kv_heads, capacity, element, .. } = *shape;
        let sizes = [batch, num_kv_heads, capacity, dim];
        let out = resolve(name, sizes, Layout::Bhsd)?;
        let [batch, num_heads, len, dim] = sizes.map(to_u32);
        let sizes = TokenProblem { batch, num_heads, len, dim, ..TokenProblem::default() };
        let all = TokenProblem { element, encoding, out, ..sizes };
        let bytes = u64::from(out.extent.div_ceil(element.per_word())) * 4;
        Ok(Self { name, buffer: output(device, label, bytes)?, all })
    }

    /// Where tokens `[batch, num_kv_heads, len, dim]` lie in a buffer of their own.
    pub(super) fn tokens(&self, [batch, len]: [usize; 2], layout: Layout) -> Result<View, Error> {
        let [heads, dim] = [self.all.num_heads, self.all.dim].map(|size| size as usize);
        resolve(self.name, [batch, heads, len, dim], layout)
    }

    /// Rows on their way into a buffer of their own, and from there to other rows.
    pub(super) fn copy(&self, copy: &CopyRange) -> Result<[TokenProblem; 2], Error> {
        let CopyRange { from, to, count } = *copy;
        let aside = self.tokens([1, count as usize], Layout::Bhsd)?;
        let rows = |SequenceRow { sequence, row }: SequenceRow| {
            self.part(self.all.out, sequence..sequence + 1, row, count)
        };
        let way = |x, out| TokenProblem {
            batch: 1,
            len: count,
            encoding: Encoding::Copy,
            x: Some(x),
            out,
            ..self.all
        };
        Ok([way(rows(from), aside), way(aside, rows(to))])
    }

    /// So many rows of some sequences of a view.
    fn part(&self, view: View, sequences: Range<u32>, first: u32, count: u32) -> View {
        let heads = 0..self.all.num_heads;
        move_view(view, &sequences, &heads, &(first..first + count), self.all.dim)
    }

    /// The rows of the rotary table that belong to these places.
    fn table(&self, places: Range<u32>) -> View {
        let width = self.all.width();
        let (offset, extent) = (places.start * width, places.end * width);
        View { offset, row: width, column: 1, extent, exact: true, ..View::default() }
    }
}

impl NewRows<'_> {
    /// Those that a range names, on their way to its rows.
    pub(super) fn append(&self, range: &AppendRange) -> TokenProblem {
        let AppendRange { sequences, first_token, count, to, position } = range;
        let (rows, all) = (self.rows, self.rows.all);
        let batch = sequences.end - sequences.start;
        TokenProblem {
            batch,
            len: *count,
            x: Some(rows.part(self.view, sequences.clone(), *first_token, *count)),
            out: rows.part(all.out, to.sequence..to.sequence + batch, to.row, *count),
            table: rows.table(*position..range.end()),
            ..all
        }
    }

    /// All of them on their way to where a buffer says: the [`places`](super::ranges::places) of
    /// those in `ranges`; without ranges the lengths of the sequences, behind which they go.
    pub(super) fn append_all(&self, ranges: Option<&[AppendRange]>) -> Result<TokenProblem, Error> {
        let Self { rows, view, sizes: [batch, len], .. } = *self;
        let capacity = rows.all.len;
        let (from_lens, end, positions) = match ranges {
            None => (Some(0), capacity, [batch, 1, 1, 1]),
            Some(ranges) => {
                let end = ranges.iter().map(AppendRange::end).max().unwrap_or_default();
                (None, end, [batch, 1, len, 2])
            }
        };
        Ok(TokenProblem {
            batch: length("batch", batch)?,
            len: length("len", len)?,
            x: Some(view),
            table: rows.table(0..end),
            positions: Some(resolve("lens", positions, Layout::Bhsd)?),
            last_row: end.saturating_sub(1),
            from_lens,
            places: Some(capacity),
            ..rows.all
        })
    }
}
