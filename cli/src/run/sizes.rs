//! The sizes of q, k and v: read by layout, compared with each other, broadcast over the batch.

use crate::args::LayoutChoice;
use crate::failure::Failure;
use crate::tensors::Tensor;
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
}

impl Order {
    pub(super) fn new(layout: LayoutChoice) -> Result<Self, Failure> {
        match layout {
            LayoutChoice::Bhsd => Ok(Self::Bhsd),
            LayoutChoice::Bshd => Ok(Self::Bshd),
            LayoutChoice::Packed => Err(Failure::unsupported("--layout packed")),
            LayoutChoice::Thd => Err(Failure::unsupported("--layout thd")),
        }
    }

    /// Reads a tensor's sizes; a missing leading one is 1.
    pub(super) fn read(self, tensor: &Tensor<'_>) -> Result<Sizes, Failure> {
        let refuse =
            |expected| Failure::input(tensor.name, expected, format_args!("{:?}", tensor.sizes));
        let sizes = match (self, tensor.sizes.as_slice()) {
            (Self::Bhsd, &[batch, heads, len, dim]) | (Self::Bshd, &[batch, len, heads, dim]) => {
                Sizes { batch, heads, len, dim }
            }
            (Self::Bhsd, &[heads, len, dim]) => Sizes { batch: 1, heads, len, dim },
            (Self::Bhsd, &[len, dim]) => Sizes { batch: 1, heads: 1, len, dim },
            (Self::Bhsd, _) => return Err(refuse("2 to 4 sizes, [batch, heads, len, dim]")),
            (Self::Bshd, _) => return Err(refuse("4 sizes, [batch, len, heads, dim]")),
        };
        if sizes.heads == 0 || sizes.dim == 0 {
            return Err(refuse("at least 1 head and 1 element per vector"));
        }
        Ok(sizes)
    }

    /// Where a tensor of `sizes` lies that is one of `batch` sequences, or stands for all of them.
    pub(super) fn layout(self, sizes: Sizes, batch: usize) -> Layout {
        // Saturated products are of empty tensors, in which no stride is used.
        let rows = |count: usize| sizes.dim.saturating_mul(count);
        match self {
            Self::Bhsd if sizes.batch == batch => Layout::Bhsd,
            Self::Bshd if sizes.batch == batch => Layout::Bshd,
            Self::Bhsd => Layout::Strided(Strides {
                head: rows(sizes.len),
                row: rows(1),
                ..Strides::default()
            }),
            Self::Bshd => Layout::Strided(Strides {
                head: rows(1),
                row: rows(sizes.heads),
                ..Strides::default()
            }),
        }
    }

    /// The sizes as they stand in the file, `rank` of them.
    pub(super) fn write(self, sizes: Sizes, rank: usize) -> Vec<usize> {
        let Sizes { batch, heads, len, dim } = sizes;
        match self {
            Self::Bhsd => [batch, heads, len, dim][4 - rank..].to_vec(),
            Self::Bshd => vec![batch, len, heads, dim],
        }
    }
}

/// Refuses sizes that do not belong together; gives the batch they have in common.
pub(super) fn compare(query: Sizes, key: Sizes, value: Sizes) -> Result<usize, Failure> {
    let same = |what, expected: usize, found: usize| {
        if expected == found { Ok(()) } else { Err(Failure::input(what, expected, found)) }
    };
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
