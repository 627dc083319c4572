//! A multi-head layer recorded into the caller's encoder.

use super::attention::{Attention, AttentionBuffers};
use super::launch::check_buffer;
use super::linear::{Linear, LinearBuffers};
use crate::buffer::upload;
use crate::call::Call;
use crate::context::{Context, Scratch, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{Bound, Dispatch, LinearPlan, MultiHeadPlan, Tensor};
use crate::problem::{
    AttentionOptions, HeadWeights, MultiHeadShape, MultiHeadSizes, MultiHeadWeights,
};
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
    attention: Attention,
    linear: Linear,
    parameters: Parameters,
    scratch: Arc<[Scratch; 5]>,
}

/// The layer's parameters.
#[derive(Clone, Debug)]
struct Parameters {
    /// Of query, key and value.
    projections: [wgpu::Buffer; 3],
    in_bias: Option<wgpu::Buffer>,
    out: wgpu::Buffer,
    out_bias: Option<wgpu::Buffer>,
    extra: Option<[wgpu::Buffer; 2]>,
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
        let put =
            |label, slice: &[f32]| upload(&context.device, label, bytemuck::cast_slice(slice));
        let extra = weights
            .extra
            .map(|[key, value]| Ok::<_, Error>([put("bias_k", key)?, put("bias_v", value)?]));
        let parameters = Parameters {
            projections: [
                put("query weight", weights.query)?,
                put("key weight", weights.key)?,
                put("value weight", weights.value)?,
            ],
            in_bias: weights.in_bias.map(|bias| put("in_bias", bias)).transpose()?,
            out: put("out weight", weights.out)?,
            out_bias: weights.out_bias.map(|bias| put("out_bias", bias)).transpose()?,
            extra: extra.transpose()?,
        };
        Ok(Self {
            attention: Attention::from_context(context.clone(), &AttentionOptions::default())?,
            linear: Linear::from_context(context.clone()),
            context,
            sizes,
            parameters,
            scratch: Arc::default(),
        })
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &MultiHeadShape) -> Result<MultiHeadPlan, Error> {
        MultiHeadPlan::of_sizes(&self.sizes, shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &MultiHeadPlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`MultiHeadAttention::prepare`], blocking.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::prepare`].
    pub fn prepare_blocking(&self, plan: &MultiHeadPlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &MultiHeadPlan,
        buffers: &MultiHeadBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the STORAGE
    /// usage, or for a plan of another layer or for other capabilities.
    pub fn bind(
        &self,
        plan: &MultiHeadPlan,
        buffers: &MultiHeadBuffers<'_>,
    ) -> Result<Call, Error> {
        if plan.capabilities != self.context.capabilities || plan.sizes != self.sizes {
            let expected = "a plan of this operator";
            return Err(Error::invalid(
                "plan",
                expected,
                "one of another layer or for other capabilities",
            ));
        }
        buffers.validate(plan)?;
        let steps = self.steps(plan, buffers)?;
        self.context.bind("multi-head attention", Vec::new(), &steps)
    }

    fn steps<'a>(
        &self,
        plan: &'a MultiHeadPlan,
        buffers: &MultiHeadBuffers<'_>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let p = &self.parameters;
        let mut own = Vec::new();
        for (scratch, extent) in self.scratch.iter().zip(plan.scratch()) {
            // Something to bind, even for an empty tensor.
            own.push(scratch.get(&self.context.device, u64::from(extent.max(1)) * 4)?);
        }
        let [Some(query), Some(key), Some(value), Some(attended), Some(weights)] = &own[..] else {
            return Ok(Vec::new());
        };
        let project = |plan: &'a LinearPlan, x, weight, bias, out| {
            self.linear.steps(plan, &LinearBuffers { x, weight, bias, out })
        };
        let mut steps = Vec::new();
        let inputs = [buffers.query, buffers.key, buffers.value];
        for (at, out) in [query, key, value].into_iter().enumerate() {
            let bias = p.in_bias.as_ref();
            steps.extend(project(
                &plan.projections[at],
                inputs[at],
                &p.projections[at],
                bias,
                out,
            )?);
        }
        // Without features in, there is nothing to read.
        for (at, out) in [key, value].into_iter().enumerate() {
            let bias = p.extra.as_ref().map(|extra| &extra[at]);
            if let Some(extra) = &plan.extra {
                steps.extend(project(extra, &p.out, &p.out, bias, out)?);
            }
            if let Some(zeros) = &plan.zeros {
                steps.extend(project(zeros, &p.out, &p.out, None, out)?);
            }
        }
        let attention = AttentionBuffers {
            mask: buffers.mask,
            bias: buffers.bias,
            weights: if plan.mean.is_some() { Some(weights) } else { buffers.weights },
            ..AttentionBuffers::new(query, key, value, attended)
        };
        steps.extend(self.attention.steps(&plan.attention, &attention, None)?);
        if let (Some(mean), Some(out)) = (&plan.mean, buffers.weights) {
            steps.extend(mean.dispatches.iter().map(|dispatch| mean_step(dispatch, weights, out)));
        }
        steps.extend(project(&plan.out, attended, &p.out, p.out_bias.as_ref(), buffers.out)?);
        Ok(steps)
    }
}

fn mean_step<'a>(dispatch: &'a Dispatch, weights: &wgpu::Buffer, out: &wgpu::Buffer) -> Step<'a> {
    let buffer = |bound: &Bound| {
        let number = bound.tensor.binding(dispatch.variant.entry);
        let buffer = if bound.tensor == Tensor::Weights { weights } else { out };
        (number, buffer.clone(), bound.window)
    };
    Step {
        variant: &dispatch.variant,
        params: bytemuck::bytes_of(&dispatch.params),
        table: &[],
        buffers: dispatch.bound.iter().map(buffer).collect(),
        grid: dispatch.grid,
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

    fn validate(&self, plan: &MultiHeadPlan) -> Result<(), Error> {
        let p = &plan.attention.problem;
        let [query, key, value] = plan.projections.each_ref().map(|plan| plan.problem.x.extent);
        let weights = match (&plan.mean, p.weights) {
            (Some(mean), _) => Some(mean.extent),
            (None, view) => view.map(|view| view.extent),
        };
        let floats = |extent: u32| u64::from(extent) * 4;
        let mask = p.mask.map(|view| Tensor::Mask.bytes(p.element, view.extent));
        let tensors = [
            ("query", Some(floats(query)), Some(self.query)),
            ("key", Some(floats(key)), Some(self.key)),
            ("value", Some(floats(value)), Some(self.value)),
            ("mask", mask, self.mask),
            ("bias", p.bias.map(|view| floats(view.extent)), self.bias),
            ("out", Some(floats(plan.out.problem.out.extent)), Some(self.out)),
            ("weights", weights.map(floats), self.weights),
        ];
        check_buffers(&tensors, 5)
    }
}

/// Compares each buffer with the bytes it needs; those from `outputs` on share with none before them.
pub(super) fn check_buffers(
    tensors: &[(&'static str, Option<u64>, Option<&wgpu::Buffer>)],
    outputs: usize,
) -> Result<(), Error> {
    for (at, &(name, bytes, buffer)) in tensors.iter().enumerate() {
        let found = check_buffer(name, bytes, buffer)?;
        let shares = |(_, _, other): &&(_, _, Option<&wgpu::Buffer>)| *other == found;
        if let Some((other, _, _)) =
            tensors[..at].iter().find(shares).filter(|_| at >= outputs && found.is_some())
        {
            return Err(Error::invalid(name, "a buffer of its own", format!("that of {other}")));
        }
    }
    Ok(())
}

impl MultiHeadPlan {
    /// Elements of the weights that are asked for.
    pub(crate) fn weights_len(&self, asked: Option<HeadWeights>) -> Option<u32> {
        let per_head = self.attention.problem.weights.map_or(0, |view| view.extent);
        asked.map(|_| self.mean.as_ref().map_or(per_head, |mean| mean.extent))
    }
}
