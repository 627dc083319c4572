//! The sequences of a call: alike or of their own lengths, in a batch or packed, in pages or not.

use super::attention::Problem;
use super::cut::Cut;
use super::pages::Pages;
use super::sequences::{Band, PackedSequence, Sequence};
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::Range;

/// A sequence of a problem, and where it begins in tensors that hold one after the other.
pub(crate) struct SequenceRow {
    pub(crate) queries: Range<u32>,
    pub(crate) first_key: u32,
    pub(crate) sequence: Sequence,
}

impl SequenceRow {
    pub(crate) fn q_len(&self) -> u32 {
        self.queries.end - self.queries.start
    }
}

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
    pub(crate) fn sequence_rows(&self) -> impl Iterator<Item = SequenceRow> {
        let of_packed = |one: &PackedSequence| SequenceRow {
            queries: one.queries.clone(),
            first_key: one.keys.start,
            sequence: one.sequence,
        };
        let packed = self.packed.iter().flatten().map(of_packed);
        let of_batch = |batch| SequenceRow {
            queries: 0..self.q_len,
            first_key: 0,
            sequence: self.sequence(batch as usize),
        };
        let batches = if self.packed.is_some() { 0..0 } else { 0..self.batch };
        packed.chain(batches.map(of_batch))
    }

    /// Its sequences, those that are all alike as one, each with how many they are.
    pub(crate) fn counted_rows(&self) -> impl Iterator<Item = (u32, SequenceRow)> {
        let are_alike = self.packed.is_none() && self.sequences.is_none();
        let (count, kinds) = if are_alike { (self.batch, 1) } else { (1, usize::MAX) };
        self.sequence_rows().take(kinds).map(move |line| (count, line))
    }

    /// The problem in parts within which no sequence differs from another: runs of neighbours, or
    /// the sequences of a batch without padding, each a problem of its own.
    pub(crate) fn uniform(&self) -> Box<dyn Iterator<Item = Self> + '_> {
        match (&self.packed, &self.sequences) {
            (Some(packed), _) => {
                Box::new((0..).zip(packed).map(|(at, one)| self.one_packed(at, one)))
            }
            (None, Some(sequences)) => Box::new(self.runs(sequences)),
            (None, None) => Box::new(std::iter::once(self.clone())),
        }
    }

    fn runs<'a>(&'a self, sequences: &'a [Sequence]) -> impl Iterator<Item = Self> + 'a {
        let runs = sequences.chunk_by(|a, b| a == b).scan(0, |start, run| {
            let first = *start;
            *start += u32::try_from(run.len()).unwrap_or(u32::MAX);
            Some((first..*start, run[0]))
        });
        runs.map(|(batches, sequence)| {
            let sequences = batches.clone();
            self.cut(&Cut { batches, sequences, ..self.whole() }).alike(sequence)
        })
    }

    fn one_packed(&self, at: u32, one: &PackedSequence) -> Self {
        self.packed(at..at + 1, &one.queries, &one.keys).alike(one.sequence)
    }

    /// Some of the sequences of a ragged problem.
    pub(crate) fn sequences(&self, range: Range<u32>) -> Self {
        let packed =
            self.packed.as_deref().map(|all| &all[range.start as usize..range.end as usize]);
        let Some(packed) = packed else {
            return self.slice(range, 0..self.num_heads, 0..self.q_len);
        };
        let (Some(first), Some(last)) = (packed.first(), packed.last()) else {
            return self.clone();
        };
        let (queries, keys) =
            (first.queries.start..last.queries.end, first.keys.start..last.keys.end);
        let moved = |range: &Range<u32>, start| range.start - start..range.end - start;
        let packed = packed.iter().map(|one| PackedSequence {
            queries: moved(&one.queries, queries.start),
            keys: moved(&one.keys, keys.start),
            sequence: one.sequence,
        });
        Self { packed: Some(packed.collect()), ..self.packed(range, &queries, &keys) }
    }

    /// Neighbours among the sequences of a batch without padding, with these queries and keys, as
    /// one.
    fn packed(&self, range: Range<u32>, queries: &Range<u32>, keys: &Range<u32>) -> Self {
        self.cut(&Cut {
            sequences: range,
            queries: queries.clone(),
            keys: keys.clone(),
            ..self.whole()
        })
    }

    fn alike(self, sequence: Sequence) -> Self {
        let Sequence { seen_len, offset, band } = sequence;
        Self { seen_len, offset, band, ..self }
    }

    /// What holds for one sequence of a batch.
    #[must_use]
    pub fn sequence(&self, batch: usize) -> Sequence {
        let Self { seen_len, offset, band, .. } = *self;
        let whole = Sequence { seen_len, offset, band };
        self.sequences.as_ref().and_then(|sequences| sequences.get(batch)).copied().unwrap_or(whole)
    }

    /// How far lengths that are not known yet may move offset and band.
    pub(super) fn most_moved(&self) -> u32 {
        self.lens.filter(|lens| lens.moves).map_or(0, |lens| lens.most)
    }

    /// What holds for a sequence whose length a buffer says: what shaders/shared/locate_lens.wgsl
    /// computes.
    #[must_use]
    pub fn sequence_of(&self, len: u32) -> Sequence {
        let Some(lens) = self.lens else { return self.sequence(0) };
        let len = len.min(lens.most);
        let moved = |bound: i32| bound.saturating_add_unsigned(if lens.moves { len } else { 0 });
        let Sequence { offset, band, .. } = self.sequence(0);
        Sequence {
            seen_len: len.saturating_sub(lens.before).min(self.kv_len),
            offset: moved(offset),
            band: Band { lower: moved(band.lower), upper: moved(band.upper), ..band },
        }
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
            if let Some(page) = row.iter().find(|page| **page >= count) {
                let expected = format!("numbers below {count}, as the pool has so many pages");
                return Err(Error::invalid("pages", expected, page));
            }
        }
        Ok(())
    }
}
