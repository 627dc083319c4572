//! The kernel that makes a second pass over the keys and stores the weights.

use super::super::dispatch::Dispatch;
use super::super::storage::{self, Storage};
use super::super::tiles::ForwardTiles;
use super::super::variant::{Constant, Entry, Variant};
use super::{Call, dense, row_tiles, score_constants};
use crate::device::Capabilities;
use crate::problem::Problem;
use crate::tensor::Tensor;

/// The weights of rows whose maximum and sum are known, and their lse.
pub(in crate::plan) fn weights(
    part: &Problem,
    tiles: &ForwardTiles,
    capabilities: &Capabilities,
) -> Option<Dispatch> {
    let view = part.view(Tensor::Weights).filter(|_| part.stores_weights())?;
    let by_four = part.kv_len.is_multiple_of(4) && storage::starts_on(&view, 4);
    let written = if by_four { Storage::F32x4 } else { Storage::F32 };
    let constants = tiles
        .weights_constants(part)
        .into_iter()
        .chain([("RAGGED", Constant::Flag(part.is_ragged()))])
        .chain(score_constants(part));
    let read = storage::input(part, capabilities);
    let variant = Variant::new(Entry::AttentionWeights, [read, written], constants);
    let splits = tiles.weights_splits(part, capabilities);
    let grid =
        [row_tiles(part, tiles.size()), part.num_kv_heads.saturating_mul(splits), part.batch];
    // The stored sums already include what is about whole rows.
    let part = &part.of_keys();
    let mut call = Call::new(part, capabilities)
        .reads(&[Tensor::Query, Tensor::Key, Tensor::Mask, Tensor::Bias])
        .reads_small()
        .reads_sums((Tensor::Sums, dense(part, 2)))
        .matrix((Tensor::Weights, view))
        .lse();
    call.params.splits = splits;
    Some(call.dispatch_by_sequence(variant, grid, tiles.size()))
}
