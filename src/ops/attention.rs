//! Scaled dot-product attention recorded into the caller's encoder.

use super::launch::{check_buffer, check_plan};
use crate::call::{Call, Transfer};
use crate::context::{Context, Footprint, Scratch, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::lost;
use crate::plan::{Bound, Dispatch, Kernel, Params, Plan, Tensor, largest};
use crate::problem::{AttentionOptions, AttentionShape, Problem, Segments, SmallTensor};
use crate::scope::lock;
use crate::uniforms::MOST_PARAMS;
use std::sync::Arc;

/// Scaled dot-product attention on one device, with one set of options.
///
/// `plan` validates a shape and picks kernels, in microseconds; `encode` records the plan into your
/// encoder. Nothing here submits, waits or reads back.
///
/// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
#[derive(Clone, Debug)]
pub struct Attention {
    pub(super) context: Arc<Context>,
    pub(super) options: AttentionOptions,
}

/// The buffers of one call, laid out as its [`AttentionShape`] says; all need
/// [`wgpu::BufferUsages::STORAGE`].
///
/// Inputs may share a buffer; an output shares with nothing. A buffer may be larger than its tensor: only
/// [`AttentionBuffers::check_exact`] asks for as many bytes as the plan's tensors have.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBuffers<'a> {
    /// `[batch, num_heads, q_len, head_dim]` of the shape's element type; 16-bit elements fill whole words,
    /// so an odd number of them is one element short of the buffer's end.
    pub query: &'a wgpu::Buffer,
    /// `[batch, num_kv_heads, kv_len, head_dim]`, as query.
    pub key: &'a wgpu::Buffer,
    /// `[batch, num_kv_heads, kv_len, value_dim]`, as query.
    pub value: &'a wgpu::Buffer,
    /// `[batch, num_heads, q_len, value_dim]`, as query, written.
    pub out: &'a wgpu::Buffer,
    /// Bits, lowest first, in u32 words; element `e` of the layout is bit `e`; set = attend.
    pub mask: Option<&'a wgpu::Buffer>,
    /// f32, as the shape's bias.
    pub bias: Option<&'a wgpu::Buffer>,
    /// f32 `[num_heads]` or `[batch, num_heads]`.
    ///
    /// Of slopes, segments, lens, pages and sinks, a call that has several needs them with [`wgpu::BufferUsages::COPY_SRC`]
    /// too.
    pub alibi_slopes: Option<&'a wgpu::Buffer>,
    /// u32 ids, as the shape's segments.
    pub segments: Option<&'a wgpu::Buffer>,
    /// u32 `[batch]`, if the shape has `lens`. A length above `kv_len` counts as `kv_len`.
    pub lens: Option<&'a wgpu::Buffer>,
    /// u32 numbers of pages, `[batch, pages_per_sequence]`; key and value then are the pool.
    pub pages: Option<&'a wgpu::Buffer>,
    /// f32 `[num_heads]`.
    pub sinks: Option<&'a wgpu::Buffer>,
    /// f32 `[batch, num_heads, q_len]`, written.
    pub lse: Option<&'a wgpu::Buffer>,
    /// f32 `[batch, num_heads, q_len, kv_len]`, written.
    pub weights: Option<&'a wgpu::Buffer>,
    /// f32, sized as `weights`, written.
    pub raw_scores: Option<&'a wgpu::Buffer>,
    /// f32, sized as `weights`, written.
    pub capped_scores: Option<&'a wgpu::Buffer>,
    /// f32, sized as `weights`, written.
    pub masked_scores: Option<&'a wgpu::Buffer>,
}

const _: () = assert!(size_of::<Params>() <= MOST_PARAMS as usize);

impl Attention {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an option that no shape could make valid, [`Error::Device`] if the device is lost.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &AttentionOptions,
    ) -> Result<Self, Error> {
        Self::with_capabilities(device, queue, options, Capabilities::of(device))
    }

    /// As [`Attention::new`], on no more than `capabilities` of the device: how a lower tier is tested
    /// on a better adapter, and how a device of yours is used with its [`Matrices`](crate::Matrices).
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &AttentionOptions,
        capabilities: Capabilities,
    ) -> Result<Self, Error> {
        let capabilities = capabilities.granted(device);
        Self::from_context(Arc::new(Context::new(device, queue, capabilities)), options)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        options: &AttentionOptions,
    ) -> Result<Self, Error> {
        Problem::new(&AttentionShape::new(0, 1, 0, 1), options)?;
        lost::check(&context.device, "making an operator")?;
        Ok(Self { context, options: *options })
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is
    /// too small for.
    pub fn plan(&self, shape: &AttentionShape) -> Result<Plan, Error> {
        self.plan_kernel(shape, None)
    }

    /// As [`Attention::plan`]; `kernel` insists on one.
    ///
    /// # Errors
    /// As [`Attention::plan`], and [`Error::Invalid`] if `kernel` cannot give what the shape asks for.
    pub fn plan_kernel(
        &self,
        shape: &AttentionShape,
        kernel: Option<Kernel>,
    ) -> Result<Plan, Error> {
        let problem = Problem::new(shape, &self.options)?;
        let Context { capabilities, tuning, .. } = &*self.context;
        Plan::tuned(problem, capabilities, kernel, &lock(tuning))
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`, and reports what the shader
    /// compiler says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &Plan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Attention::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Attention::prepare`].
    pub fn prepare_blocking(&self, plan: &Plan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// What has been made on this operator's device so far: for those who watch that nothing grows.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.context.footprint()
    }

    /// Gives back the workspace, which grows to what the largest call so far needed, of this operator and of all that share it. A
    /// call that is bound already, or that the GPU is still busy with, keeps its own until it is dropped and done.
    pub fn release_workspace(&self) {
        self.context.release_workspace();
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`Attention::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &Plan,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the
    /// STORAGE usage, or for a plan with other options or for other capabilities. A buffer may be larger than its tensor, and nothing tells
    /// what its bytes are: f32 under a plan for f16 is taken. [`AttentionBuffers::check_exact`] finds buffers that were meant for
    /// another shape. [`Error::Device`] if the device is lost.
    pub fn bind(&self, plan: &Plan, buffers: &AttentionBuffers<'_>) -> Result<Call, Error> {
        check_plan(&plan.capabilities, &self.context)?;
        if plan.problem.options != self.options {
            let expected = format!("a plan with this operator's options, {:?}", self.options);
            return Err(Error::invalid("plan", expected, format!("{:?}", plan.problem.options)));
        }
        buffers.validate(&plan.problem, false)?;
        let copies = self.join(plan, buffers)?;
        let small = copies.first().map(|copy| &copy.target);
        let steps = self.steps(plan, buffers, small)?;
        self.context.bind("attention", copies, &steps)
    }

    /// What has to be copied into one buffer, if the call has several small tensors: shaders have one binding for them.
    fn join(&self, plan: &Plan, buffers: &AttentionBuffers<'_>) -> Result<Vec<Transfer>, Error> {
        let tensors = plan.problem.small;
        if !tensors.are_joined() {
            return Ok(Vec::new());
        }
        let places: Vec<_> = tensors
            .present()
            .map(|tensor| (tensor, [tensors.first(tensor), tensors.len(tensor)]))
            .collect();
        let bytes = places.iter().map(|(_, [_, len])| u64::from(*len) * 4).sum();
        let Context { device, small, .. } = &*self.context;
        let Some(target) = small.get(device, bytes)? else { return Ok(Vec::new()) };
        let copy = |(tensor, place): (SmallTensor, [u32; 2])| {
            let [start, size] = place.map(|elements| u64::from(elements) * 4);
            let source = buffers.get(tensor.into())?.clone();
            Some(Transfer { source, target: target.clone(), start, size })
        };
        Ok(places.into_iter().filter_map(copy).collect())
    }

    /// The plan's dispatches with the buffers they bind, the operator's own among them.
    pub(crate) fn steps<'a>(
        &self,
        plan: &'a Plan,
        buffers: &AttentionBuffers<'_>,
        small: Option<&wgpu::Buffer>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let Context { device, workspace, unpacked, partial_out, partial_lse, sums, .. } =
            &*self.context;
        let own =
            |scratch: &Scratch, tensor| scratch.get(device, largest(&plan.dispatches, tensor));
        let workspace = own(workspace, Tensor::Workspace)?;
        let unpacked = own(unpacked, Tensor::Unpacked)?;
        let partial_out = own(partial_out, Tensor::PartialOut)?;
        let partial_lse = own(partial_lse, Tensor::PartialLse)?;
        let sums = own(sums, Tensor::Sums)?;
        let find = |tensor| match tensor {
            Tensor::Workspace => workspace.as_ref(),
            Tensor::Unpacked => unpacked.as_ref(),
            Tensor::PartialOut => partial_out.as_ref(),
            Tensor::PartialLse => partial_lse.as_ref(),
            Tensor::Sums => sums.as_ref(),
            Tensor::Joined => small,
            tensor => buffers.get(tensor),
        };
        let step = |dispatch: &'a Dispatch| {
            let buffer = |bound: &Bound| {
                let number = bound.tensor.binding(dispatch.variant.entry);
                Some((number, find(bound.tensor)?.clone(), bound.window))
            };
            Step {
                variant: &dispatch.variant,
                params: bytemuck::bytes_of(&dispatch.params),
                table: bytemuck::cast_slice(&dispatch.table),
                buffers: dispatch.bound.iter().filter_map(buffer).collect(),
                grid: dispatch.grid,
            }
        };
        Ok(plan.dispatches.iter().map(step).collect())
    }
}

impl<'a> AttentionBuffers<'a> {
    /// A call without optional tensors; add them by struct update.
    #[must_use]
    pub fn new(
        query: &'a wgpu::Buffer,
        key: &'a wgpu::Buffer,
        value: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> Self {
        Self {
            query,
            key,
            value,
            out,
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

    fn get(&self, tensor: Tensor) -> Option<&'a wgpu::Buffer> {
        match tensor {
            Tensor::Query => Some(self.query),
            Tensor::Key => Some(self.key),
            Tensor::Value => Some(self.value),
            Tensor::Out => Some(self.out),
            Tensor::Lse => self.lse,
            Tensor::Mask => self.mask,
            Tensor::Bias => self.bias,
            Tensor::AlibiSlopes => self.alibi_slopes,
            Tensor::Segments => self.segments,
            Tensor::Lens => self.lens,
            Tensor::Pages => self.pages,
            Tensor::Sinks => self.sinks,
            Tensor::Weights => self.weights,
            Tensor::RawScores => self.raw_scores,
            Tensor::CappedScores => self.capped_scores,
            Tensor::MaskedScores => self.masked_scores,
            _ => None,
        }
    }

    /// Refuses what [`Attention::bind`] does, and every buffer that is not exactly as long as its tensor: f32 under a plan for
    /// f16, say, or last frame's shape. Use it if each tensor has a buffer of its own. Empty tensors take a buffer of any size.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check_exact(&self, plan: &Plan) -> Result<(), Error> {
        self.validate(&plan.problem, true)
    }

    fn validate(&self, p: &Problem, exactly: bool) -> Result<(), Error> {
        let inputs = [
            ("query", Tensor::Query, Some(p.query)),
            ("key", Tensor::Key, Some(p.key)),
            ("value", Tensor::Value, Some(p.value)),
            ("mask", Tensor::Mask, p.mask),
            ("bias", Tensor::Bias, p.bias),
            ("alibi_slopes", Tensor::AlibiSlopes, p.alibi),
            ("segments", Tensor::Segments, p.segments.as_ref().map(Segments::ids)),
            ("lens", Tensor::Lens, p.lens.map(|lens| lens.view)),
            ("pages", Tensor::Pages, p.pages.map(|pages| pages.table)),
            ("sinks", Tensor::Sinks, p.sinks),
        ];
        let outputs = [
            ("out", Tensor::Out, Some(p.out)),
            ("lse", Tensor::Lse, p.lse),
            ("weights", Tensor::Weights, p.weights),
            ("raw_scores", Tensor::RawScores, p.raw_scores),
            ("capped_scores", Tensor::CappedScores, p.capped_scores),
            ("masked_scores", Tensor::MaskedScores, p.masked_scores),
        ];
        let mut earlier: Vec<(&str, &wgpu::Buffer)> = Vec::new();
        for (index, (name, tensor, view)) in inputs.into_iter().chain(outputs).enumerate() {
            let bytes = view.map(|view| tensor.bytes(p.element, view.extent));
            let Some(buffer) = check_buffer(name, bytes, self.get(tensor))? else {
                continue;
            };
            let bytes = bytes.unwrap_or_default();
            if exactly && bytes > 0 && buffer.size() != bytes {
                let expected = format!("a buffer of exactly {bytes} bytes");
                return Err(Error::invalid(name, expected, format!("{} bytes", buffer.size())));
            }
            let is_small = p.small.present().any(|small| tensor == small.into());
            if is_small
                && p.small.are_joined()
                && !buffer.usage().contains(wgpu::BufferUsages::COPY_SRC)
            {
                let found = format!("{:?}", buffer.usage());
                return Err(Error::invalid(name, "a buffer with usage COPY_SRC", found));
            }
            let is_output = index >= inputs.len();
            if let Some((other, _)) =
                earlier.iter().find(|(_, other)| is_output && *other == buffer)
            {
                return Err(Error::invalid(
                    name,
                    "a buffer of its own",
                    format!("that of {other}"),
                ));
            }
            earlier.push((name, buffer));
        }
        Ok(())
    }
}
