//! Rotary encoding recorded into the caller's encoder.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::error::Error;
use crate::plan::RotaryPlan;
use crate::problem::RotaryShape;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, constructors, verbs};
use std::sync::Arc;

/// Rotary encoding on one device: pairs of columns rotated by the angles of a table, such as
/// [`RotaryTable`](crate::RotaryTable) makes.
///
/// Source and destination lie as the shape says, apart from each other: keys can be rotated on their way into a cache.
/// Nothing here submits, waits or reads back.
///
/// Source: Su et al., "RoFormer", arXiv 2104.09864, equation 34.
#[derive(Clone, Debug)]
pub struct Rotary {
    context: Arc<Context>,
}

/// The buffers of one call, laid out as its [`RotaryShape`] says; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct RotaryBuffers<'a> {
    /// `[batch, num_heads, len, head_dim]` of the shape's element type; written if the shape has no out.
    pub x: &'a wgpu::Buffer,
    /// f32 `[rows, rotary_dim / 2]`, or `[batch, len, rotary_dim / 2]` with
    /// [`TableRows::PerToken`](crate::TableRows::PerToken).
    pub cos: &'a wgpu::Buffer,
    /// As `cos`.
    pub sin: &'a wgpu::Buffer,
    /// u32 `[batch, len]`, given exactly with [`TableRows::Named`](crate::TableRows::Named); or lengths `[batch]`, with
    /// [`TableRows::Last`](crate::TableRows::Last).
    pub positions: Option<&'a wgpu::Buffer>,
    /// As x, written; a buffer of its own, given exactly if the shape has an out.
    pub out: Option<&'a wgpu::Buffer>,
}

constructors!(Rotary, RotaryPlan);
verbs!(Rotary, RotaryPlan, RotaryBuffers, "rotary");

impl Rotary {
    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn plan(&self, shape: &RotaryShape) -> Result<RotaryPlan, Error> {
        RotaryPlan::new(shape, &self.context.capabilities)
    }
}

impl<'a> Buffers<'a> for RotaryBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::X => Some(self.x),
            Tensor::Cos => Some(self.cos),
            Tensor::Sin => Some(self.sin),
            Tensor::Positions => self.positions,
            Tensor::Out => self.out,
            _ => None,
        }
        .map(BufferRange::from)
    }
}
