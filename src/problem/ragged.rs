//! The sequences of a call: alike or of their own lengths, in a batch or packed, in pages or not.

use super::attention::Problem;
use super::cut::Cut;
use super::pages::Pages;
use super::sequences::{PackedSequence, Sequence};
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::Range;

impl Problem {
    /// Whether sequences may differ.
    #[must_use]
    pub fn is_ragged(&self) -> bool {
        self.sequences.is_some() || self.packed.is_some()
    }

    /// Number of sequences, each counted whether in a batch or one after the other.
    #[must_use]
    pub fn sequence_count(&self) -> u32 {
        match &self.packed {
            Some(packed) => u32::try_from(packed.len()).unwrap_or(u32::MAX),
            None => self.batch,
        }
    }

    /// Its sequences.
    pub(crate) fn sequence_rows(&self) -> impl Iterator<Item = PackedSequence> {
        let batches = if self.packed.is_some() { 0..0 } else { 0..self.batch };
        let of_batch = |batch| PackedSequence {
            queries: 0..self.q_len,
            keys: 0..self.kv_len,
            sequence: self.sequence(batch as usize),
        };
        self.packed.iter().flatten().cloned().chain(batches.map(of_batch))
    }

    /// Its sequences, those that are all alike as one, each with how many they are.
    pub(crate) fn counted_rows(&self) -> impl Iterator<Item = (u32, PackedSequence)> {
        let (count, kinds) = if self.is_ragged() { (1, usize::MAX) } else { (self.batch, 1) };
        self.sequence_rows().take(kinds).map(move |line| (count, line))
    }

    /// The problem in parts within which no sequence differs from another: runs of neighbours, or
    /// the sequences of a batch without padding, each a problem of its own.
    pub(crate) fn uniform(&self) -> Box<dyn Iterator<Item = Self> + '_> {
        if let Some(packed) = &self.packed {
            let one = |(at, one): (u32, &PackedSequence)| {
                let (queries, keys) = (one.queries.clone(), one.keys.clone());
                self.packed(at..at + 1, queries, keys).alike(one.sequence)
            };
            return Box::new((0..).zip(packed).map(one));
        }
        let Some(sequences) = &self.sequences else {
            return Box::new(std::iter::once(self.clone()));
        };
        let mut end = 0;
        let run = move |run: &[Sequence]| {
            let start = end;
            end += u32::try_from(run.len()).unwrap_or(u32::MAX);
            let (batches, sequences) = (start..end, start..end);
            self.cut(&Cut { batches, sequences, ..self.whole() }).alike(run[0])
        };
        Box::new(sequences.chunk_by(|a, b| a == b).map(run))
    }

    /// Some of the sequences of a ragged problem.
    pub(crate) fn sequences(&self, range: Range<u32>) -> Self {
        let Some(packed) = &self.packed else {
            return self.slice(range, 0..self.num_heads, 0..self.q_len);
        };
        let packed = &packed[range.start as usize..range.end as usize];
        let (Some(first), Some(last)) = (packed.first(), packed.last()) else {
            return self.clone();
        };
        let moved = |range: &Range<u32>, start| range.start - start..range.end - start;
        let packed = packed.iter().map(|one| PackedSequence {
            queries: moved(&one.queries, first.queries.start),
            keys: moved(&one.keys, first.keys.start),
            sequence: one.sequence,
        });
        let queries = first.queries.start..last.queries.end;
        let keys = first.keys.start..last.keys.end;
        Self { packed: Some(packed.collect()), ..self.packed(range, queries, keys) }
    }

    /// Neighbours among the sequences of a batch without padding, with these queries and keys, as
    /// one.
    fn packed(&self, sequences: Range<u32>, queries: Range<u32>, keys: Range<u32>) -> Self {
        self.cut(&Cut { sequences, queries, keys, ..self.whole() })
    }

    /// The same of sequences that are all like this one.
    pub(super) fn alike(self, sequence: Sequence) -> Self {
        let Sequence { seen_len, offset, band } = sequence;
        Self { seen_len, offset, band, ..self }
    }

    /// What holds for all sequences that have nothing of their own.
    pub(super) fn shared_sequence(&self) -> Sequence {
        let Self { seen_len, offset, band, .. } = *self;
        Sequence { seen_len, offset, band }
    }

    /// What holds for one sequence of a batch.
    #[must_use]
    pub fn sequence(&self, batch: usize) -> Sequence {
        let own = self.sequences.as_ref().and_then(|sequences| sequences.get(batch));
        own.copied().unwrap_or_else(|| self.shared_sequence())
    }

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

    /// Refuses a table that names pages which are not there, for keys that a sequence has; `lens`
    /// are their numbers, if a buffer holds them.
    pub(super) fn check_table(&self, table: &[u32], lens: Option<&[u32]>) -> Result<(), Error> {
        let (Some(Pages { page_len, count }), Some(view)) = (self.pages, self.views[Tensor::Pages])
        else {
            return Ok(());
        };
        for batch in 0..self.batch as usize {
            let seen_len = lens.map_or(self.sequence(batch).seen_len, |lens| lens[batch]);
            let reached = seen_len.div_ceil(page_len) as usize;
            let row = &table[view.index(batch, 0, 0, 0)..][..reached];
            for &page in row {
                let expected = format_args!("numbers below {count}, as the pool has so many pages");
                Error::require(page < count, "pages", expected, page)?;
            }
        }
        Ok(())
    }
}
