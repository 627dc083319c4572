//! Results over parts of the keys, to be merged into those over all of them.

use super::tensors::check_len;
use super::{Data, Element, ElementType, Layout, View, length};
use crate::error::Error;
use crate::tensor::Tensor;
use crate::view::move_view;
use crate::view::{multiply, resolve, to_u32};
use std::ops::Range;

/// Sizes of results to merge, all contiguous. Sizes may be zero, except for `num_heads` and `value_dim`.
///
/// ```
/// use wgpu_attention::{MergeInputs, MergeShape, cpu};
/// // One query of one head, over two parts of its keys; the first weighs three times as much as the second.
/// let shape = MergeShape::new(2, [1, 1, 1], 1);
/// let inputs = MergeInputs { out: &[4.0_f32, 8.0], lse: &[3_f32.ln(), 0.0] };
/// let merged = cpu::merge(&shape, &inputs)?;
/// assert!((merged.out[0] - 5.0).abs() < 1e-6);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
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
    /// What the parts' out and the merged one are stored as; lse is f32.
    pub element: ElementType,
}

impl MergeShape {
    /// Results in f32 of `[batch, num_heads, q_len]` queries each; change any field from there.
    #[must_use]
    pub fn new(parts: usize, [batch, num_heads, q_len]: [usize; 3], value_dim: usize) -> Self {
        Self { parts, batch, num_heads, q_len, value_dim, element: ElementType::F32 }
    }
}

/// Results over parts of the keys, as slices of `T`, the shape's element type.
#[derive(Clone, Copy, Debug)]
pub struct MergeInputs<'a, T = f32> {
    /// `[parts, batch, num_heads, q_len, value_dim]`; not used where lse is `-inf`.
    pub out: &'a [T],
    /// `[parts, batch, num_heads, q_len]`: natural log; `-inf` where a part has no key that the query sees.
    pub lse: &'a [f32],
}

/// A validated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergeProblem {
    pub(crate) parts: u32,
    pub(crate) batch: u32,
    pub(crate) num_heads: u32,
    pub(crate) q_len: u32,
    pub(crate) value_dim: u32,
    pub(crate) element: ElementType,
    /// Of the first part.
    pub(crate) partial_out: View,
    pub(crate) partial_lse: View,
    /// From one part to the next.
    pub(crate) out_step: u32,
    pub(crate) lse_step: u32,
    pub(crate) out: View,
    pub(crate) lse: View,
}

impl MergeProblem {
    pub(crate) fn new(s: &MergeShape) -> Result<Self, Error> {
        for (argument, size) in [("num_heads", s.num_heads), ("value_dim", s.value_dim)] {
            if size == 0 {
                return Err(Error::invalid(argument, "at least 1", 0));
            }
        }
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
            partial_out: out,
            partial_lse: lse,
            out_step: out.extent,
            lse_step: lse.extent,
            out,
            lse,
        })
    }

    /// The same for some of the sequences, heads and queries.
    pub(crate) fn slice(&self, [batches, heads, queries]: &[Range<u32>; 3]) -> Self {
        let count = |range: &Range<u32>| range.end - range.start;
        let moved = |view, columns| move_view(view, batches, heads, queries, columns);
        Self {
            batch: count(batches),
            num_heads: count(heads),
            q_len: count(queries),
            partial_out: moved(self.partial_out, self.value_dim),
            partial_lse: moved(self.partial_lse, 1),
            out: moved(self.out, self.value_dim),
            lse: moved(self.lse, 1),
            ..*self
        }
    }

    /// Where all parts' out lies.
    pub(crate) fn parts_out(&self) -> View {
        self.all_parts(self.partial_out, self.out_step)
    }

    /// Where all parts' lse lies.
    pub(crate) fn parts_lse(&self) -> View {
        self.all_parts(self.partial_lse, self.lse_step)
    }

    /// Below 2^32 as the whole is.
    fn all_parts(&self, first: View, step: u32) -> View {
        match self.parts {
            0 => View { extent: 0, ..first },
            parts => View { extent: first.extent + (parts - 1) * step, ..first },
        }
    }
}

impl<'a, T: Element> MergeInputs<'a, T> {
    /// One of the inputs.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::Parts => Some(Data::Elements(self.out)),
            Tensor::PartsLse => Some(Data::Floats(self.lse)),
            _ => None,
        }
    }

    /// Compares the lengths of the slices with what is needed.
    pub(crate) fn validate(&self, problem: &MergeProblem) -> Result<(), Error> {
        if T::TYPE != problem.element {
            return Err(Error::invalid("out", format!("{} elements", problem.element), T::TYPE));
        }
        check_len("out", Some(&problem.parts_out()), Some(self.out.len()))?;
        check_len("lse", Some(&problem.parts_lse()), Some(self.lse.len()))
    }
}
