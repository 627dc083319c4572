//! Tile sizes from shape and device, a variant for each kernel that has some of its own.

mod decode;
mod forward;
mod matrix;
mod products;
mod size;
mod tiled;
mod wide;

pub(super) use decode::DecodeTiles;
pub use forward::ForwardTile;
pub(super) use forward::ForwardTiles;
pub(super) use matrix::MatrixTiles;
pub(super) use products::ProductTiles;
pub(crate) use products::ROW_LANES;
pub(super) use size::{MOST_KEYS, TileSize, most_columns, softmax_threads};
pub(super) use tiled::TiledTiles;
pub(super) use wide::WideTiles;

use super::variant::{Constant, Entry};
use crate::device::Capabilities;
use crate::problem::Problem;
use std::fmt;

/// Tiles of the kernel that goes through the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiles {
    /// Of `attention_forward.wgsl`.
    Forward(ForwardTiles),
    /// Of `attention_forward_wide.wgsl`.
    Wide(WideTiles),
    /// Of `attention_tiled.wgsl`.
    Tiled(TiledTiles),
    /// Of `attention_decode.wgsl`.
    Decode(DecodeTiles),
    /// Of `attention_forward_matrix.wgsl`.
    Matrix(MatrixTiles),
    /// Of the two products of three stages.
    Products(ProductTiles),
}

/// Outputs of matrices are sums of f32 that nothing settles: so many keys stay within an eighth of
/// the error that f16 is allowed.
const MOST_MATRIX_KEYS: u32 = 1 << 14;

impl Tiles {
    /// What tiles of every kernel have.
    #[must_use]
    pub fn size(&self) -> TileSize {
        match self {
            Self::Forward(tiles) => tiles.size,
            Self::Wide(tiles) => tiles.size,
            Self::Tiled(tiles) => tiles.size,
            Self::Decode(tiles) => tiles.size,
            Self::Matrix(tiles) => tiles.size,
            Self::Products(tiles) => tiles.size,
        }
    }

    /// What of them a measurement may change, if they are those of `forward`, `tiled` or `decode`.
    #[must_use]
    pub fn forward_tile(&self) -> Option<ForwardTile> {
        match self {
            Self::Forward(ForwardTiles { tile, .. })
            | Self::Tiled(TiledTiles { tile, .. })
            | Self::Decode(DecodeTiles { tile, .. }) => Some(*tile),
            _ => None,
        }
    }

    /// Whether a measurement picked them.
    pub(super) fn are_measured(&self) -> bool {
        match self {
            Self::Forward(tiles) => tiles.measured,
            Self::Tiled(tiles) => tiles.measured,
            Self::Decode(tiles) => tiles.measured,
            _ => false,
        }
    }

    /// The kernel that they are of, and its constants; of three stages, the first.
    pub(super) fn kernel(&self, problem: &Problem) -> (Entry, Vec<(&'static str, Constant)>) {
        match self {
            Self::Forward(tiles) => (Entry::AttentionForward, tiles.constants(problem)),
            Self::Wide(tiles) => (Entry::AttentionForwardWide, tiles.constants(problem)),
            Self::Tiled(tiles) => (Entry::AttentionTiled, tiles.constants()),
            Self::Decode(tiles) => (Entry::AttentionDecode, tiles.constants()),
            Self::Matrix(tiles) => (Entry::AttentionForwardMatrix, tiles.constants()),
            Self::Products(tiles) => tiles.scores(),
        }
    }

    /// Keys of a row that their kernel may go through in one dispatch.
    pub(super) fn most_keys(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let size = self.size();
        let by_tiles = |turns_per_tile: u32| match capabilities.loop_turns {
            u32::MAX => u32::MAX,
            turns => (turns / turns_per_tile).max(1).saturating_mul(size.keys),
        };
        match self {
            Self::Forward(_) => by_tiles(size.turns(problem)),
            Self::Wide(tiles) => by_tiles(tiles.turns(problem)),
            Self::Tiled(tiles) => by_tiles(tiles.turns(problem)),
            Self::Decode(tiles) => by_tiles(tiles.turns()),
            Self::Matrix(_) => by_tiles(size.turns(problem)).min(MOST_MATRIX_KEYS),
            Self::Products(tiles) if tiles.are_tiled() => by_tiles(tiles.turns(problem)),
            // Each of three stages takes less than a turn a key, and what decides visibility.
            Self::Products(_) => capabilities.loop_turns / (1 + size.visibility_turns(problem)),
        }
    }
}

impl fmt::Display for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(ForwardTiles { tile, .. })
            | Self::Tiled(TiledTiles { tile, .. })
            | Self::Decode(DecodeTiles { tile, .. }) => tile.fmt(f),
            Self::Matrix(tiles) => tiles.fmt(f),
            Self::Wide(WideTiles { size }) | Self::Products(ProductTiles { size, .. }) => {
                let TileSize { threads, rows_each, keys_each, .. } = size;
                write!(f, "{threads} threads, each {rows_each} rows and {keys_each} keys at a time")
            }
        }
    }
}
