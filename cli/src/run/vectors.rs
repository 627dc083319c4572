//! q, k and v: their sizes by layout, and cached keys and values before those of the call.

use super::args::{LayoutChoice, RunArgs};
use crate::failure::Failure;
use crate::tensors::Tensor;
use wgpu_attention::{Element, Layout, Strides};

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
        let (batch, heads, len, dim) = match (self, tensor.sizes) {
            (Self::Bhsd, &[batch, heads, len, dim]) => (batch, heads, len, dim),
            (Self::Bhsd, &[heads, len, dim]) => (1, heads, len, dim),
            (Self::Bhsd, &[len, dim]) => (1, 1, len, dim),
            (Self::Bshd, &[batch, len, heads, dim]) => (batch, heads, len, dim),
            (Self::Thd, &[len, heads, dim]) => (1, heads, len, dim),
            (Self::Packed { heads }, &[batch, len, width]) if width.is_multiple_of(heads) => {
                (batch, heads, len, width / heads)
            }
            (Self::Bhsd, _) => return Err(tensor.refuse("2 to 4 sizes, [batch, heads, len, dim]")),
            (Self::Bshd, _) => return Err(tensor.refuse("4 sizes, [batch, len, heads, dim]")),
            (Self::Thd, _) => return Err(tensor.refuse("3 sizes, [total, heads, dim]")),
            (Self::Packed { heads }, _) => {
                return Err(
                    tensor.refuse(format_args!("3 sizes, [batch, len, {heads} heads * dim]"))
                );
            }
        };
        if heads == 0 || dim == 0 {
            return Err(tensor.refuse("at least 1 head and 1 element per vector"));
        }
        Ok(Sizes { batch, heads, len, dim })
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

    /// The sizes as they stand in the file; `rank` of them where leading ones may be missing.
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

/// A tensor of vectors and how it lies.
#[derive(Debug)]
pub(super) struct Vectors<'a> {
    pub(super) tensor: Tensor<'a>,
    pub(super) sizes: Sizes,
    order: Order,
}

impl<'a> Vectors<'a> {
    pub(super) fn new(tensor: Tensor<'a>, order: Order) -> Result<Self, Failure> {
        Ok(Self { sizes: order.read(&tensor)?, tensor, order })
    }

    /// Where the elements of the file lie.
    pub(super) fn layout(&self) -> Layout {
        self.order.layout(self.sizes, self.sizes.batch)
    }
}

/// All keys or all values.
#[derive(Debug)]
pub(super) struct Sequence<'a> {
    pub(super) past: Option<Vectors<'a>>,
    pub(super) new: Vectors<'a>,
}

impl<'a> Sequence<'a> {
    /// A cache lies the same way whatever the layout.
    pub(super) fn new(
        past: Option<Tensor<'a>>,
        new: Tensor<'a>,
        order: Order,
    ) -> Result<Self, Failure> {
        let past = past.map(|past| Vectors::new(past, Order::Bhsd)).transpose()?;
        Ok(Self { new: Vectors::new(new, order)?, past })
    }

    /// The sizes of the whole; a single past, or single new keys, broadcast to the other's batch.
    pub(super) fn sizes(&self) -> Sizes {
        let new = self.new.sizes;
        self.past.as_ref().map_or(new, |past| Sizes {
            batch: if new.batch == 1 { past.sizes.batch } else { new.batch },
            len: past.sizes.len.saturating_add(new.len),
            ..new
        })
    }

    /// Where [`elements`](Self::elements) lie, for each of `batch` or once for all.
    pub(super) fn layout(&self, batch: usize) -> Layout {
        let order = if self.past.is_some() { Order::Bhsd } else { self.new.order };
        order.layout(self.sizes(), batch)
    }

    /// The new ones and where they lie among the [`elements`](Self::elements).
    pub(super) fn new_rows(&self) -> (Sizes, Layout) {
        let Some(past) = &self.past else { return (self.new.sizes, self.new.layout()) };
        let whole = self.sizes();
        let strides = Order::Bhsd.strides(whole);
        // Saturated products are of tensors without elements, or too large for the library.
        let offset = past.sizes.len.saturating_mul(strides.row);
        let rows = Sizes { len: self.new.sizes.len, ..whole };
        (rows, Layout::Strided(Strides { offset, ..strides }))
    }

    /// The elements: as in the file, or with a past [batch, heads, len, dim].
    pub(super) fn elements<T: Element>(&self) -> Result<Vec<T>, Failure> {
        let new = self.new.tensor.floats()?;
        let Some(past) = &self.past else { return Ok(new) };
        let parts = [(past, past.tensor.floats()?), (&self.new, new)];
        let Sizes { batch, heads, len, dim } = self.sizes();
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut elements = Vec::with_capacity(batch * heads * len * dim);
        for (batch, head) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for (part, source) in &parts {
                let strides = part.order.strides(part.sizes);
                let start = batch * strides.batch + head * strides.head;
                for row in 0..part.sizes.len {
                    elements.extend_from_slice(&source[start + row * strides.row..][..dim]);
                }
            }
        }
        Ok(elements)
    }
}
