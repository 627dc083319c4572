//! The dispatches of each kernel for one part of a problem, as if the device had no limits.

use super::dispatch::{Dispatch, Results, Tensor};
use super::launch::PACK_THREADS;
use super::params::{Params, SequenceParams};
use super::storage::{self, Storage};
use super::tiles::{Tiles, softmax_threads};
use super::variant::{Constant, Entry, Variant};
use crate::device::Capabilities;
use crate::problem::{Problem, View};

/// One kernel that writes out and lse.
pub(super) fn fused(
    part: &Problem,
    tiles: &Tiles,
    entry: Entry,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let out = storage::output(part, capabilities);
    let part = &with_sums(part);
    packed(over_keys(part, tiles, entry, out, None, capabilities), part, capabilities)
}

/// The same for each of `splits` parts of each of `chunks` of the keys; then one kernel that merges the results.
pub(super) fn split(
    part: &Problem,
    tiles: &Tiles,
    entry: Entry,
    [splits, chunks]: [u32; 2],
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let part = &with_sums(part);
    let count = splits.saturating_mul(chunks);
    let (out, lse) = (partial(part, part.value_dim), partial(part, 2));
    let storage = if part.value_dim.is_multiple_of(4) { Storage::F32x4 } else { Storage::F32 };
    let mut dispatches = Vec::new();
    // Whole tiles, or whole pages of them.
    let step = part.pages.map_or(tiles.keys, |pages| pages.page_len);
    let steps = u64::from(part.kv_len.div_ceil(step));
    for at in 0..chunks {
        let first_key = |chunk: u32| {
            let first = steps * u64::from(chunk) / u64::from(chunks) * u64::from(step);
            u32::try_from(first).map_or(part.kv_len, |key| key.min(part.kv_len))
        };
        // Each chunk writes behind the one before.
        let after = |view: View| {
            let first = splits.saturating_mul(at).saturating_mul(view.extent);
            let extent = first.saturating_add(splits.saturating_mul(view.extent));
            View { offset: first, extent, ..view }
        };
        let chunk = Problem {
            out: after(out),
            lse: Some(after(lse)),
            ..part.keys(first_key(at)..first_key(at + 1))
        };
        let mut dispatch = over_keys(&chunk, tiles, entry, storage, Some(splits), capabilities);
        dispatch.params.out_split = out.extent;
        dispatch.params.lse_split = lse.extent;
        dispatches.push(dispatch);
    }
    let variant = Variant {
        entry: Entry::AttentionCombine,
        storage,
        out: storage::output(part, capabilities),
        constants: [].into(),
    };
    let vectors = part.q_len.saturating_mul(part.value_dim.div_ceil(4));
    let grid = [vectors.div_ceil(COMBINE_THREADS), part.num_heads, part.batch];
    let all = |view: View| View { extent: view.extent.saturating_mul(count), ..view };
    let others = [(Tensor::PartialOut, all(out)), (Tensor::PartialLse, all(lse))];
    let part = &only_sinks(part);
    let mut combine = Dispatch::new(variant, results(part), part, &others, grid, capabilities);
    combine.params.flags |= Params::READS_SUMS;
    combine.params.splits = count;
    combine.params.out_split = out.extent;
    combine.params.lse_split = lse.extent;
    dispatches.extend(packed(combine, part, capabilities));
    dispatches
}

const COMBINE_THREADS: u32 = Entry::AttentionCombine.count("THREADS");

/// The kernel that goes through keys a tile at a time, for its rows' results or for those of parts of the keys.
fn over_keys(
    part: &Problem,
    tiles: &Tiles,
    entry: Entry,
    out: Storage,
    splits: Option<u32>,
    capabilities: &Capabilities,
) -> Dispatch {
    // Without keys, nothing is masked.
    let without_keys =
        (part.kv_len == 0).then(|| Problem { mask: None, bias: None, ..only_sinks(part) });
    let part = without_keys.as_ref().unwrap_or(part);
    let columns: Vec<(&'static str, Constant)> = match entry {
        Entry::AttentionForward => tiles.forward_constants(part, capabilities),
        Entry::AttentionForwardMatrix => tiles.matrix_constants(part).to_vec(),
        _ => {
            let chunks = tiles.chunk_constants().into_iter().chain(tiles.head_constants(part));
            chunks.chain(tiles.value_constants(part)).collect()
        }
    };
    let constants = columns
        .into_iter()
        .chain([
            ("RAGGED", Constant::Flag(part.is_ragged())),
            ("HAS_BIAS", Constant::Flag(part.bias.is_some())),
        ])
        .chain(transforms(part))
        .collect();
    let variant = Variant { entry, storage: storage::input(part, capabilities), out, constants };
    let mut grid = output_grid(part, tiles);
    grid[1] = grid[1].saturating_mul(splits.unwrap_or(1));
    let results = if splits.is_some() { Results::OfPart } else { results(part) };
    let mut dispatch = Dispatch::new(variant, results, part, &[], grid, capabilities);
    dispatch.params.splits = splits.unwrap_or(1);
    by_sequence(dispatch, part, tiles)
}

/// With a table of the sequences, where they differ.
fn by_sequence(mut dispatch: Dispatch, part: &Problem, tiles: &Tiles) -> Dispatch {
    if part.is_ragged() {
        let (table, tiles) = SequenceParams::table(part, tiles.rows());
        (dispatch.table, dispatch.grid) = (table, [tiles, dispatch.grid[1], 1]);
    }
    dispatch
}

/// What is known of each row once all of its keys are.
fn results(part: &Problem) -> Results {
    if part.stores_weights() { Results::WithSums } else { Results::Final }
}

/// With maximum and sum of each row in place of lse, where the weights will be made of them.
fn with_sums(part: &Problem) -> Problem {
    let lse = if part.stores_weights() { Some(dense(part, 2)) } else { part.lse };
    Problem { lse, ..part.clone() }
}

/// The kernel that stores the weights of rows whose maximum and sum are known, and their lse.
pub(super) fn weights(part: &Problem, tiles: &Tiles, capabilities: &Capabilities) -> Dispatch {
    // Sums have them in.
    let part = &Problem { sinks: None, ..part.clone() };
    let target: Vec<_> = part.weights.iter().map(|&view| (Tensor::Weights, view)).collect();
    let by_four =
        part.kv_len.is_multiple_of(4) && target.iter().all(|(_, view)| storage::starts_on(view, 4));
    let variant = Variant {
        entry: Entry::AttentionWeights,
        storage: storage::input(part, capabilities),
        out: if by_four { Storage::F32x4 } else { Storage::F32 },
        constants: tiles
            .weights_constants(part, capabilities)
            .into_iter()
            .chain([
                ("RAGGED", Constant::Flag(part.is_ragged())),
                ("HAS_BIAS", Constant::Flag(part.bias.is_some())),
            ])
            .chain(transforms(part))
            .collect(),
    };
    let splits = tiles.weights_splits(part, capabilities);
    let grid = [row_tiles(part, tiles), part.num_kv_heads.saturating_mul(splits), part.batch];
    let others: Vec<_> = target.into_iter().chain([(Tensor::Sums, dense(part, 2))]).collect();
    let mut dispatch = Dispatch::new(variant, Results::Final, part, &others, grid, capabilities);
    dispatch.params.splits = splits;
    by_sequence(dispatch, part, tiles)
}

/// Out, or maximum and sum, over one part of the keys, contiguous.
fn partial(part: &Problem, columns: u32) -> View {
    let view = dense(part, columns);
    // One after the other, sequences share a batch.
    View { batch: if part.pieces.is_some() { 0 } else { view.batch }, ..view }
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
        lens: None,
        sinks: None,
        ..part.clone()
    };
    let capped = Problem { softcap: part.softcap, ..raw.clone() };
    let masked = Problem { sinks: None, ..part.clone() };
    let weights = match part.weights {
        Some(view) => (Tensor::Weights, view),
        None => (Tensor::Workspace, dense(part, part.kv_len)),
    };
    let shown = [
        (Tensor::RawScores, &raw, part.raw_scores, false),
        (Tensor::CappedScores, &capped, part.capped_scores, false),
        (Tensor::MaskedScores, &masked, part.masked_scores, true),
    ];
    let mut dispatches: Vec<Dispatch> = shown
        .into_iter()
        .filter_map(|(tensor, problem, view, marks_hidden)| {
            let hidden = if marks_hidden { Hidden::Infinite } else { Hidden::Unmarked };
            Some(scores(problem, tiles, (tensor, view?), hidden, capabilities))
        })
        .collect();
    dispatches.push(scores(&masked, tiles, weights, Hidden::Marked, capabilities));
    dispatches.push(softmax(&only_sinks(part), weights, capabilities));
    let unsloped = Problem { alibi: None, ..masked };
    let last = weighted_sum(&unsloped, tiles, weights, capabilities);
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
pub(super) const HIDDEN_MARK: u32 = 0xffff_ffff;
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
            ("STEP", Constant::Count(tiles.head_chunk / 4)),
            ("HAS_BIAS", Constant::Flag(part.bias.is_some())),
        ]
        .into_iter()
        .chain(tiles.product_constants())
        .chain(transforms(part))
        .collect(),
    };
    let grid = [
        row_tiles(part, tiles),
        part.num_kv_heads.saturating_mul(part.kv_len.div_ceil(tiles.keys)),
        part.batch,
    ];
    let mut dispatch = Dispatch::new(variant, Results::Final, part, &[target], grid, capabilities);
    dispatch.params.hidden_bits = bits;
    if hidden != Hidden::Unmarked {
        dispatch.params.flags |= Params::MARKS_HIDDEN;
    }
    dispatch
}

fn softmax(part: &Problem, weights: (Tensor, View), capabilities: &Capabilities) -> Dispatch {
    let variant = softmax_variant(capabilities);
    let grid = [part.q_len, part.num_heads, part.batch];
    let mut dispatch = Dispatch::new(variant, Results::Final, part, &[weights], grid, capabilities);
    dispatch.params.hidden_bits = HIDDEN_MARK;
    dispatch
}

/// From scores of which the hidden ones are marked to weights, in place.
pub(super) fn softmax_variant(capabilities: &Capabilities) -> Variant {
    Variant {
        entry: Entry::Softmax,
        storage: Storage::F32,
        out: Storage::F32,
        constants: [("THREADS", Constant::Count(softmax_threads(capabilities)))].into(),
    }
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
        constants: [
            ("COLUMNS", Constant::Count(tiles.value_chunk)),
            ("HAS_BIAS", Constant::Flag(part.bias.is_some())),
        ]
        .into_iter()
        .chain(tiles.product_constants())
        .collect(),
    };
    let grid = output_grid(part, tiles);
    Dispatch::new(variant, Results::Final, part, &[weights], grid, capabilities)
}

/// A dispatch that writes out, and the one that packs it if it must be.
fn packed(dispatch: Dispatch, part: &Problem, capabilities: &Capabilities) -> Vec<Dispatch> {
    if dispatch.variant.out != Storage::Unpacked {
        return vec![dispatch];
    }
    let variant = Variant {
        entry: Entry::Pack,
        storage: storage::input(part, capabilities),
        out: storage::input(part, capabilities),
        constants: [].into(),
    };
    let mut pack = Dispatch::new(variant, Results::Final, part, &[], [1; 3], capabilities);
    pack.grid[0] = pack.params.words.div_ceil(PACK_THREADS);
    vec![dispatch, pack]
}

/// `[batch, num_heads, q_len, columns]` of one part, contiguous.
fn dense(part: &Problem, columns: u32) -> View {
    let head = part.q_len.saturating_mul(columns);
    let batch = part.num_heads.saturating_mul(head);
    let extent = part.batch.saturating_mul(batch);
    View { offset: 0, batch, head, row: columns, column: 1, extent, exact: true }
}

/// The same without what is about single keys, for a kernel that reads no more of the small tensors than sinks.
fn only_sinks(part: &Problem) -> Problem {
    Problem { alibi: None, segments: None, lens: None, pages: None, ..part.clone() }
}

fn row_tiles(part: &Problem, tiles: &Tiles) -> u32 {
    part.q_len.saturating_mul(part.group()).div_ceil(tiles.rows())
}

fn output_grid(part: &Problem, tiles: &Tiles) -> [u32; 3] {
    let columns = part.num_kv_heads.saturating_mul(tiles.value_chunks(part));
    [row_tiles(part, tiles), columns, part.batch]
}

fn transforms(part: &Problem) -> [(&'static str, Constant); 3] {
    [
        ("HAS_TINY_SCALE", Constant::Flag(part.has_tiny_scale())),
        ("HAS_SOFTCAP", Constant::Flag(part.softcap.is_some())),
        ("HAS_ALIBI", Constant::Flag(part.alibi.is_some())),
    ]
}
