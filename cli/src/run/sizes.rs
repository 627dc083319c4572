//! The sizes of q, k and v: read by layout, compared with each other, broadcast over the batch.

use super::args::{LayoutChoice, RunArgs};
use crate::failure::Failure;
use crate::tensors::Tensor;
use std::fmt;
use wgpu_attention::{Layout, Strides};

/// The sizes of one of q, k and v, whatever the order they come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) len: usize,
    pub(super) dim: usize,
}

/// The order of a tensor's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// [batch, heads, len, dim]; leading sizes may be missing.
    Bhsd,
    /// [batch, len, heads, dim].
    Bshd,
    /// [batch, len, heads * dim].
    Packed { heads: usize },
    /// [len of all sequences, heads, dim].
    Thd,
}

impl Order {
    /// That of q and out, and that of k and v.
    pub(super) fn new(args: &RunArgs) -> Result<[Self; 2], Failure> {
        for (flag, given) in [("--heads", args.heads), ("--kv-heads", args.kv_heads)] {
            if given.is_some() && args.layout != LayoutChoice::Packed {
                return Err(Failure::input(flag, "--layout packed beside it", "another layout"));
            }
        }
        match (args.layout, args.heads) {
            (LayoutChoice::Bhsd, _) => Ok([Self::Bhsd; 2]),
            (LayoutChoice::Bshd, _) => Ok([Self::Bshd; 2]),
            (LayoutChoice::Packed, Some(heads)) => {
                Ok([heads, args.kv_heads.unwrap_or(heads)].map(|heads| Self::Packed { heads }))
            }
            (LayoutChoice::Packed, None) => {
                Err(Failure::input("--layout packed", "--heads beside it", "none"))
            }
            (LayoutChoice::Thd, _) => Ok([Self::Thd; 2]),
        }
    }

    /// Reads a tensor's sizes; a missing leading one is 1.
    pub(super) fn read(self, tensor: &Tensor<'_>) -> Result<Sizes, Failure> {
        let refuse = |expected: &dyn fmt::Display| {
            Failure::input(tensor.name, expected, format_args!("{:?}", tensor.sizes))
        };
        let sizes = match (self, tensor.sizes.as_slice()) {
            (Self::Bhsd, &[batch, heads, len, dim]) | (Self::Bshd, &[batch, len, heads, dim]) => {
                Sizes { batch, heads, len, dim }
            }
            (Self::Thd, &[len, heads, dim]) => Sizes { batch: 1, heads, len, dim },
            (Self::Bhsd, &[heads, len, dim]) => Sizes { batch: 1, heads, len, dim },
            (Self::Bhsd, &[len, dim]) => Sizes { batch: 1, heads: 1, len, dim },
            (Self::Packed { heads }, &[batch, len, width]) if width.is_multiple_of(heads) => {
                Sizes { batch, heads, len, dim: width / heads }
            }
            (Self::Bhsd, _) => return Err(refuse(&"2 to 4 sizes, [batch, heads, len, dim]")),
            (Self::Bshd, _) => return Err(refuse(&"4 sizes, [batch, len, heads, dim]")),
            (Self::Thd, _) => return Err(refuse(&"3 sizes, [total, heads, dim]")),
            (Self::Packed { heads }, _) => {
                return Err(refuse(&format_args!("3 sizes, [batch, len, {heads} heads * dim]")));
            }
        };
        if sizes.heads == 0 || sizes.dim == 0 {
            return Err(refuse(&"at least 1 head and 1 element per vector"));
        }
        Ok(sizes)
    }

    /// Where a tensor of `sizes` lies that is one of `batch` sequences, or stands for all of them.
    pub(super) fn layout(self, sizes: Sizes, batch: usize) -> Layout {
        match self {
            _ if sizes.batch != batch => Layout::Strided(self.strides(sizes)),
            Self::Bhsd => Layout::Bhsd,
            Self::Bshd | Self::Packed { .. } | Self::Thd => Layout::Bshd,
        }
    }

    /// The strides of a tensor of `sizes`; a single sequence stands for all.
    pub(super) fn strides(self, sizes: Sizes) -> Strides {
        let Sizes { batch, heads, len, dim } = sizes;
        // Saturated products are of empty tensors, in which no stride is used.
        let rows = |count: usize| dim.saturating_mul(count);
        let (head, row) = match self {
            Self::Bhsd => (rows(len), rows(1)),
            Self::Bshd | Self::Packed { .. } | Self::Thd => (rows(1), rows(heads)),
        };
        let batch = if batch == 1 { 0 } else { rows(len).saturating_mul(heads) };
        Strides { batch, head, row, ..Strides::default() }
    }

    /// The sizes as they stand in the file; in the order that leading ones may be missing from, `rank` of them.
    pub(super) fn write(self, sizes: Sizes, rank: usize) -> Vec<usize> {
        let Sizes { batch, heads, len, dim } = sizes;
        match self {
            Self::Bhsd => [batch, heads, len, dim][4 - rank..].to_vec(),
            Self::Bshd => vec![batch, len, heads, dim],
            Self::Thd => vec![len, heads, dim],
            Self::Packed { .. } => vec![batch, len, heads.saturating_mul(dim)],
        }
    }
}

/// Refuses sizes that do not belong together; gives the batch they have in common.
pub(super) fn compare(query: Sizes, key: Sizes, value: Sizes) -> Result<usize, Failure> {
    same("head_dim of k (as of q)", query.dim, key.dim)?;
    same("heads of v (as of k)", key.heads, value.heads)?;
    same("len of v (as of k)", key.len, value.len)?;
    if !query.heads.is_multiple_of(key.heads) {
        let expected = format!("a divisor of the {} heads of q", query.heads);
        return Err(Failure::input("heads of k", expected, key.heads));
    }
    let common = |batch: usize, what, found: usize| match (batch, found) {
        (batch, 1) => Ok(batch),
        (1, found) => Ok(found),
        (batch, found) if batch == found => Ok(batch),
        _ => Err(Failure::input(what, format!("1 or {batch}"), found)),
    };
    let batch = common(query.batch, "batch of k", key.batch)?;
    common(batch, "batch of v", value.batch)
}

/// Refuses what cannot stand before `key` and `value` in `batch` sequences.
pub(super) fn compare_past(
    [past_key, key]: [Sizes; 2],
    [past_value, value]: [Sizes; 2],
    batch: usize,
) -> Result<(), Failure> {
    same("heads of past_k (as of k)", key.heads, past_key.heads)?;
    same("heads of past_v (as of v)", value.heads, past_value.heads)?;
    same("head_dim of past_k (as of k)", key.dim, past_key.dim)?;
    same("value_dim of past_v (as of v)", value.dim, past_value.dim)?;
    same("len of past_v (as of past_k)", past_key.len, past_value.len)?;
    for (what, found) in
        [("batch of past_k", past_key.batch), ("batch of past_v", past_value.batch)]
    {
        if ![1, batch].contains(&found) {
            return Err(Failure::input(what, format!("1 or {batch}"), found));
        }
    }
    Ok(())
}

fn same(what: &str, expected: usize, found: usize) -> Result<(), Failure> {
    if expected == found { Ok(()) } else { Err(Failure::input(what, expected, found)) }
}
