//! Tiles of `attention_decode.wgsl`: few rows, whose keys come straight from memory.

use super::forward::ForwardTile;
use super::size::{TileSize, counts, packed_rows};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::variant::Constant;
use crate::problem::{ElementType, Problem};

/// A [`ForwardTile`], and what follows from it for a shape and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeTiles {
    /// What a measurement may change, but for the rows.
    pub tile: ForwardTile,
    /// Whether one did.
    pub measured: bool,
    /// What it takes of a device.
    pub size: TileSize,
    /// Invocations that share a key.
    column_lanes: u32,
    /// Vectors of a query and of a row of out that an invocation has.
    head_vectors: u32,
    value_vectors: u32,
    /// Whether some of the query's lie past its end.
    pads_head: bool,
    /// Whether invocations that share a key are of one subgroup.
    subgroup: bool,
}

/// Rows that share keys, at most: workgroups that share the rows each read all of the keys.
const MOST_ROWS: u32 = 8;
/// Vectors of queries, and of outputs, that an invocation has registers for, of all its rows.
const MOST_VECTORS: u32 = 8;
/// Invocations that share a key. Columns that take more have other kernels.
const MOST_COLUMN_LANES: u32 = 32;
/// Workgroups that keep memory busy: a few for each processor of a large GPU.
const WORKGROUPS: u32 = 512;
/// Fewer keys are not worth a workgroup.
const FEWEST_KEYS: u32 = 64;
/// Keys whose sums stay within the bounds.
const MOST_KEYS: u32 = 8192;
/// Bytes of a vector, which is how workgroup memory is laid out.
const VECTOR_BYTES: u32 = 16;

impl DecodeTiles {
    /// With the tile that a model picks. [`Error::Unsupported`] for more rows or longer columns than
    /// the kernel takes.
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        // As many bytes on their way, whatever the element type. The portable form has no workgroup
        // memory for more keys.
        let is_half = problem.element != ElementType::F32 && capabilities.subgroup > 0;
        let keys_each = if is_half { 4 } else { 2 };
        let tile = ForwardTile { threads: 128, rows_each: 1, keys_each, ahead: false };
        Self::with(tile, problem, capabilities)
    }

    /// With a tile that was measured, if the kernel can be compiled for it and the device has room
    /// for it.
    pub(crate) fn admitted(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Option<Self> {
        let ForwardTile { threads, keys_each, ahead, .. } = tile;
        let is_tile = !ahead && matches!(threads, 64 | 128 | 256) && matches!(keys_each, 1 | 2 | 4);
        let tiles = is_tile.then(|| Self::with(tile, problem, capabilities).ok()).flatten();
        tiles.filter(|tiles| tiles.tile == tile).map(|tiles| Self { measured: true, ..tiles })
    }

    fn with(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let [head, value] = [problem.head_dim, problem.value_dim].map(|dim| dim.div_ceil(4).max(1));
        let vectors = head.max(value);
        // Two vectors each of a row, so that memory sends long stretches; four of the longest.
        let column_lanes = vectors.div_ceil(2).next_power_of_two().clamp(2, MOST_COLUMN_LANES);
        let [head_vectors, value_vectors] = [head, value].map(|dim| dim.div_ceil(column_lanes));
        let each = vectors.div_ceil(column_lanes);
        let packed = packed_rows(problem);
        if packed > MOST_ROWS || each > MOST_VECTORS / 2 {
            let expected = "8 rows that share keys, and 512 columns, at most".to_owned();
            let found = format!("{packed} and {}", 4 * vectors);
            return Err(Error::Unsupported { what: "decode from memory", expected, found });
        }
        let ForwardTile { threads, keys_each, .. } = tile;
        let key_lanes = threads / column_lanes;
        let subgroup = capabilities.subgroup >= column_lanes;
        let size_of = |rows: u32| {
            let given = rows * (threads / 2 * value_vectors + key_lanes / 2);
            let partial = if subgroup { 0 } else { (rows * keys_each).div_ceil(4) * threads };
            let size = TileSize {
                threads,
                rows,
                rows_each: rows,
                keys: key_lanes * keys_each,
                keys_each,
                head_columns: head_vectors * column_lanes * 4,
                value_columns: value_vectors * column_lanes * 4,
                workgroup_bytes: (given + partial) * VECTOR_BYTES,
            };
            size.checked(capabilities)
        };
        let mut rows = packed.next_power_of_two().min(MOST_VECTORS / each);
        while rows > 1 && size_of(rows).is_err() {
            rows /= 2;
        }
        let size = size_of(rows)?;
        Ok(Self {
            tile: ForwardTile { rows_each: rows, ..tile },
            measured: false,
            size,
            column_lanes,
            head_vectors,
            value_vectors,
            pads_head: size.head_columns != problem.head_dim,
            subgroup,
        })
    }

    /// How many workgroups share the keys of a row. Their results are a small part of what they read
    /// if each has some keys; nothing settles its sums, so it has not too many either.
    pub(crate) fn splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let fewest = FEWEST_KEYS.max(self.size.keys);
        self.size.shares(WORKGROUPS, fewest, MOST_KEYS, problem, capabilities)
    }

    /// Turns of the loops of a tile of keys that an invocation takes.
    pub(super) fn turns(&self) -> u32 {
        let scores = self.size.rows * self.size.keys_each;
        scores * (self.head_vectors + self.value_vectors + 16) + self.column_lanes * scores
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = counts([
            ("KEY_LANES", self.size.threads / self.column_lanes),
            ("COLUMN_LANES", self.column_lanes),
            ("ROWS", self.size.rows),
            ("KEYS_EACH", self.size.keys_each),
            ("HEAD_VECTORS", self.head_vectors),
            ("VALUE_VECTORS", self.value_vectors),
        ]);
        constants.push(("PADS_HEAD", Constant::Flag(self.pads_head)));
        constants.push(("SUBGROUP", Constant::Flag(self.subgroup)));
        constants
    }
}
