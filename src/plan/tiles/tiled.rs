//! Tiles of `attention_tiled.wgsl`: both products in registers, whatever the dims.

use super::forward::ForwardTile;
use super::size::{MOST_COLUMNS, MOST_KEYS, TileSize, counts, even_chunk, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::{Constant, count};
use crate::problem::Problem;

/// Columns of queries and keys, or keys of weights and values, that are staged at a time.
const CHUNK: u32 = count(include_str!("../../../shaders/shared/register_tile.wgsl"), "CHUNK");
/// Keys of a tile.
const KEYS: u32 = 64;
/// Vectors of a row of out that an invocation has registers for.
const MOST_VECTORS: u32 = 4;
/// Vectors of outputs that an invocation has registers for, of all its rows.
const MOST_OUTS: u32 = 16;
/// Bytes of a vector, which is how workgroup memory is laid out.
const VECTOR_BYTES: u32 = 16;

/// A [`ForwardTile`], and what follows from it for a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiledTiles {
    /// What a measurement may change.
    pub tile: ForwardTile,
    /// Whether one did.
    pub measured: bool,
    /// What it takes of a device.
    pub size: TileSize,
    /// Invocations along the keys, and along the columns of out.
    key_lanes: u32,
    /// Vectors of a row of out that an invocation has.
    value_vectors: u32,
    /// Workgroups that share the columns of a row of out.
    value_chunks: u32,
}

impl TiledTiles {
    /// With the tile that a model picks.
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        Self::with(model(problem), problem, capabilities)
    }

    /// With a tile that was measured, if the kernel can be compiled for it and the device has room
    /// for it.
    pub(crate) fn admitted(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Option<Self> {
        let ForwardTile { threads, rows_each, keys_each, ahead } = tile;
        let is_tile = !ahead
            && matches!(threads, 64 | 128 | 256)
            && matches!((rows_each, keys_each), (4, 4) | (8, 4) | (8, 8));
        if !is_tile {
            return None;
        }
        let tiles = Self::with(tile, problem, capabilities).ok()?;
        let has_registers = tiles.value_vectors * rows_each <= MOST_OUTS;
        // Each invocation stages a vector of some value at least.
        let has_values = tiles.row_lanes() <= CHUNK;
        (has_registers && has_values).then_some(Self { measured: true, ..tiles })
    }

    fn with(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let ForwardTile { threads, rows_each, keys_each, .. } = tile;
        let key_lanes = KEYS / keys_each;
        let row_lanes = threads / key_lanes;
        let lane_columns = 4 * key_lanes;
        let chunk = even_chunk(problem.value_dim.max(1), MOST_VECTORS * lane_columns);
        let value_vectors = chunk.div_ceil(lane_columns);
        let value_columns = value_vectors * lane_columns;
        let left = CHUNK * (row_lanes * rows_each / 4 + 1);
        let right = KEYS * (CHUNK / 4 + 1);
        let rows = row_lanes * rows_each;
        let size = TileSize {
            threads,
            rows,
            // Of each row an invocation finds a word of visible keys.
            rows_each: (rows * KEYS / MOST_KEYS).div_ceil(threads),
            keys: KEYS,
            keys_each,
            head_columns: CHUNK,
            value_columns,
            // Both tiles, each row's visible keys and settled sums, the note on values.
            workgroup_bytes: (left + right + rows + 1) * VECTOR_BYTES,
        };
        let size = size.checked(capabilities)?;
        let value_chunks = problem.value_dim.div_ceil(value_columns).max(1);
        Ok(Self { tile, measured: false, size, key_lanes, value_vectors, value_chunks })
    }

    fn row_lanes(&self) -> u32 {
        self.tile.threads / self.key_lanes
    }

    /// Turns of the loops of a tile of keys that an invocation takes.
    pub(super) fn turns(&self, problem: &Problem) -> u32 {
        let chunks = problem.head_dim.div_ceil(CHUNK) + KEYS / CHUNK * self.value_vectors;
        chunks * 2 * CHUNK + self.size.visibility_turns(problem) * 32
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, Constant)> {
        counts([
            ("ROW_LANES", self.row_lanes()),
            ("KEY_LANES", self.key_lanes),
            ("ROWS_EACH", self.tile.rows_each),
            ("KEYS_EACH", self.tile.keys_each),
            ("VALUE_VECTORS", self.value_vectors),
            ("VALUE_CHUNKS", self.value_chunks),
        ])
    }
}

/// Few rows take a small tile. More than two vectors of each row's outputs leave registers for four
/// rows, and then twice as many invocations share what is staged.
fn model(problem: &Problem) -> ForwardTile {
    let (threads, rows_each) = match problem.value_dim {
        _ if packed_rows(problem) <= 32 => (128, 4),
        0..=MOST_COLUMNS => (128, 8),
        _ => (256, 4),
    };
    ForwardTile { threads, rows_each, keys_each: 4, ahead: false }
}
