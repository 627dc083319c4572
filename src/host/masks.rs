//! PyTorch's masks of a multi-head layer as attention takes them: one mask and one bias, no larger than what is given
//! needs.

use crate::problem::{BroadcastLayout, LayerMask, MultiHeadInputs, MultiHeadShape};

/// A mask or bias over `[batch, num_heads, q_len, keys]`.
pub(super) type Placed<T> = Option<(BroadcastLayout, Vec<T>)>;

/// The mask, true = attend, and the bias, with `added` more columns that everyone sees.
pub(super) fn merge(
    inputs: &MultiHeadInputs<'_>,
    shape: &MultiHeadShape,
    num_heads: usize,
    added: usize,
) -> (Placed<bool>, Placed<f32>) {
    let hidden = |mask| if let Some(LayerMask::Hidden(mask)) = mask { Some(mask) } else { None };
    let scores = |mask| if let Some(LayerMask::Added(mask)) = mask { Some(mask) } else { None };
    let masks = [inputs.attn_mask, inputs.key_padding_mask];
    let heads = inputs.is_per_head(shape).then_some(num_heads);
    let visible = combine(masks.map(hidden), shape, heads, added, |hides| {
        !hides.into_iter().flatten().any(|hides| hides)
    });
    let bias =
        combine(masks.map(scores), shape, heads, added, |terms| terms.into_iter().flatten().sum());
    (visible, bias)
}

/// `both` of the attention mask's element and the padding mask's, of which there may be none, for each score.
fn combine<T: Copy, U>(
    [attention, padding]: [Option<&[T]>; 2],
    shape: &MultiHeadShape,
    heads: Option<usize>,
    added: usize,
    both: impl Fn([Option<T>; 2]) -> U,
) -> Placed<U> {
    if attention.is_none() && padding.is_none() {
        return None;
    }
    let heads = heads.filter(|_| attention.is_some());
    let batch = if padding.is_some() || heads.is_some() { shape.batch } else { 1 };
    let queries = if attention.is_some() { shape.q_len } else { 1 };
    let kv_len = shape.kv_len;
    let mut merged = Vec::with_capacity(batch * heads.unwrap_or(1) * queries * (kv_len + added));
    for b in 0..batch {
        for h in 0..heads.unwrap_or(1) {
            for i in 0..queries {
                let plane = heads.map_or(0, |heads| b * heads + h);
                let of_attention = |mask: &[T], j| mask[(plane * queries + i) * kv_len + j];
                let of_padding = |mask: &[T], j| mask[b * kv_len + j];
                merged.extend((0..kv_len).map(|j| {
                    both([
                        attention.map(|mask| of_attention(mask, j)),
                        padding.map(|mask| of_padding(mask, j)),
                    ])
                }));
                merged.extend((0..added).map(|_| both([None, None])));
            }
        }
    }
    let sizes = [batch, heads.unwrap_or(1), queries, kv_len + added];
    Some((BroadcastLayout::Sizes(sizes), merged))
}
