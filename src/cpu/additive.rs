//! Additive attention by its definition, in f64.

use super::shared::{attend, map, project, wide};
use crate::error::Error;
use crate::layers::{
    AdditiveInputs, AdditiveOutputs, AdditiveProblem, AdditiveShape, LayerProblem,
};
use crate::problem::Element;
use crate::tensor::Tensor;

/// Additive attention in f64: `e_ij = w_v . tanh(W_q query_i + W_k key_j + b)`, a softmax over the
/// visible keys, and the weighted sum of the values.
///
/// A row that sees no key has out 0 and weights 0; a hidden key adds nothing, whatever it and its
/// value hold.
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
    p.validate(inputs)?;
    let AdditiveShape { q_len, kv_len, hidden_dim, .. } = *shape;
    let (value, w_v, b) = (wide(inputs.value), wide(inputs.w_v), inputs.b.map(wide));
    let projected = |x: &[T], weight: &[T], bias: Option<&[f64]>| {
        let (x, weight) = (wide(x), wide(weight));
        project(x.chunks(weight.len() / hidden_dim), hidden_dim, &weight, bias)
    };
    let queries = projected(inputs.query, inputs.w_q, b.as_deref());
    let keys = projected(inputs.key, inputs.w_k, None);

    let row = |n: usize| {
        let (batch, i) = (n / q_len, n % q_len);
        let mask = p.view(Tensor::Mask).zip(inputs.mask);
        let sees = |j| mask.is_none_or(|(view, mask)| mask[view.index(batch, 0, i, j)]);
        let query = &queries[n * hidden_dim..][..hidden_dim];
        let score = |j: usize| {
            let key = &keys[(batch * kv_len + j) * hidden_dim..][..hidden_dim];
            let terms = query.iter().zip(key).zip(&w_v).map(|((q, k), w)| w * (q + k).tanh());
            sees(j).then(|| terms.sum::<f64>())
        };
        let scores: Vec<Option<f64>> = (0..kv_len).map(score).collect();
        let mut out = vec![0.0; shape.value_dim];
        let value = |j: usize| &value[(batch * kv_len + j) * shape.value_dim..];
        let weights = attend(&mut out, &scores, None, value).weights;
        (out, weights)
    };
    let rows = map((0..shape.batch * q_len).collect(), row);
    let (out, weights): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    Ok(AdditiveOutputs { out: out.concat(), weights: shape.weights.then(|| weights.concat()) })
}
