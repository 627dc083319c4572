//! A self-attention module recorded into the caller's encoder.

use super::attention::{Attention, AttentionBuffers};
use super::linear::{Linear, LinearBuffers};
use super::multi_head::check_buffers;
use crate::buffer::upload;
use crate::call::Call;
use crate::context::{Context, Scratch, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{SelfAttentionPlan, Tensor};
use crate::problem::{AttentionOptions, SelfAttentionShape, SelfAttentionWeights};
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
    attention: Attention,
    linear: Linear,
    /// Of values, keys and queries; fc_out and its bias.
    parameters: [wgpu::Buffer; 5],
    scratch: Arc<[Scratch; 5]>,
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
        let put =
            |label, slice: &[f32]| upload(&context.device, label, bytemuck::cast_slice(slice));
        let parameters = [
            put("values weight", weights.values)?,
            put("keys weight", weights.keys)?,
            put("queries weight", weights.queries)?,
            put("fc_out weight", weights.fc_out)?,
            put("fc_out_bias", weights.fc_out_bias)?,
        ];
        Ok(Self {
            attention: Attention::from_context(context.clone(), &AttentionOptions::default())?,
            linear: Linear::from_context(context.clone()),
            context,
            heads: weights.heads,
            head_dim,
            parameters,
            scratch: Arc::default(),
        })
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &SelfAttentionShape) -> Result<SelfAttentionPlan, Error> {
        SelfAttentionPlan::new(self.heads, self.head_dim, shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &SelfAttentionPlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`SelfAttention::prepare`], blocking.
    ///
    /// # Errors
    /// As [`SelfAttention::prepare`].
    pub fn prepare_blocking(&self, plan: &SelfAttentionPlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`SelfAttention::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &SelfAttentionPlan,
        buffers: &SelfAttentionBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the STORAGE
    /// usage, or for a plan of another module or for other capabilities.
    pub fn bind(
        &self,
        plan: &SelfAttentionPlan,
        buffers: &SelfAttentionBuffers<'_>,
    ) -> Result<Call, Error> {
        let is_own = plan.capabilities == self.context.capabilities
            && plan.heads == self.heads
            && plan.attention.problem.head_dim as usize == self.head_dim;
        if !is_own {
            let expected = "a plan of this operator";
            return Err(Error::invalid(
                "plan",
                expected,
                "one of another module or for other capabilities",
            ));
        }
        buffers.validate(plan)?;
        let steps = self.steps(plan, buffers)?;
        self.context.bind("self-attention", Vec::new(), &steps)
    }

    fn steps<'a>(
        &self,
        plan: &'a SelfAttentionPlan,
        buffers: &SelfAttentionBuffers<'_>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let mut own = Vec::new();
        for (scratch, extent) in self.scratch.iter().zip(plan.scratch()) {
            // Something to bind, even for an empty tensor.
            own.push(scratch.get(&self.context.device, u64::from(extent.max(1)) * 4)?);
        }
        let [Some(values), Some(keys), Some(queries), Some(attended), Some(lse)] = &own[..] else {
            return Ok(Vec::new());
        };
        let mut steps = Vec::new();
        let inputs = [buffers.values, buffers.keys, buffers.queries];
        for (at, out) in [values, keys, queries].into_iter().enumerate() {
            let weight = &self.parameters[at];
            let buffers = LinearBuffers { x: inputs[at], weight, bias: None, out };
            steps.extend(self.linear.steps(&plan.projections[at], &buffers)?);
        }
        let attention = AttentionBuffers {
            mask: buffers.mask,
            lse: buffers.mask.map(|_| lse),
            weights: buffers.weights,
            ..AttentionBuffers::new(queries, keys, values, attended)
        };
        steps.extend(self.attention.steps(&plan.attention, &attention, None)?);
        let [.., weight, bias] = &self.parameters;
        let last = LinearBuffers { x: attended, weight, bias: Some(bias), out: buffers.out };
        steps.extend(self.linear.steps(&plan.fc_out, &last)?);
        Ok(steps)
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

    fn validate(&self, plan: &SelfAttentionPlan) -> Result<(), Error> {
        let p = &plan.attention.problem;
        let floats = |extent: u32| u64::from(extent) * 4;
        let mask = p.mask.map(|view| Tensor::Mask.bytes(p.element, view.extent));
        let tensors = [
            ("values", Some(floats(p.value.extent)), Some(self.values)),
            ("keys", Some(floats(p.key.extent)), Some(self.keys)),
            ("queries", Some(floats(p.query.extent)), Some(self.queries)),
            ("mask", mask, self.mask),
            ("out", Some(floats(p.out.extent)), Some(self.out)),
            ("weights", p.weights.map(|view| floats(view.extent)), self.weights),
        ];
        check_buffers(&tensors, 4)
    }
}
