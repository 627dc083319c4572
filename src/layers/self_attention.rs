//! The self-attention module of many tutorials: its parameters, the sizes of a call, and its
//! dispatches.

use super::linear::{LinearShape, step};
use super::prelude::*;
use super::state_dict::{Parameter, StateDict, check_parameters};
use crate::plan::kernels::Call;
use crate::plan::part::{self, too_many_keys, work};
use crate::plan::{Kernel, Params, Plan, storage};
use crate::problem::{AttentionOptions, AttentionShape, Problem};

/// The parameters of a `SelfAttention` module: small matrices that all heads share, and one that
/// mixes the heads.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttentionWeights<'a> {
    /// Length of a row of values, keys, queries and out.
    pub embed_size: usize,
    /// Number of heads; divides `embed_size`.
    pub heads: usize,
    /// `[head_dim, head_dim]`, applied to each head's part of values.
    pub values: &'a [f32],
    /// `[head_dim, head_dim]`.
    pub keys: &'a [f32],
    /// `[head_dim, head_dim]`.
    pub queries: &'a [f32],
    /// `[embed_size, embed_size]`.
    pub fc_out: &'a [f32],
    /// `[embed_size]`.
    pub fc_out_bias: &'a [f32],
}

impl<'a> SelfAttentionWeights<'a> {
    /// Takes a state_dict apart: `find` gives shape and elements of the tensor of a name, if there
    /// is one.
    ///
    /// The names: `values.weight`, `keys.weight`, `queries.weight`, `fc_out.weight`, `fc_out.bias`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the tensor that is missing or of another shape, or if `heads` does
    /// not divide the width.
    pub fn from_state_dict(
        heads: usize,
        find: impl FnMut(&'static str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<Self, Error> {
        let mut dict = StateDict(find);
        let [embed_size, _] = dict.sizes("fc_out.weight", "2 sizes, [embed_size, embed_size]")?;
        let SelfAttentionSizes { head_dim, .. } = SelfAttentionSizes::new(embed_size, heads)?;
        let mut shared = |name| dict.shaped(name, &[head_dim, head_dim]);
        Ok(Self {
            embed_size,
            heads,
            values: shared("values.weight")?,
            keys: shared("keys.weight")?,
            queries: shared("queries.weight")?,
            fc_out: dict.shaped("fc_out.weight", &[embed_size, embed_size])?,
            fc_out_bias: dict.shaped("fc_out.bias", &[embed_size])?,
        })
    }

    /// Sizes of the module, if every slice has the length it needs.
    pub(crate) fn sizes(&self) -> Result<SelfAttentionSizes, Error> {
        let sizes = SelfAttentionSizes::new(self.embed_size, self.heads)?;
        check_parameters(&self.parameters())?;
        Ok(sizes)
    }

    fn parameters(&self) -> [Parameter<'a>; 5] {
        let (size, all) = (self.embed_size / self.heads.max(1), self.embed_size);
        [
            (Tensor::ValueWeight, "values weight", Some(self.values), [size, size]),
            (Tensor::KeyWeight, "keys weight", Some(self.keys), [size, size]),
            (Tensor::QueryWeight, "queries weight", Some(self.queries), [size, size]),
            (Tensor::OutWeight, "fc_out weight", Some(self.fc_out), [all, all]),
            (Tensor::OutBias, "fc_out_bias", Some(self.fc_out_bias), [1, all]),
        ]
    }
}

/// Sizes of a module, without the elements of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SelfAttentionSizes {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl SelfAttentionSizes {
    fn new(embed_size: usize, heads: usize) -> Result<Self, Error> {
        if heads == 0 || embed_size == 0 || !embed_size.is_multiple_of(heads) {
            let expected = format!("a divisor of embed_size = {embed_size}");
            return Err(Error::invalid("heads", expected, heads));
        }
        Ok(Self { heads, head_dim: embed_size / heads })
    }
}

/// What the scores are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleBy {
    /// `sqrt(head_dim)`, as Vaswani et al. do.
    #[default]
    Head,
    /// `sqrt(embed_size)`, a well-known variant.
    Embed,
}

/// The sizes of one call of a `SelfAttention` module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SelfAttentionShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Number of queries per sequence.
    pub q_len: usize,
    /// Number of keys and values per sequence.
    pub kv_len: usize,
    /// What the scores are divided by.
    pub scale_by: ScaleBy,
    /// A boolean mask `[batch, heads, q_len, kv_len]`, true = attend. A row that is wholly masked
    /// weighs all keys alike.
    pub mask: Option<BroadcastLayout>,
    /// Ask for the weights `[batch, heads, q_len, kv_len]`, as
    /// [`AttentionShape::weights`](crate::AttentionShape::weights).
    pub weights: bool,
}

impl SelfAttentionShape {
    /// Without a mask, and without weights; change any field from there.
    #[must_use]
    pub fn new(batch: usize, len: usize) -> Self {
        let scale_by = ScaleBy::Head;
        Self { batch, q_len: len, kv_len: len, scale_by, mask: None, weights: false }
    }

    /// The attention inside of a module: over projected rows `[batch, len, heads, head_dim]`.
    pub(crate) fn attention(&self, heads: usize, head_dim: usize) -> Result<Problem, Error> {
        let shape = AttentionShape {
            kv_len: self.kv_len,
            mask: self.mask,
            // A row that sees nothing has an lse of -inf.
            lse: self.mask.map(|_| Layout::Bhsd),
            weights: self.weights.then_some(Layout::Bhsd),
            ..AttentionShape::new(self.batch, heads, self.q_len, head_dim).with_layout(Layout::Bshd)
        };
        let divisor = match self.scale_by {
            ScaleBy::Head => head_dim,
            ScaleBy::Embed => heads.saturating_mul(head_dim),
        };
        let problem = Problem::new(&shape, &AttentionOptions::default())?;
        Ok(Problem { scale: 1.0 / (divisor as f64).sqrt(), ..problem })
    }
}

tensors! {
    /// The buffers of one call, f32.
    buffers SelfAttentionBuffers;
    /// The tensors of one call of a `SelfAttention` module.
    inputs SelfAttentionInputs;
    read {
        /// `[batch, kv_len, embed_size]`.
        Value => values: f32,
        /// `[batch, kv_len, embed_size]`.
        Key => keys: f32,
        /// `[batch, q_len, embed_size]`.
        Query => queries: f32,
        /// Given exactly if the shape has a mask, laid out as that says; true = attend.
        Mask => mask: ?bool,
    }
    written {
        /// `[batch, q_len, embed_size]`.
        Out => out: f32,
        /// `[batch, heads, q_len, kv_len]`.
        Weights => weights: ?f32,
    }
}

new_buffers!(SelfAttentionBuffers(values, keys, queries, out), mask, weights);

/// The results of one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelfAttentionOutputs<S = f32> {
    /// `[batch, q_len, embed_size]`.
    pub out: Vec<S>,
    /// `[batch, heads, q_len, kv_len]`, if the shape asks for them.
    pub weights: Option<Vec<S>>,
}

layer_with_weights! {
    /// The `SelfAttention` module of many tutorials, with its parameters on one device: small
    /// matrices that all heads share for values, keys and queries, attention, and one matrix that
    /// mixes the heads.
    ///
    /// A masked score is -1e20 before the scale. So a masked key weighs nothing, but a row that is
    /// wholly masked weighs all its keys alike, where [`Attention`](crate::Attention) would give
    /// zeros.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions};
    /// use wgpu_attention::layers::{SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights};
    /// // One head of width 1. All keys are 0, so each word gets the mean of the values 2, 4 and 6.
    /// let weights = SelfAttentionWeights {
    ///     embed_size: 1, heads: 1, values: &[2.0], keys: &[0.0], queries: &[1.0],
    ///     fc_out: &[1.0], fc_out_bias: &[0.5],
    /// };
    /// let words = &[1.0, 2.0, 3.0];
    /// let inputs = SelfAttentionInputs { values: words, keys: words, queries: words, mask: None };
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let found = gpu.self_attention_blocking(&weights, &SelfAttentionShape::new(1, 3), &inputs)?;
    /// assert!(found.out.iter().all(|out| (out - 4.5).abs() < 1e-5));
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    SelfAttention, "self-attention", self_attention_operator;
    SelfAttentionPlan, SelfAttentionShape, SelfAttentionBuffers;
    SelfAttentionWeights, SelfAttentionSizes;
}

one_shot! {
    /// A self-attention module from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device
    /// refuses.
    self_attention, self_attention_blocking(
        &self,
        weights: &SelfAttentionWeights<'_>,
        shape: &SelfAttentionShape,
        inputs: &SelfAttentionInputs<'_>,
    ) -> SelfAttentionOutputs {
        let operator = self.self_attention_operator(weights)?;
        let plan = operator.plan(shape)?;
        let data = |tensor| inputs.get(tensor);
        check_inputs(ElementType::F32, &plan.program.given, data)?;
        let call = (&operator, &plan.program);
        let written = self.context.run_once("self-attention", call, data).await?;
        let (out, weights) = (written.read_all(Tensor::Out)?, written.read(Tensor::Weights)?);
        Ok(SelfAttentionOutputs { out, weights })
    }
}

impl SelfAttentionInputs<'_> {
    /// Compares every slice's length with what a call needs.
    pub(crate) fn validate(&self, problem: &Problem) -> Result<(), Error> {
        let given = SelfAttentionBuffers::given(ElementType::F32, |tensor| problem.view(tensor));
        check_inputs(ElementType::F32, &given, |tensor| self.get(tensor))
    }
}

/// The dispatches of a self-attention module for one shape; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfAttentionPlan {
    sizes: SelfAttentionSizes,
    pub(crate) program: Program,
    kernel: Kernel,
}

impl SelfAttentionPlan {
    /// Validates `shape` and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for what the device is
    /// too small for.
    pub fn new(
        heads: usize,
        head_dim: usize,
        shape: &SelfAttentionShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        Self::of_sizes(&SelfAttentionSizes { heads, head_dim }, shape, capabilities)
    }

    fn of_sizes(
        sizes: &SelfAttentionSizes,
        shape: &SelfAttentionShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let SelfAttentionSizes { heads, head_dim } = *sizes;
        let problem = shape.attention(heads, head_dim)?;
        let attention = Plan::new(problem.clone(), capabilities, None)?;
        // One row a head.
        let shared = |len: usize, x, weight, out| {
            let rows = shape.batch.saturating_mul(len).saturating_mul(heads);
            let linear = LinearShape::new(rows, head_dim, head_dim);
            step(&linear, capabilities, [x, weight, Tensor::Bias, out])
        };
        let (q_len, kv_len) = (shape.q_len, shape.kv_len);
        let mut dispatches = [
            shared(kv_len, Tensor::Value, Tensor::ValueWeight, Tensor::ProjectedValue)?,
            shared(kv_len, Tensor::Key, Tensor::KeyWeight, Tensor::ProjectedKey)?,
            shared(q_len, Tensor::Query, Tensor::QueryWeight, Tensor::ProjectedQuery)?,
        ]
        .concat();

        let mut attended = attention.program;
        // A masked score is so low that its weight is 0, unless all of a row are: then all are the
        // same.
        if problem.has(Tensor::Mask) && problem.kv_len > 0 {
            // A turn a key for each of the columns that an invocation sums, and for its weights.
            let columns = problem.value_dim.div_ceil(4 * UNIFORM_ROWS_THREADS);
            let most_keys = capabilities.loop_turns / (1 + columns);
            let part = |problem| UniformRows { problem, most_keys };
            let parts = problem.uniform().map(part).collect();
            attended.dispatches.extend(fit(parts, capabilities)?);
        }
        dispatches.extend(attended.renamed(inside));

        let embed_size = heads.saturating_mul(head_dim);
        let rows = shape.batch.saturating_mul(q_len);
        let fc_out =
            LinearShape { bias: Some(0), ..LinearShape::new(rows, embed_size, embed_size) };
        let tensors = [Tensor::Attended, Tensor::OutWeight, Tensor::OutBias, Tensor::Out];
        dispatches.extend(step(&fc_out, capabilities, tensors)?);
        let given = SelfAttentionBuffers::given(ElementType::F32, |tensor| problem.view(tensor));
        let program = Program::new(capabilities, given, dispatches)?;
        Ok(Self { sizes: *sizes, program, kernel: attention.kernel })
    }
}

const UNIFORM_ROWS_THREADS: u32 = Entry::UniformRows.count("THREADS");

/// Rows of which those that see no key become the mean of all values.
struct UniformRows {
    problem: Problem,
    most_keys: u32,
}

impl Part for UniformRows {
    fn is_empty(&self) -> bool {
        self.problem.batch == 0 || self.problem.q_len == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let part = &self.problem;
        let (read, out) = (storage::input(part, capabilities), storage::output(part, capabilities));
        let variant = Variant::new(Entry::UniformRows, [read, out], []);
        let mut call = Call::new(part, capabilities).reads(&[Tensor::Value]).writes_out(out).lse();
        if let Some(view) = part.view(Tensor::Weights) {
            call = call.matrix((Tensor::Weights, view));
            call.params.flags |= Params::HAS_WEIGHTS;
        }
        vec![call.dispatch(variant, [part.q_len, part.num_heads, part.batch])]
    }

    fn work(&self) -> u64 {
        work(&self.problem)
    }

    fn own_excess(&self) -> Option<Excess> {
        too_many_keys(&self.problem, 1, self.most_keys)
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let same = |problem| Self { problem, most_keys: self.most_keys };
        Some(part::halves(&self.problem, excess)?.into_iter().map(same).collect())
    }
}
