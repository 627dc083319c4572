//! Additive attention recorded into the caller's encoder.

use super::launch::{bytes, check_buffers, check_plan, steps};
use super::linear::{Linear, LinearBuffers};
use crate::call::Call;
use crate::context::{Context, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{AdditivePlan, AdditiveTensor, largest_of};
use crate::problem::AdditiveShape;
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
    linear: Linear,
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

impl Additive {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Additive::new`], on no more than `capabilities` of the device.
    #[must_use]
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
    ) -> Self {
        let capabilities = capabilities.granted(device);
        Self::from_context(Arc::new(Context::new(device, queue, capabilities)))
    }

    pub(crate) fn from_context(context: Arc<Context>) -> Self {
        Self { linear: Linear::from_context(context.clone()), context }
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn plan(&self, shape: &AdditiveShape) -> Result<AdditivePlan, Error> {
        AdditivePlan::new(shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`, and reports what the shader compiler says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &AdditivePlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Additive::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Additive::prepare`].
    pub fn prepare_blocking(&self, plan: &AdditivePlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`Additive::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &AdditivePlan,
        buffers: &AdditiveBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the STORAGE usage, or
    /// for a plan for other capabilities.
    pub fn bind(&self, plan: &AdditivePlan, buffers: &AdditiveBuffers<'_>) -> Result<Call, Error> {
        check_plan(&plan.capabilities, &self.context)?;
        buffers.validate(plan)?;
        let steps = self.steps(plan, buffers)?;
        self.context.bind("additive attention", Vec::new(), &steps)
    }

    fn steps<'a>(
        &self,
        plan: &'a AdditivePlan,
        buffers: &AdditiveBuffers<'_>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let Context { device, workspace, unpacked, .. } = &*self.context;
        let most = |size: fn(&_) -> u64| plan.parts.iter().map(size).max().unwrap_or_default();
        let Some(projected) = workspace.get(device, most(|part| part.workspace))? else {
            return Ok(Vec::new());
        };
        let size = most(|part| largest_of(&part.launches, AdditiveTensor::Unpacked));
        let unpacked = unpacked.get(device, size)?;
        let mut all = Vec::new();
        for part in &plan.parts {
            for (plan, x, weight, bias) in [
                (&part.queries, buffers.query, buffers.w_q, buffers.b),
                (&part.keys, buffers.key, buffers.w_k, None),
            ] {
                let buffers = LinearBuffers { x, weight, bias, out: &projected };
                all.extend(self.linear.steps(plan, &buffers)?);
            }
            all.extend(steps(&part.launches, |tensor| match tensor {
                AdditiveTensor::Projected => Some(projected.clone()),
                AdditiveTensor::Value => Some(buffers.value.clone()),
                AdditiveTensor::Factors => Some(buffers.w_v.clone()),
                AdditiveTensor::Mask => buffers.mask.cloned(),
                AdditiveTensor::Out => Some(buffers.out.clone()),
                AdditiveTensor::Unpacked => unpacked.clone(),
                AdditiveTensor::Weights => buffers.weights.cloned(),
            }));
        }
        Ok(all)
    }
}

impl AdditiveBuffers<'_> {
    fn validate(&self, plan: &AdditivePlan) -> Result<(), Error> {
        let p = &plan.problem;
        let per_word = p.shape.element.per_word();
        let elements = |extent: u32| Some(bytes(extent, per_word));
        let inputs = [
            ("query", elements(p.query.extent), Some(self.query)),
            ("key", elements(p.key.extent), Some(self.key)),
            ("value", elements(p.value.extent), Some(self.value)),
            ("w_q", elements(p.w_q.extent), Some(self.w_q)),
            ("w_k", elements(p.w_k.extent), Some(self.w_k)),
            ("w_v", elements(p.w_v.extent), Some(self.w_v)),
            ("b", p.b.and_then(|view| elements(view.extent)), self.b),
            ("mask", p.mask.map(|view| bytes(view.extent, 32)), self.mask),
        ];
        let outputs = [
            ("out", elements(p.out.extent), Some(self.out)),
            ("weights", p.weights.map(|view| bytes(view.extent, 1)), self.weights),
        ];
        check_buffers(&inputs, &outputs)
    }
}
