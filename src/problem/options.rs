//! What the scores go through: scale, softcap, causality, windows.

/// Options of attention, independent of each other; every way of hiding a key applies together.
///
/// ```
/// use wgpu_attention::{Align, AttentionOptions};
/// // Each query sees itself and the 127 keys before it; the last query stands beside the last key.
/// let options = AttentionOptions {
///     causal: true,
///     window_left: Some(127),
///     align: Align::BottomRight,
///     ..AttentionOptions::default()
/// };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores; `1 / sqrt(head_dim)` if not given. Any finite number.
    pub scale: Option<f32>,
    /// `softcap * tanh(score / softcap)`, before bias and masks. Finite and positive.
    pub softcap: Option<f32>,
    /// Key `j` is seen by query `i` only if `j <= i + offset`, see [`Align`].
    pub causal: bool,
    /// Key `j` is seen by query `i` only if `j >= i + offset - window_left`.
    pub window_left: Option<usize>,
    /// The first keys of each sequence that `window_left` does not hide. Four let a model that was
    /// trained without a window go on in one. Source: Xiao et al. 2023, arXiv 2309.17453.
    pub window_keeps: usize,
    /// Key `j` is seen by query `i` only if `j <= i + offset + window_right`.
    pub window_right: Option<usize>,
    /// The offset that `causal`, the windows and ALiBi count from.
    pub align: Align,
}

/// Which key stands beside which query: query `i` stands at key `i + offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Align {
    /// Offset 0: the first query stands beside the first key (PyTorch's `is_causal`). Refused for
    /// the shapes of a cache, whose queries are the last tokens.
    #[default]
    TopLeft,
    /// Offset `kv_len - q_len`: the last query stands beside the last key (FlashAttention from 2.1
    /// on). With more queries than keys the first rows see nothing.
    BottomRight,
    /// The offset itself: with a cache, the number of cached keys. May be negative.
    Offset(i64),
}
