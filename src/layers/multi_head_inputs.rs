//! The slices of a call of a multi-head layer, with PyTorch's masks; and these as attention takes
//! them: one mask and one bias, no larger than what is given needs.

use crate::view::BroadcastLayout;

/// The tensors of one call of a multi-head layer, with masks as PyTorch has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct MultiHeadInputs<'a> {
    /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
    pub query: &'a [f32],
    /// `[batch, kv_len, kdim]`, or `[kv_len, batch, kdim]`.
    pub key: &'a [f32],
    /// `[batch, kv_len, vdim]`, or `[kv_len, batch, vdim]`.
    pub value: &'a [f32],
    /// `[q_len, kv_len]` or `[batch * num_heads, q_len, kv_len]`.
    pub attn_mask: Option<LayerMask<'a>>,
    /// `[batch, kv_len]`.
    pub key_padding_mask: Option<LayerMask<'a>>,
}

/// A mask as `nn.MultiheadAttention` takes it: the reverse of [`Inputs::mask`](crate::Inputs).
#[derive(Clone, Copy, Debug)]
pub enum LayerMask<'a> {
    /// True = NOT allowed to attend.
    Hidden(&'a [bool]),
    /// Added to the scores; `-inf` hides.
    Added(&'a [f32]),
}

impl LayerMask<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Hidden(mask) => mask.len(),
            Self::Added(mask) => mask.len(),
        }
    }
}

/// A mask or bias over `[batch, num_heads, q_len, keys]`.
type Placed<T> = Option<(BroadcastLayout, Vec<T>)>;

impl MultiHeadInputs<'_> {
    /// Whether the attention mask is of each sequence and head.
    pub(crate) fn is_per_head(&self, q_len: usize, kv_len: usize) -> bool {
        self.attn_mask.is_some_and(|mask| mask.len() != q_len.saturating_mul(kv_len))
    }

    /// The mask, true = attend, and the bias, for sizes `[batch, num_heads, q_len, kv_len]` and
    /// `added` more columns that everyone sees.
    pub(super) fn merge(&self, sizes: [usize; 4], added: usize) -> (Placed<bool>, Placed<f32>) {
        let hidden =
            |mask| if let Some(LayerMask::Hidden(mask)) = mask { Some(mask) } else { None };
        let scores = |mask| if let Some(LayerMask::Added(mask)) = mask { Some(mask) } else { None };
        let masks = [self.attn_mask, self.key_padding_mask];
        let visible = combine(masks.map(hidden), sizes, added, |hides| {
            !hides.into_iter().flatten().any(|hides| hides)
        });
        let bias =
            combine(masks.map(scores), sizes, added, |terms| terms.into_iter().flatten().sum());
        (visible, bias)
    }
}

/// `both` of the attention mask's element and the padding mask's, of which there may be none, for
/// each score.
fn combine<T: Copy, U>(
    [attention, padding]: [Option<&[T]>; 2],
    [batch, heads, queries, kv_len]: [usize; 4],
    added: usize,
    both: impl Fn([Option<T>; 2]) -> U,
) -> Placed<U> {
    if attention.is_none() && padding.is_none() {
        return None;
    }
    let has_heads = attention.is_some_and(|mask| mask.len() != queries * kv_len);
    let batch = if padding.is_some() || has_heads { batch } else { 1 };
    let heads = if has_heads { heads } else { 1 };
    let queries = if attention.is_some() { queries } else { 1 };
    let sizes = [batch, heads, queries, kv_len + added];
    let mut merged = Vec::with_capacity(sizes.iter().product());
    for b in 0..batch {
        for h in 0..heads {
            let plane = if has_heads { b * heads + h } else { 0 };
            for i in 0..queries {
                let of = |mask: Option<&[T]>, row, j| mask.map(|mask| mask[row * kv_len + j]);
                let pair = |j| [of(attention, plane * queries + i, j), of(padding, b, j)];
                merged.extend((0..kv_len).map(|j| both(pair(j))));
                merged.extend((0..added).map(|_| both([None, None])));
            }
        }
    }
    Some((BroadcastLayout::Sizes(sizes), merged))
}
