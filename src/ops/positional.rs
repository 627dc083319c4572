//! Positional encodings that are added, recorded into the caller's encoder.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::error::Error;
use crate::plan::PositionalPlan;
use crate::problem::PositionalShape;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, constructors, verbs};
use std::sync::Arc;

/// Adds a row of a table to each token, or writes it: [`sinusoidal`](crate::sinusoidal) or learned positions.
///
/// Nothing here submits, waits or reads back.
///
/// Source: Vaswani et al., arXiv 1706.03762, section 3.5.
#[derive(Clone, Debug)]
pub struct Positional {
    context: Arc<Context>,
}

/// The buffers of one call, laid out as its [`PositionalShape`] says; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct PositionalBuffers<'a> {
    /// `[batch, len, dim]` of the shape's element type, given exactly if the shape has it; written if that has no out.
    pub x: Option<&'a wgpu::Buffer>,
    /// f32 `[rows, dim]`, or `[batch, len, dim]` with [`TableRows::PerToken`](crate::TableRows::PerToken).
    pub table: &'a wgpu::Buffer,
    /// u32 `[batch, len]`, given exactly with [`TableRows::Named`](crate::TableRows::Named); or lengths `[batch]`, with
    /// [`TableRows::Last`](crate::TableRows::Last).
    pub positions: Option<&'a wgpu::Buffer>,
    /// As x, written; a buffer of its own, given exactly if the shape has an out.
    pub out: Option<&'a wgpu::Buffer>,
}

constructors!(Positional, PositionalPlan);
verbs!(Positional, PositionalPlan, PositionalBuffers, "positional");

impl Positional {
    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn plan(&self, shape: &PositionalShape) -> Result<PositionalPlan, Error> {
        PositionalPlan::new(shape, &self.context.capabilities)
    }
}

impl<'a> Buffers<'a> for PositionalBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::X => self.x,
            Tensor::Table => Some(self.table),
            Tensor::Positions => self.positions,
            Tensor::Out => self.out,
            _ => None,
        }
        .map(BufferRange::from)
    }
}
