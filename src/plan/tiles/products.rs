//! Tiles of the products of three stages, and of the weights beside fused results.

use super::size::{
    FLAG_BYTES, MOST_COLUMNS, TileSize, counts, even_chunk, packed_rows, workgroups,
};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::{Constant, Entry, count};
use crate::problem::Problem;

/// On a GPU the tiles of `scores_tiled.wgsl` and `weighted_sum_tiled.wgsl`, as those of `tiled`. On a
/// software adapter those of `scores.wgsl` and `weighted_sum.wgsl`: sums of two rows and 32 keys or
/// columns stay in 64 registers, so that one read of a key or value serves both rows, one of a query
/// or weight all keys or columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductTiles {
    /// What all tiles have: all of a tile's keys are computed at a time.
    pub size: TileSize,
    /// Whether they are of a GPU.
    tiled: bool,
}

/// Invocations of a workgroup.
const THREADS: u32 = Entry::Scores.count("THREADS");
const _: () = assert!(Entry::WeightedSum.count("THREADS") == THREADS);
/// Along the rows of a tile on a GPU, and along its keys and columns.
pub(crate) const ROW_LANES: u32 = count(FIXED_TILE, "ROW_LANES");
const KEY_LANES: u32 = count(FIXED_TILE, "KEY_LANES");
const FIXED_TILE: &str = include_str!("../../../shaders/shared/fixed_tile.wgsl");
/// Keys of a tile on a GPU, and columns or keys that are staged at a time.
const KEYS: u32 = 64;
const CHUNK: u32 = 16;
/// Columns of a vector of each of an invocation's neighbours.
const LANE_COLUMNS: u32 = 4 * KEY_LANES;
/// Workgroups that keep a GPU busy: a few for each processor of a large one.
const WORKGROUPS: u32 = 1024;

impl ProductTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let tiled = Self::of_gpu(problem).checked(capabilities);
        match tiled {
            Ok(size) if !capabilities.is_software() => Ok(Self { size, tiled: true }),
            _ => Self::of_software(problem, capabilities),
        }
    }

    /// More than two vectors of each row's outputs leave registers for four rows.
    fn of_gpu(problem: &Problem) -> TileSize {
        let is_small = packed_rows(problem) <= 32 || problem.value_dim > MOST_COLUMNS;
        let rows_each = if is_small { 4 } else { 8 };
        let columns = even_chunk(problem.value_dim.max(1), 4 * LANE_COLUMNS);
        let rows = ROW_LANES * rows_each;
        let left = CHUNK * (rows / 4 + 1);
        let right = KEYS * (CHUNK / 4 + 1);
        TileSize {
            threads: ROW_LANES * KEY_LANES,
            rows,
            rows_each: (rows * 2).div_ceil(ROW_LANES * KEY_LANES),
            keys: KEYS,
            keys_each: KEYS / KEY_LANES,
            head_columns: CHUNK,
            value_columns: columns.next_multiple_of(LANE_COLUMNS),
            // Both tiles, each row's visible keys, the note on values.
            workgroup_bytes: (left + right + 1) * 16 + rows * 8,
        }
    }

    fn of_software(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
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
        Ok(Self { size: TileSize { keys_each: size.keys, ..size }, tiled: false })
    }

    /// Whether they are of a GPU.
    pub(crate) fn are_tiled(&self) -> bool {
        self.tiled
    }

    /// The kernel of the scores and its constants.
    pub(crate) fn scores(&self) -> (Entry, Vec<(&'static str, Constant)>) {
        if !self.tiled {
            let TileSize { rows_each, keys, head_columns, .. } = self.size;
            let step = ("STEP", head_columns / 4);
            return (Entry::Scores, counts([step, ("ROWS_EACH", rows_each), ("KEYS", keys)]));
        }
        let mut constants = counts([("ROWS_EACH", self.size.rows / ROW_LANES)]);
        constants.push(("WEIGHS", Constant::Flag(false)));
        (Entry::ScoresTiled, constants)
    }

    /// The kernel of the weights beside fused results, which is of GPUs, and its constants.
    pub(crate) fn weights(&self) -> (Entry, Vec<(&'static str, Constant)>) {
        let mut constants = counts([("ROWS_EACH", self.size.rows / ROW_LANES)]);
        constants.push(("WEIGHS", Constant::Flag(true)));
        (Entry::ScoresTiled, constants)
    }

    /// The kernel of the weighted sum and its constants.
    pub(crate) fn sums(&self) -> (Entry, Vec<(&'static str, Constant)>) {
        let TileSize { rows, rows_each, keys, value_columns, .. } = self.size;
        if !self.tiled {
            let columns = ("COLUMNS", value_columns);
            return (
                Entry::WeightedSum,
                counts([columns, ("ROWS_EACH", rows_each), ("KEYS", keys)]),
            );
        }
        let vectors = ("VALUE_VECTORS", value_columns / LANE_COLUMNS);
        (Entry::WeightedSumTiled, counts([("ROWS_EACH", rows / ROW_LANES), vectors]))
    }

    /// Workgroups that share the keys of a row of scores on a GPU, each with a tile at least.
    pub(crate) fn splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let tiles = problem.kv_len.div_ceil(self.size.keys).max(1);
        let wanted = WORKGROUPS / workgroups(problem, self.size.rows).max(1);
        // As many as a driver that stops long loops needs.
        let least = tiles.saturating_mul(self.turns(problem)).div_ceil(capabilities.loop_turns);
        // Shares are found from the tiles times the number of a workgroup.
        let most = capabilities.workgroups_per_axis / problem.num_kv_heads.max(1);
        wanted.max(least).min(tiles).min(most).min(u32::MAX / tiles - 1).max(1)
    }

    /// Turns of the loops of a tile of keys that an invocation takes on a GPU.
    pub(super) fn turns(&self, problem: &Problem) -> u32 {
        let chunks = problem.head_dim.div_ceil(CHUNK);
        let values = KEYS / CHUNK * self.size.value_columns / LANE_COLUMNS;
        chunks.max(values) * 2 * CHUNK + self.size.visibility_turns(problem) * 32
    }
}
