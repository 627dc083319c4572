//! The fused kernels: over all keys of a row, or over parts of them that another kernel merges
//! (split-KV); and the kernel that stores the weights in a second pass over the keys.

use super::*;
use crate::plan::tiles::Tiles;

/// One kernel that writes out and lse.
pub(in crate::plan) fn fused(
    part: &Problem,
    tiles: &Tiles,
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let out = storage::output(part, capabilities);
    let call = over_keys(part, tiles, out, 1, capabilities, |call| {
        writes_rows(call.writes_out(out), part)
    });
    call.packed_into(Tensor::Out, storage::input(part, capabilities), capabilities)
}

/// The same for each of `splits` parts of each of `chunks` of the keys; then one kernel that merges
/// the results.
pub(in crate::plan) fn split(
    part: &Problem,
    tiles: &Tiles,
    [splits, chunks]: [u32; 2],
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let count = splits.saturating_mul(chunks);
    let (out, lse) = (partial(part, part.value_dim), partial(part, 2));
    let storage = if part.value_dim.is_multiple_of(4) { Storage::F32x4 } else { Storage::F32 };
    let mut dispatches = Vec::new();
    // Whole tiles, or whole pages of them.
    let step = part.pages.map_or(tiles.size().keys, |pages| pages.page_len);
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
        let chunk = part.keys(first_key(at)..first_key(at + 1));
        dispatches.push(over_keys(&chunk, tiles, storage, splits, capabilities, |mut call| {
            (call.params.out_split, call.params.lse_split) = (out.extent, lse.extent);
            call.writes_own_out(Tensor::PartialOut, after(out))
                .writes_sums((Tensor::PartialLse, after(lse)))
        }));
    }
    dispatches.extend(combine(part, storage, count, [out, lse], capabilities));
    dispatches
}

/// Out, or maximum and sum, over one part of the keys, contiguous.
fn partial(part: &Problem, columns: u32) -> View {
    let view = dense(part, columns);
    // Packed one after the other, sequences share a batch.
    View { batch: if part.packed.is_some() { 0 } else { view.batch }, ..view }
}

/// Merges the results of `count` parts of the keys.
fn combine(
    part: &Problem,
    storage: Storage,
    count: u32,
    [out, lse]: [View; 2],
    capabilities: &Capabilities,
) -> Vec<Dispatch> {
    let written = storage::output(part, capabilities);
    let variant = Variant::new(Entry::AttentionCombine, [storage, written], []);
    let vectors = part.q_len.saturating_mul(part.value_dim.div_ceil(4));
    let grid = [vectors.div_ceil(COMBINE_THREADS), part.num_heads, part.batch];
    let all = |view: View| View { extent: view.extent.saturating_mul(count), ..view };
    let rows = part.of_rows();
    let mut call = Call::new(&rows, capabilities);
    call.params.partial_out = call.bindings.bind("partial_out", Tensor::PartialOut, 1, all(out));
    let call = call.reads_sums((Tensor::PartialLse, all(lse))).reads_small();
    let mut call = writes_rows(call.writes_out(written), part);
    call.params.flags |= Params::READS_SUMS;
    call.params.splits = count;
    (call.params.out_split, call.params.lse_split) = (out.extent, lse.extent);
    call.dispatch_out(variant, grid)
}

pub(crate) const COMBINE_THREADS: u32 = Entry::AttentionCombine.count("THREADS");

/// What is known of each row once all of its keys are: the maximum and sum where the weights will
/// be made of them, else lse.
fn writes_rows<'a>(call: Call<'a>, part: &Problem) -> Call<'a> {
    match part.stores_weights() {
        true => call.writes_sums((Tensor::Sums, dense(part, 2))),
        false => call.lse(),
    }
}

/// The kernel that goes through all keys of a part.
fn over_keys(
    part: &Problem,
    tiles: &Tiles,
    out: Storage,
    splits: u32,
    capabilities: &Capabilities,
    writes: impl Fn(Call<'_>) -> Call<'_>,
) -> Dispatch {
    // Without keys, nothing is masked.
    let without_keys = (part.kv_len == 0).then(|| part.of_rows());
    let part = without_keys.as_ref().unwrap_or(part);
    let call = Call::new(part, capabilities)
        .reads(&[Tensor::Query, Tensor::Key, Tensor::Value, Tensor::Mask, Tensor::Bias])
        .reads_small();
    let size = tiles.size();
    let chunks = size.value_chunks(part);
    let mut call = writes(call);
    call.params.flags |= settles(out);
    call.dispatch_over_keys(tiles.kernel(part), out, size, [chunks, splits])
}

/// The weights of rows whose maximum and sum are known, and their lse.
pub(in crate::plan) fn weights(
    part: &Problem,
    tiles: &Tiles,
    capabilities: &Capabilities,
) -> Option<Dispatch> {
    let view = part.view(Tensor::Weights).filter(|_| part.stores_weights())?;
    let by_four = part.kv_len.is_multiple_of(4) && storage::starts_on(&view, 4);
    let written = if by_four { Storage::F32x4 } else { Storage::F32 };
    let (kernel, splits) = match tiles {
        Tiles::Forward(tiles) => {
            let kernel = (Entry::AttentionWeights, tiles.weights_constants(part));
            (kernel, tiles.weights_splits(part, capabilities))
        }
        Tiles::Products(tiles) => (tiles.weights(), tiles.splits(part, capabilities)),
        _ => return None,
    };
    // The stored sums already include what is about whole rows.
    let part = &part.of_keys();
    let call = Call::new(part, capabilities)
        .reads(&[Tensor::Query, Tensor::Key, Tensor::Mask, Tensor::Bias])
        .reads_small()
        .reads_sums((Tensor::Sums, dense(part, 2)))
        .matrix((Tensor::Weights, view))
        .lse();
    Some(call.dispatch_over_keys(kernel, written, tiles.size(), [1, splits]))
}
