//! The definition of attention, in f64.

use super::row::Row;
use super::shared::{self, Softmax, map};
use crate::error::Error;
use crate::problem::{AttentionOptions, AttentionShape, Element, Inputs, Outputs, Problem};
use crate::tensor::Tensor;

/// Scaled dot-product attention by its definition, in f64: what every kernel is measured against.
///
/// Two passes over each row: all scores, then their maximum, sum, weights and the weighted sum of
/// the values. Elements of an output that its layout skips are 0.
///
/// - query: `[batch, num_heads, q_len, head_dim]`
/// - key: `[batch, num_kv_heads, kv_len, head_dim]`
/// - value: `[batch, num_kv_heads, kv_len, value_dim]`
/// - out: `[batch, num_heads, q_len, value_dim]`
///
/// Details that are easily guessed wrong:
///
/// - A hidden key adds nothing, even if its key or value holds NaN or infinities: its weight is 0
///   and its masked score `-inf` in every row. Raw and capped scores come before the masks and are
///   there for hidden keys too.
/// - A row that sees no key has out 0, weights 0 and lse `-inf`, unless the shape has something
///   that joins whole rows.
/// - A visible score that is NaN or `+inf` turns its row's out, its weights of visible keys and its
///   lse to NaN.
/// - A visible score that is `-inf` (from infinite inputs; a bias of `-inf` hides) weighs 0, times
///   its value; a row that sees no other is NaN, not empty.
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
/// Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.2.1; softcap as
/// in Gemma 2, arXiv 2408.00118; linear biases: Press et al., arXiv 2108.12409; grouped heads:
/// Ainslie et al., arXiv 2305.13245.
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
    // Lengths that a GPU reads from a buffer when the call runs are known here.
    let problem = Problem::new(&shape.with_lens(inputs.lens), options)?;
    let widened = inputs.widen();
    let inputs = &inputs.with(&widened);
    let mut outputs = Tensor::OUTPUTS
        .map(|tensor| vec![0.0; problem.view(tensor).map_or(0, |view| view.extent as usize)]);
    for part in problem.uniform() {
        let rows: Vec<Row<'_>> = Row::all(&part, inputs).collect();
        for (row, found) in rows.iter().zip(map(rows.clone(), |row| attend(&part, row))) {
            for ((tensor, to), from) in Tensor::OUTPUTS.into_iter().zip(&mut outputs).zip(found) {
                if let Some(view) = part.view(tensor) {
                    to[row.place(&view)..][..from.len()].copy_from_slice(&from);
                }
            }
        }
    }
    Ok(collect(&problem, outputs))
}

/// Some rows of a problem that has no parts, each by batch, head and query: their outputs, one
/// after the other.
pub(crate) fn attend_rows(
    problem: &Problem,
    inputs: &Inputs<'_>,
    rows: &[[usize; 3]],
) -> Outputs<f64> {
    let found = map(rows.to_vec(), |place| attend(problem, Row::new(problem, inputs, place)));
    let joined = |at: usize| found.iter().flat_map(|row| &row[at]).copied().collect();
    collect(problem, std::array::from_fn(joined))
}

/// [`attention`], computed in f64 and rounded at the end: what a machine without a GPU gives.
///
/// # Errors
/// As [`attention`].
pub fn attention_rounded<T: Element>(
    shape: &AttentionShape,
    options: &AttentionOptions,
    inputs: &Inputs<'_, T>,
) -> Result<Outputs<T, f32>, Error> {
    fn round<T: Element>(exact: Vec<f64>) -> Vec<T> {
        exact.into_iter().map(T::from_f64).collect()
    }
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

/// What there is of each of [`Tensor::OUTPUTS`], in their order.
type Found = [Vec<f64>; Tensor::OUTPUTS.len()];

/// Those that the problem has.
fn collect(problem: &Problem, found: Found) -> Outputs<f64> {
    let mut found = found.into_iter();
    let [out, lse, weights, raw_scores, capped_scores, masked_scores] =
        Tensor::OUTPUTS.map(|tensor| found.next().filter(|_| problem.has(tensor)));
    let out = out.unwrap_or_default();
    Outputs { out, lse, weights, raw_scores, capped_scores, masked_scores }
}

/// One row of each output; nothing of those that the problem has not.
fn attend(problem: &Problem, row: Row<'_>) -> Found {
    let query: Vec<f64> = row.query().iter().copied().map(f64::from).collect();
    let slope = row.slope().map(f64::from);
    let unmasked = problem.has(Tensor::RawScores) || problem.has(Tensor::CappedScores);
    let [mut raw_scores, mut capped_scores] = [vec![], vec![]];
    // After bias and masks; none where hidden.
    let score = |j: usize| {
        let visible = row.sees(j);
        if !visible && !unmasked {
            return None;
        }
        let raw = problem.scale * dot(&query, row.key(j));
        let capped = problem.softcap.map(f64::from).map_or(raw, |cap| cap * (raw / cap).tanh());
        raw_scores.push(raw);
        capped_scores.push(capped);
        let bias = row.bias(j).map_or(0.0, f64::from);
        let alibi = slope.map_or(0.0, |slope| -slope * row.distance(j) as f64);
        visible.then_some(capped + bias + alibi)
    };
    let scores: Vec<Option<f64>> = (0..problem.kv_len as usize).map(score).collect();
    let mut out = vec![0.0; problem.value_dim as usize];
    let Softmax { weights, lse } = shared::attend(&mut out, &scores, row.sink(), |j| row.value(j));
    let masked_scores = scores.into_iter().map(|score| score.unwrap_or(f64::NEG_INFINITY));
    let mut found = [out, vec![lse], weights, raw_scores, capped_scores, masked_scores.collect()];
    for (tensor, found) in Tensor::OUTPUTS.into_iter().zip(&mut found) {
        if !problem.has(tensor) {
            *found = Vec::new();
        }
    }
    found
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
