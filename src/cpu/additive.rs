//! Additive attention by its definition, in f64.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

use crate::error::Error;
use crate::problem::{AdditiveInputs, AdditiveOutputs, AdditiveProblem, AdditiveShape, Element};

/// Additive attention in f64: `e_ij = w_v . tanh(W_q query_i + W_k key_j + b)`, a softmax over the visible keys, and the
/// weighted sum of the values.
///
/// A row that sees no key has out 0 and weights 0; a hidden key adds nothing, whatever it and its value hold.
///
/// ```
/// use wgpu_attention::{AdditiveInputs, AdditiveShape, cpu};
///
/// // Two keys, of which the second scores ln 3 higher.
/// let w_v = 3_f32.ln() / 1_f32.tanh();
/// let shape = AdditiveShape { bias: false, ..AdditiveShape::new(1, [1, 2], [1, 1, 1], 1) };
/// let inputs = AdditiveInputs {
///     query: &[0.0], key: &[0.0, 1.0], value: &[4.0, 8.0],
///     w_q: &[1.0], w_k: &[1.0], w_v: &[w_v], b: None, mask: None,
/// };
/// assert!((cpu::additive(&shape, &inputs)?.out[0] - 7.0).abs() < 1e-6);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] naming the size or slice that cannot be used.
///
/// Source: Bahdanau et al., arXiv 1409.0473, appendix A.1.2.
pub fn additive<T: Element>(
    shape: &AdditiveShape,
    inputs: &AdditiveInputs<'_, T>,
) -> Result<AdditiveOutputs<f64>, Error> {
    let p = AdditiveProblem::new(shape)?;
    inputs.validate(&p)?;
    let widen = |slice: &[T]| slice.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
    let (value, w_v) = (widen(inputs.value), widen(inputs.w_v));
    let b = inputs.b.map_or_else(|| vec![0.0; shape.hidden_dim], widen);
    let none = vec![0.0; shape.hidden_dim];
    let queries = project(&widen(inputs.query), &widen(inputs.w_q), &b);
    let keys = project(&widen(inputs.key), &widen(inputs.w_k), &none);

    let row = |n: usize| {
        let (batch, i) = (n / shape.q_len, n % shape.q_len);
        let sees = |j: usize| {
            let mask = p.mask.zip(inputs.mask);
            mask.is_none_or(|(view, mask)| mask[view.index(batch, 0, i, j)])
        };
        let query = &queries[n * shape.hidden_dim..][..shape.hidden_dim];
        let score = |j: usize| {
            let key = &keys[(batch * shape.kv_len + j) * shape.hidden_dim..][..shape.hidden_dim];
            let terms = query.iter().zip(key).zip(&w_v).map(|((q, k), w)| w * (q + k).tanh());
            terms.sum::<f64>()
        };
        let visible: Vec<usize> = (0..shape.kv_len).filter(|&j| sees(j)).collect();
        let scores: Vec<f64> = visible.iter().map(|&j| score(j)).collect();
        // NaN passes `max` by, and comes back through the exponentials.
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponentials: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        let (mut out, mut weights) = (vec![0.0; shape.value_dim], vec![0.0; shape.kv_len]);
        for (&j, exponential) in visible.iter().zip(exponentials) {
            weights[j] = exponential / sum;
            let value = &value[(batch * shape.kv_len + j) * shape.value_dim..];
            out.iter_mut().zip(value).for_each(|(out, value)| *out += weights[j] * value);
        }
        (out, weights)
    };
    let rows = 0..shape.batch * shape.q_len;
    #[cfg(feature = "rayon")]
    let rows: Vec<_> = rows.into_par_iter().map(row).collect();
    #[cfg(not(feature = "rayon"))]
    let rows: Vec<_> = rows.map(row).collect();
    let (out, weights): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    Ok(AdditiveOutputs { out: out.concat(), weights: shape.weights.then(|| weights.concat()) })
}

/// Rows of `x` times those of `weight`, and `b`.
fn project(x: &[f64], weight: &[f64], b: &[f64]) -> Vec<f64> {
    let columns = weight.len() / b.len();
    let product = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(columns)
        .flat_map(|x| weight.chunks(columns).zip(b).map(move |(w, b)| product(x, w) + b))
        .collect()
}
