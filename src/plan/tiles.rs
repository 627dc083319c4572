//! Tile sizes from shape and device.

use super::variant::{Constant, Storage};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{Problem, View};

/// Sizes of a kernel's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of a workgroup, one an invocation.
    pub rows: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Columns of a key staged at once.
    pub head_chunk: u32,
    /// Columns of out that a workgroup computes.
    pub value_chunk: u32,
}

/// Rows are split into query tiles of this size, and chunks of rows are multiples of it.
pub(super) const ROWS: u32 = 64;
/// The visibility of a tile's keys is one 32-bit word.
const MOST_KEYS: u32 = 32;
/// Columns an invocation keeps in registers.
const MOST_COLUMNS: u32 = 128;
/// Columns that one loop goes through.
const ONE_LOOP: u32 = 64;

impl Tiles {
    /// The largest tiles that fit the device's workgroup memory.
    pub(super) fn choose(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let packed_rows = u64::from(problem.q_len) * u64::from(problem.group());
        let rows = if packed_rows <= 32 { 32 } else { ROWS };
        let head_chunk = balanced_chunk(problem.head_dim);
        let value_chunk = balanced_chunk(problem.value_dim);
        let mut tiles = Self { rows, keys: MOST_KEYS, head_chunk, value_chunk };
        while tiles.workgroup_bytes() > capabilities.workgroup_memory && tiles.keys > 4 {
            tiles.keys /= 2;
        }
        let unsupported = |what, expected: u32, found: u32| {
            Err(Error::Unsupported {
                what,
                expected: format!("at least {expected}"),
                found: found.to_string(),
            })
        };
        if tiles.workgroup_bytes() > capabilities.workgroup_memory {
            let found = capabilities.workgroup_memory;
            return unsupported("bytes of workgroup memory", tiles.workgroup_bytes(), found);
        }
        if rows > capabilities.workgroup_invocations {
            let found = capabilities.workgroup_invocations;
            return unsupported("invocations per workgroup", rows, found);
        }
        Ok(tiles)
    }

    /// Workgroup memory: keys and values take turns in one tile.
    #[must_use]
    pub fn workgroup_bytes(&self) -> u32 {
        self.keys * self.head_chunk.max(self.value_chunk) * 4
    }

    /// How many pieces the columns of out come in.
    pub(super) fn value_chunks(&self, problem: &Problem) -> u32 {
        problem.value_dim.div_ceil(self.value_chunk)
    }

    pub(super) fn constants(&self) -> [(&'static str, Constant); 2] {
        [("ROWS", Constant::Count(self.rows)), ("KEYS", Constant::Count(self.keys))]
    }

    /// Constants of the kernels that read keys.
    pub(super) fn head_constants(&self, problem: &Problem) -> [(&'static str, Constant); 3] {
        [
            ("HEAD_DIM", Constant::Count(problem.head_dim)),
            ("HEAD_CHUNK", Constant::Count(self.head_chunk)),
            ("HEAD_STEP", Constant::Count(step(self.head_chunk))),
        ]
    }

    /// Constants of the kernels that read values.
    pub(super) fn value_constants(&self, problem: &Problem) -> [(&'static str, Constant); 3] {
        [
            ("VALUE_DIM", Constant::Count(problem.value_dim)),
            ("VALUE_CHUNK", Constant::Count(self.value_chunk)),
            ("VALUE_STEP", Constant::Count(step(self.value_chunk))),
        ]
    }
}

/// Vectors of a chunk that an inner loop goes through: as many as drivers still unroll. At head_dim 128
/// on lavapipe 26, one loop of 32 runs at half the speed of two loops of 16.
fn step(chunk: u32) -> u32 {
    if chunk <= ONE_LOOP { chunk / 4 } else { chunk / 8 }
}

/// Covers `dim` in as few pieces as registers allow, each of a size that loops divide.
fn balanced_chunk(dim: u32) -> u32 {
    let chunk = dim.div_ceil(dim.div_ceil(MOST_COLUMNS));
    chunk.next_multiple_of(if chunk <= ONE_LOOP { 4 } else { 8 })
}

/// Four elements at a time if every row of query, key, value and out starts on a multiple of four.
pub(super) fn storage(problem: &Problem) -> Storage {
    let aligned = |view: &View| {
        [view.offset, view.batch, view.head, view.row].iter().all(|s| s.is_multiple_of(4))
    };
    let dims = [problem.head_dim, problem.value_dim];
    let views = [&problem.query, &problem.key, &problem.value, &problem.out];
    if dims.iter().all(|dim| dim.is_multiple_of(4)) && views.iter().all(|view| aligned(view)) {
        Storage::F32x4
    } else {
        Storage::F32
    }
}
