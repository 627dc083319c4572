//! Tiles of the products of three stages: `scores.wgsl` and `weighted_sum.wgsl`.

use super::size::{FLAG_BYTES, Needs, TileSize, counts, even_chunk, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::{Constant, Entry};
use crate::problem::Problem;
use std::fmt;

/// Sums of two rows and 32 keys or columns stay in 64 registers: one read of a key or value serves
/// both rows, one of a query or weight all keys or columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductTiles {
    /// Rows that an invocation owns.
    pub rows_each: u32,
    /// Keys of a tile, all of which are computed at a time.
    pub keys: u32,
    /// Columns of a key staged at once, with padding.
    pub head_chunk: u32,
    /// Columns of out that a workgroup computes, with padding.
    pub value_chunk: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

/// Invocations of a workgroup.
const THREADS: u32 = Entry::Scores.count("THREADS");
const _: () = assert!(Entry::WeightedSum.count("THREADS") == THREADS);

impl ProductTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let head_chunk = even_chunk(problem.head_dim, 64);
        let value_chunk = even_chunk(problem.value_dim, 32);
        let bytes_per_key = head_chunk.max(value_chunk) * 4;
        let needs = Needs { threads: THREADS, bytes_per_key, other_bytes: FLAG_BYTES };
        let (keys, workgroup_bytes) = needs.fit(problem, capabilities)?;
        let rows_each = if packed_rows(problem) <= THREADS { 1 } else { 2 };
        Ok(Self { rows_each, keys, head_chunk, value_chunk, workgroup_bytes })
    }

    pub(crate) fn size(&self) -> TileSize {
        TileSize {
            threads: THREADS,
            rows: THREADS * self.rows_each,
            rows_each: self.rows_each,
            keys: self.keys,
            head_columns: self.head_chunk,
            value_columns: self.value_chunk,
            workgroup_bytes: self.workgroup_bytes,
        }
    }

    /// Constants of the scores.
    pub(crate) fn score_constants(&self) -> Vec<(&'static str, Constant)> {
        let Self { rows_each, keys, .. } = *self;
        counts([("STEP", self.head_chunk / 4), ("ROWS_EACH", rows_each), ("KEYS", keys)]).collect()
    }

    /// Constants of the weighted sum.
    pub(crate) fn sum_constants(&self) -> Vec<(&'static str, Constant)> {
        let Self { rows_each, keys, .. } = *self;
        counts([("COLUMNS", self.value_chunk), ("ROWS_EACH", rows_each), ("KEYS", keys)]).collect()
    }
}

impl fmt::Display for ProductTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows_each, keys, .. } = self;
        write!(f, "{THREADS} threads, each {rows_each} rows and {keys} keys at a time")
    }
}
