//! Keys and values: those of this call, and the cached ones before them.

use super::sizes::{Order, Sizes};
use crate::failure::Failure;
use crate::tensors::Tensor;
use wgpu_attention::{Element, Layout, Strides};

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

impl Sequence<'_> {
    /// The sizes of the whole; a single past or a single continuation belongs to all of the other's.
    pub(super) fn sizes(&self) -> Sizes {
        let new = self.new.sizes;
        self.past.as_ref().map_or(new, |past| Sizes {
            batch: if new.batch == 1 { past.sizes.batch } else { new.batch },
            len: past.sizes.len.saturating_add(new.len),
            ..new
        })
    }

    /// Where [`elements`](Self::elements) lie, of which there are as many as `batch` or one for all.
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
