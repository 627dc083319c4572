//! New tokens, as a caller gives them to a cache.

use crate::problem::Layout;

/// New tokens for every sequence of a cache; both buffers need [`wgpu::BufferUsages::STORAGE`].
///
/// ```no_run
/// # use wgpu_attention::{Error, wgpu, cache::{CacheTokens, KvCache}};
/// # fn prefill(cache: &mut KvCache, encoder: &mut wgpu::CommandEncoder, key: &wgpu::Buffer, value: &wgpu::Buffer) -> Result<(), Error> {
/// // Prompts of 40 and 17 tokens, padded to 40: key and value are [2, num_kv_heads, 40, dim].
/// let tokens = CacheTokens { lens: Some(&[40, 17]), ..CacheTokens::new(key, value, 40) };
/// cache.append(encoder, &tokens)?;
/// # Ok(())
/// # }
/// ```
///
/// # Two paddings
///
/// Lengths may differ in two places, and padding stands on opposite sides:
///
/// ```text
///                             len = 5, lens[b] = 3            kv_len = 5, kv_lens[b] = 3
/// tokens of sequence b        [ -  -  t0 t1 t2]               [k0 k1 k2  -  -]
/// ```
///
/// - [`CacheTokens::lens`] takes the **last** tokens of each sequence, so that the last of the
///   `q_len = len` queries of a step is the newest token of every sequence. Queries of padding give
///   rows of out that mean nothing.
/// - [`AttentionShape::kv_lens`](crate::AttentionShape::kv_lens), which a cache sets, takes the
///   **first** keys of each sequence: in a cache, rows behind them are free.
///
/// Prompts that are padded behind their tokens are appended one at a time: `len` is the prompt's
/// own, `lens` is 0 for the others, and the layouts have the strides of the padded tensors.
#[derive(Clone, Copy, Debug)]
pub struct CacheTokens<'a> {
    /// `[batch, num_kv_heads, len, head_dim]` of the cache's element type, not rotated yet if the
    /// cache rotates.
    pub key: &'a wgpu::Buffer,
    /// `[batch, num_kv_heads, len, value_dim]`, as key.
    pub value: &'a wgpu::Buffer,
    /// Where key lies.
    pub key_layout: Layout,
    /// Where value lies.
    pub value_layout: Layout,
    /// Tokens per sequence.
    pub len: usize,
    /// How many of them each sequence takes, if not all: `[batch]`, at most `len` each, the last
    /// ones: see [two paddings](CacheTokens#two-paddings).
    pub lens: Option<&'a [usize]>,
}

impl<'a> CacheTokens<'a> {
    /// Contiguous keys and values of `len` tokens for each sequence; change any field from there.
    #[must_use]
    pub fn new(key: &'a wgpu::Buffer, value: &'a wgpu::Buffer, len: usize) -> Self {
        Self { key, value, key_layout: Layout::Bhsd, value_layout: Layout::Bhsd, len, lens: None }
    }
}
