//! The dispatches of a multi-head layer: projections, attention, and what stands between them.

use super::dispatch::Dispatch;
use super::fit::{Excess, Part, fit};
use super::kernels::Call;
use super::linear::LinearPlan;
use super::program::Program;
use super::storage::Storage;
use super::variant::{Entry, Variant};
use super::{Kernel, Plan};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{
    AttentionOptions, HeadWeights, Layout, LinearShape, MultiHeadShape, MultiHeadSizes,
    MultiHeadWeights, Problem, Strides, View,
};
use crate::tensor::{Given, Tensor, Views};
use std::fmt;

/// What will run for a multi-head layer; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadPlan {
    pub(crate) sizes: MultiHeadSizes,
    pub(crate) program: Program,
    kernel: Kernel,
    /// What runs, in words.
    summary: String,
}

impl MultiHeadPlan {
    /// Validates `shape` for a layer with these parameters and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters or a shape that cannot be, [`Error::Unsupported`] for what the device is
    /// too small for.
    pub fn new(
        weights: &MultiHeadWeights<'_>,
        shape: &MultiHeadShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        Self::of_sizes(&weights.sizes()?, shape, capabilities)
    }

    pub(crate) fn of_sizes(
        sizes: &MultiHeadSizes,
        shape: &MultiHeadShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let problem = Problem::new(&shape.attention(sizes)?, &AttentionOptions::default())?;
        let attention = Plan::new(problem.clone(), capabilities, None)?;
        let layer = Layer { sizes, shape, keys: problem.kv_len as usize, capabilities };
        let mut dispatches = layer.project()?;
        let before = dispatches.len();
        dispatches.extend(layer.add_rows()?);

        let kernel = attention.kernel;
        let mut summary = format!("\n{attention}\n");
        let has_mean = shape.weights == Some(HeadWeights::Mean);
        dispatches.extend(attention.program.renamed(|tensor| match tensor {
            Tensor::Query => Tensor::ProjectedQuery,
            Tensor::Key => Tensor::ProjectedKey,
            Tensor::Value => Tensor::ProjectedValue,
            Tensor::Out => Tensor::Attended,
            Tensor::Weights if has_mean => Tensor::HeadWeights,
            tensor => tensor,
        }));
        let mut weights = problem.view(Tensor::Weights);
        if has_mean {
            let mean = HeadMean::new(&problem);
            weights = Some(mean.0.out());
            let mean = fit(vec![mean], capabilities)?;
            let count = mean.len();
            summary.insert_str(
                0,
                &format!("\nweights     their mean over the heads, in {count} dispatches"),
            );
            dispatches.extend(mean);
        }
        let out = layer.out()?;
        let given = layer.given(&problem, weights)?;
        let after = out.len();
        dispatches.extend(out);
        let program = Program::new(capabilities, given, dispatches)?;
        let summary = format!(
            "projections {before} dispatches before attention, {after} after{summary}scratch     {} bytes in all",
            program.workspace()
        );
        Ok(Self { sizes: *sizes, program, kernel, summary })
    }

    /// The kernel of the attention inside.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
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
    fn linear(&self, shape: &LinearShape, names: [Tensor; 4]) -> Result<Vec<Dispatch>, Error> {
        let [x, weight, bias, out] = names;
        let shape = LinearShape { batch: self.shape.batch, ..shape.clone() };
        Ok(LinearPlan::new(&shape, self.capabilities)?.program.renamed(|tensor| match tensor {
            Tensor::X => x,
            Tensor::Weight => weight,
            Tensor::Bias => bias,
            Tensor::Out => out,
            tensor => tensor,
        }))
    }

    /// Query, key and value into rows `[batch, keys, embed_dim]`: what the layer adds stands behind each sequence's own.
    fn project(&self) -> Result<Vec<Dispatch>, Error> {
        let Self { sizes, shape, keys, .. } = *self;
        let width = sizes.embed_dim;
        let q = [Tensor::Query, Tensor::QueryWeight, Tensor::InBias, Tensor::ProjectedQuery];
        let k = [Tensor::Key, Tensor::KeyWeight, Tensor::InBias, Tensor::ProjectedKey];
        let v = [Tensor::Value, Tensor::ValueWeight, Tensor::InBias, Tensor::ProjectedValue];
        let projections = [
            (q, shape.q_len, shape.q_len, width),
            (k, shape.kv_len, keys, sizes.kdim),
            (v, shape.kv_len, keys, sizes.vdim),
        ];
        let mut dispatches = Vec::new();
        for (at, (names, len, rows, in_features)) in projections.into_iter().enumerate() {
            let shape = LinearShape {
                x: shape.rows(in_features),
                out: self.rows_from(0, rows),
                bias: sizes.has_in_bias.then_some(at * width),
                ..LinearShape::new(len, in_features, width)
            };
            dispatches.extend(self.linear(&shape, names)?);
        }
        Ok(dispatches)
    }

    /// The rows `bias_k` and `bias_v`, and one of zeros, at the end of the projected keys and values. Of no features, a linear
    /// layer makes its bias, or zeros.
    fn add_rows(&self) -> Result<Vec<Dispatch>, Error> {
        let Self { sizes, shape, keys, .. } = *self;
        let mut dispatches = Vec::new();
        let k = (Tensor::ExtraKey, Tensor::ProjectedKey);
        let v = (Tensor::ExtraValue, Tensor::ProjectedValue);
        for (bias, out) in [k, v] {
            let rows = [
                (sizes.has_extra, shape.kv_len, Some(0)),
                (sizes.add_zero_attn, keys.saturating_sub(1), None),
            ];
            for (_, row, bias_offset) in rows.into_iter().filter(|(is_added, ..)| *is_added) {
                let shape = LinearShape {
                    out: self.rows_from(row.saturating_mul(sizes.embed_dim), keys),
                    bias: bias_offset,
                    ..LinearShape::new(1, 0, sizes.embed_dim)
                };
                dispatches.extend(self.linear(&shape, [Tensor::X, Tensor::Weight, bias, out])?);
            }
        }
        Ok(dispatches)
    }

    fn rows_from(&self, offset: usize, rows: usize) -> Layout {
        let row = self.sizes.embed_dim;
        let batch = rows.saturating_mul(row);
        Layout::Strided(Strides { offset, batch, row, ..Strides::default() })
    }

    /// What the heads give, into out.
    fn out(&self) -> Result<Vec<Dispatch>, Error> {
        let width = self.sizes.embed_dim;
        let shape = LinearShape {
            out: self.shape.rows(width),
            bias: self.sizes.has_out_bias.then_some(0),
            ..LinearShape::new(self.shape.q_len, width, width)
        };
        self.linear(&shape, [Tensor::Attended, Tensor::OutWeight, Tensor::OutBias, Tensor::Out])
    }

    /// What a caller gives.
    fn given(&self, p: &Problem, weights: Option<View>) -> Result<[Given; 7], Error> {
        let Self { sizes, shape, .. } = *self;
        let rows = |name, len, width| {
            let sizes = [shape.batch, 1, len, width];
            crate::problem::resolve(name, sizes, shape.rows(width))
        };
        let query = rows("query", shape.q_len, sizes.embed_dim)?;
        Ok([
            Given::input(Tensor::Query, "query", query, 1),
            Given::input(Tensor::Key, "key", rows("key", shape.kv_len, sizes.kdim)?, 1),
            Given::input(Tensor::Value, "value", rows("value", shape.kv_len, sizes.vdim)?, 1),
            Given::input(Tensor::Mask, "mask", p.view(Tensor::Mask), 32),
            Given::input(Tensor::Bias, "bias", p.view(Tensor::Bias), 1),
            Given::output(Tensor::Out, "out", query, 1),
            Given::output(Tensor::Weights, "weights", weights, 1),
        ])
    }
}

/// The mean of the weights over the heads, of which those of a query lie side by side.
struct HeadMean(Problem);

impl HeadMean {
    /// Of the weights of `problem`.
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
        let (heads, batches, queries) = (0..part.num_heads, part.batch, part.q_len);
        let cut = |batches, queries| Self(part.slice(batches, heads.clone(), queries));
        match (batches / 2, queries / 2) {
            (0, 0) => None,
            (0, half) => Some(vec![cut(0..batches, 0..half), cut(0..batches, half..queries)]),
            (half, _) => Some(vec![cut(0..half, 0..queries), cut(half..batches, 0..queries)]),
        }
    }
}

impl fmt::Display for MultiHeadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}
