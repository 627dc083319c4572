//! A part of an attention call: its kernel's dispatches, and how it is cut where a device does not
//! take it.

use super::dispatch::{Bound, Dispatch};
use super::fit::{Excess, Part, cut_at, middle};
use super::kernels;
use super::tiles::{ForwardTiles, MOST_KEYS, ProductTiles, Tiles, WideTiles};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::Problem;
use crate::tensor::Tensor;
use crate::view::reach;

/// How all parts of a call are computed.
pub(super) struct Way {
    tiles: Tiles,
    /// Tiles of the fused kernel; of three stages, where they find no keys.
    fused_tiles: Tiles,
    /// Tiles of the kernel that stores the weights behind a fused one.
    weights_tiles: Option<Tiles>,
    /// Workgroups that share the keys of a row; none: one has them all.
    splits: Option<u32>,
    /// Keys of a row that may be in one dispatch.
    most_keys: u32,
}

impl Way {
    /// With these tiles; `shares` the keys of a row among workgroups.
    pub(super) fn new(
        problem: &Problem,
        tiles: Tiles,
        shares: bool,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let fused_tiles = match tiles {
            // Some packed sequences may have no keys, and so no scores.
            Tiles::Products(_) if problem.packed.is_some() => {
                Tiles::Wide(WideTiles::new(problem, capabilities)?)
            }
            tiles => tiles,
        };
        let weights_tiles = match tiles {
            _ if !problem.stores_weights() => None,
            Tiles::Forward(tiles) if !tiles.measured => Some(Tiles::Forward(tiles)),
            // Measured tiles are of another kernel.
            Tiles::Forward(_) => Some(Tiles::Forward(ForwardTiles::new(problem, capabilities)?)),
            Tiles::Tiled(_) | Tiles::Decode(_) => Some(weights_tiles(problem, capabilities)?),
            _ => None,
        };
        let splits = match tiles {
            Tiles::Decode(tiles) => Some(tiles.splits(problem, capabilities)).filter(|&n| n > 1),
            _ => shares.then(|| tiles.size().splits(problem, capabilities).max(2)),
        };
        let most_keys = tiles.most_keys(problem, capabilities);
        Ok(Self { tiles, fused_tiles, weights_tiles, splits, most_keys })
    }

    fn is_fused(&self) -> bool {
        !matches!(self.tiles, Tiles::Products(_))
    }
}

/// Tiles of the kernel that stores weights behind one for GPUs: those of a software adapter if one
/// runs it, by request.
fn weights_tiles(problem: &Problem, capabilities: &Capabilities) -> Result<Tiles, Error> {
    match ProductTiles::new(problem, capabilities)? {
        tiles if tiles.are_tiled() => Ok(Tiles::Products(tiles)),
        _ => ForwardTiles::new(problem, capabilities).map(Tiles::Forward),
    }
}

/// Some of the sequences, heads and queries of a call, whose keys are taken in so many chunks.
pub(super) struct AttentionPart<'a> {
    pub(super) problem: Problem,
    pub(super) chunks: u32,
    pub(super) way: &'a Way,
}

/// Halves of the queries are multiples of this, so that no tile is cut.
const QUERIES: u32 = 256;

/// What a problem can be cut along.
#[derive(Clone, Copy)]
enum Axis {
    Batch,
    Heads,
    Queries,
}

impl<'a> AttentionPart<'a> {
    /// The parts that a call begins with: all of it, or where sequences differ and the kernel
    /// cannot take them together, those that do not.
    pub(super) fn all(problem: &Problem, way: &'a Way) -> Vec<Self> {
        let part = |problem| Self { problem, chunks: 1, way };
        match way.is_fused() {
            true => vec![part(problem.clone())],
            false => problem.uniform().map(part).collect(),
        }
    }
}

impl Part for AttentionPart<'_> {
    fn is_empty(&self) -> bool {
        self.problem.batch == 0 || self.problem.q_len == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let Self { problem: part, chunks, way } = self;
        if let Tiles::Products(tiles) = &way.tiles
            && part.kv_len > 0
        {
            return kernels::three_stage(part, tiles, capabilities);
        }
        let mut dispatches = match (way.splits, chunks) {
            (None, 1) => kernels::fused(part, &way.fused_tiles, capabilities),
            (splits, &chunks) => {
                let counts = [splits.unwrap_or(1), chunks];
                kernels::split(part, &way.fused_tiles, counts, capabilities)
            }
        };
        let weights = |tiles| kernels::weights(part, tiles, capabilities);
        dispatches.extend(way.weights_tiles.as_ref().and_then(weights));
        dispatches
    }

    fn work(&self) -> u64 {
        work(&self.problem)
    }

    fn own_excess(&self) -> Option<Excess> {
        too_many_keys(&self.problem, self.chunks, self.way.most_keys)
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let Self { problem: part, chunks, way } = self;
        if let Some(halves) = halves(part, excess) {
            let same = |problem| Self { problem, chunks: *chunks, way };
            return Some(halves.into_iter().map(same).collect());
        }
        let has_more = way.is_fused() && has_more_chunks(part, *chunks, excess);
        has_more.then(|| vec![Self { problem: part.clone(), chunks: chunks * 2, way }])
    }
}

/// Multiply-adds of queries with keys and of weights with values, of the keys that a window leaves.
pub(crate) fn work(part: &Problem) -> u64 {
    // Below a tile of queries of one head there is nothing to gain by cutting.
    let is_divisible = part.sequence_count() > 1 || part.num_heads > 1 || part.q_len > QUERIES;
    if !is_divisible {
        return 0;
    }
    let columns = u64::from(part.head_dim) + u64::from(part.value_dim);
    let pairs = part.counted_rows().map(|(count, line)| {
        let pairs = u64::from(line.q_len()) * u64::from(line.sequence.reach());
        pairs.saturating_mul(count.into())
    });
    let pairs = pairs.fold(0_u64, u64::saturating_add);
    pairs.saturating_mul(u64::from(part.num_heads)).saturating_mul(columns)
}

/// More keys of a row in one of `chunks` than a kernel's loops go through.
pub(crate) fn too_many_keys(part: &Problem, chunks: u32, limit: u32) -> Option<Excess> {
    if part.kv_len <= limit {
        return None;
    }
    let reaches = part.counted_rows().map(|(_, line)| line.sequence.reach());
    let reach = reaches.max().unwrap_or_default();
    let step = part.pages.map_or(1, |pages| pages.page_len);
    let needed = reach.min(part.kv_len.div_ceil(step).div_ceil(chunks).saturating_mul(step));
    (needed > limit).then_some(Excess::Keys { needed, limit })
}

/// Whether what is too large shrinks if the keys come in more chunks, of a few tiles at least.
fn has_more_chunks(part: &Problem, chunks: u32, excess: &Excess) -> bool {
    let bound = match excess {
        Excess::Keys { limit, .. } => {
            return part.pages.is_none_or(|pages| pages.page_len <= *limit);
        }
        // Weights of a row are stored in one dispatch.
        Excess::Memory { bound, .. } if !part.stores_weights() => bound,
        _ => return false,
    };
    let shrinks = match bound.tensor {
        // Any of the pool's pages may hold any of the keys.
        Tensor::Key | Tensor::Value => part.pages.is_none(),
        Tensor::Mask | Tensor::Bias | Tensor::Segments | Tensor::Joined => true,
        _ => false,
    };
    let least = part.pages.map_or(4 * MOST_KEYS, |pages| pages.page_len.max(4 * MOST_KEYS));
    shrinks && part.kv_len / chunks >= least
}

/// The axis along which a cut brings the part nearest to fitting, if there is any.
fn axis_to_cut(part: &Problem, excess: &Excess) -> Option<Axis> {
    let count = part.sequence_count();
    match excess {
        // A packed sequence is cut along its keys once it is alone.
        Excess::Keys { .. } => part.packed.is_some().then_some(Axis::Batch),
        Excess::Memory { bound: Bound { tensor: Tensor::Key | Tensor::Value, .. }, .. }
            if part.pages.is_some() =>
        {
            (part.num_kv_heads > 1).then_some(Axis::Heads)
        }
        _ if part.is_ragged() => match excess {
            Excess::Grid { axis: 1, .. } if part.num_heads > 1 => Some(Axis::Heads),
            _ => (count > 0).then_some(Axis::Batch),
        },
        Excess::Sequences { .. } => None,
        Excess::Grid { axis: 0, .. } if part.q_len > 1 => Some(Axis::Queries),
        // The heads of a group share the rows of a tile.
        Excess::Grid { axis: 0 | 1, .. } => (part.num_heads > 1).then_some(Axis::Heads),
        Excess::Grid { .. } => (part.batch > 1).then_some(Axis::Batch),
        Excess::Work { .. } if part.batch > 1 => Some(Axis::Batch),
        Excess::Work { .. } if part.num_kv_heads > 1 => Some(Axis::Heads),
        Excess::Work { .. } if part.q_len > QUERIES => Some(Axis::Queries),
        Excess::Work { .. } => Some(Axis::Heads),
        Excess::Memory { bound, .. } | Excess::Words { bound, .. } => {
            let (heads, rows) = match bound.tensor {
                Tensor::Key | Tensor::Value => (part.num_kv_heads, 1),
                _ => (part.num_heads, part.q_len),
            };
            // A tensor shrinks most along the axis that it reaches farthest on, and not at all
            // along one on which it repeats.
            [
                (Axis::Queries, reach(bound.view.row, rows)),
                (Axis::Heads, reach(bound.view.head, heads)),
                (Axis::Batch, reach(bound.view.batch, part.batch)),
            ]
            .into_iter()
            .filter(|&(_, reach)| reach > 0)
            .max_by_key(|&(_, reach)| reach)
            .map(|(axis, _)| axis)
        }
    }
}

/// Two halves with less of what is too much, in order, if a cut along some axis has. Heads that
/// share a key/value head stay together as long as there are others. A sequence that is left alone
/// differs from no other.
pub(crate) fn halves(part: &Problem, excess: &Excess) -> Option<Vec<Problem>> {
    let axis = axis_to_cut(part, excess)?;
    let count = part.sequence_count();
    if part.is_ragged() && matches!(axis, Axis::Batch) {
        return Some(match count {
            1 => part.uniform().collect(),
            _ => vec![part.sequences(0..count / 2), part.sequences(count / 2..count)],
        });
    }
    let middle = match axis {
        Axis::Batch => part.batch / 2,
        Axis::Heads if part.num_kv_heads > 1 => part.num_kv_heads / 2 * part.group(),
        Axis::Heads => part.num_heads / 2,
        Axis::Queries => middle(part.q_len, QUERIES),
    };
    let whole = [0..part.batch, 0..part.num_heads, 0..part.q_len];
    let halves = cut_at(whole, axis as usize, middle);
    Some(halves.map(|[batches, heads, queries]| part.slice(batches, heads, queries)).into())
}
