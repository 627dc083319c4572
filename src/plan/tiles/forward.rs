//! Tiles of `attention_forward.wgsl`, which stages whole keys and values side by side, and of
//! `attention_weights.wgsl`.

use super::size::{
    FEWEST_WORKGROUPS_EACH, FLAG_BYTES, MOST_COLUMNS, SOFTWARE_LOCKSTEP, TileSize, counts,
    packed_rows, workgroups,
};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::Constant;
use crate::problem::Problem;
use std::fmt;

/// What a workgroup of `forward`, `tiled` and `decode` takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardTile {
    /// Invocations: a power of two from 8 to 256; of `tiled`, and of `decode` on a GPU, from 64.
    pub threads: u32,
    /// Rows that each owns: 1, 2 or 4; of `tiled` 4 or 8. Of `decode` on a GPU all that a workgroup
    /// has: 1, 2, 4 or 8.
    pub rows_each: u32,
    /// Keys that it computes at a time: 1, 2 or 4; of `tiled` 4 or 8.
    pub keys_each: u32,
    /// Whether each tile of keys is loaded into registers while the one before it is computed.
    pub ahead: bool,
}

/// A [`ForwardTile`], and what follows from it for a shape and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardTiles {
    /// What all tiles have.
    pub size: TileSize,
    /// What a measurement may change.
    pub tile: ForwardTile,
    /// Whether one did.
    pub measured: bool,
    head: Loops,
    value: Loops,
}

/// A vector's columns as `count` loops over `vectors` vectors of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loops {
    count: u32,
    vectors: u32,
}

/// Vectors of the next tile that an invocation has registers for.
const MOST_VECTORS_AHEAD: u32 = 16;

impl ForwardTiles {
    /// With the tile that a model picks.
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        Self::with(model(problem, capabilities), problem, capabilities)
    }

    /// With a tile that was measured, if the kernel can be compiled for it and the device has room
    /// for it.
    pub(crate) fn admitted(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Option<Self> {
        let ForwardTile { threads, rows_each, keys_each, ahead } = tile;
        let is_small = |count| matches!(count, 1 | 2 | 4);
        let is_tile = is_small(rows_each)
            && is_small(keys_each)
            && threads.is_power_of_two()
            && (SOFTWARE_LOCKSTEP..=256).contains(&threads);
        if !is_tile {
            return None;
        }
        let tiles = Self::with(tile, problem, capabilities).ok()?;
        let TileSize { keys, head_columns, value_columns, .. } = tiles.size;
        let vectors_each = keys * (head_columns + value_columns) / 4 / threads;
        let has_registers = !ahead || vectors_each <= MOST_VECTORS_AHEAD;
        (tiles.head.count.max(tiles.value.count) <= 4 && has_registers)
            .then_some(Self { measured: true, ..tiles })
    }

    fn with(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let [head, value] = [problem.head_dim, problem.value_dim].map(|dim| Loops::new(dim, tile));
        let ForwardTile { threads, rows_each, keys_each, .. } = tile;
        let size = TileSize {
            threads,
            rows: threads * rows_each,
            rows_each,
            keys_each,
            head_columns: head.columns(),
            value_columns: value.columns(),
            ..TileSize::default()
        };
        // A value's vectors have one more between them and the next value's.
        let bytes_per_key = (size.head_columns + size.value_columns + 4) * 4;
        let size = size.fit(bytes_per_key, FLAG_BYTES, problem, capabilities)?;
        Ok(Self { size, tile, measured: false, head, value })
    }

    /// As [`TileSize::splits`] for the kernel that stores the weights: each workgroup of it loads
    /// its queries anew, so on a software adapter that is busy there are no more than needed.
    pub(crate) fn weights_splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let size = self.size;
        let busy = capabilities.processors.saturating_mul(FEWEST_WORKGROUPS_EACH);
        // As many as a driver that stops long loops needs.
        let tiles = problem.kv_len.div_ceil(size.keys);
        let turns = tiles.saturating_mul(size.turns(problem));
        let least = turns.div_ceil(capabilities.loop_turns).max(1);
        if capabilities.is_software() && workgroups(problem, size.rows) >= busy {
            return least;
        }
        size.splits(problem, capabilities).max(least)
    }

    pub(super) fn constants(&self, problem: &Problem) -> Vec<(&'static str, Constant)> {
        let mut constants = self.weights_constants(problem);
        constants.extend(counts([
            ("VALUE_DIM", problem.value_dim),
            ("VALUE_PARTS", self.value.count),
            ("VALUE_PART", self.value.vectors),
        ]));
        constants.push(("AHEAD", Constant::Flag(self.tile.ahead)));
        constants
    }

    /// Constants of the kernel that stores the weights.
    pub(crate) fn weights_constants(&self, problem: &Problem) -> Vec<(&'static str, Constant)> {
        counts([
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_PARTS", self.head.count),
            ("HEAD_PART", self.head.vectors),
            ("THREADS", self.size.threads),
            ("KEYS", self.size.keys),
            ("ROWS_EACH", self.size.rows_each),
            ("KEYS_EACH", self.size.keys_each),
        ])
    }
}

impl fmt::Display for ForwardTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, rows_each, keys_each, ahead } = self;
        write!(f, "{threads} threads, each {rows_each} rows and {keys_each} keys at a time")?;
        if *ahead { f.write_str(", the next tile ahead") } else { Ok(()) }
    }
}

impl Loops {
    /// As few loops as drivers still unroll, up to 64 dot products each; at most four cover all
    /// columns.
    fn new(dim: u32, tile: ForwardTile) -> Self {
        let vectors = dim.div_ceil(4);
        let most = (64 / (tile.rows_each * tile.keys_each)).min(16);
        let count = vectors.div_ceil(most);
        Self { count, vectors: vectors.div_ceil(count) }
    }

    fn columns(self) -> u32 {
        self.count * self.vectors * 4
    }
}

fn model(problem: &Problem, capabilities: &Capabilities) -> ForwardTile {
    if capabilities.is_software() {
        return software_model(problem, capabilities.processors);
    }
    let threads = if packed_rows(problem) <= 32 { 32 } else { 64 };
    ForwardTile { threads, rows_each: 1, keys_each: 4, ahead: false }
}

/// Each column of a key costs a software adapter a bounds check and a broadcast, so two rows share
/// it, and each number of an output a load and a store, so two keys share that; a GPU has no
/// registers for both. More are compiled for longer and are no faster. Each vector of invocations
/// takes every tile's barriers, with rows or without, but many of them share what is staged. 16 and
/// 128 invocations would be two compilations more for a program whose lengths change.
fn software_model(problem: &Problem, processors: u32) -> ForwardTile {
    let rows = packed_rows(problem);
    let dim = problem.head_dim.max(problem.value_dim);
    let rows_each = if rows <= 8 || dim > MOST_COLUMNS { 1 } else { 2 };
    let busy = processors.saturating_mul(FEWEST_WORKGROUPS_EACH);
    let threads = match rows {
        0..=8 => 8,
        9..=64 => 32,
        257.. if workgroups(problem, 256 * rows_each) >= busy => 256,
        _ => 64,
    };
    ForwardTile { threads, rows_each, keys_each: 2, ahead: false }
}
