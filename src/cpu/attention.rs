//! The definition of attention, in f64.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use super::row::{Row, Softmax, place, row_indices};
use crate::error::Error;
use crate::problem::{AttentionOptions, AttentionShape, Element, Inputs, Outputs, Problem};
use crate::tensor::Tensor;
use std::ops::{Index, IndexMut};

/// Scaled dot-product attention by its definition, in f64: what every kernel is measured against.
///
/// Two passes over each row, no tiles: all scores, then their maximum, sum, weights and the weighted
/// sum of the values. Of the shape's optional outputs it gives those that are asked for, each of the length
/// its layout reaches; elements that a strided layout skips are 0.
///
/// - query: `[batch, num_heads, q_len, head_dim]`
/// - key: `[batch, num_kv_heads, kv_len, head_dim]`
/// - value: `[batch, num_kv_heads, kv_len, value_dim]`
/// - out: `[batch, num_heads, q_len, value_dim]`
///
/// What is easily guessed wrong:
///
/// - A hidden key adds nothing, even if its key or value holds NaN or infinities: its weight is 0 and
///   its masked score `-inf` in every row. Raw and capped scores come before the masks and are there for
///   hidden keys too.
/// - A row that sees no key has out 0, weights 0 and lse `-inf`, unless the shape has something that joins whole rows.
/// - A visible score that is NaN or `+inf` turns its row's out, its weights of visible keys and its lse
///   to NaN.
/// - A visible score that is `-inf` (from infinite inputs; a bias of `-inf` hides) weighs 0, which its
///   value is multiplied by; a row that sees no other is NaN, not empty.
///
/// ```
/// use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, cpu};
///
/// // Two queries, two keys, one head; the first query sees the first key alone.
/// let shape = AttentionShape::new(1, 1, 2, 1);
/// let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
/// let inputs = Inputs { query: &[3.0, 0.0], key: &[1.0, 2.0], value: &[10.0, 20.0], ..Inputs::default() };
/// let outputs = cpu::attention(&shape, &options, &inputs)?;
/// assert_eq!(outputs.out, [10.0, 15.0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.2.1; softcap as in
/// Gemma 2, arXiv 2408.00118; linear biases: Press et al., arXiv 2108.12409; grouped heads: Ainslie et al.,
/// arXiv 2305.13245.
///
/// # Errors
/// [`Error::Invalid`] naming the size, layout, option or slice that cannot be used.
pub fn attention<T: Element>(
    shape: &AttentionShape,
    options: &AttentionOptions,
    inputs: &Inputs<'_, T>,
) -> Result<Outputs<f64>, Error> {
    let problem = Problem::new(shape, options)?;
    inputs.validate(&problem)?;
    // What a buffer says when a GPU's call runs is known here.
    let problem = Problem::new(&shape.with_lens(inputs.lens), options)?;
    let widened = inputs.widen();
    let inputs = &widened.inputs(inputs);
    let mut outputs =
        ByOutput::new(|tensor| Some(vec![0.0; problem.view(tensor)?.extent as usize]));
    for part in problem.uniform() {
        attend_part(&part, inputs, &mut outputs);
    }
    let out = outputs[Tensor::Out].take().unwrap_or_default();
    Outputs::collect(out, |tensor| Ok(outputs[tensor].take()))
}

/// The rows of one part of a problem, in their places in the outputs of the whole.
fn attend_part(part: &Problem, inputs: &Inputs<'_>, outputs: &mut ByOutput<Option<Vec<f64>>>) {
    let mut dense = dense_rows(part, inputs, &row_indices(part).collect::<Vec<_>>());
    for tensor in Tensor::OUTPUTS {
        if let (Some(view), Some(dense), Some(placed)) =
            (part.view(tensor), dense[tensor].take(), outputs[tensor].as_mut())
        {
            place(dense, part, &view, part.columns(tensor) as usize, placed);
        }
    }
}

/// Some rows of a problem that has no parts, each by batch, head and query: their outputs, one after the other.
pub(crate) fn attend_rows(
    problem: &Problem,
    inputs: &Inputs<'_>,
    rows: &[[usize; 3]],
) -> Result<Outputs<f64>, Error> {
    let mut dense = dense_rows(problem, inputs, rows);
    let out = dense[Tensor::Out].take().unwrap_or_default();
    Outputs::collect(out, |tensor| Ok(dense[tensor].take()))
}

fn dense_rows(
    problem: &Problem,
    inputs: &Inputs<'_>,
    rows: &[[usize; 3]],
) -> ByOutput<Option<Vec<f64>>> {
    let columns = |tensor| problem.columns(tensor) as usize;
    let mut dense = ByOutput::new(|tensor| {
        problem.view(tensor).map(|_| vec![0.0; rows.len() * columns(tensor)])
    });
    let mut rest = ByOutput(dense.0.each_mut().map(Option::as_deref_mut));
    let tasks = rows.iter().map(|&place| Task {
        row: Row::new(problem, inputs, place),
        outputs: ByOutput::new(|tensor| rest[tensor].as_mut()?.split_off_mut(..columns(tensor))),
    });
    for_each(tasks.collect(), |task| attend(problem, task));
    dense
}

/// [`attention`], computed in f64 and rounded at the end: what a machine without a GPU gives.
///
/// ```
/// use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, cpu};
///
/// let shape = AttentionShape::new(1, 1, 2, 1);
/// let inputs = Inputs { query: &[0.0, 0.0], key: &[1.0, 2.0], value: &[10.0, 20.0], ..Inputs::default() };
/// let outputs = cpu::attention_rounded::<f32>(&shape, &AttentionOptions::default(), &inputs)?;
/// assert_eq!(outputs.out, [15.0, 15.0]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// As [`attention`].
pub fn attention_rounded<T: Element>(
    shape: &AttentionShape,
    options: &AttentionOptions,
    inputs: &Inputs<'_, T>,
) -> Result<Outputs<T, f32>, Error> {
    let mut exact = attention(shape, options, inputs)?;
    let out = round(std::mem::take(&mut exact.out));
    Outputs::collect(out, |tensor| Ok(exact.take(tensor).map(round)))
}

fn round<T: Element>(exact: Vec<f64>) -> Vec<T> {
    exact.into_iter().map(T::from_f64).collect()
}

/// Something for each of attention's outputs.
struct ByOutput<T>([T; Tensor::OUTPUTS.len()]);

impl<T> ByOutput<T> {
    fn new(of: impl FnMut(Tensor) -> T) -> Self {
        Self(Tensor::OUTPUTS.map(of))
    }
}

impl<T> Index<Tensor> for ByOutput<T> {
    type Output = T;

    fn index(&self, tensor: Tensor) -> &T {
        &self.0[tensor as usize - Tensor::Out as usize]
    }
}

impl<T> IndexMut<Tensor> for ByOutput<T> {
    fn index_mut(&mut self, tensor: Tensor) -> &mut T {
        &mut self.0[tensor as usize - Tensor::Out as usize]
    }
}

/// One row, and the slices that it fills.
struct Task<'a> {
    row: Row<'a>,
    outputs: ByOutput<Option<&'a mut [f64]>>,
}

#[cfg(feature = "rayon")]
fn for_each<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Send + Sync) {
    tasks.into_par_iter().for_each(work);
}

#[cfg(not(feature = "rayon"))]
fn for_each<T>(tasks: Vec<T>, work: impl Fn(T)) {
    tasks.into_iter().for_each(work);
}

fn attend(problem: &Problem, mut task: Task<'_>) {
    let scores = score(problem, &mut task);
    let Task { row, mut outputs } = task;
    if let Some(masked_scores) = &mut outputs[Tensor::MaskedScores] {
        masked_scores.copy_from_slice(&scores);
    }
    let visible: Vec<bool> = (0..scores.len()).map(|j| row.sees(j)).collect();
    let Softmax { weights, lse } = row.softmax(&scores, &visible);
    if let Some([place]) = outputs[Tensor::Lse].as_deref_mut() {
        *place = lse;
    }
    let out = outputs[Tensor::Out].as_deref_mut().unwrap_or_default();
    for (j, weight) in weights.iter().enumerate().filter(|&(j, _)| visible[j]) {
        for (out, &value) in out.iter_mut().zip(row.value(j)) {
            *out += *weight * f64::from(value);
        }
    }
    if let Some(stored) = &mut outputs[Tensor::Weights] {
        stored.copy_from_slice(&weights);
    }
}

/// The row's scores after bias and masks, `-inf` where hidden.
fn score(problem: &Problem, task: &mut Task<'_>) -> Vec<f64> {
    let row = task.row;
    let query: Vec<f64> = row.query().iter().copied().map(f64::from).collect();
    let slope = row.slope().map(f64::from);
    let early = [Tensor::RawScores, Tensor::CappedScores];
    let unmasked = early.into_iter().any(|tensor| task.outputs[tensor].is_some());
    let mut scores = vec![f64::NEG_INFINITY; problem.kv_len as usize];
    for (j, masked) in scores.iter_mut().enumerate() {
        let visible = row.sees(j);
        if !visible && !unmasked {
            continue;
        }
        let raw = problem.scale * dot(&query, row.key(j));
        let capped = problem.softcap.map(f64::from).map_or(raw, |cap| cap * (raw / cap).tanh());
        for (tensor, score) in early.into_iter().zip([raw, capped]) {
            if let Some(scores) = &mut task.outputs[tensor] {
                scores[j] = score;
            }
        }
        if visible {
            let bias = row.bias(j).map_or(0.0, f64::from);
            let alibi = slope.map_or(0.0, |slope| -slope * row.distance(j) as f64);
            *masked = capped + bias + alibi;
        }
    }
    scores
}

/// Eight sums side by side, which the compiler can keep in vector registers.
fn dot(query: &[f64], key: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (queries, query_tail) = query.as_chunks::<8>();
    let (keys, key_tail) = key.as_chunks::<8>();
    for (q, k) in queries.iter().zip(keys) {
        for lane in 0..8 {
            sums[lane] += q[lane] * f64::from(k[lane]);
        }
    }
    let tail = query_tail.iter().zip(key_tail).map(|(q, &k)| q * f64::from(k));
    sums.into_iter().chain(tail).sum()
}
