//! RECORD: scaled dot-product attention into the caller's encoder, and from slices.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::host::Gpu;
use crate::lost;
use crate::plan::{Kernel, Plan};
use crate::problem::{AttentionOptions, AttentionShape, Element, Inputs, Outputs, Problem};
use crate::scope::lock;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, Operator, one_shot, verbs};
use std::sync::Arc;

/// Scaled dot-product attention on one device, with one set of options.
///
/// `plan` validates a shape and picks kernels, in microseconds. `encode` records the plan into your
/// encoder. Nothing here submits, waits or reads back.
///
/// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
#[derive(Clone, Debug)]
pub struct Attention {
    pub(crate) context: Arc<Context>,
    pub(crate) options: AttentionOptions,
}

/// The buffers of one call, laid out as its [`AttentionShape`] says; all need
/// [`wgpu::BufferUsages::STORAGE`].
///
/// Each is a buffer or a slice of one, see [`BufferRange`]. Inputs may share a buffer, also as
/// slices of one arena; an output needs a buffer of its own, as wgpu lets no dispatch read and write
/// one buffer. A buffer may be larger than its tensor: see [`AttentionBuffers::check_exact`].
///
/// ```no_run
/// # use wgpu_attention::{AttentionBuffers, wgpu};
/// # fn of_arena<'a>(arena: &'a wgpu::Buffer, out: &'a wgpu::Buffer, lse: &'a wgpu::Buffer) {
/// let bytes = 1 << 20;
/// let [query, key, value] = [0, 1, 2].map(|at| arena.slice(at * bytes..(at + 1) * bytes));
/// let buffers =
///     AttentionBuffers { lse: Some(lse.into()), ..AttentionBuffers::new(query, key, value, out) };
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AttentionBuffers<'a> {
    /// `[batch, num_heads, q_len, head_dim]` of the shape's element type; 16-bit elements fill
    /// whole words, so an odd number of them is one element short of the buffer's end.
    pub query: BufferRange<'a>,
    /// `[batch, num_kv_heads, kv_len, head_dim]`, as query.
    pub key: BufferRange<'a>,
    /// `[batch, num_kv_heads, kv_len, value_dim]`, as query.
    pub value: BufferRange<'a>,
    /// `[batch, num_heads, q_len, value_dim]`, as query, written.
    pub out: BufferRange<'a>,
    /// Bits in u32 words: element `e` of the layout is bit `e % 32` of word `e / 32`, set = attend.
    /// Masks with a byte an element are not taken; [`Gpu::attention`] packs a `&[bool]`.
    pub mask: Option<BufferRange<'a>>,
    /// f32, as the shape's bias, whatever the shape's element type is.
    pub bias: Option<BufferRange<'a>>,
    /// f32 `[num_heads]` or `[batch, num_heads]`.
    pub alibi_slopes: Option<BufferRange<'a>>,
    /// u32 ids, as the shape's segments.
    pub segments: Option<BufferRange<'a>>,
    /// u32 `[batch]`, if the shape has `lens`. A length above `kv_len` counts as `kv_len`.
    pub lens: Option<BufferRange<'a>>,
    /// u32 numbers of pages, `[batch, pages_per_sequence]`; key and value then are the pool.
    pub pages: Option<BufferRange<'a>>,
    /// f32 `[num_heads]`.
    pub sinks: Option<BufferRange<'a>>,
    /// f32 `[batch, num_heads, q_len]`, written.
    pub lse: Option<BufferRange<'a>>,
    /// f32 `[batch, num_heads, q_len, kv_len]`, written.
    pub weights: Option<BufferRange<'a>>,
    /// f32, sized as `weights`, written.
    pub raw_scores: Option<BufferRange<'a>>,
    /// f32, sized as `weights`, written.
    pub capped_scores: Option<BufferRange<'a>>,
    /// f32, sized as `weights`, written.
    pub masked_scores: Option<BufferRange<'a>>,
}

impl Attention {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an option that no shape could make valid, [`Error::Device`] if the
    /// device is lost.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &AttentionOptions,
    ) -> Result<Self, Error> {
        Gpu::from_device(device, queue).attention_operator(options)
    }

    /// As [`Attention::new`], on no more than `capabilities` of the device: how a lower tier is
    /// tested, and how a device of yours is used with its [`Matrices`](crate::Matrices).
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &AttentionOptions,
        capabilities: Capabilities,
    ) -> Result<Self, Error> {
        Gpu::with_capabilities(device, queue, capabilities).attention_operator(options)
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the
    /// device is too small for.
    pub fn plan(&self, shape: &AttentionShape) -> Result<Plan, Error> {
        self.plan_kernel(shape, None)
    }

    /// As [`Attention::plan`]; `kernel` insists on one.
    ///
    /// # Errors
    /// As [`Attention::plan`], and [`Error::Invalid`] if `kernel` cannot do what the shape asks for.
    pub fn plan_kernel(
        &self,
        shape: &AttentionShape,
        kernel: Option<Kernel>,
    ) -> Result<Plan, Error> {
        let problem = Problem::new(shape, &self.options)?;
        let Context { capabilities, tuning, .. } = &*self.context;
        Plan::tuned(problem, capabilities, kernel, &lock(tuning))
    }
}

impl Operator for Attention {
    type Plan = Plan;

    fn check(&self, plan: &Plan) -> Result<(), Error> {
        if plan.problem.options == self.options {
            return Ok(());
        }
        let expected = format!("a plan with this operator's options, {:?}", self.options);
        Err(Error::invalid("plan", expected, format!("{:?}", plan.problem.options)))
    }
}

verbs!(Attention, Plan, AttentionBuffers, "attention");

impl<'a> AttentionBuffers<'a> {
    /// A call without optional tensors; add them by struct update.
    #[must_use]
    pub fn new(
        query: impl Into<BufferRange<'a>>,
        key: impl Into<BufferRange<'a>>,
        value: impl Into<BufferRange<'a>>,
        out: impl Into<BufferRange<'a>>,
    ) -> Self {
        Self {
            query: query.into(),
            key: key.into(),
            value: value.into(),
            out: out.into(),
            mask: None,
            bias: None,
            alibi_slopes: None,
            segments: None,
            lens: None,
            pages: None,
            sinks: None,
            lse: None,
            weights: None,
            raw_scores: None,
            capped_scores: None,
            masked_scores: None,
        }
    }

    /// Refuses what [`Attention::bind`] does, and every buffer that is not exactly as long as its
    /// tensor: f32 under a plan for f16, say. Empty tensors take a buffer of any size.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check_exact(&self, plan: &Plan) -> Result<(), Error> {
        let alignment = plan.program.capabilities.storage_alignment;
        plan.program.check_buffers(|tensor| self.get(tensor), alignment, true)
    }
}

impl<'a> Buffers<'a> for AttentionBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::Query => Some(self.query),
            Tensor::Key => Some(self.key),
            Tensor::Value => Some(self.value),
            Tensor::Mask => self.mask,
            Tensor::Bias => self.bias,
            Tensor::AlibiSlopes => self.alibi_slopes,
            Tensor::Segments => self.segments,
            Tensor::Lens => self.lens,
            Tensor::Pages => self.pages,
            Tensor::Sinks => self.sinks,
            Tensor::Out => Some(self.out),
            Tensor::Lse => self.lse,
            Tensor::Weights => self.weights,
            Tensor::RawScores => self.raw_scores,
            Tensor::CappedScores => self.capped_scores,
            Tensor::MaskedScores => self.masked_scores,
            _ => None,
        }
    }
}

impl Gpu {
    /// An operator on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn attention_operator(&self, options: &AttentionOptions) -> Result<Attention, Error> {
        Problem::new(&AttentionShape::new(0, 1, 0, 1), options)?;
        lost::check(self.device(), "making an operator")?;
        Ok(Attention { context: self.context.clone(), options: *options })
    }

    /// As [`Gpu::attention`]; `kernel` insists on one.
    ///
    /// # Errors
    /// As [`Gpu::attention`], and [`Error::Invalid`] if `kernel` cannot do what the shape asks for.
    pub async fn attention_with<T: Element>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
        kernel: Option<Kernel>,
    ) -> Result<Outputs<T, f32>, Error> {
        let operator = self.attention_operator(options)?;
        let plan = operator.plan_kernel(shape, kernel)?;
        inputs.validate(&plan.problem)?;
        let call = (&operator, &plan.program);
        let written = self.context.run_once("attention", call, |tensor| inputs.get(tensor)).await?;
        Outputs::collect(written.read_all(Tensor::Out)?, |tensor| written.read(tensor))
    }
}

one_shot! {
    /// Attention from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device
    /// refuses.
    attention, attention_blocking<T>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
    ) -> Outputs<T, f32> {
        self.attention_with(shape, options, inputs, None).await
    }
}
