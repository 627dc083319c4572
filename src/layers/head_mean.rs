//! The mean of attention weights over the heads.

use super::prelude::*;
use crate::plan::kernels::Call;
use crate::problem::Problem;
use crate::tensor::Views;

/// The mean of the weights over the heads, of which those of a query lie side by side.
pub(super) struct HeadMean(Problem);

impl HeadMean {
    /// The mean of the weights of `problem`.
    pub(super) fn new(problem: &Problem) -> Self {
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
    pub(super) fn out(&self) -> View {
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
