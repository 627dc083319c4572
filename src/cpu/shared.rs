//! Arithmetic that several definitions share, in f64.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use crate::problem::Element;

/// A row's weights, one a key, and its lse.
pub(super) struct Softmax {
    pub(super) weights: Vec<f64>,
    pub(super) lse: f64,
}

/// The softmax of a row's scores, none where a key is hidden, with a sink if there is one.
pub(super) fn softmax(scores: &[Option<f64>], sink: Option<f64>) -> Softmax {
    // NaN passes `max` by, and comes back through the exponentials.
    let max = scores.iter().copied().flatten().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let exponential = |score: f64| (score - max).exp();
    let mut weights: Vec<f64> = scores.iter().map(|score| score.map_or(0.0, exponential)).collect();
    let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, exponential);
    for (weight, _) in weights.iter_mut().zip(scores).filter(|(_, score)| score.is_some()) {
        *weight /= sum;
    }
    // With no key the sink is all there is, infinite or not.
    let alone = sink.unwrap_or(f64::NEG_INFINITY);
    let lse = if scores.iter().any(Option::is_some) { max + sum.ln() } else { alone };
    Softmax { weights, lse }
}

/// The softmax of a row's scores, and the sum of the values that they weigh, added to `out`. A
/// hidden key adds nothing, whatever its value holds.
pub(super) fn attend<'a, T: Copy + Into<f64> + 'a>(
    out: &mut [f64],
    scores: &[Option<f64>],
    sink: Option<f64>,
    value: impl Fn(usize) -> &'a [T],
) -> Softmax {
    let softmax = softmax(scores, sink);
    for (j, &weight) in softmax.weights.iter().enumerate().filter(|&(j, _)| scores[j].is_some()) {
        add_scaled(out, weight, value(j));
    }
    softmax
}

/// Adds `weight` times `values` to `out`.
pub(super) fn add_scaled<T: Copy + Into<f64>>(out: &mut [f64], weight: f64, values: &[T]) {
    out.iter_mut().zip(values).for_each(|(out, &value)| *out += weight * value.into());
}

/// `[rows, out_features]`: rows that are all of one length times those of `weight`, and `bias`.
pub(super) fn project<'a>(
    rows: impl IntoIterator<Item = &'a [f64]>,
    out_features: usize,
    weight: &[f64],
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let row_of_out = |row: &[f64]| -> Vec<f64> {
        let dot = |column: usize| {
            let weights = &weight[column * row.len()..][..row.len()];
            let sum: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            sum + bias.map_or(0.0, |bias| bias[column])
        };
        (0..out_features).map(dot).collect()
    };
    map(rows.into_iter().collect(), row_of_out).concat()
}

pub(super) fn wide<T: Element>(slice: &[T]) -> Vec<f64> {
    slice.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// `[batch, head, row]` of everything, in the order of a contiguous tensor of these sizes.
pub(super) fn indices([batch, heads, rows]: [u32; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [batch, heads, rows] = [batch, heads, rows].map(|size| size as usize);
    (0..batch * heads * rows).map(move |n| [n / (heads * rows), n / rows % heads, n % rows])
}

/// `work` done on each item, in order; with the feature `rayon` on all cores.
#[cfg(feature = "rayon")]
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    items.into_par_iter().map(work).collect()
}

#[cfg(not(feature = "rayon"))]
pub(super) fn map<T, R>(items: Vec<T>, work: impl Fn(T) -> R) -> Vec<R> {
    items.into_iter().map(work).collect()
}
