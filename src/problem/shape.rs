//! The sizes of an attention call, where its tensors lie, and which optional tensors it has.

use crate::element::ElementType;
use crate::error::Error;
use crate::tensor::{Spec, Tensor};
use crate::view::{
    BroadcastLayout, Layout, Sizes, Strides, View, resolve, resolve_broadcast, resolve_output,
};

/// Sizes, layouts, and the optional inputs and outputs of one attention call.
///
/// Write it as [`AttentionShape::new`] and a struct update: later versions add fields, each with a
/// default that changes nothing. `batch`, `q_len` and `kv_len` may be zero.
///
/// ```
/// use wgpu_attention::{AttentionShape, Layout};
/// // 8 query heads share 2 key/value heads; tensors lie as [batch, len, heads, dim].
/// let shape = AttentionShape {
///     num_kv_heads: 2,
///     kv_len: 640,
///     lse: Some(Layout::Bhsd),
///     ..AttentionShape::new(1, 8, 512, 64)
/// }
/// .with_layout(Layout::Bshd);
/// assert_eq!(shape.value_dim, 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key/value heads; divides `num_heads`. Query head `h` reads key/value head
    /// `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Number of queries per sequence.
    pub q_len: usize,
    /// Number of keys per sequence.
    pub kv_len: usize,
    /// How many of its keys each sequence has, if not all: `[batch]`, at most `kv_len` each. Keys
    /// behind them are hidden; in a cache padding stands elsewhere, see
    /// [two paddings](crate::cache::CacheTokens#two-paddings).
    /// [`Align::BottomRight`](crate::Align) is at each sequence's own last key.
    pub kv_lens: Option<Vec<usize>>,
    /// Whether the GPU reads `kv_lens` from a buffer when the call runs: u32 `[batch]`. One call
    /// can then be recorded again as sequences grow. `kv_len` is how many keys there is room for.
    pub lens: bool,
    /// Sequences of different lengths, one after the other; then `batch` is 1.
    pub cu_seqlens: Option<CuSeqlens>,
    /// Length of a query and of a key vector.
    pub head_dim: usize,
    /// Length of a value and of an output vector.
    pub value_dim: usize,
    /// What query, key, value and out are stored as.
    pub element: ElementType,
    /// Where query `[batch, num_heads, q_len, head_dim]` lies.
    pub query: Layout,
    /// Where key `[batch, num_kv_heads, kv_len, head_dim]` lies.
    pub key: Layout,
    /// Where value `[batch, num_kv_heads, kv_len, value_dim]` lies.
    pub value: Layout,
    /// Where out `[batch, num_heads, q_len, value_dim]` goes.
    pub out: Layout,
    /// A boolean mask `[batch, num_heads, q_len, kv_len]`, true = attend.
    pub mask: Option<BroadcastLayout>,
    /// A bias `[batch, num_heads, q_len, kv_len]` added to the scores; only `-inf` hides a key.
    pub bias: Option<BroadcastLayout>,
    /// ALiBi slopes: `score -= slope * |i + offset - j|`.
    pub alibi: Option<AlibiLayout>,
    /// Documents: a query sees the keys that have its segment id, and no others. Not beside
    /// `cu_seqlens`.
    pub segments: Option<SegmentLayout>,
    /// Keys and values lie in pages of one pool, in the [order](PagedKeys#order-of-the-pool) that
    /// their layouts say; not beside `cu_seqlens`.
    pub pages: Option<PagedKeys>,
    /// Keys and values are those of a cache, whose last tokens the queries are. With causality, a
    /// window or ALiBi, [`Align::TopLeft`](crate::Align) is then refused: under it queries would
    /// not see their own past.
    pub cached: bool,
    /// Attention sinks, a logit for each query head, which has no value: weights are `exp(score_j)
    /// / (exp(sink) + sum_j exp(score_j))`.
    ///
    /// It is neither scaled nor capped, and nothing hides it. lse includes it: a row that sees no
    /// key has lse the sink. A sink of `-inf` adds nothing; NaN or `+inf` turns each row of its
    /// head that sees a key to NaN. Of results over parts of the keys that will be
    /// [merged](crate::layers::Merge), one has the sinks.
    ///
    /// Source: Xiao et al. 2023, arXiv 2309.17453, section 3.2; as a number that each head learns,
    /// gpt-oss, arXiv 2508.10925.
    pub sinks: bool,
    /// Ask for lse, the natural log of each row's sum of exponentials, `[batch, num_heads, q_len]`.
    pub lse: Option<Layout>,
    /// Ask for the attention weights `[batch, num_heads, q_len, kv_len]`: a second pass over the
    /// keys stores them, or the three-stage path where a dim is too long for `forward`.
    pub weights: Option<Layout>,
    /// Ask for `scale * q . k`, sized as `weights`; takes the three-stage path.
    pub raw_scores: Option<Layout>,
    /// Ask for the scores after softcap, sized as `weights`; takes the three-stage path.
    pub capped_scores: Option<Layout>,
    /// Ask for the scores after bias and masks, `-inf` where hidden, sized as `weights`; takes the
    /// three-stage path.
    pub masked_scores: Option<Layout>,
}

/// Where sequences begin and end in a batch without padding: sequence `b` owns queries
/// `query[b]..query[b + 1]` and keys `key[b]..key[b + 1]`, and attends within itself.
///
/// `q_len` and `kv_len` are the totals, and tensors lie as if they were one sequence:
/// `Layout::Bshd` is `[total, heads, dim]`. Each sequence is aligned by itself. Not beside a mask,
/// a bias, `kv_lens`, `lens`, weights or scores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CuSeqlens {
    /// `[sequences + 1]`, from 0 to `q_len`, never falling.
    pub query: Vec<usize>,
    /// `[sequences + 1]`, from 0 to `kv_len`, never falling.
    pub key: Vec<usize>,
}

/// How the ALiBi slopes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlibiLayout {
    /// `[num_heads]`, the same for every sequence.
    PerHead,
    /// `[batch, num_heads]`; with `cu_seqlens`, `[sequences, num_heads]`.
    PerBatchAndHead,
}

/// How the segment ids lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentLayout {
    /// `[batch, q_len]` of the queries, then `[batch, kv_len]` of the keys.
    PerSide,
    /// `[batch, len]`, the same for queries and keys, which are as many.
    Shared,
}

/// How keys and values lie in pages: key `j` of sequence `b` is row `j % page_len` of the page that
/// the table `[batch, pages_per_sequence]` names at `[b, j / page_len]`.
///
/// Sequences may share pages. On the GPU a number past the last page is taken for the last one;
/// entries of pages that a sequence does not reach are never read.
///
/// # Order of the pool
///
/// The layouts of [`AttentionShape::key`] and [`AttentionShape::value`] are of the pool, with pages
/// in place of sequences:
///
/// | pool | layout |
/// |---|---|
/// | `[num_kv_heads, pages, page_len, dim]`, as a [`PagedKvCache`](crate::cache::PagedKvCache)'s | [`PagedKeys::by_head`] |
/// | `[pages, num_kv_heads, page_len, dim]` | [`Layout::Bhsd`] |
/// | `[pages, page_len, num_kv_heads, dim]` | [`Layout::Bshd`] |
/// | any other | [`Layout::Strided`]: `batch` from page to page, `head`, and `row` from key to key |
///
/// Prefer a pool by head: its heads can be read one after the other if it is larger than a binding.
///
/// Source: Kwon et al. 2023, arXiv 2309.06180.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagedKeys {
    /// Keys of a page: a power of two from 16 to 256.
    pub page_len: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Entries of a sequence in the table: enough for `kv_len` keys, or more.
    pub pages_per_sequence: usize,
    /// What is there of each sequence's keys; none: all. Options have to hide the others, whose
    /// entries name any page.
    pub present: Option<PresentKeys>,
}

/// Keys of a sequence that are there once others have been evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresentKeys {
    /// So many first ones: at least
    /// [`AttentionOptions::window_keeps`](crate::AttentionOptions::window_keeps).
    pub first: usize,
    /// So many last ones: at least `q_len` and
    /// [`AttentionOptions::window_left`](crate::AttentionOptions::window_left) together.
    pub last: usize,
}

impl PagedKeys {
    /// Pages that hold all keys.
    #[must_use]
    pub fn new(page_len: usize, pages: usize, pages_per_sequence: usize) -> Self {
        Self { page_len, pages, pages_per_sequence, present: None }
    }

    /// The layout of a pool `[num_kv_heads, pages, page_len, dim]`: see
    /// [order of the pool](PagedKeys#order-of-the-pool).
    #[must_use]
    pub fn by_head(&self, dim: usize) -> Layout {
        let page = self.page_len.saturating_mul(dim);
        let head = page.saturating_mul(self.pages);
        Layout::Strided(Strides { offset: 0, batch: page, head, row: dim })
    }
}

impl AttentionShape {
    /// Self-attention over contiguous `[batch, num_heads, len, head_dim]` tensors; change any field
    /// from there.
    #[must_use]
    pub fn new(batch: usize, num_heads: usize, len: usize, head_dim: usize) -> Self {
        Self {
            batch,
            num_heads,
            num_kv_heads: num_heads,
            q_len: len,
            kv_len: len,
            kv_lens: None,
            lens: false,
            cu_seqlens: None,
            head_dim,
            value_dim: head_dim,
            element: ElementType::F32,
            query: Layout::Bhsd,
            key: Layout::Bhsd,
            value: Layout::Bhsd,
            out: Layout::Bhsd,
            mask: None,
            bias: None,
            alibi: None,
            segments: None,
            pages: None,
            cached: false,
            sinks: false,
            lse: None,
            weights: None,
            raw_scores: None,
            capped_scores: None,
            masked_scores: None,
        }
    }

    /// The same shape with query, key, value and out all in `layout`.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        (self.query, self.key, self.value, self.out) = (layout, layout, layout, layout);
        self
    }

    /// The same with these lengths in place of those of a buffer, if it has any.
    pub(crate) fn with_lens(&self, lens: Option<&[u32]>) -> Self {
        let Some(lens) = lens.filter(|_| self.lens) else { return self.clone() };
        let kv_lens = Some(lens.iter().map(|&len| len as usize).collect());
        Self { lens: false, kv_lens, ..self.clone() }
    }

    /// Where a tensor lies, if the call has it; `sizes` is how many it has along each axis.
    pub(super) fn view(&self, tensor: Tensor, mut sizes: Sizes) -> Result<Option<View>, Error> {
        let Spec { name, is_output, .. } = tensor.spec();
        let broadcast = |layout: BroadcastLayout| resolve_broadcast(name, sizes, layout).map(Some);
        let dense = |is_given: bool| is_given.then_some(Layout::Bhsd);
        let layout = match tensor {
            Tensor::Query => Some(self.query),
            Tensor::Key => Some(self.key),
            Tensor::Value => Some(self.value),
            Tensor::Mask => return self.mask.map_or(Ok(None), broadcast),
            Tensor::Bias => return self.bias.map_or(Ok(None), broadcast),
            Tensor::AlibiSlopes => dense(self.alibi.is_some()),
            Tensor::Segments | Tensor::KeySegments => dense(self.segments.is_some()),
            Tensor::Lens => dense(self.lens),
            Tensor::Pages => dense(self.pages.is_some()),
            Tensor::Sinks => dense(self.sinks),
            Tensor::Out => Some(self.out),
            Tensor::Lse => self.lse,
            Tensor::Weights => self.weights,
            Tensor::RawScores => self.raw_scores,
            Tensor::CappedScores => self.capped_scores,
            Tensor::MaskedScores => self.masked_scores,
            _ => None,
        };
        match (tensor, self.alibi, self.pages) {
            // One sequence's are those of all.
            (Tensor::AlibiSlopes, Some(AlibiLayout::PerHead), _) => sizes[0] = 1,
            (Tensor::Pages, _, Some(pages)) => sizes[2] = pages.pages_per_sequence,
            _ => {}
        }
        let resolve = if is_output { resolve_output } else { resolve };
        layout.map(|layout| resolve(name, sizes, layout)).transpose()
    }
}
