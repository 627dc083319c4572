//! The dispatches of a self-attention module.

use super::dispatch::{Dispatch, Results, Tensor};
use super::linear::LinearPlan;
use super::params::Params;
use super::split::split;
use super::storage;
use super::variant::{Entry, Variant};
use super::{Kernel, Plan};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{LinearShape, Problem, SelfAttentionShape};

/// What will run for a self-attention module; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfAttentionPlan {
    pub(crate) capabilities: Capabilities,
    pub(crate) heads: usize,
    /// Of values, keys and queries: one row a head.
    pub(crate) projections: [LinearPlan; 3],
    /// Ends with what makes empty rows uniform ones.
    pub(crate) attention: Plan,
    pub(crate) fc_out: LinearPlan,
}

impl SelfAttentionPlan {
    /// Validates `shape` for a module of these sizes and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for what the device is too small for.
    pub fn new(
        heads: usize,
        head_dim: usize,
        shape: &SelfAttentionShape,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let problem = shape.attention(heads, head_dim)?;
        let mut attention = Plan::new(problem, capabilities, None)?;
        // A masked score is so low that its weight is 0, unless all of a row are: then all are the same.
        if attention.problem.mask.is_some() && attention.problem.kv_len > 0 {
            let plan = |part: &Problem, _| vec![uniform_rows(part, capabilities)];
            // A turn a key for each of the columns that an invocation sums, and for its weights.
            let columns = attention.problem.value_dim.div_ceil(4 * UNIFORM_ROWS_THREADS);
            let most_keys = capabilities.loop_turns / (1 + columns);
            let parts = split(&attention.problem, false, most_keys, capabilities, plan)?;
            attention.dispatches.extend(parts.into_iter().flat_map(|part| part.dispatches));
        }
        let linear = |shape: &LinearShape| LinearPlan::new(shape, capabilities);
        let shared = |len: usize| {
            let rows = shape.batch.saturating_mul(len).saturating_mul(heads);
            linear(&LinearShape::new(rows, head_dim, head_dim))
        };
        let embed_size = heads.saturating_mul(head_dim);
        let rows = shape.batch.saturating_mul(shape.q_len);
        let fc_out =
            LinearShape { bias: Some(0), ..LinearShape::new(rows, embed_size, embed_size) };
        let plan = Self {
            capabilities: *capabilities,
            heads,
            projections: [shared(shape.kv_len)?, shared(shape.kv_len)?, shared(shape.q_len)?],
            attention,
            fc_out: linear(&fc_out)?,
        };
        let most = capabilities.buffer_size;
        match plan.scratch().into_iter().map(|extent| u64::from(extent) * 4).max() {
            Some(bytes) if bytes > most => Err(Error::Unsupported {
                what: "bytes of one buffer",
                expected: format!("at least {bytes}"),
                found: most.to_string(),
            }),
            _ => Ok(plan),
        }
    }

    /// Elements of the operator's own buffers: projected values, keys and queries, what the heads give, and lse.
    pub(crate) fn scratch(&self) -> [u32; 5] {
        let p = &self.attention.problem;
        let lse = p.lse.map_or(0, |view| view.extent);
        [p.value.extent, p.key.extent, p.query.extent, p.out.extent, lse]
    }

    /// The kernel of the attention inside.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.attention.kernel
    }

    /// Every shader variant that the plan dispatches, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let linears = self.projections.iter().chain([&self.fc_out]);
        let mut variants: Vec<Variant> =
            linears.flat_map(LinearPlan::variants).chain(self.attention.variants()).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }
}

const UNIFORM_ROWS_THREADS: u32 = Entry::UniformRows.count("THREADS");

fn uniform_rows(part: &Problem, capabilities: &Capabilities) -> Dispatch {
    let variant = Variant {
        entry: Entry::UniformRows,
        storage: storage::input(part, capabilities),
        out: storage::output(part, capabilities),
        constants: [].into(),
    };
    let weights: Vec<_> = part.weights.iter().map(|view| (Tensor::Weights, *view)).collect();
    let grid = [part.q_len, part.num_heads, part.batch];
    let mut dispatch = Dispatch::new(variant, Results::Final, part, &weights, grid, capabilities);
    if part.weights.is_some() {
        dispatch.params.flags |= Params::HAS_WEIGHTS;
    }
    dispatch
}
