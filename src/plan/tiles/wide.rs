//! Tiles of `attention_forward_wide.wgsl`: heads of any length, in chunks of columns.

use super::size::{MOST_COLUMNS, Needs, TileSize, counts, even_chunk, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::Constant;
use crate::problem::Problem;
use std::fmt;

/// Keys that the kernel computes at a time.
const KEYS_EACH: u32 = 4;

/// Chunks of keys and of values take turns in workgroup memory; an invocation has one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideTiles {
    /// Rows of a workgroup, an invocation for each.
    pub rows: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Columns of a key staged at once, with padding.
    pub head_chunk: u32,
    /// Columns of out that a workgroup computes, with padding.
    pub value_chunk: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

impl WideTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let [head_chunk, value_chunk] = [problem.head_dim, problem.value_dim].map(balanced_chunk);
        let rows = if packed_rows(problem) <= 32 { 32 } else { 64 };
        let bytes_per_key = head_chunk.max(value_chunk) * 4;
        let needs = Needs { threads: rows, bytes_per_key, other_bytes: 0 };
        let (keys, workgroup_bytes) = needs.fit(problem, capabilities)?;
        Ok(Self { rows, keys, head_chunk, value_chunk, workgroup_bytes })
    }

    pub(crate) fn size(&self) -> TileSize {
        let Self { rows, keys, head_chunk, value_chunk, workgroup_bytes } = *self;
        let (head_columns, value_columns) = (head_chunk, value_chunk);
        let threads = rows;
        TileSize { threads, rows, rows_each: 1, keys, head_columns, value_columns, workgroup_bytes }
    }

    /// As [`TileSize::turns`], and a turn for each vector of a key and value, as loops over columns
    /// are not unrolled.
    pub(super) fn turns(&self, problem: &Problem) -> u32 {
        let size = self.size();
        size.turns(problem) + self.keys / KEYS_EACH * size.vectors(problem)
    }

    pub(super) fn constants(&self, problem: &Problem) -> Vec<(&'static str, Constant)> {
        counts([
            ("ROWS", self.rows),
            ("KEYS", self.keys),
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_CHUNK", self.head_chunk),
            ("HEAD_STEP", step(self.head_chunk)),
            ("VALUE_DIM", problem.value_dim),
            ("VALUE_CHUNK", self.value_chunk),
            ("VALUE_STEP", step(self.value_chunk)),
        ])
        .collect()
    }
}

impl fmt::Display for WideTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads, each 1 rows and {KEYS_EACH} keys at a time", self.rows)
    }
}

/// Columns that one loop goes through where loops come in two.
const ONE_LOOP: u32 = 64;

/// Vectors of a chunk that an inner loop goes through: as many as drivers still unroll.
fn step(chunk: u32) -> u32 {
    if chunk <= ONE_LOOP { chunk / 4 } else { chunk / 8 }
}

/// Covers `dim` in as few pieces as registers allow, each of a size that loops divide.
fn balanced_chunk(dim: u32) -> u32 {
    let chunk = even_chunk(dim, MOST_COLUMNS);
    if chunk <= ONE_LOOP { chunk } else { chunk.next_multiple_of(8) }
}
