//! A self-attention module recorded into the caller's encoder.

use crate::buffer::{BufferRange, Parameters};
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::lost;
use crate::plan::SelfAttentionPlan;
use crate::problem::{SelfAttentionShape, SelfAttentionWeights};
use crate::tensor::Tensor;
use crate::verbs::{Buffers, Operator, verbs};
use std::sync::Arc;

/// The `SelfAttention` module of many tutorials, with its parameters on one device: small matrices that all heads
/// share for values, keys and queries, attention, and one matrix that mixes the heads.
///
/// What is masked gets a score of -1e20 before the scale. So a masked key weighs nothing, but a row that is wholly
/// masked weighs all its keys alike, where [`Attention`] would give zeros.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    context: Arc<Context>,
    heads: usize,
    head_dim: usize,
    parameters: Parameters,
}

/// The buffers of one call, f32; all need [`wgpu::BufferUsages::STORAGE`].
///
/// Inputs may share a buffer; an output shares with nothing.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttentionBuffers<'a> {
    /// `[batch, kv_len, embed_size]`.
    pub values: &'a wgpu::Buffer,
    /// `[batch, kv_len, embed_size]`.
    pub keys: &'a wgpu::Buffer,
    /// `[batch, q_len, embed_size]`.
    pub queries: &'a wgpu::Buffer,
    /// `[batch, q_len, embed_size]`, written.
    pub out: &'a wgpu::Buffer,
    /// Bits as in [`AttentionBuffers::mask`], set = attend, laid out as the shape says.
    pub mask: Option<&'a wgpu::Buffer>,
    /// `[batch, heads, q_len, kv_len]`, written.
    pub weights: Option<&'a wgpu::Buffer>,
}

impl SelfAttention {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    /// Uploads the parameters.
    ///
    /// # Errors
    /// [`Error::Invalid`] if heads do not divide the width or a slice has another length than it needs; the other
    /// kinds for what the device refuses.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        weights: &SelfAttentionWeights<'_>,
    ) -> Result<Self, Error> {
        let context = Context::new(device, queue, Capabilities::of(device));
        Self::from_context(Arc::new(context), weights)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        weights: &SelfAttentionWeights<'_>,
    ) -> Result<Self, Error> {
        let head_dim = weights.head_dim()?;
        lost::check(&context.device, "making an operator")?;
        let parameters = Parameters::upload(
            &context.device,
            &[
                (Tensor::ValueWeight, "values weight", Some(weights.values)),
                (Tensor::KeyWeight, "keys weight", Some(weights.keys)),
                (Tensor::QueryWeight, "queries weight", Some(weights.queries)),
                (Tensor::OutWeight, "fc_out weight", Some(weights.fc_out)),
                (Tensor::OutBias, "fc_out_bias", Some(weights.fc_out_bias)),
            ],
        )?;
        Ok(Self { context, heads: weights.heads, head_dim, parameters })
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &SelfAttentionShape) -> Result<SelfAttentionPlan, Error> {
        SelfAttentionPlan::new(self.heads, self.head_dim, shape, &self.context.capabilities)
    }
}

verbs!(SelfAttention, SelfAttentionPlan, SelfAttentionBuffers, "self-attention");

impl Operator for SelfAttention {
    type Plan = SelfAttentionPlan;

    fn check(&self, plan: &SelfAttentionPlan) -> Result<(), Error> {
        if [plan.heads, plan.head_dim] == [self.heads, self.head_dim] {
            return Ok(());
        }
        Err(Error::invalid("plan", "a plan of this operator", "one of another module"))
    }

    fn parameter(&self, tensor: Tensor) -> Option<&wgpu::Buffer> {
        self.parameters.get(tensor)
    }
}

impl<'a> Buffers<'a> for SelfAttentionBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        let buffer = match tensor {
            Tensor::Value => Some(self.values),
            Tensor::Key => Some(self.keys),
            Tensor::Query => Some(self.queries),
            Tensor::Mask => self.mask,
            Tensor::Out => Some(self.out),
            Tensor::Weights => self.weights,
            _ => None,
        };
        buffer.map(BufferRange::from)
    }
}

impl<'a> SelfAttentionBuffers<'a> {
    /// A call without optional tensors; add them by struct update.
    #[must_use]
    pub fn new(
        values: &'a wgpu::Buffer,
        keys: &'a wgpu::Buffer,
        queries: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> Self {
        Self { values, keys, queries, out, mask: None, weights: None }
    }
}
