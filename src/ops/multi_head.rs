//! A multi-head layer recorded into the caller's encoder.

use crate::buffer::{BufferRange, Parameters};
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::lost;
use crate::plan::MultiHeadPlan;
use crate::problem::{MultiHeadShape, MultiHeadSizes, MultiHeadWeights};
use crate::tensor::Tensor;
use crate::verbs::{Buffers, Operator, verbs};
use std::sync::Arc;

/// A multi-head layer, PyTorch's `nn.MultiheadAttention` in evaluation mode, with its parameters on one device.
///
/// `plan` validates the sizes of a call; `encode` records projections, attention and the last projection into your
/// encoder, with nothing read back in between. Projected rows stay in buffers of the operator, which calls share.
///
/// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2.
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    context: Arc<Context>,
    sizes: MultiHeadSizes,
    parameters: Parameters,
}

/// The buffers of one call, f32; all need [`wgpu::BufferUsages::STORAGE`].
///
/// Inputs may share a buffer; an output shares with nothing.
#[derive(Clone, Copy, Debug)]
pub struct MultiHeadBuffers<'a> {
    /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
    pub query: &'a wgpu::Buffer,
    /// `[batch, kv_len, kdim]`, or `[kv_len, batch, kdim]`.
    pub key: &'a wgpu::Buffer,
    /// `[batch, kv_len, vdim]`, or `[kv_len, batch, vdim]`.
    pub value: &'a wgpu::Buffer,
    /// As query, written.
    pub out: &'a wgpu::Buffer,
    /// Bits as in [`AttentionBuffers::mask`], set = attend, laid out as the shape says.
    pub mask: Option<&'a wgpu::Buffer>,
    /// As the shape says.
    pub bias: Option<&'a wgpu::Buffer>,
    /// As [`MultiHeadShape::weights`] says, written.
    pub weights: Option<&'a wgpu::Buffer>,
}

impl MultiHeadAttention {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    /// Uploads the parameters.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters whose sizes do not fit, the other kinds for what the device refuses.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        weights: &MultiHeadWeights<'_>,
    ) -> Result<Self, Error> {
        let context = Context::new(device, queue, Capabilities::of(device));
        Self::from_context(Arc::new(context), weights)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        weights: &MultiHeadWeights<'_>,
    ) -> Result<Self, Error> {
        let sizes = weights.sizes()?;
        lost::check(&context.device, "making an operator")?;
        let [extra_key, extra_value] = weights.extra.map_or([None; 2], |extra| extra.map(Some));
        let parameters = Parameters::upload(
            &context.device,
            &[
                (Tensor::QueryWeight, "query weight", Some(weights.query)),
                (Tensor::KeyWeight, "key weight", Some(weights.key)),
                (Tensor::ValueWeight, "value weight", Some(weights.value)),
                (Tensor::InBias, "in_bias", weights.in_bias),
                (Tensor::OutWeight, "out weight", Some(weights.out)),
                (Tensor::OutBias, "out_bias", weights.out_bias),
                (Tensor::ExtraKey, "bias_k", extra_key),
                (Tensor::ExtraValue, "bias_v", extra_value),
            ],
        )?;
        Ok(Self { context, sizes, parameters })
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &MultiHeadShape) -> Result<MultiHeadPlan, Error> {
        MultiHeadPlan::of_sizes(&self.sizes, shape, &self.context.capabilities)
    }
}

verbs!(MultiHeadAttention, MultiHeadPlan, MultiHeadBuffers, "multi-head attention");

impl Operator for MultiHeadAttention {
    type Plan = MultiHeadPlan;

    fn check(&self, plan: &MultiHeadPlan) -> Result<(), Error> {
        if plan.sizes == self.sizes {
            return Ok(());
        }
        Err(Error::invalid("plan", "a plan of this operator", "one of another layer"))
    }

    fn parameter(&self, tensor: Tensor) -> Option<&wgpu::Buffer> {
        self.parameters.get(tensor)
    }
}

impl<'a> Buffers<'a> for MultiHeadBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        let buffer = match tensor {
            Tensor::Query => Some(self.query),
            Tensor::Key => Some(self.key),
            Tensor::Value => Some(self.value),
            Tensor::Mask => self.mask,
            Tensor::Bias => self.bias,
            Tensor::Out => Some(self.out),
            Tensor::Weights => self.weights,
            _ => None,
        };
        buffer.map(BufferRange::from)
    }
}

impl<'a> MultiHeadBuffers<'a> {
    /// A call without optional tensors; add them by struct update.
    #[must_use]
    pub fn new(
        query: &'a wgpu::Buffer,
        key: &'a wgpu::Buffer,
        value: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> Self {
        Self { query, key, value, out, mask: None, bias: None, weights: None }
    }
}
