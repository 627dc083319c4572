//! The keys or the values of a cache, and rows on their way into them.

use super::ranges::{AppendRange, CopyRange, SequenceRow};
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
    /// All rows of all sequences, as if tokens went into all of them: out is `[batch, num_kv_heads,
    /// capacity, dim]`.
    all: TokenProblem,
}

impl CachedRows {
    pub(super) fn new(
        device: &wgpu::Device,
        (name, label): (&'static str, &'static str),
        shape: &KvCacheShape,
        dim: usize,
        encoding: Encoding,
    ) -> Result<Self, Error> {
        let KvCacheShape { batch, num_kv_heads, capacity, element, .. } = *shape;
        let out = resolve(name, [batch, num_kv_heads, capacity, dim], Layout::Bhsd)?;
        let all = TokenProblem {
            batch: length("batch", batch)?,
            num_heads: length("num_kv_heads", num_kv_heads)?,
            len: length("capacity", capacity)?,
            dim: length(name, dim)?,
            element,
            encoding,
            out,
            ..TokenProblem::default()
        };
        let bytes = u64::from(out.extent.div_ceil(element.per_word())) * 4;
        Ok(Self { name, buffer: output(device, label, bytes)?, all })
    }

    /// Where tokens `[batch, num_kv_heads, len, dim]` lie in a buffer of their own.
    pub(super) fn tokens(&self, [batch, len]: [usize; 2], layout: Layout) -> Result<View, Error> {
        let [heads, dim] = [self.all.num_heads, self.all.dim].map(|size| size as usize);
        resolve(self.name, [batch, heads, len, dim], layout)
    }

    /// The tokens of `x` that a range names, on their way to its rows.
    pub(super) fn append(&self, x: View, range: &AppendRange) -> TokenProblem {
        let AppendRange { sequences, first_token, count, to, position } = range;
        let batch = sequences.end - sequences.start;
        let x = self.part(x, sequences.clone(), *first_token, *count);
        TokenProblem {
            batch,
            len: *count,
            x: Some(x),
            out: self.part(self.all.out, to.sequence..to.sequence + batch, to.row, *count),
            table: self.table(*position..range.end()),
            ..self.all
        }
    }

    /// All tokens of `x` on their way to where a buffer says: the [`places`](super::ranges::places)
    /// of those in `ranges`; without ranges the lengths of the sequences, behind which they go.
    pub(super) fn append_all(
        &self,
        x: View,
        [batch, len]: [usize; 2],
        ranges: Option<&[AppendRange]>,
    ) -> Result<TokenProblem, Error> {
        let capacity = self.all.len;
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
            x: Some(x),
            table: self.table(0..end),
            positions: Some(resolve("lens", positions, Layout::Bhsd)?),
            last_row: end.saturating_sub(1),
            from_lens,
            places: Some(capacity),
            ..self.all
        })
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
        let width = match self.all.encoding {
            Encoding::Rotary { rotary_dim, .. } => rotary_dim / 2,
            _ => return View::default(),
        };
        let (offset, extent) = (places.start * width, places.end * width);
        View { offset, row: width, column: 1, extent, exact: true, ..View::default() }
    }
}
