//! The definition of attention, in f64.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use super::row::{Row, place, row_count};
use crate::error::Error;
use crate::problem::{AttentionOptions, AttentionShape, Element, Inputs, Outputs, Problem, View};

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
/// - A row that sees no key has out 0, weights 0 and lse `-inf`, or the sink of its head: see [`AttentionShape::sinks`].
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
    let zeros = |view: View| vec![0.0; view.extent as usize];
    let mut outputs = Outputs {
        out: zeros(problem.out),
        lse: problem.lse.map(zeros),
        weights: problem.weights.map(zeros),
        raw_scores: problem.raw_scores.map(zeros),
        capped_scores: problem.capped_scores.map(zeros),
        masked_scores: problem.masked_scores.map(zeros),
    };
    for part in problem.uniform() {
        attend_part(&part, inputs, &mut outputs);
    }
    Ok(outputs)
}

/// The rows of one part of a problem, in their places in the outputs of the whole.
fn attend_part(part: &Problem, inputs: &Inputs<'_>, outputs: &mut Outputs<f64>) {
    let (kv_len, value_dim) = (part.kv_len as usize, part.value_dim as usize);
    let rows = row_count(part);
    let dense = |view: Option<View>, columns| view.map(|_| vec![0.0; rows * columns]);
    let mut results = Outputs {
        out: vec![0.0; rows * value_dim],
        lse: dense(part.lse, 1),
        weights: dense(part.weights, kv_len),
        raw_scores: dense(part.raw_scores, kv_len),
        capped_scores: dense(part.capped_scores, kv_len),
        masked_scores: dense(part.masked_scores, kv_len),
    };
    for_each(split(part, inputs, &mut results), |task| attend(part, task));

    place(results.out, part, &part.out, value_dim, &mut outputs.out);
    for (dense, view, columns, placed) in [
        (results.lse, part.lse, 1, &mut outputs.lse),
        (results.weights, part.weights, kv_len, &mut outputs.weights),
        (results.raw_scores, part.raw_scores, kv_len, &mut outputs.raw_scores),
        (results.capped_scores, part.capped_scores, kv_len, &mut outputs.capped_scores),
        (results.masked_scores, part.masked_scores, kv_len, &mut outputs.masked_scores),
    ] {
        if let (Some(dense), Some(view), Some(placed)) = (dense, view, placed.as_mut()) {
            place(dense, part, &view, columns, placed);
        }
    }
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
    let exact = attention(shape, options, inputs)?;
    Ok(Outputs {
        out: round(exact.out),
        lse: exact.lse.map(round),
        weights: exact.weights.map(round),
        raw_scores: exact.raw_scores.map(round),
        capped_scores: exact.capped_scores.map(round),
        masked_scores: exact.masked_scores.map(round),
    })
}

fn round<T: Element>(exact: Vec<f64>) -> Vec<T> {
    exact.into_iter().map(T::from_f64).collect()
}

/// One row, and the slices that it fills.
struct Task<'a> {
    row: Row<'a>,
    out: &'a mut [f64],
    lse: Option<&'a mut [f64]>,
    weights: Option<&'a mut [f64]>,
    raw_scores: Option<&'a mut [f64]>,
    capped_scores: Option<&'a mut [f64]>,
    masked_scores: Option<&'a mut [f64]>,
}

fn split<'a>(
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    results: &'a mut Outputs<f64>,
) -> Vec<Task<'a>> {
    let (kv_len, value_dim) = (problem.kv_len as usize, problem.value_dim as usize);
    let mut out = &mut results.out[..];
    let mut lse = results.lse.as_deref_mut();
    let mut weights = results.weights.as_deref_mut();
    let mut raw_scores = results.raw_scores.as_deref_mut();
    let mut capped_scores = results.capped_scores.as_deref_mut();
    let mut masked_scores = results.masked_scores.as_deref_mut();
    Row::all(problem, inputs)
        .map(|row| Task {
            row,
            out: out.split_off_mut(..value_dim).unwrap_or_default(),
            lse: take(&mut lse, 1),
            weights: take(&mut weights, kv_len),
            raw_scores: take(&mut raw_scores, kv_len),
            capped_scores: take(&mut capped_scores, kv_len),
            masked_scores: take(&mut masked_scores, kv_len),
        })
        .collect()
}

fn take<'a>(rest: &mut Option<&'a mut [f64]>, columns: usize) -> Option<&'a mut [f64]> {
    rest.as_mut()?.split_off_mut(..columns)
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
    if let Some(masked_scores) = &mut task.masked_scores {
        masked_scores.copy_from_slice(&scores);
    }
    // NaN passes `max` by, and comes back through the exponentials.
    let sink = task.row.sink().map(f64::from);
    let max = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let visible: Vec<bool> = (0..scores.len()).map(|j| task.row.sees(j)).collect();
    let exponential =
        |(j, &score): (usize, &f64)| if visible[j] { (score - max).exp() } else { 0.0 };
    let mut weights: Vec<f64> = scores.iter().enumerate().map(exponential).collect();
    let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - max).exp());
    if let Some([lse]) = task.lse.as_deref_mut() {
        // With no key the sink is all there is, infinite or not.
        let alone = sink.unwrap_or(f64::NEG_INFINITY);
        *lse = if visible.contains(&true) { max + sum.ln() } else { alone };
    }
    for (j, weight) in weights.iter_mut().enumerate().filter(|&(j, _)| visible[j]) {
        *weight /= sum;
        for (out, &value) in task.out.iter_mut().zip(task.row.value(j)) {
            *out += *weight * f64::from(value);
        }
    }
    if let Some(stored) = &mut task.weights {
        stored.copy_from_slice(&weights);
    }
}

/// The row's scores after bias and masks, `-inf` where hidden.
fn score(problem: &Problem, task: &mut Task<'_>) -> Vec<f64> {
    let row = task.row;
    let query: Vec<f64> = row.query().iter().copied().map(f64::from).collect();
    let slope = row.slope().map(f64::from);
    let unmasked = task.raw_scores.is_some() || task.capped_scores.is_some();
    let mut scores = vec![f64::NEG_INFINITY; problem.kv_len as usize];
    for (j, masked) in scores.iter_mut().enumerate() {
        let visible = row.sees(j);
        if !visible && !unmasked {
            continue;
        }
        let raw = problem.scale * dot(&query, row.key(j));
        let capped = problem.softcap.map(f64::from).map_or(raw, |cap| cap * (raw / cap).tanh());
        if let Some(raw_scores) = &mut task.raw_scores {
            raw_scores[j] = raw;
        }
        if let Some(capped_scores) = &mut task.capped_scores {
            capped_scores[j] = capped;
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
