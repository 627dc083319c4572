//! Segment ids: which document each query and each key, cached ones included, belongs to.

use super::sizes::Order;
use crate::failure::Failure;
use crate::tensors::Tensors;
use std::collections::HashMap;

/// Ids of `[batch, queries]`, then of `[batch, keys]`; equal where the file's are, which may be any numbers.
pub(super) fn segments(
    tensors: &Tensors<'_>,
    order: Order,
    batch: usize,
    [queries, keys]: [usize; 2],
) -> Result<Option<Vec<u32>>, Failure> {
    let Some(pair) = tensors.pair(["seg_q", "seg_k"])? else { return Ok(None) };
    if order == Order::Thd {
        return Err(Failure::input("seg_q", "none with --layout thd", "a tensor"));
    }
    let mut numbers = HashMap::new();
    let mut ids = Vec::new();
    for (tensor, len) in pair.iter().zip([queries, keys]) {
        if tensor.sizes != [batch, len] {
            let found = format!("{:?}", tensor.sizes);
            return Err(Failure::input(tensor.name, format_args!("[{batch}, {len}]"), found));
        }
        for id in tensor.integers()? {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            ids.push(*numbers.entry(id).or_insert(next));
        }
    }
    Ok(Some(ids))
}
