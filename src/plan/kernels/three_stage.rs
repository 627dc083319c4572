//! Scores, softmax, weighted sum: three kernels with the matrix between them in memory.

use super::*;
use crate::plan::tiles::{ProductTiles, softmax_threads};

/// Scores that are asked for, then scores, softmax and weighted sum over the weights, which stand
/// in the caller's buffer or in the workspace.
pub(in crate::plan) fn three_stage(
    part: &Problem,
    tiles: &ProductTiles,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let masked = part.of_keys();
    let capped = masked.of_rows();
    let raw = Problem { softcap: None, ..capped.clone() };
    let weights = match part.view(Tensor::Weights) {
        Some(view) => (Tensor::Weights, view),
        None => (Tensor::Workspace, dense(part, part.kv_len)),
    };
    let shown = [
        (Tensor::RawScores, &raw, None),
        (Tensor::CappedScores, &capped, None),
        (Tensor::MaskedScores, &masked, Some(MINUS_INFINITY)),
    ];
    let shown = shown.into_iter().filter_map(|(tensor, problem, hidden)| {
        let target = (tensor, part.view(tensor)?);
        Some(scores(problem, tiles, target, hidden, capabilities))
    });
    let mut dispatches: Vec<Dispatch> = shown.collect();
    dispatches.push(scores(&masked, tiles, weights, Some(HIDDEN_MARK), capabilities));
    dispatches.push(softmax(&part.of_rows(), weights, capabilities));
    dispatches.extend(weighted_sum(&masked, tiles, weights, capabilities));
    dispatches
}

/// Bits that no score has, for the softmax: a visible score may be `-inf` too. They are a NaN, and
/// `scores.wgsl` stores visible NaNs with other bits.
pub(crate) const HIDDEN_MARK: u32 = 0xffff_ffff;
/// `-inf`, for people.
const MINUS_INFINITY: u32 = 0xff80_0000;

/// `hidden` stands in the matrix for a hidden score; none: the score, as if it were visible.
fn scores(
    part: &Problem,
    tiles: &ProductTiles,
    target: (Tensor, View),
    hidden: Option<u32>,
    capabilities: &Capabilities,
) -> Dispatch {
    let mut call = Call::new(part, capabilities)
        .reads(&[Tensor::Query, Tensor::Key, Tensor::Mask, Tensor::Bias])
        .reads_small()
        .matrix(target);
    call.params.hidden_bits = hidden.unwrap_or(MINUS_INFINITY);
    if hidden.is_some() {
        call.params.flags |= Params::MARKS_HIDDEN;
    }
    let read = storage::input(part, capabilities);
    if tiles.are_tiled() {
        let splits = tiles.splits(part, capabilities);
        return call.dispatch_over_keys(tiles.scores(), read, tiles.size, [1, splits]);
    }
    let (entry, constants) = tiles.scores();
    let variant =
        Variant::new(entry, [read; 2], constants.into_iter().chain(score_constants(part)));
    let grid = tile_grid(part, tiles.size, part.kv_len.div_ceil(tiles.size.keys));
    call.dispatch(variant, grid)
}

fn softmax(part: &Problem, weights: (Tensor, View), capabilities: &Capabilities) -> Dispatch {
    let mut call = Call::new(part, capabilities).reads_small().matrix(weights).lse();
    call.params.hidden_bits = HIDDEN_MARK;
    call.dispatch(softmax_variant(capabilities), [part.q_len, part.num_heads, part.batch])
}

/// From scores of which the hidden ones are marked to weights, in place.
pub(crate) fn softmax_variant(capabilities: &Capabilities) -> Variant {
    let threads = Constant::Count(softmax_threads(capabilities));
    Variant::new(Entry::Softmax, [Storage::F32; 2], [("THREADS", threads)])
}

fn weighted_sum(
    part: &Problem,
    tiles: &ProductTiles,
    weights: (Tensor, View),
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let (storage, out) = (storage::input(part, capabilities), storage::output(part, capabilities));
    let has_bias = ("HAS_BIAS", Constant::Flag(part.has(Tensor::Bias)));
    let (entry, constants) = tiles.sums();
    let variant = Variant::new(entry, [storage, out], constants.into_iter().chain([has_bias]));
    // What slopes add is in the weights.
    let part = &part.without([Tensor::AlibiSlopes]);
    let mut call = Call::new(part, capabilities)
        .reads(&[Tensor::Value, Tensor::Mask, Tensor::Bias])
        .reads_small()
        .matrix(weights)
        .writes_out(out);
    call.params.flags |= settles(out);
    call.dispatch_out(variant, tile_grid(part, tiles.size, tiles.size.value_chunks(part)))
}
