//! The dispatches of each kernel for one part of a problem, as if the device had no limits.

use super::dispatch::{Dispatch, Tensor};
use super::params::SequenceParams;
use super::storage::{self, Storage};
use super::tiles::Tiles;
use super::variant::{Constant, Entry, Variant};
use crate::device::Capabilities;
use crate::problem::{Problem, View};

pub(super) fn forward(part: &Problem, tiles: &Tiles, capabilities: &Capabilities) -> Vec<Dispatch> {
    fused(part, tiles, Entry::AttentionForward, tiles.forward_constants(part), capabilities)
}

pub(super) fn forward_wide(
    part: &Problem,
    tiles: &Tiles,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let constants = tiles
        .chunk_constants()
        .into_iter()
        .chain(tiles.head_constants(part))
        .chain(tiles.value_constants(part));
    fused(part, tiles, Entry::AttentionForwardWide, constants, capabilities)
}

fn fused(
    part: &Problem,
    tiles: &Tiles,
    entry: Entry,
    constants: impl IntoIterator<Item = (&'static str, Constant)>,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let constants = constants
        .into_iter()
        .chain([
            ("HAS_LSE", Constant::Flag(part.lse.is_some())),
            ("RAGGED", Constant::Flag(part.is_ragged())),
        ])
        .chain(transforms(part))
        .chain(masks(part))
        .collect();
    let storage = storage::input(part, capabilities);
    let out = storage::output(part, capabilities);
    let variant = Variant { entry, storage, out, constants };
    let mut dispatch = Dispatch::new(variant, part, None, output_grid(part, tiles), capabilities);
    if part.is_ragged() {
        let (table, tiles) = SequenceParams::table(part, tiles.rows());
        let [_, columns, _] = dispatch.grid;
        (dispatch.table, dispatch.grid) = (table, [tiles, columns, 1]);
    }
    packed(dispatch, part, capabilities)
}

/// Scores that are asked for, then scores, softmax and weighted sum over the weights, which stand in
/// the caller's buffer or in the workspace.
pub(super) fn three_stage(
    part: &Problem,
    tiles: &Tiles,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let raw = Problem {
        softcap: None,
        mask: None,
        bias: None,
        alibi: None,
        segments: None,
        ..part.clone()
    };
    let capped = Problem { softcap: part.softcap, ..raw.clone() };
    let weights = match part.weights {
        Some(view) => (Tensor::Weights, view),
        None => (Tensor::Workspace, workspace(part)),
    };
    let shown = [
        (Tensor::RawScores, &raw, part.raw_scores, false),
        (Tensor::CappedScores, &capped, part.capped_scores, false),
        (Tensor::MaskedScores, part, part.masked_scores, true),
    ];
    let mut dispatches: Vec<Dispatch> = shown
        .into_iter()
        .filter_map(|(tensor, problem, view, marks_hidden)| {
            let hidden = if marks_hidden { Hidden::Infinite } else { Hidden::Unmarked };
            Some(scores(problem, tiles, (tensor, view?), hidden, capabilities))
        })
        .collect();
    dispatches.push(scores(part, tiles, weights, Hidden::Marked, capabilities));
    dispatches.push(softmax(part, weights, capabilities));
    let last = weighted_sum(part, tiles, weights, capabilities);
    dispatches.extend(packed(last, part, capabilities));
    dispatches
}

/// What stands in the matrix for a hidden score.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// The score, as if it were visible.
    Unmarked,
    /// `-inf`, for people.
    Infinite,
    /// Bits that no score has, for the softmax: a visible score may be `-inf` too.
    Marked,
}

/// A NaN that no computed score is: `scores.wgsl` stores visible NaNs with other bits.
const HIDDEN_MARK: u32 = 0xffff_ffff;
const MINUS_INFINITY: u32 = 0xff80_0000;

fn scores(
    part: &Problem,
    tiles: &Tiles,
    target: (Tensor, View),
    hidden: Hidden,
    capabilities: &Capabilities,
) -> Dispatch {
    let bits = if hidden == Hidden::Marked { HIDDEN_MARK } else { MINUS_INFINITY };
    let variant = Variant {
        entry: Entry::Scores,
        storage: storage::input(part, capabilities),
        out: storage::input(part, capabilities),
        constants: [
            ("MARKS_HIDDEN", Constant::Flag(hidden != Hidden::Unmarked)),
            ("HIDDEN_BITS", Constant::Count(bits)),
        ]
        .into_iter()
        .chain(tiles.chunk_constants())
        .chain(tiles.head_constants(part))
        .chain(transforms(part))
        .chain(masks(part))
        .collect(),
    };
    let grid = [
        row_tiles(part, tiles),
        part.num_kv_heads.saturating_mul(part.kv_len.div_ceil(tiles.keys)),
        part.batch,
    ];
    Dispatch::new(variant, part, Some(target), grid, capabilities)
}

fn softmax(part: &Problem, weights: (Tensor, View), capabilities: &Capabilities) -> Dispatch {
    let variant = Variant {
        entry: Entry::Softmax,
        storage: Storage::F32,
        out: Storage::F32,
        constants: [
            ("HIDDEN_BITS", Constant::Count(HIDDEN_MARK)),
            ("HAS_LSE", Constant::Flag(part.lse.is_some())),
        ]
        .into(),
    };
    let grid = [part.q_len, part.num_heads, part.batch];
    Dispatch::new(variant, part, Some(weights), grid, capabilities)
}

fn weighted_sum(
    part: &Problem,
    tiles: &Tiles,
    weights: (Tensor, View),
    capabilities: &Capabilities,
) -> Dispatch {
    let variant = Variant {
        entry: Entry::WeightedSum,
        storage: storage::input(part, capabilities),
        out: storage::output(part, capabilities),
        constants: tiles
            .chunk_constants()
            .into_iter()
            .chain(tiles.value_constants(part))
            .chain(masks(part))
            .collect(),
    };
    Dispatch::new(variant, part, Some(weights), output_grid(part, tiles), capabilities)
}

/// A dispatch that writes out, and the one that packs it if it must be.
fn packed(dispatch: Dispatch, part: &Problem, capabilities: &Capabilities) -> Vec<Dispatch> {
    if dispatch.variant.out != Storage::Unpacked {
        return vec![dispatch];
    }
    let variant = Variant {
        entry: Entry::Pack,
        storage: dispatch.variant.storage,
        out: dispatch.variant.storage,
        constants: [].into(),
    };
    let mut pack = Dispatch::new(variant, part, None, [1; 3], capabilities);
    pack.grid[0] = pack.params.words.div_ceil(PACK_THREADS);
    vec![dispatch, pack]
}

/// The default of pack.wgsl.
const PACK_THREADS: u32 = 64;

/// The scores of one part, contiguous.
fn workspace(part: &Problem) -> View {
    let row = part.kv_len;
    let head = part.q_len.saturating_mul(row);
    let batch = part.num_heads.saturating_mul(head);
    let extent = part.batch.saturating_mul(batch);
    View { offset: 0, batch, head, row, column: 1, extent, exact: true }
}

fn row_tiles(part: &Problem, tiles: &Tiles) -> u32 {
    part.q_len.saturating_mul(part.group()).div_ceil(tiles.rows())
}

fn output_grid(part: &Problem, tiles: &Tiles) -> [u32; 3] {
    let columns = part.num_kv_heads.saturating_mul(tiles.value_chunks(part));
    [row_tiles(part, tiles), columns, part.batch]
}

fn transforms(part: &Problem) -> [(&'static str, Constant); 2] {
    [
        ("HAS_SOFTCAP", Constant::Flag(part.softcap.is_some())),
        ("HAS_ALIBI", Constant::Flag(part.alibi.is_some())),
    ]
}

fn masks(part: &Problem) -> [(&'static str, Constant); 3] {
    [
        ("HAS_BIAS", Constant::Flag(part.bias.is_some())),
        ("HAS_MASK", Constant::Flag(part.mask.is_some())),
        ("HAS_SEGMENTS", Constant::Flag(part.segments.is_some())),
    ]
}
