//! A multi-head layer: the sizes of a call, and its dispatches: projections, attention, and what
//! stands between them.

use super::linear::{LinearShape, step};
use super::multi_head_inputs::MultiHeadInputs;
use super::multi_head_weights::{MultiHeadSizes, MultiHeadWeights};
use super::prelude::*;
use super::state_dict::check_count;
use crate::plan::kernels::Call;
use crate::plan::{Kernel, Plan};
use crate::problem::{AttentionOptions, AttentionShape, CuSeqlens, Problem};
use crate::tensor::Views;
use crate::view::multiply;
use std::fmt;

/// The sizes of one call of a multi-head layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MultiHeadShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Number of queries per sequence.
    pub q_len: usize,
    /// Number of keys per sequence, without those that the layer adds.
    pub kv_len: usize,
    /// Whether query, key, value and out are `[batch, len, width]`, or PyTorch's default `[len,
    /// batch, width]`.
    pub batch_first: bool,
    /// How many of its keys each sequence has, if not all: `[batch]`. Not for a layer that adds
    /// rows.
    pub kv_lens: Option<Vec<usize>>,
    /// A packed batch of sequences of different lengths; then `batch` is 1. Not for a layer that
    /// adds rows.
    pub cu_seqlens: Option<CuSeqlens>,
    /// A boolean mask over `[batch, num_heads, q_len, keys]`, the rows that the layer adds
    /// included; true = attend. For
    /// [`MultiHeadAttention::encode`](crate::layers::MultiHeadAttention::encode) alone: one-shots
    /// and the reference take PyTorch's masks in [`MultiHeadInputs`].
    pub mask: Option<BroadcastLayout>,
    /// A bias that is added to the scores, as the mask.
    pub bias: Option<BroadcastLayout>,
    /// Ask for the weights, as [`AttentionShape::weights`](crate::AttentionShape::weights).
    pub weights: Option<HeadWeights>,
}

/// Which weights are asked for; `keys` counts the rows that the layer adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadWeights {
    /// Their mean over the heads, `[batch, q_len, keys]`.
    Mean,
    /// `[batch, num_heads, q_len, keys]`.
    PerHead,
}

impl MultiHeadShape {
    /// Self-attention over `[batch, len, embed_dim]`; change any field from there.
    #[must_use]
    pub fn new(batch: usize, len: usize) -> Self {
        Self { batch, q_len: len, kv_len: len, batch_first: true, ..Self::default() }
    }

    /// How rows of `width` lie in query, key, value and out.
    pub(crate) fn rows(&self, width: usize) -> Layout {
        if self.batch_first {
            return Layout::Bhsd;
        }
        let row = self.batch.saturating_mul(width);
        Layout::Strided(Strides { batch: width, row, ..Strides::default() })
    }

    /// The attention inside of a layer: over projected rows `[batch, len, num_heads, head_dim]`.
    pub(crate) fn attention(&self, sizes: &MultiHeadSizes) -> Result<AttentionShape, Error> {
        let added = usize::from(sizes.has_extra) + usize::from(sizes.add_zero_attn);
        if added > 0 {
            let given =
                [("kv_lens", self.kv_lens.is_some()), ("cu_seqlens", self.cu_seqlens.is_some())];
            check_absent(given, "none, as the layer adds rows", "some")?;
        }
        let kv_len = self.kv_len.saturating_add(added);
        let keys = sizes.num_heads.saturating_mul(kv_len);
        // The heads of a query side by side, so that their mean can be taken for some of the
        // queries.
        let beside = Layout::Strided(Strides {
            offset: 0,
            batch: self.q_len.saturating_mul(keys),
            head: kv_len,
            row: keys,
        });
        let head_dim = sizes.embed_dim / sizes.num_heads;
        let shape = AttentionShape::new(self.batch, sizes.num_heads, self.q_len, head_dim);
        Ok(AttentionShape {
            kv_len,
            kv_lens: self.kv_lens.clone(),
            cu_seqlens: self.cu_seqlens.clone(),
            mask: self.mask,
            bias: self.bias,
            weights: self.weights.map(|weights| match weights {
                HeadWeights::Mean => beside,
                HeadWeights::PerHead => Layout::Bhsd,
            }),
            ..shape.with_layout(Layout::Bshd)
        })
    }
}

tensors! {
    /// The buffers of one call, f32.
    buffers MultiHeadBuffers;
    read {
        /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
        Query => query: f32,
        /// `[batch, kv_len, kdim]`, or `[kv_len, batch, kdim]`.
        Key => key: f32,
        /// `[batch, kv_len, vdim]`, or `[kv_len, batch, vdim]`.
        Value => value: f32,
        /// Set = attend, laid out as the shape says.
        Mask => mask: ?bool,
        /// As the shape says.
        Bias => bias: ?f32,
    }
    written {
        /// As query.
        Out => out: f32,
        /// As [`MultiHeadShape::weights`] says.
        Weights => weights: ?f32,
    }
}

new_buffers!(MultiHeadBuffers(query, key, value, out), mask, bias, weights);

/// The results of one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MultiHeadOutputs<S = f32> {
    /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
    pub out: Vec<S>,
    /// See [`HeadWeights`].
    pub weights: Option<Vec<S>>,
}

impl MultiHeadInputs<'_> {
    /// Compares every slice's length with what a call needs.
    pub(crate) fn validate(
        &self,
        sizes: &MultiHeadSizes,
        shape: &MultiHeadShape,
    ) -> Result<(), Error> {
        let given = [("mask", shape.mask.is_some()), ("bias", shape.bias.is_some())];
        check_absent(given, "none, as masks come as inputs", "one")?;
        let MultiHeadShape { batch, q_len, kv_len, .. } = *shape;
        let padding = self.key_padding_mask.map(|mask| mask.len());
        check_count("query", Some(self.query.len()), &[batch, q_len, sizes.embed_dim])?;
        check_count("key", Some(self.key.len()), &[batch, kv_len, sizes.kdim])?;
        check_count("value", Some(self.value.len()), &[batch, kv_len, sizes.vdim])?;
        check_count("key_padding_mask", padding, &[batch, kv_len, 1])?;
        let heads = batch.saturating_mul(sizes.num_heads);
        let counts = [1, heads].map(|planes| multiply("attn_mask", &[planes, q_len, kv_len]));
        match self.attn_mask.map(|mask| mask.len()) {
            Some(found) if !counts.contains(&Ok(found)) => {
                let expected = format!("{q_len} * {kv_len} elements, or {heads} times as many");
                Err(Error::invalid("attn_mask", expected, found))
            }
            attn_mask if shape.cu_seqlens.is_some() => check_absent(
                [("attn_mask", attn_mask.is_some()), ("key_padding_mask", padding.is_some())],
                "none beside cu_seqlens",
                "one",
            ),
            _ => Ok(()),
        }
    }
}

/// Refuses the first of these that is given.
fn check_absent(
    given: [(&'static str, bool); 2],
    expected: &str,
    found: &str,
) -> Result<(), Error> {
    match given.into_iter().find(|&(_, is_given)| is_given) {
        Some((argument, _)) => Err(Error::invalid(argument, expected, found)),
        None => Ok(()),
    }
}

layer_with_weights! {
    /// A multi-head layer, PyTorch's `nn.MultiheadAttention` in evaluation mode, with its
    /// parameters on one device.
    ///
    /// `plan` validates the sizes of a call; `encode` records projections, attention and the last
    /// projection into your encoder, with nothing read back in between. Projected rows stay in
    /// buffers of the operator, which calls share.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{MultiHeadInputs, MultiHeadShape, MultiHeadWeights}};
    /// // One head of width 1: 3 words attend to themselves.
    /// let shapes = |name| match name {
    ///     "in_proj_weight" => Some((&[3_usize, 1][..], &[1.0_f32, 0.0, 2.0][..])),
    ///     "out_proj.weight" => Some((&[1, 1][..], &[1.0][..])),
    ///     _ => None,
    /// };
    /// let weights = MultiHeadWeights::from_state_dict(1, shapes)?;
    /// let words = &[1.0, 2.0, 3.0];
    /// let (query, key, value) = (words, words, words);
    /// let inputs = MultiHeadInputs { query, key, value, ..MultiHeadInputs::default() };
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let shape = MultiHeadShape::new(1, 3);
    /// let found = gpu.multi_head_attention_blocking(&weights, &shape, &inputs)?;
    /// // All keys are 0, so each word gets the mean of the values 2, 4 and 6.
    /// assert!(found.out.iter().all(|out| (out - 4.0).abs() < 1e-5));
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2.
    MultiHeadAttention, "multi-head attention", multi_head_operator;
    MultiHeadPlan, MultiHeadShape, MultiHeadBuffers;
    MultiHeadWeights, MultiHeadSizes;
}

one_shot! {
    /// A multi-head layer from slices, with masks as PyTorch has them: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device
    /// refuses.
    multi_head_attention, multi_head_attention_blocking(
        &self,
        weights: &MultiHeadWeights<'_>,
        shape: &MultiHeadShape,
        inputs: &MultiHeadInputs<'_>,
    ) -> MultiHeadOutputs {
        inputs.validate(&weights.sizes()?, shape)?;
        // Before masks are put together: with sizes that are refused, that could be endless work.
        let operator = self.multi_head_operator(weights)?;
        operator.plan(shape)?;
        let sizes = [shape.batch, weights.num_heads, shape.q_len, shape.kv_len];
        let (mask, bias) = inputs.merge(sizes, weights.added_rows());
        let shape = MultiHeadShape {
            mask: mask.as_ref().map(|(layout, _)| *layout),
            bias: bias.as_ref().map(|(layout, _)| *layout),
            ..shape.clone()
        };
        let plan = operator.plan(&shape)?;
        let data = |tensor| match tensor {
            Tensor::Query => Some(Data::<f32>::Floats(inputs.query)),
            Tensor::Key => Some(Data::Floats(inputs.key)),
            Tensor::Value => Some(Data::Floats(inputs.value)),
            Tensor::Mask => mask.as_ref().map(|(_, mask)| Data::Flags(mask)),
            Tensor::Bias => bias.as_ref().map(|(_, bias)| Data::Floats(bias)),
            _ => None,
        };
        let call = (&operator, &plan.program);
        let written = self.context.run_once("multi-head attention", call, data).await?;
        let (out, weights) = (written.read_all(Tensor::Out)?, written.read(Tensor::Weights)?);
        Ok(MultiHeadOutputs { out, weights })
    }
}

/// The dispatches of a multi-head layer for one shape; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadPlan {
    pub(crate) sizes: MultiHeadSizes,
    pub(crate) program: Program,
    kernel: Kernel,
    /// The plan in words.
    summary: String,
}

impl MultiHeadPlan {
    /// Validates `shape` for a layer with these parameters and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters or a shape that cannot be, [`Error::Unsupported`] for what
    /// the device is too small for.
    pub fn new(
        weights: &MultiHeadWeights<'_>,
        shape: &MultiHeadShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        Self::of_sizes(&weights.sizes()?, shape, capabilities)
    }

    fn of_sizes(
        sizes: &MultiHeadSizes,
        shape: &MultiHeadShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let problem = Problem::new(&shape.attention(sizes)?, &AttentionOptions::default())?;
        let attention = Plan::new(problem.clone(), capabilities, None)?;
        let kernel = attention.kernel;
        let mut summary = format!("\n{attention}\n");
        let layer = Layer { sizes, shape, keys: problem.kv_len as usize, capabilities };
        let mut dispatches = layer.project()?;
        let before = dispatches.len();
        dispatches.extend(layer.add_rows()?);
        let has_mean = shape.weights == Some(HeadWeights::Mean);
        dispatches.extend(attention.program.renamed(|tensor| match tensor {
            Tensor::Weights if has_mean => Tensor::HeadWeights,
            tensor => inside(tensor),
        }));
        let mut weights = problem.view(Tensor::Weights);
        if has_mean {
            let mean = HeadMean::new(&problem);
            weights = Some(mean.out());
            let mean = fit(vec![mean], capabilities)?;
            let count = mean.len();
            let line = format!("\nweights     their mean over the heads, in {count} dispatches");
            summary.insert_str(0, &line);
            dispatches.extend(mean);
        }
        let out = layer.out()?;
        let after = out.len();
        dispatches.extend(out);

        let rows =
            |name, len, width| resolve(name, [shape.batch, 1, len, width], shape.rows(width));
        let query = rows("query", shape.q_len, sizes.embed_dim)?;
        let key = rows("key", shape.kv_len, sizes.kdim)?;
        let value = rows("value", shape.kv_len, sizes.vdim)?;
        let given = MultiHeadBuffers::given(ElementType::F32, |tensor| match tensor {
            Tensor::Query | Tensor::Out => Some(query),
            Tensor::Key => Some(key),
            Tensor::Value => Some(value),
            Tensor::Weights => weights,
            tensor => problem.view(tensor),
        });
        let program = Program::new(capabilities, given, dispatches)?;
        let bytes = program.workspace();
        let summary = format!(
            "projections {before} dispatches before attention, {after} after{summary}\
             scratch     {bytes} bytes in all"
        );
        Ok(Self { sizes: *sizes, program, kernel, summary })
    }
}

/// A layer and a call of it.
struct Layer<'a> {
    sizes: &'a MultiHeadSizes,
    shape: &'a MultiHeadShape,
    /// Keys of a sequence, those that the layer adds among them.
    keys: usize,
    capabilities: &'a Capabilities,
}

impl Layer<'_> {
    /// A linear layer on some of the tensors: x, weight, bias, out.
    fn linear(&self, shape: LinearShape, tensors: [Tensor; 4]) -> Result<Vec<Dispatch>, Error> {
        let shape = LinearShape { batch: self.shape.batch, ..shape };
        step(&shape, self.capabilities, tensors)
    }

    /// Query, key and value into rows `[batch, keys, embed_dim]`: what the layer adds stands behind
    /// each sequence's own.
    fn project(&self) -> Result<Vec<Dispatch>, Error> {
        let Self { sizes, shape, keys, .. } = *self;
        let width = sizes.embed_dim;
        let project = |at: usize, [len, rows, in_features]: [usize; 3], x, weight, out| {
            let shape = LinearShape {
                x: shape.rows(in_features),
                out: self.rows_from(0, rows),
                bias: sizes.has_in_bias.then_some(at * width),
                ..LinearShape::new(len, in_features, width)
            };
            self.linear(shape, [x, weight, Tensor::InBias, out])
        };
        let q = [shape.q_len, shape.q_len, width];
        let [k, v] = [sizes.kdim, sizes.vdim].map(|width| [shape.kv_len, keys, width]);
        let dispatches = [
            project(0, q, Tensor::Query, Tensor::QueryWeight, Tensor::ProjectedQuery)?,
            project(1, k, Tensor::Key, Tensor::KeyWeight, Tensor::ProjectedKey)?,
            project(2, v, Tensor::Value, Tensor::ValueWeight, Tensor::ProjectedValue)?,
        ];
        Ok(dispatches.concat())
    }

    /// The rows `bias_k` and `bias_v`, and one of zeros, at the end of the projected keys and
    /// values. A linear layer without features in makes its bias, or zeros.
    fn add_rows(&self) -> Result<Vec<Dispatch>, Error> {
        let Self { sizes, shape, keys, .. } = *self;
        let mut dispatches = Vec::new();
        for (bias, out) in
            [(Tensor::ExtraKey, Tensor::ProjectedKey), (Tensor::ExtraValue, Tensor::ProjectedValue)]
        {
            let extra = sizes.has_extra.then_some((shape.kv_len, Some(0)));
            let zeros = sizes.add_zero_attn.then_some((keys.saturating_sub(1), None));
            for (row, bias_offset) in extra.into_iter().chain(zeros) {
                let shape = LinearShape {
                    out: self.rows_from(row.saturating_mul(sizes.embed_dim), keys),
                    bias: bias_offset,
                    ..LinearShape::new(1, 0, sizes.embed_dim)
                };
                dispatches.extend(self.linear(shape, [Tensor::X, Tensor::Weight, bias, out])?);
            }
        }
        Ok(dispatches)
    }

    fn rows_from(&self, offset: usize, rows: usize) -> Layout {
        let row = self.sizes.embed_dim;
        let batch = rows.saturating_mul(row);
        Layout::Strided(Strides { offset, batch, row, ..Strides::default() })
    }

    /// The last projection: results of the heads, into out.
    fn out(&self) -> Result<Vec<Dispatch>, Error> {
        let width = self.sizes.embed_dim;
        let shape = LinearShape {
            out: self.shape.rows(width),
            bias: self.sizes.has_out_bias.then_some(0),
            ..LinearShape::new(self.shape.q_len, width, width)
        };
        self.linear(shape, [Tensor::Attended, Tensor::OutWeight, Tensor::OutBias, Tensor::Out])
    }
}

/// The mean of the weights over the heads, of which those of a query lie side by side.
struct HeadMean(Problem);

impl HeadMean {
    /// The mean of the weights of `problem`.
    fn new(problem: &Problem) -> Self {
        let (row, weights) = (problem.kv_len, problem.view(Tensor::Weights));
        let extent = weights.map_or(0, |view| view.extent) / problem.num_heads;
        let batch = problem.q_len.saturating_mul(row);
        let mean = View { batch, row, column: 1, extent, exact: true, ..View::default() };
        let mut views = Views::default();
        (views[Tensor::Weights], views[Tensor::Out]) = (weights, Some(mean));
        // As one group of heads, all of which a workgroup reads.
        Self(Problem { num_kv_heads: 1, value_dim: row, views, ..problem.clone() })
    }

    /// Where the mean goes.
    fn out(&self) -> View {
        self.0.out()
    }
}

impl Part for HeadMean {
    fn is_empty(&self) -> bool {
        self.0.out().extent == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let part = &self.0;
        let variant = Variant::new(Entry::HeadMean, [Storage::F32; 2], []);
        let mut call = Call::new(part, capabilities).writes_own_out(Tensor::Weights, part.out());
        if let Some(view) = part.view(Tensor::Weights) {
            call = call.matrix((Tensor::HeadWeights, view));
        }
        vec![call.dispatch(variant, [part.q_len, 1, part.batch])]
    }

    fn cut(&self, _: &Excess) -> Option<Vec<Self>> {
        let part = &self.0;
        let whole = [0..part.batch, 0..part.q_len];
        let axis = whole.iter().position(|range| range.end > 1)?;
        let half = |[batches, queries]: [Range<u32>; 2]| {
            Self(part.slice(batches, 0..part.num_heads, queries))
        };
        Some(halves(whole, axis, 1)?.map(half).into())
    }
}

impl fmt::Display for MultiHeadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}
