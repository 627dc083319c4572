//! The dispatches of a self-attention module.

use super::dispatch::Dispatch;
use super::fit::{Excess, Part, fit};
use super::kernels::Call;
use super::linear::LinearPlan;
use super::params::Params;
use super::part::{halves, too_many_keys, work};
use super::program::Program;
use super::storage;
use super::variant::{Entry, Variant};
use super::{Kernel, Plan};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{LinearShape, Problem, SelfAttentionShape};
use crate::tensor::{Given, Tensor};

/// What will run for a self-attention module; plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfAttentionPlan {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// The attention inside, over projected rows.
    pub(crate) problem: Problem,
    pub(crate) program: Program,
    kernel: Kernel,
}

impl SelfAttentionPlan {
    /// Validates `shape` and plans it for a device.
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
        let attention = Plan::new(problem.clone(), capabilities, None)?;
        // One row a head.
        let shared = |len: usize, x, weight, out| {
            let rows = shape.batch.saturating_mul(len).saturating_mul(heads);
            let linear =
                LinearPlan::new(&LinearShape::new(rows, head_dim, head_dim), capabilities)?;
            Ok::<_, Error>(linear.program.renamed(|tensor| match tensor {
                Tensor::X => x,
                Tensor::Weight => weight,
                Tensor::Out => out,
                tensor => tensor,
            }))
        };
        let values = (Tensor::Value, Tensor::ValueWeight, Tensor::ProjectedValue);
        let keys = (Tensor::Key, Tensor::KeyWeight, Tensor::ProjectedKey);
        let queries = (Tensor::Query, Tensor::QueryWeight, Tensor::ProjectedQuery);
        let mut dispatches = shared(shape.kv_len, values.0, values.1, values.2)?;
        dispatches.extend(shared(shape.kv_len, keys.0, keys.1, keys.2)?);
        dispatches.extend(shared(shape.q_len, queries.0, queries.1, queries.2)?);

        let mut attended = attention.program;
        // A masked score is so low that its weight is 0, unless all of a row are: then all are the same.
        if problem.has(Tensor::Mask) && problem.kv_len > 0 {
            // A turn a key for each of the columns that an invocation sums, and for its weights.
            let columns = problem.value_dim.div_ceil(4 * UNIFORM_ROWS_THREADS);
            let most_keys = capabilities.loop_turns / (1 + columns);
            let part = |problem| UniformRows { problem, most_keys };
            let parts = problem.uniform().map(part).collect();
            attended.dispatches.extend(fit(parts, capabilities)?);
        }
        dispatches.extend(attended.renamed(|tensor| match tensor {
            Tensor::Query => Tensor::ProjectedQuery,
            Tensor::Key => Tensor::ProjectedKey,
            Tensor::Value => Tensor::ProjectedValue,
            Tensor::Out => Tensor::Attended,
            Tensor::Lse => Tensor::AttendedLse,
            tensor => tensor,
        }));

        let embed_size = heads.saturating_mul(head_dim);
        let rows = shape.batch.saturating_mul(shape.q_len);
        let fc_out =
            LinearShape { bias: Some(0), ..LinearShape::new(rows, embed_size, embed_size) };
        let fc_out = LinearPlan::new(&fc_out, capabilities)?;
        dispatches.extend(fc_out.program.renamed(|tensor| match tensor {
            Tensor::X => Tensor::Attended,
            Tensor::Weight => Tensor::OutWeight,
            Tensor::Bias => Tensor::OutBias,
            tensor => tensor,
        }));
        let p = &problem;
        let given = [
            Given::input(Tensor::Value, "values", p.value(), 1),
            Given::input(Tensor::Key, "keys", p.key(), 1),
            Given::input(Tensor::Query, "queries", p.query(), 1),
            Given::input(Tensor::Mask, "mask", p.view(Tensor::Mask), 32),
            Given::output(Tensor::Out, "out", p.out(), 1),
            Given::output(Tensor::Weights, "weights", p.view(Tensor::Weights), 1),
        ];
        let program = Program::new(capabilities, given, dispatches)?;
        Ok(Self { heads, head_dim, problem, program, kernel: attention.kernel })
    }

    /// The kernel of the attention inside.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
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
        let part = |problem| Self { problem, most_keys: self.most_keys };
        Some(halves(&self.problem, excess)?.into_iter().map(part).collect())
    }
}
