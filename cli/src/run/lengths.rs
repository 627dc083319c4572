//! Sequences of different lengths: in a batch with room to spare, and one after the other.

use super::sizes::Order;
use crate::failure::Failure;
use crate::tensors::{Tensor, Tensors};
use wgpu_attention::CuSeqlens;

/// Where sequences without padding begin, which only they need; nothing else but slopes goes with them.
pub(super) fn cu_seqlens(
    tensors: &Tensors<'_>,
    order: Order,
) -> Result<Option<CuSeqlens>, Failure> {
    let pair = tensors.pair(["cu_seqlens_q", "cu_seqlens_k"])?;
    let Some([query, key]) = (match (order, pair) {
        (Order::Thd, Some(pair)) => Some(pair),
        (Order::Thd, None) => {
            let expected = "tensors cu_seqlens_q and cu_seqlens_k";
            return Err(Failure::input("--layout thd", expected, "none"));
        }
        (_, Some(_)) => {
            let expected = "none without --layout thd";
            return Err(Failure::input("cu_seqlens_q", expected, "a tensor"));
        }
        (_, None) => None,
    }) else {
        return Ok(None);
    };
    for name in ["mask", "bias", "past_k", "kv_len"] {
        if tensors.get(name).is_some() {
            return Err(Failure::input(name, "none with --layout thd", "a tensor"));
        }
    }
    let starts = |tensor: &Tensor<'_>| {
        let found = tensor.integers()?;
        if tensor.sizes.len() != 1 {
            let found = format!("{:?}", tensor.sizes);
            return Err(Failure::input(tensor.name, "one size", found));
        }
        let start = |&start: &i64| {
            usize::try_from(start).map_err(|_| Failure::input(tensor.name, "0 or more", start))
        };
        found.iter().map(start).collect::<Result<Vec<usize>, _>>()
    };
    Ok(Some(CuSeqlens { query: starts(&query)?, key: starts(&key)? }))
}

/// How many keys each sequence has.
pub(super) fn kv_lens(
    lens: &Tensor<'_>,
    batch: usize,
    kv_len: usize,
) -> Result<Vec<usize>, Failure> {
    let found = lens.integers()?;
    if lens.sizes != [batch] {
        let expected = format!("[{batch}]");
        return Err(Failure::input(lens.name, expected, format_args!("{:?}", lens.sizes)));
    }
    let len = |&len: &i64| match usize::try_from(len) {
        Ok(len) if len <= kv_len => Ok(len),
        _ => Err(Failure::input(lens.name, format_args!("0 to {kv_len}"), len)),
    };
    found.iter().map(len).collect()
}
