//! Results over parts of the keys, merged into those over all of them: the last kernel of `decode`,
//! on the caller's results.

use super::prelude::*;
use crate::plan::{COMBINE_THREADS, Params};
use crate::problem::Outputs;
use crate::view::{multiply, to_u32};

/// Sizes of results to merge, all contiguous. Sizes may be zero, except for `num_heads` and
/// `value_dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MergeShape {
    /// Number of results, over sets of keys that have no key in common.
    pub parts: usize,
    /// Number of sequences.
    pub batch: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Queries per sequence.
    pub q_len: usize,
    /// Length of an output vector.
    pub value_dim: usize,
    /// Element type of the parts' out and of the merged one; lse is f32.
    pub element: ElementType,
}

impl MergeShape {
    /// Results in f32 of `[batch, num_heads, q_len]` queries each; change any field from there.
    #[must_use]
    pub fn new(parts: usize, [batch, num_heads, q_len]: [usize; 3], value_dim: usize) -> Self {
        Self { parts, batch, num_heads, q_len, value_dim, element: ElementType::F32 }
    }
}

tensors! {
    /// The buffers of one call, contiguous.
    buffers MergeBuffers;
    /// Results over parts of the keys, as slices of `T`, the shape's element type.
    inputs MergeInputs<T>;
    read {
        /// `[parts, batch, num_heads, q_len, value_dim]`; not used where lse is `-inf`.
        Parts => partial_out: T,
        /// `[parts, batch, num_heads, q_len]`: natural log; `-inf` where a part has no key that the
        /// query sees.
        PartsLse => partial_lse: f32,
    }
    written {
        /// `[batch, num_heads, q_len, value_dim]`.
        Out => out: T,
        /// `[batch, num_heads, q_len]`.
        Lse => lse: f32,
    }
}

layer! {
    /// Merges out and lse over parts of the keys into those over all of them, on one device.
    ///
    /// A part whose lse is `-inf` is left out; where all are, out is 0 and lse `-inf`. As lse says
    /// what out was divided by, results merge in any order and in any number of steps: over chunks
    /// of a cache, over devices, over a prefix that sequences share. All parts of a row have to fit
    /// into one binding. Nothing here submits, waits or reads back.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{MergeInputs, MergeShape}};
    /// // One query of one head, over two parts of its keys; the first weighs three times as much.
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let inputs = MergeInputs { partial_out: &[4.0_f32, 8.0], partial_lse: &[3_f32.ln(), 0.0] };
    /// let merged = gpu.merge_blocking(&MergeShape::new(2, [1, 1, 1], 1), &inputs)?;
    /// assert!((merged.out[0] - 5.0).abs() < 1e-5);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// Source: Juravsky et al., "Hydragen", arXiv 2402.05099, section 3.1.
    Merge, "merge", merge_operator;
    MergePlan, MergeProblem = MergeProblem::new;
    MergeShape, MergeBuffers, MergeInputs;
    /// Merges results over parts of the keys from slices: uploads, runs, and reads out and lse
    /// back.
    merge, merge_blocking -> Outputs<T, f32> = |_, written| Outputs {
        out: written.read_all(Tensor::Out)?,
        lse: written.read(Tensor::Lse)?,
        ..Outputs::default()
    };
}

/// A validated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergeProblem {
    parts: u32,
    batch: u32,
    num_heads: u32,
    q_len: u32,
    value_dim: u32,
    element: ElementType,
    /// From one part to the next.
    out_step: u32,
    lse_step: u32,
    /// Where the results go, and in each part lie.
    out: View,
    pub(crate) lse: View,
}

impl MergeProblem {
    pub(crate) fn new(s: &MergeShape) -> Result<Self, Error> {
        check_not_zero([("num_heads", s.num_heads), ("value_dim", s.value_dim)])?;
        let dense = |argument, columns| {
            resolve(argument, [s.batch, s.num_heads, s.q_len, columns], Layout::Bhsd)
        };
        let (out, lse) = (dense("out", s.value_dim)?, dense("lse", 1)?);
        for (argument, view) in [("out", out), ("lse", lse)] {
            to_u32(argument, multiply(argument, &[s.parts, view.extent as usize])?)?;
        }
        Ok(Self {
            parts: length("parts", s.parts)?,
            batch: length("batch", s.batch)?,
            num_heads: length("num_heads", s.num_heads)?,
            q_len: length("q_len", s.q_len)?,
            value_dim: length("value_dim", s.value_dim)?,
            element: s.element,
            out_step: out.extent,
            lse_step: lse.extent,
            out,
            lse,
        })
    }

    /// The same for some of the sequences, heads and queries.
    fn slice(&self, [batches, heads, queries]: &[Range<u32>; 3]) -> Self {
        let moved = |view, columns| move_view(view, batches, heads, queries, columns);
        Self {
            batch: count(batches),
            num_heads: count(heads),
            q_len: count(queries),
            out: moved(self.out, self.value_dim),
            lse: moved(self.lse, 1),
            ..*self
        }
    }

    /// Where out and lse of all parts lie.
    fn all_parts(&self) -> [View; 2] {
        [(self.out, self.out_step), (self.lse, self.lse_step)].map(|(first, step)| {
            // Below 2^32 as the whole is.
            let extent = self.parts.checked_sub(1).map_or(0, |others| first.extent + others * step);
            View { extent, ..first }
        })
    }
}

impl LayerProblem for MergeProblem {
    fn element(&self) -> ElementType {
        self.element
    }

    fn given(&self) -> Vec<Given> {
        let [parts, parts_lse] = self.all_parts();
        MergeBuffers::given(self.element, |tensor| match tensor {
            Tensor::Parts => Some(parts),
            Tensor::PartsLse => Some(parts_lse),
            Tensor::Out => Some(self.out),
            _ => Some(self.lse),
        })
    }
}

impl Part for MergeProblem {
    fn is_empty(&self) -> bool {
        self.out.extent == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let by_four = self.value_dim.is_multiple_of(4) && starts_on(&self.out, 4);
        let storage = of(self.element, by_four, capabilities);
        let out = writing(storage, !self.value_dim.is_multiple_of(2));
        let variant = Variant::new(Entry::AttentionCombine, [storage, out], []);
        let per_word = self.element.per_word();
        let [parts, parts_lse] = self.all_parts();
        let mut bindings = Bindings::new(capabilities);
        let params = Params {
            partial_out: bindings.bind("partial_out", Tensor::Parts, per_word, parts),
            partial_lse: bindings.bind("partial_lse", Tensor::PartsLse, 1, parts_lse),
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
        Some(halves(whole, axis, 1)?.map(|half| self.slice(&half)).into())
    }
}
