//! The dispatches of a multi-head layer: projections, attention, and what stands between them.

use super::dispatch::{Dispatch, Results, Tensor};
use super::linear::LinearPlan;
use super::storage::Storage;
use super::variant::{Entry, Variant};
use super::{Kernel, Plan};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{
    AttentionOptions, HeadWeights, Layout, LinearShape, MultiHeadShape, MultiHeadSizes,
    MultiHeadWeights, Problem, Strides, View,
};
use std::fmt;

/// What will run for a multi-head layer; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiHeadPlan {
    pub(crate) sizes: MultiHeadSizes,
    pub(crate) capabilities: Capabilities,
    /// Of query, key and value, into rows `[batch, keys, embed_dim]`.
    pub(crate) projections: [LinearPlan; 3],
    /// The rows `bias_k` and `bias_v`, and one of zeros, at the end of the projected keys and values.
    pub(crate) extra: Option<LinearPlan>,
    pub(crate) zeros: Option<LinearPlan>,
    pub(crate) attention: Plan,
    pub(crate) mean: Option<HeadMean>,
    pub(crate) out: LinearPlan,
}

/// The mean of the weights over the heads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadMean {
    pub(crate) dispatches: Vec<Dispatch>,
    /// Elements of the mean.
    pub(crate) extent: u32,
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
        let (batch, width) = (shape.batch, sizes.embed_dim);
        let keys = problem.kv_len as usize;
        let linear = |shape: &LinearShape| LinearPlan::new(shape, capabilities);
        // Projected rows are [batch, keys, embed_dim]: what a layer adds stands behind each sequence's own.
        let from = |offset, rows: usize| {
            let batch = rows.saturating_mul(width);
            Layout::Strided(Strides { offset, batch, row: width, ..Strides::default() })
        };
        let project = |at: usize, len, rows, in_features| {
            linear(&LinearShape {
                batch,
                x: shape.rows(in_features),
                out: from(0, rows),
                bias: sizes.has_in_bias.then_some(at * width),
                ..LinearShape::new(len, in_features, width)
            })
        };
        // Of nothing, a linear layer makes its bias, or zeros.
        let add = |row: usize, bias| {
            let offset = row.saturating_mul(width);
            linear(&LinearShape {
                batch,
                out: from(offset, keys),
                bias,
                ..LinearShape::new(1, 0, width)
            })
        };
        let attention = Plan::new(problem, capabilities, None)?;
        let mean = match shape.weights {
            Some(HeadWeights::Mean) => Some(HeadMean::new(&attention.problem, capabilities)?),
            _ => None,
        };
        let plan = Self {
            sizes: *sizes,
            capabilities: *capabilities,
            projections: [
                project(0, shape.q_len, shape.q_len, width)?,
                project(1, shape.kv_len, keys, sizes.kdim)?,
                project(2, shape.kv_len, keys, sizes.vdim)?,
            ],
            extra: sizes.has_extra.then(|| add(shape.kv_len, Some(0))).transpose()?,
            zeros: sizes.add_zero_attn.then(|| add(keys - 1, None)).transpose()?,
            attention,
            mean,
            out: linear(&LinearShape {
                batch,
                out: shape.rows(width),
                bias: sizes.has_out_bias.then_some(0),
                ..LinearShape::new(shape.q_len, width, width)
            })?,
        };
        plan.check_scratch()?;
        Ok(plan)
    }

    /// Elements of the operator's own buffers: projected query, key and value, what the heads give, and the weights
    /// that only their mean is wanted of.
    pub(crate) fn scratch(&self) -> [u32; 5] {
        let p = &self.attention.problem;
        let weights = match (&self.mean, p.weights) {
            (Some(_), Some(view)) => view.extent,
            _ => 0,
        };
        [p.query.extent, p.key.extent, p.value.extent, p.out.extent, weights]
    }

    fn check_scratch(&self) -> Result<(), Error> {
        let most = self.capabilities.buffer_size;
        match self.scratch().into_iter().map(|extent| u64::from(extent) * 4).max() {
            Some(bytes) if bytes > most => Err(Error::Unsupported {
                what: "bytes of one buffer",
                expected: format!("at least {bytes}"),
                found: most.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The kernel of the attention inside.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.attention.kernel
    }

    /// Bytes of the operator's own buffers.
    #[must_use]
    pub fn workspace(&self) -> u64 {
        let own: u64 = self.scratch().into_iter().map(|extent| u64::from(extent) * 4).sum();
        own + self.attention.workspace
    }

    /// Every shader variant that the plan dispatches, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let linears =
            self.projections.iter().chain(&self.extra).chain(&self.zeros).chain([&self.out]);
        let mean = self.mean.iter().flat_map(|mean| &mean.dispatches);
        let mut variants: Vec<Variant> = linears
            .flat_map(LinearPlan::variants)
            .chain(self.attention.variants())
            .chain(mean.map(|dispatch| dispatch.variant.clone()))
            .collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }
}

impl HeadMean {
    /// Of the weights of `problem`, of which the heads of a query lie side by side.
    fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let p = problem;
        let (row, extent) = (p.kv_len, p.weights.map_or(0, |view| view.extent) / p.num_heads);
        let mean = View {
            offset: 0,
            batch: p.q_len.saturating_mul(row),
            head: 0,
            row,
            column: 1,
            extent,
            exact: true,
        };
        // As one group of heads, all of which a workgroup reads.
        let whole =
            Problem { num_kv_heads: 1, out: mean, value_dim: p.kv_len, lse: None, ..p.clone() };
        let mut dispatches = Vec::new();
        // A stack of parts still to be looked at, the next one last.
        let mut waiting = if extent == 0 { Vec::new() } else { vec![whole] };
        while let Some(part) = waiting.pop() {
            let dispatch = Self::dispatch(&part, capabilities);
            let excess = excess(&dispatch, capabilities);
            let (batches, queries) = (part.batch, part.q_len);
            match excess {
                None => dispatches.push(dispatch),
                Some(_) if batches > 1 => waiting.extend(
                    [batches / 2..batches, 0..batches / 2]
                        .map(|range| part.slice(range, 0..part.num_heads, 0..queries)),
                ),
                Some(_) if queries > 1 => waiting.extend(
                    [queries / 2..queries, 0..queries / 2]
                        .map(|range| part.slice(0..batches, 0..part.num_heads, range)),
                ),
                Some(error) => return Err(error),
            }
        }
        Ok(Self { dispatches, extent })
    }

    fn dispatch(part: &Problem, capabilities: &Capabilities) -> Dispatch {
        let storage = Storage::F32;
        let entry = Entry::HeadMean;
        let variant = Variant { entry, storage, out: storage, constants: [].into() };
        let weights: Vec<_> = part.weights.iter().map(|view| (Tensor::Weights, *view)).collect();
        let grid = [part.q_len, 1, part.batch];
        Dispatch::new(variant, Results::Final, part, &weights, grid, capabilities)
    }
}

fn excess(dispatch: &Dispatch, capabilities: &Capabilities) -> Option<Error> {
    let unsupported = |what, expected: u64, found: u64| Error::Unsupported {
        what,
        expected: format!("at least {expected}"),
        found: found.to_string(),
    };
    let workgroups = dispatch.grid.into_iter().max().unwrap_or_default();
    let bytes = dispatch.bound.iter().map(|bound| bound.window.size).max().unwrap_or_default();
    if workgroups > capabilities.workgroups_per_axis {
        let what = "workgroups along one axis of a dispatch";
        Some(unsupported(what, workgroups.into(), capabilities.workgroups_per_axis.into()))
    } else if bytes > capabilities.binding_size {
        Some(unsupported("bytes of one storage binding", bytes, capabilities.binding_size))
    } else {
        None
    }
}

impl fmt::Display for MultiHeadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.projections.iter().map(LinearPlan::dispatch_count).sum();
        writeln!(
            f,
            "projections {count} dispatches before attention, {} after",
            self.out.dispatch_count()
        )?;
        if let Some(mean) = &self.mean {
            writeln!(
                f,
                "weights     their mean over the heads, in {} dispatches",
                mean.dispatches.len()
            )?;
        }
        writeln!(f, "{}", self.attention)?;
        write!(f, "scratch     {} bytes in all", self.workspace())
    }
}
