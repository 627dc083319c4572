//! One query of one head: what it reads, and which keys it sees.

use super::shared::indices;
use crate::problem::{Inputs, Problem, View};
use crate::tensor::Tensor;

/// Query `i` of one head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    kv_head: usize,
    i: usize,
}

impl<'a> Row<'a> {
    /// Every row of a problem, in the order of a contiguous `[batch, num_heads, q_len]` tensor.
    pub(super) fn all(problem: &'a Problem, inputs: &'a Inputs<'a>) -> impl Iterator<Item = Self> {
        let sizes = [problem.batch, problem.num_heads, problem.q_len];
        indices(sizes).map(move |place| Self::new(problem, inputs, place))
    }

    /// One row, by batch, head and query.
    pub(super) fn new(
        problem: &'a Problem,
        inputs: &'a Inputs<'a>,
        [batch, head, i]: [usize; 3],
    ) -> Self {
        Self { problem, inputs, batch, head, kv_head: head / problem.group() as usize, i }
    }

    /// Where the row begins in a tensor that has such rows.
    pub(super) fn place(&self, view: &View) -> usize {
        view.index(self.batch, self.head, self.i, 0)
    }

    /// The query vector `[head_dim]`.
    pub(super) fn query(&self) -> &'a [f32] {
        &self.inputs.query[self.place(&self.problem.query())..][..self.problem.head_dim as usize]
    }

    /// The key vector `[head_dim]`.
    pub(super) fn key(&self, j: usize) -> &'a [f32] {
        let start = self.start(&self.problem.key(), j);
        &self.inputs.key[start..][..self.problem.head_dim as usize]
    }

    /// The value vector `[value_dim]`.
    pub(super) fn value(&self, j: usize) -> &'a [f32] {
        let start = self.start(&self.problem.value(), j);
        &self.inputs.value[start..][..self.problem.value_dim as usize]
    }

    /// Where the vector of key `j` begins: in the sequence's own rows, or in those of a page.
    fn start(&self, view: &View, j: usize) -> usize {
        let [batch, row] = self.problem.key_place(self.inputs.pages, self.batch, j);
        view.index(batch, self.kv_head, row, 0)
    }

    /// Whether key `j` is visible; decided without its score, which may be NaN.
    pub(super) fn sees(&self, j: usize) -> bool {
        let segment = |tensor, row| self.element(self.inputs.segments, tensor, row, 0);
        self.problem.sequence(self.batch).contains(self.i, j)
            && self.element(self.inputs.mask, Tensor::Mask, self.i, j).unwrap_or(true)
            && self.bias(j) != Some(f32::NEG_INFINITY)
            && segment(Tensor::Segments, self.i) == segment(Tensor::KeySegments, j)
    }

    /// The bias of key `j`.
    pub(super) fn bias(&self, j: usize) -> Option<f32> {
        self.element(self.inputs.bias, Tensor::Bias, self.i, j)
    }

    /// The ALiBi slope of this head.
    pub(super) fn slope(&self) -> Option<f32> {
        self.element(self.inputs.alibi_slopes, Tensor::AlibiSlopes, 0, 0)
    }

    /// The sink of this head; none if it is `-inf`, which adds nothing.
    pub(super) fn sink(&self) -> Option<f64> {
        let sink = self.element(self.inputs.sinks, Tensor::Sinks, 0, 0)?;
        (sink != f32::NEG_INFINITY).then_some(sink.into())
    }

    /// An element of a tensor, if the call has it. Axes along which it has one have stride 0.
    fn element<T: Copy>(
        &self,
        data: Option<&[T]>,
        tensor: Tensor,
        row: usize,
        column: usize,
    ) -> Option<T> {
        Some(data?[self.problem.view(tensor)?.index(self.batch, self.head, row, column)])
    }

    /// `|i + offset - j|`.
    pub(super) fn distance(&self, j: usize) -> u64 {
        (self.i as i64 + i64::from(self.problem.sequence(self.batch).offset) - j as i64)
            .unsigned_abs()
    }
}
