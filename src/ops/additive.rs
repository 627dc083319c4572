//! Additive attention recorded into the caller's encoder.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::error::Error;
use crate::plan::AdditivePlan;
use crate::problem::AdditiveShape;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, constructors, verbs};
use std::sync::Arc;

/// Additive attention on one device: `e_ij = w_v . tanh(W_q query_i + W_k key_j + b)`, a softmax over the visible keys, the
/// weighted sum of the values.
///
/// Queries and keys are projected first; then one kernel goes over the keys, and never stores what the tanh is taken of.
/// Nothing here submits, waits or reads back.
///
/// Source: Bahdanau et al., arXiv 1409.0473, appendix A.1.2.
#[derive(Clone, Debug)]
pub struct Additive {
    context: Arc<Context>,
}

/// The buffers of one call, contiguous; all need [`wgpu::BufferUsages::STORAGE`].
///
/// Inputs may share a buffer; an output shares with nothing.
#[derive(Clone, Copy, Debug)]
pub struct AdditiveBuffers<'a> {
    /// `[batch, q_len, query_dim]` of the shape's element type.
    pub query: &'a wgpu::Buffer,
    /// `[batch, kv_len, key_dim]`, as query.
    pub key: &'a wgpu::Buffer,
    /// `[batch, kv_len, value_dim]`, as query.
    pub value: &'a wgpu::Buffer,
    /// `[hidden_dim, query_dim]`, as query.
    pub w_q: &'a wgpu::Buffer,
    /// `[hidden_dim, key_dim]`, as query.
    pub w_k: &'a wgpu::Buffer,
    /// `[hidden_dim]`, as query.
    pub w_v: &'a wgpu::Buffer,
    /// `[hidden_dim]`, as query; given exactly if the shape has a bias.
    pub b: Option<&'a wgpu::Buffer>,
    /// Bits, lowest first, in u32 words, of the shape's mask; set = attend.
    pub mask: Option<&'a wgpu::Buffer>,
    /// `[batch, q_len, value_dim]`, as query, written.
    pub out: &'a wgpu::Buffer,
    /// f32 `[batch, q_len, kv_len]`, written; given exactly if the shape asks for it.
    pub weights: Option<&'a wgpu::Buffer>,
}

constructors!(Additive, AdditivePlan);
verbs!(Additive, AdditivePlan, AdditiveBuffers, "additive attention");

impl Additive {
    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn plan(&self, shape: &AdditiveShape) -> Result<AdditivePlan, Error> {
        AdditivePlan::new(shape, &self.context.capabilities)
    }
}

impl<'a> Buffers<'a> for AdditiveBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::Query => Some(self.query),
            Tensor::Key => Some(self.key),
            Tensor::Value => Some(self.value),
            Tensor::QueryWeight => Some(self.w_q),
            Tensor::KeyWeight => Some(self.w_k),
            Tensor::ValueWeight => Some(self.w_v),
            Tensor::InBias => self.b,
            Tensor::Mask => self.mask,
            Tensor::Out => Some(self.out),
            Tensor::Weights => self.weights,
            _ => None,
        }
        .map(BufferRange::from)
    }
}
