//! Which rows of a cache new tokens take, decided on the host.

use crate::error::Error;
use crate::problem::length;
use std::ops::Range;

/// A row of one of a cache's sequences. The rows of a pool are those of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceRow {
    /// Which sequence.
    pub sequence: u32,
    /// Which of its rows.
    pub row: u32,
}

impl SequenceRow {
    pub(super) fn new(sequence: usize, row: usize) -> Self {
        Self { sequence: to_u32(sequence), row: to_u32(row) }
    }
}

/// Rows of a cache that are copied to other rows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// The first one.
    pub from: SequenceRow,
    /// Where it goes.
    pub to: SequenceRow,
    /// Number of rows.
    pub count: u32,
}

/// New tokens of neighbouring sequences that go into neighbouring rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendRange {
    /// Which of the sequences that take new tokens.
    pub sequences: Range<u32>,
    /// The first of the new tokens of each sequence that is meant.
    pub first_token: u32,
    /// Tokens of each sequence.
    pub count: u32,
    /// The row of the cache that the first token of the first sequence goes into.
    pub to: SequenceRow,
    /// The place that each sequence's first token has in it.
    pub position: u32,
}

impl AppendRange {
    /// How many tokens each sequence holds afterwards.
    pub(super) fn end(&self) -> u32 {
        self.position + self.count
    }

    /// Adds ranges for new tokens of the next sequence, from `first_token` on, that take these
    /// positions in it. `place` says into which row a position goes, and how many rows there are
    /// from that one on.
    pub(super) fn add(
        ranges: &mut Vec<Self>,
        sequence: usize,
        first_token: usize,
        positions: Range<usize>,
        place: impl Fn(usize) -> (SequenceRow, usize),
    ) {
        let sequence = to_u32(sequence);
        let mut position = positions.start;
        while position < positions.end {
            let (to, rows) = place(position);
            let count = rows.min(positions.end - position);
            let next = Self {
                sequences: sequence..sequence + 1,
                first_token: to_u32(first_token + position - positions.start),
                count: to_u32(count),
                to,
                position: to_u32(position),
            };
            match ranges.last_mut() {
                // The next rows of the same sequence.
                Some(last)
                    if last.sequences == next.sequences && last.to.row + last.count == to.row =>
                {
                    last.count += next.count;
                }
                // The same rows of the next sequence of the cache.
                Some(last)
                    if last.sequences.end == to.sequence
                        && (last.to.row, last.count) == (to.row, next.count) =>
                {
                    last.sequences.end += 1;
                }
                _ => ranges.push(next),
            }
            position += count;
        }
    }
}

/// How many of `len` new tokens each sequence takes, all or `lens`, of a cache whose sequences hold
/// so many and up to `capacity`.
pub(super) fn new_counts(
    held: &[usize],
    capacity: usize,
    len: usize,
    lens: Option<&[usize]>,
) -> Result<Vec<usize>, Error> {
    length("len", len)?;
    let counts = lens.map_or_else(|| vec![len; held.len()], <[usize]>::to_vec);
    if counts.len() != held.len() {
        let expected = format!("a number for each of {} sequences", held.len());
        return Err(Error::invalid("lens", expected, format!("{} numbers", counts.len())));
    }
    if let Some((sequence, count)) = counts.iter().enumerate().find(|(_, count)| **count > len) {
        let expected = format!("at most len = {len} new tokens of sequence {sequence}");
        return Err(Error::invalid("lens", expected, count));
    }
    let argument = if lens.is_some() { "lens" } else { "len" };
    check_capacity(argument, held, capacity, counts.iter().copied())?;
    Ok(counts)
}

/// Refuses more new tokens than a sequence has capacity for.
pub(super) fn check_capacity(
    argument: &'static str,
    held: &[usize],
    capacity: usize,
    counts: impl IntoIterator<Item = usize>,
) -> Result<(), Error> {
    for (sequence, (&held, count)) in held.iter().zip(counts).enumerate() {
        let most = capacity - held;
        if count > most {
            let holds = format!("sequence {sequence} holds {held} of {capacity}");
            let expected = format!("at most {most} new tokens, as {holds}");
            return Err(Error::invalid(argument, expected, count));
        }
    }
    Ok(())
}

/// Refuses a prefix of more tokens than a sequence holds.
pub(super) fn check_prefix(len: usize, held: usize) -> Result<(), Error> {
    if len > held {
        let expected = format!("at most {held} tokens, as the sequence holds");
        return Err(Error::invalid("len", expected, len));
    }
    Ok(())
}

/// For each of `len` tokens of each of `batch` sequences its place in its sequence and the row of
/// the cache that it goes into; no row for those that are in no range.
pub(super) fn places([batch, len]: [usize; 2], ranges: &[AppendRange]) -> Vec<u32> {
    let mut places = vec![[0, u32::MAX]; batch * len];
    for AppendRange { sequences, first_token, count, to, position } in ranges {
        for sequence in sequences.clone() {
            let first = sequence as usize * len + *first_token as usize;
            for (place, n) in places[first..].iter_mut().zip(0..*count) {
                *place = [position + n, to.row + n];
            }
        }
    }
    places.into_flattened()
}

/// A size or index that a checked shape bounds.
pub(super) fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
