//! Tiles of `attention_forward_wide.wgsl`: heads of any length, in chunks of columns.

use super::size::{MOST_COLUMNS, TileSize, counts, even_chunk, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::Constant;
use crate::problem::Problem;

/// Chunks of keys and of values take turns in workgroup memory; an invocation has one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideTiles {
    /// What all tiles have.
    pub size: TileSize,
}

impl WideTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let [head_columns, value_columns] =
            [problem.head_dim, problem.value_dim].map(balanced_chunk);
        let rows = if packed_rows(problem) <= 32 { 32 } else { 64 };
        let size = TileSize {
            threads: rows,
            rows,
            rows_each: 1,
            keys_each: 4,
            head_columns,
            value_columns,
            ..TileSize::default()
        };
        let bytes_per_key = head_columns.max(value_columns) * 4;
        Ok(Self { size: size.fit(bytes_per_key, 0, problem, capabilities)? })
    }

    /// As [`TileSize::turns`], and a turn for each vector of a key and value, as loops over columns
    /// are not unrolled.
    pub(super) fn turns(&self, problem: &Problem) -> u32 {
        let TileSize { keys, keys_each, .. } = self.size;
        self.size.turns(problem) + keys / keys_each * self.size.vectors(problem)
    }

    pub(super) fn constants(&self, problem: &Problem) -> Vec<(&'static str, Constant)> {
        let TileSize { rows, keys, head_columns, value_columns, .. } = self.size;
        counts([
            ("ROWS", rows),
            ("KEYS", keys),
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_CHUNK", head_columns),
            ("HEAD_STEP", step(head_columns)),
            ("VALUE_DIM", problem.value_dim),
            ("VALUE_CHUNK", value_columns),
            ("VALUE_STEP", step(value_columns)),
        ])
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
