//! What may go with q, k and v: lengths, masks, biases, slopes, sinks and segments.

use super::vectors::Order;
use crate::failure::Failure;
use crate::tensors::{INTEGERS, Tensor, Tensors};
use safetensors::Dtype;
use std::collections::HashMap;
use wgpu_attention::{AlibiLayout, BroadcastLayout, CuSeqlens};

/// Where the sequences of a packed batch begin; only slopes and sinks go with them.
pub(super) fn cu_seqlens(tensors: &Tensors, order: Order) -> Result<Option<CuSeqlens>, Failure> {
    let [query, key] = match (order, tensors.pair(["cu_seqlens_q", "cu_seqlens_k"])?) {
        (Order::Thd, Some(pair)) => pair,
        (Order::Thd, None) => {
            let expected = "tensors cu_seqlens_q and cu_seqlens_k";
            return Err(Failure::input("--layout thd", expected, "none"));
        }
        (_, Some(_)) => {
            let expected = "none without --layout thd";
            return Err(Failure::input("cu_seqlens_q", expected, "a tensor"));
        }
        (_, None) => return Ok(None),
    };
    for name in ["mask", "bias", "past_k", "kv_len"] {
        if tensors.get(name).is_some() {
            return Err(Failure::input(name, "none with --layout thd", "a tensor"));
        }
    }
    let starts = |tensor: Tensor<'_>| {
        tensor.require_dtype(&INTEGERS)?;
        match tensor.sizes {
            [_] => tensor.integers("0 or more", |_| true),
            _ => Err(tensor.refuse("one size")),
        }
    };
    Ok(Some(CuSeqlens { query: starts(query)?, key: starts(key)? }))
}

/// How many of all keys each sequence has, if the file says so.
pub(super) fn kv_lens(
    tensors: &Tensors,
    batch: usize,
    kv_len: usize,
) -> Result<Option<Vec<usize>>, Failure> {
    let lens = tensors.find("kv_len", &INTEGERS, &[&[batch]])?;
    let within = |lens: Tensor<'_>| {
        lens.integers(&format!("0 to {kv_len}"), |len| (0..=kv_len).contains(len))
    };
    lens.map(within).transpose()
}

/// Which document each query and each key, cached ones included, belongs to: ids of `[batch,
/// queries]`, then of `[batch, keys]`, equal where the file's are, which may be any numbers.
pub(super) fn segments(
    tensors: &Tensors,
    order: Order,
    batch: usize,
    [queries, keys]: [usize; 2],
) -> Result<Option<Vec<u32>>, Failure> {
    let Some([query, key]) = tensors.pair(["seg_q", "seg_k"])? else { return Ok(None) };
    if order == Order::Thd {
        return Err(Failure::input("seg_q", "none with --layout thd", "a tensor"));
    }
    let mut numbers = HashMap::new();
    let mut ids = Vec::new();
    for (tensor, len) in [(query, queries), (key, keys)] {
        tensor.require_sizes(&[&[batch, len]])?;
        for id in tensor.integers::<i64>("any integer", |_| true)? {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            ids.push(*numbers.entry(id).or_insert(next));
        }
    }
    Ok(Some(ids))
}

/// Slopes of all heads or of each sequence's heads, if the file has them.
pub(super) fn alibi<'t>(
    tensors: &'t Tensors,
    num_heads: usize,
    batch: usize,
) -> Result<Option<(AlibiLayout, Tensor<'t>)>, Failure> {
    let sizes = [&[num_heads][..], &[batch, num_heads]];
    let slopes = tensors.find("alibi_slopes", &[Dtype::F32], &sizes)?;
    Ok(slopes.map(|slopes| match slopes.sizes {
        [_] => (AlibiLayout::PerHead, slopes),
        _ => (AlibiLayout::PerBatchAndHead, slopes),
    }))
}

/// A mask or bias of the file, broadcast to the scores and perhaps padded to the number of keys.
#[derive(Debug)]
pub(super) struct Mask<'a> {
    tensor: Tensor<'a>,
    /// How many elements each row lacks.
    padding: usize,
}

impl<'a> Mask<'a> {
    /// With `pad`, rows too short for `keys` are padded, also those of one element.
    pub(super) fn new(tensor: Tensor<'a>, keys: usize, pad: bool) -> Self {
        let padding = match tensor.sizes.last() {
            Some(&columns) if pad => keys.saturating_sub(columns),
            _ => 0,
        };
        Self { tensor, padding }
    }

    /// How it lies once it is padded.
    pub(super) fn layout(&self) -> Result<BroadcastLayout, Failure> {
        let mut sizes = self.tensor.sizes.to_vec();
        if let Some(columns) = sizes.last_mut() {
            *columns += self.padding;
        }
        Ok(BroadcastLayout::from_dims(self.tensor.name, &sizes)?)
    }

    /// The elements of a mask.
    pub(super) fn bools(&self) -> Result<Vec<bool>, Failure> {
        Ok(self.padded(self.tensor.bools()?, false))
    }

    /// The elements of a bias.
    pub(super) fn floats(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.padded(self.tensor.floats()?, f32::NEG_INFINITY))
    }

    fn padded<T: Copy>(&self, elements: Vec<T>, hidden: T) -> Vec<T> {
        let Some((&columns, leading)) = self.tensor.sizes.split_last() else { return elements };
        if self.padding == 0 {
            return elements;
        }
        let rows =
            (0..leading.iter().product()).map(|row: usize| &elements[row * columns..][..columns]);
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(hidden, self.padding)))
            .collect()
    }
}
