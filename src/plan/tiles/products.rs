//! Tiles of the products of three stages: `scores.wgsl` and `weighted_sum.wgsl`.

use super::size::{FLAG_BYTES, TileSize, counts, even_chunk, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::{Constant, Entry};
use crate::problem::Problem;

/// Sums of two rows and 32 keys or columns stay in 64 registers: one read of a key or value serves
/// both rows, one of a query or weight all keys or columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductTiles {
    /// What all tiles have: all of a tile's keys are computed at a time.
    pub size: TileSize,
}

/// Invocations of a workgroup.
const THREADS: u32 = Entry::Scores.count("THREADS");
const _: () = assert!(Entry::WeightedSum.count("THREADS") == THREADS);

impl ProductTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let head_columns = even_chunk(problem.head_dim, 64);
        let value_columns = even_chunk(problem.value_dim, 32);
        let rows_each = if packed_rows(problem) <= THREADS { 1 } else { 2 };
        let size = TileSize {
            threads: THREADS,
            rows: THREADS * rows_each,
            rows_each,
            head_columns,
            value_columns,
            ..TileSize::default()
        };
        let bytes_per_key = head_columns.max(value_columns) * 4;
        let size = size.fit(bytes_per_key, FLAG_BYTES, problem, capabilities)?;
        Ok(Self { size: TileSize { keys_each: size.keys, ..size } })
    }

    /// Constants of the scores.
    pub(crate) fn score_constants(&self) -> Vec<(&'static str, Constant)> {
        self.constants(("STEP", self.size.head_columns / 4))
    }

    /// Constants of the weighted sum.
    pub(crate) fn sum_constants(&self) -> Vec<(&'static str, Constant)> {
        self.constants(("COLUMNS", self.size.value_columns))
    }

    fn constants(&self, columns: (&'static str, u32)) -> Vec<(&'static str, Constant)> {
        let TileSize { rows_each, keys, .. } = self.size;
        counts([columns, ("ROWS_EACH", rows_each), ("KEYS", keys)])
    }
}
