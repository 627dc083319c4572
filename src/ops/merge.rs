//! Results over parts of the keys merged into the caller's encoder.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::error::Error;
use crate::plan::MergePlan;
use crate::problem::MergeShape;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, constructors, verbs};
use std::sync::Arc;

/// Merges out and lse over parts of the keys into those over all of them, on one device.
///
/// A part whose lse is `-inf` is left out; where all are, out is 0 and lse `-inf`. As lse says what out was divided by,
/// results merge in any order and in any number of steps: over chunks of a cache, over devices, over a prefix that
/// sequences share. Nothing here submits, waits or reads back.
///
/// Source: Juravsky et al., "Hydragen", arXiv 2402.05099, section 3.1.
#[derive(Clone, Debug)]
pub struct Merge {
    context: Arc<Context>,
}

/// The buffers of one call, contiguous; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct MergeBuffers<'a> {
    /// `[parts, batch, num_heads, q_len, value_dim]` of the shape's element type.
    pub partial_out: &'a wgpu::Buffer,
    /// f32 `[parts, batch, num_heads, q_len]`.
    pub partial_lse: &'a wgpu::Buffer,
    /// `[batch, num_heads, q_len, value_dim]` of the shape's element type, written.
    pub out: &'a wgpu::Buffer,
    /// f32 `[batch, num_heads, q_len]`, written.
    pub lse: &'a wgpu::Buffer,
}

constructors!(Merge, MergePlan);
verbs!(Merge, MergePlan, MergeBuffers, "merge");

impl Merge {
    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for: all
    /// parts of a row have to fit into one binding.
    pub fn plan(&self, shape: &MergeShape) -> Result<MergePlan, Error> {
        MergePlan::new(shape, &self.context.capabilities)
    }
}

impl<'a> Buffers<'a> for MergeBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::Parts => Some(self.partial_out),
            Tensor::PartsLse => Some(self.partial_lse),
            Tensor::Out => Some(self.out),
            Tensor::Lse => Some(self.lse),
            _ => None,
        }
        .map(BufferRange::from)
    }
}
