//! One query of one head: what it reads, and which keys it sees.

use super::shared::{Softmax, indices, softmax};
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
        self.problem.sequence(self.batch).contains(self.i, j)
            && self.mask(j).unwrap_or(true)
            && self.bias(j) != Some(f32::NEG_INFINITY)
            && self.is_of_its_segment(j)
    }

    fn is_of_its_segment(&self, j: usize) -> bool {
        let id = |tensor, row| {
            Some(self.inputs.segments?[self.problem.view(tensor)?.index(self.batch, 0, row, 0)])
        };
        id(Tensor::Segments, self.i) == id(Tensor::KeySegments, j)
    }

    fn mask(&self, j: usize) -> Option<bool> {
        self.element(self.inputs.mask, Tensor::Mask, j)
    }

    /// The bias of key `j`.
    pub(super) fn bias(&self, j: usize) -> Option<f32> {
        self.element(self.inputs.bias, Tensor::Bias, j)
    }

    fn element<T: Copy>(&self, data: Option<&[T]>, tensor: Tensor, j: usize) -> Option<T> {
        Some(data?[self.problem.view(tensor)?.index(self.batch, self.head, self.i, j)])
    }

    /// The ALiBi slope of this head.
    pub(super) fn slope(&self) -> Option<f32> {
        let view = self.problem.view(Tensor::AlibiSlopes)?;
        Some(self.inputs.alibi_slopes?[view.index(self.batch, self.head, 0, 0)])
    }

    /// The sink of this head; none if it is `-inf`, which adds nothing.
    fn sink(&self) -> Option<f64> {
        let view = self.problem.view(Tensor::Sinks)?;
        let sink = self.inputs.sinks?[view.index(0, self.head, 0, 0)];
        (sink != f32::NEG_INFINITY).then_some(sink.into())
    }

    /// The softmax of the row's scores, none where a key is hidden, and of what joins the whole
    /// row.
    pub(super) fn softmax(&self, scores: &[Option<f64>]) -> Softmax {
        softmax(scores, self.sink())
    }

    /// `|i + offset - j|`.
    pub(super) fn distance(&self, j: usize) -> u64 {
        (self.i as i64 + i64::from(self.problem.sequence(self.batch).offset) - j as i64)
            .unsigned_abs()
    }
}

/// Number of rows: one per query, head and sequence.
pub(super) fn row_count(problem: &Problem) -> usize {
    problem.batch as usize * problem.num_heads as usize * problem.q_len as usize
}
