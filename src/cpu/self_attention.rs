//! The definition of a self-attention module, in f64.

use super::shared::{add_scaled, indices, project, softmax, wide};
use crate::error::Error;
use crate::layers::{
    SelfAttentionInputs, SelfAttentionOutputs, SelfAttentionShape, SelfAttentionWeights,
};
use crate::tensor::Tensor;

/// A masked score, before the scale.
const MASKED: f64 = -1e20;

/// A `SelfAttention` module by its definition, in f64.
///
/// Each head's part of values, keys and queries is multiplied with a matrix that all heads share;
/// where the mask says no, the score becomes -1e20; scores are scaled, and softmax, the weighted
/// sum and `fc_out` follow. So a row that is wholly masked weighs all its keys alike. A masked key
/// of any other row adds nothing, whatever its value holds.
///
/// # Errors
/// [`Error::Invalid`] naming the size or slice that cannot be used.
pub fn self_attention(
    weights: &SelfAttentionWeights<'_>,
    shape: &SelfAttentionShape,
    inputs: &SelfAttentionInputs<'_>,
) -> Result<SelfAttentionOutputs<f64>, Error> {
    let head_dim = weights.sizes()?.head_dim;
    let problem = shape.attention(weights.heads, head_dim)?;
    inputs.validate(&problem)?;
    // Rows of one head: [batch, len, heads, head_dim].
    let shared = |x: &[f32], weight: &[f32]| {
        let x = wide(x);
        project(x.chunks_exact(head_dim), head_dim, &wide(weight), None)
    };
    let values = shared(inputs.values, weights.values);
    let keys = shared(inputs.keys, weights.keys);
    let queries = shared(inputs.queries, weights.queries);

    let (heads, kv_len) = (weights.heads, shape.kv_len);
    let mut attended = vec![0.0; queries.len()];
    let mut stored = shape.weights.then(Vec::new);
    for [b, h, i] in indices([problem.batch, problem.num_heads, problem.q_len]) {
        let place = |len: usize, row: usize| ((b * len + row) * heads + h) * head_dim;
        let query = &queries[place(shape.q_len, i)..][..head_dim];
        let mask = problem.view(Tensor::Mask).zip(inputs.mask);
        let shown = |j| mask.is_none_or(|(view, mask)| mask[view.index(b, h, i, j)]);
        let score = |j: usize| {
            let key = &keys[place(kv_len, j)..][..head_dim];
            let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
            Some(problem.scale * if shown(j) { dot } else { MASKED })
        };
        let scores: Vec<Option<f64>> = (0..kv_len).map(score).collect();
        let row = softmax(&scores, None).weights;
        let out = &mut attended[place(shape.q_len, i)..][..head_dim];
        for (j, &weight) in row.iter().enumerate().filter(|&(j, weight)| shown(j) || *weight != 0.0)
        {
            add_scaled(out, weight, &values[place(kv_len, j)..]);
        }
        if let Some(stored) = &mut stored {
            stored.extend(row);
        }
    }
    let rows = attended.chunks_exact(weights.embed_size);
    let bias = wide(weights.fc_out_bias);
    let out = project(rows, weights.embed_size, &wide(weights.fc_out), Some(&bias));
    Ok(SelfAttentionOutputs { out, weights: stored })
}
