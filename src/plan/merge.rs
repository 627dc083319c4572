//! Merging results over parts of the keys: the last kernel of `decode`, on results of the caller's.

use super::dispatch::{Bindings, Dispatch};
use super::fit::{Excess, Part, fit};
use super::kernels::COMBINE_THREADS;
use super::params::Params;
use super::program::Program;
use super::storage::{self, of, starts_on};
use super::variant::{Entry, Variant};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{MergeProblem, MergeShape};
use crate::tensor::{Given, Tensor};

/// What merging will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct MergePlan {
    pub(crate) problem: MergeProblem,
    pub(crate) program: Program,
}

impl MergePlan {
    /// Plans a merge on a device, as [`Merge::plan`](crate::Merge::plan) does.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn new(shape: &MergeShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let p = MergeProblem::new(shape)?;
        capabilities.check_bindings()?;
        let per_word = p.element.per_word();
        let given = [
            Given::input(Tensor::Parts, "partial_out", p.parts_out(), per_word),
            Given::input(Tensor::PartsLse, "partial_lse", p.parts_lse(), 1),
            Given::output(Tensor::Out, "out", p.out, per_word),
            Given::output(Tensor::Lse, "lse", p.lse, 1),
        ];
        let program = Program::new(capabilities, given, fit(vec![p], capabilities)?)?;
        Ok(Self { problem: p, program })
    }
}

impl Part for MergeProblem {
    fn is_empty(&self) -> bool {
        self.out.extent == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let by_four = self.value_dim.is_multiple_of(4) && starts_on(&self.partial_out, 4);
        let storage = of(self.element, by_four, capabilities);
        let out = storage::writing(storage, !self.value_dim.is_multiple_of(2));
        let variant = Variant::new(Entry::AttentionCombine, [storage, out], []);
        let per_word = self.element.per_word();
        let mut bindings = Bindings::new(capabilities);
        let params = Params {
            partial_out: bindings.bind("partial_out", Tensor::Parts, per_word, self.parts_out()),
            partial_lse: bindings.bind("partial_lse", Tensor::PartsLse, 1, self.parts_lse()),
            lse: bindings.bind("lse", Tensor::Lse, 1, self.lse),
            out: bindings.bind_out(Tensor::Out, per_word, self.out, out),
            splits: self.parts,
            out_split: self.out_step,
            lse_split: self.lse_step,
            q_len: self.q_len,
            value_dim: self.value_dim,
            flags: Params::HAS_LSE,
            ..Params::default()
        };
        let vectors = self.q_len * self.value_dim.div_ceil(4);
        let grid = [vectors.div_ceil(COMBINE_THREADS), self.num_heads, self.batch];
        let merge = bindings.dispatch(variant, &params, grid);
        merge.packed_into(Tensor::Out, storage, capabilities)
    }

    /// Two halves along the first axis that has two.
    fn cut(&self, _: &Excess) -> Option<Vec<Self>> {
        let whole = [0..self.batch, 0..self.num_heads, 0..self.q_len];
        let axis = whole.iter().position(|range| range.end > 1)?;
        let middle = whole[axis].end / 2;
        let half = |range| {
            let mut ranges = whole.clone();
            ranges[axis] = range;
            self.slice(&ranges)
        };
        Some(vec![half(0..middle), half(middle..whole[axis].end)])
    }
}
