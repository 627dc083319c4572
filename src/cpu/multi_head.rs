//! The definition of a multi-head layer, in f64.

use super::shared::{attend, project, wide};
use crate::error::Error;
use crate::layers::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadOutputs, MultiHeadShape, MultiHeadWeights,
};
use crate::problem::{AttentionOptions, Problem};

/// A multi-head layer by its definition, in f64: PyTorch's `nn.MultiheadAttention` in evaluation
/// mode.
///
/// Query, key and value are projected; `bias_k` and `bias_v`, then a row of zeros, are added if the
/// layer has them; each head attends; the heads' results, side by side, are projected again. A row
/// that sees no key has weights 0 and out the last projection's bias (PyTorch gives NaN).
///
/// Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.2.2.
///
/// # Errors
/// [`Error::Invalid`] naming the size or slice that cannot be used.
pub fn multi_head_attention(
    weights: &MultiHeadWeights<'_>,
    shape: &MultiHeadShape,
    inputs: &MultiHeadInputs<'_>,
) -> Result<MultiHeadOutputs<f64>, Error> {
    let sizes = weights.sizes()?;
    inputs.validate(&sizes, shape)?;
    let problem = Problem::new(&shape.attention(&sizes)?, &AttentionOptions::default())?;
    let (embed_dim, heads) = (sizes.embed_dim, sizes.num_heads);
    let keys = problem.kv_len as usize;
    let mut outputs = MultiHeadOutputs {
        out: vec![0.0; inputs.query.len()],
        weights: shape.weights.map(|_| Vec::new()),
    };
    let out_bias = weights.out_bias.map(wide);
    for b in 0..shape.batch {
        let projected = |x: &[f32], len, width, weight: &[f32], at: usize| {
            let x = wide(x);
            let rows = (0..len).map(|i| &x[row(shape, b, i, len) * width..][..width]);
            let bias = weights.in_bias.map(|bias| wide(&bias[at * embed_dim..][..embed_dim]));
            project(rows, embed_dim, &wide(weight), bias.as_deref())
        };
        let query = projected(inputs.query, shape.q_len, embed_dim, weights.query, 0);
        let mut key = projected(inputs.key, shape.kv_len, sizes.kdim, weights.key, 1);
        let mut value = projected(inputs.value, shape.kv_len, sizes.vdim, weights.value, 2);
        if let Some([bias_k, bias_v]) = weights.extra {
            key.extend(wide(bias_k));
            value.extend(wide(bias_v));
        }
        key.resize(keys * embed_dim, 0.0);
        value.resize(keys * embed_dim, 0.0);

        let mut attended = vec![0.0; shape.q_len * embed_dim];
        let mut head_weights = Vec::new();
        let head_dim = embed_dim / heads;
        for (h, i) in (0..heads).flat_map(|h| (0..shape.q_len).map(move |i| (h, i))) {
            let start = |row: usize| row * embed_dim + h * head_dim;
            let q = &query[start(i)..][..head_dim];
            let score = |j: usize| {
                let added = added(&problem, shape, inputs, [b, h, i, j], heads)?;
                let dot: f64 = q.iter().zip(&key[start(j)..]).map(|(q, k)| q * k).sum();
                Some(dot / (head_dim as f64).sqrt() + added)
            };
            let scores: Vec<Option<f64>> = (0..keys).map(score).collect();
            let out = &mut attended[start(i)..][..head_dim];
            head_weights.extend(attend(out, &scores, None, |j| &value[start(j)..]).weights);
        }
        let attended = attended.chunks_exact(embed_dim);
        let out = project(attended, embed_dim, &wide(weights.out), out_bias.as_deref());
        for (i, columns) in out.chunks_exact(embed_dim).enumerate() {
            let start = row(shape, b, i, shape.q_len) * embed_dim;
            outputs.out[start..][..embed_dim].copy_from_slice(columns);
        }
        let plane = shape.q_len * keys;
        let mean =
            |at| (0..heads).map(|h| head_weights[h * plane + at]).sum::<f64>() / heads as f64;
        if let Some(stored) = &mut outputs.weights {
            match shape.weights {
                Some(HeadWeights::Mean) => stored.extend((0..plane).map(mean)),
                _ => stored.extend(head_weights),
            }
        }
    }
    Ok(outputs)
}

/// Where row `i` of sequence `b` lies.
fn row(shape: &MultiHeadShape, b: usize, i: usize, len: usize) -> usize {
    if shape.batch_first { b * len + i } else { i * shape.batch + b }
}

/// The sum that the masks add to a score, or none if they hide it. Every query sees the rows that
/// the layer adds.
fn added(
    problem: &Problem,
    shape: &MultiHeadShape,
    inputs: &MultiHeadInputs<'_>,
    [b, h, i, j]: [usize; 4],
    heads: usize,
) -> Option<f64> {
    let (i_u32, j_u32) = (u32::try_from(i).ok()?, u32::try_from(j).ok()?);
    let mut packed = problem.packed.iter().flatten();
    let apart = problem.packed.is_some()
        && !packed.any(|one| one.queries.contains(&i_u32) && one.keys.contains(&j_u32));
    if apart || !problem.sequence(b).contains(i, j) {
        return None;
    }
    if j >= shape.kv_len {
        return Some(0.0);
    }
    let plane = if inputs.is_per_head(shape.q_len, shape.kv_len) { b * heads + h } else { 0 };
    let places = [
        (inputs.attn_mask, (plane * shape.q_len + i) * shape.kv_len + j),
        (inputs.key_padding_mask, b * shape.kv_len + j),
    ];
    let mut sum = 0.0;
    for (mask, at) in places {
        match mask {
            Some(LayerMask::Hidden(hidden)) if hidden[at] => return None,
            Some(LayerMask::Added(added)) if added[at] == f32::NEG_INFINITY => return None,
            Some(LayerMask::Added(added)) => sum += f64::from(added[at]),
            _ => {}
        }
    }
    Some(sum)
}
