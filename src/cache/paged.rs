//! A cache of keys and values in pages, filled in the caller's encoder.

use super::pool::{PagePool, PageTable, PagedCacheShape, PagedSequence, PoolExcess};
use super::shape::CacheRotary;
use super::store::{CacheStore, CacheTokens, Move, positions};
use crate::context::{Context, Footprint};
use crate::device::Capabilities;
use crate::error::Error;
use crate::ops::AttentionBuffers;
use crate::problem::{AttentionShape, Layout, PagedKeys, PresentKeys};
use std::sync::Arc;

/// Keys and values of any number of sequences in pages of one pool, which are taken as sequences grow and freed as they leave.
///
/// Sequences that begin alike share pages: [`PagedKvCache::fork`] copies nothing, and the first to write into a page that another
/// still reads gets a copy of its own. `append` records new tokens into your encoder; attention reads the pages where they
/// lie, for the sequences of a [`PagedBatch`]:
///
/// ```no_run
/// # use wgpu_attention::{Align, AttentionOptions, CacheTokens, Error, Gpu, PagedKvCache, PagedSequence, wgpu};
/// # fn step(gpu: &Gpu, cache: &mut PagedKvCache, encoder: &mut wgpu::CommandEncoder, sequences: &[PagedSequence], buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// let options = AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() };
/// let attention = gpu.operator(&options)?;
/// cache.append(encoder, sequences, &CacheTokens::new(key, value, 1))?;
/// let batch = cache.batch(encoder, sequences)?;
/// let plan = attention.plan(&batch.shape(num_heads, 1))?;
/// attention.encode(encoder, &plan, &batch.buffers(query, out))?;
/// # Ok(())
/// # }
/// ```
///
/// Lengths count what has been recorded, so encoders have to be submitted in the order in which they were recorded; whoever drops
/// one removes the sequences whose tokens it held.
///
/// Source: Kwon et al. 2023, arXiv 2309.06180.
#[derive(Debug)]
pub struct PagedKvCache {
    store: CacheStore,
    shape: PagedCacheShape,
    pool: PagePool,
}

/// Some sequences of a [`PagedKvCache`] as they are now, in an order of the caller's, for attention recorded into the encoder
/// that it was made for.
#[derive(Debug)]
pub struct PagedBatch {
    shape: PagedCacheShape,
    pages_per_sequence: usize,
    present: Option<PresentKeys>,
    lens: Vec<usize>,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
    table: wgpu::Buffer,
    layouts: [Layout; 2],
}

impl PagedKvCache {
    /// A cache without sequences on your device, with pipelines of its own: those of one [`Gpu`](crate::Gpu) share them.
    /// With `rotary`, new keys are rotated on their way in, by tables of
    /// [`PagedCacheShape::longest`] rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape or table that cannot be, [`Error::Unsupported`] or [`Error::Device`] if the device has
    /// no room for it: all pages of one head have to fit into a binding, and the error says how many do.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &PagedCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let context = Context::new(device, queue, Capabilities::of(device));
        Self::from_context(Arc::new(context), shape, rotary)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        shape: &PagedCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let problem = shape.problem(rotary)?;
        let Capabilities { binding_size, storage_alignment, .. } = context.capabilities;
        let refuse = |PoolExcess { expected, pages }| Error::Unsupported {
            what: "bytes of one storage binding",
            expected: format!(
                "at least {expected} for one head of a pool of {} pages",
                shape.pages
            ),
            found: format!("{binding_size}, in which {pages} pages fit"),
        };
        shape.check_heads(binding_size, storage_alignment.into()).map_err(refuse)?;
        let store = CacheStore::new(context, problem, rotary)?;
        Ok(Self { store, shape: *shape, pool: PagePool::new(shape)? })
    }

    /// A new sequence without tokens; it takes its first page with its first token.
    pub fn add(&mut self) -> PagedSequence {
        self.pool.add()
    }

    /// Forgets a sequence; pages that no other holds are free. Nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold it.
    pub fn remove(&mut self, sequence: PagedSequence) -> Result<(), Error> {
        self.pool.remove(sequence)
    }

    /// A new sequence that begins with the first `len` tokens of `from` and shares their pages. Nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold `from`, or `from` fewer tokens, or not all of the last page of these.
    pub fn fork(&mut self, from: PagedSequence, len: usize) -> Result<PagedSequence, Error> {
        self.pool.fork(from, len)
    }

    /// Forgets all but the first `len` tokens of a sequence. Nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold it, or it fewer tokens, or not all of the last page of these.
    pub fn truncate(&mut self, sequence: PagedSequence, len: usize) -> Result<(), Error> {
        self.pool.truncate(sequence, len)
    }

    /// Frees the pages that hold none of the first `present.first` and the last `present.last` tokens of a sequence, which may then go on
    /// for ever in a pool of few pages. Its length stays what it is, and so do the places of its tokens. Attention has to look at no
    /// others: through [`AttentionOptions::window_left`](crate::AttentionOptions::window_left) and
    /// [`AttentionOptions::window_keeps`](crate::AttentionOptions::window_keeps), which planning checks. Nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold it.
    pub fn evict(&mut self, sequence: PagedSequence, present: PresentKeys) -> Result<(), Error> {
        self.pool.evict(sequence, present)
    }

    /// Tokens that a sequence has taken.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold it.
    pub fn len(&self, sequence: PagedSequence) -> Result<usize, Error> {
        self.pool.len(sequence)
    }

    /// Whether there are no sequences.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pool.sequences().next().is_none()
    }

    /// The sequences, in the order in which they came.
    pub fn sequences(&self) -> impl Iterator<Item = PagedSequence> {
        self.pool.sequences()
    }

    /// Pages that no sequence holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.pool.free_pages()
    }

    /// The keys, `[num_kv_heads, pages, page_len, head_dim]`, which can be copied from.
    #[must_use]
    pub fn key(&self) -> &wgpu::Buffer {
        &self.store.key
    }

    /// The values, `[num_kv_heads, pages, page_len, value_dim]`, which can be copied from.
    #[must_use]
    pub fn value(&self) -> &wgpu::Buffer {
        &self.store.value
    }

    /// The cosines and sines that keys are rotated by: [`Rotary`](crate::Rotary) turns queries by the same.
    #[must_use]
    pub fn tables(&self) -> Option<[&wgpu::Buffer; 2]> {
        self.store.tables()
    }

    /// What has been made on this cache's device so far, its own buffers aside.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.store.footprint()
    }

    /// Compiles what contiguous new tokens need now rather than at the first `append`, and reports what the shader compiler
    /// says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self) -> Result<(), Error> {
        // Of a pool that nobody uses, one token of one sequence.
        let mut pool = PagePool::new(&self.shape)?;
        let sequence = pool.add();
        let len = self.shape.pages.min(self.shape.longest).min(1);
        self.store.prepare([1, len], &pool.grow(&[sequence], len, None)?.runs, true).await
    }

    /// As [`PagedKvCache::prepare`], blocking.
    ///
    /// # Errors
    /// As [`PagedKvCache::prepare`].
    pub fn prepare_blocking(&self) -> Result<(), Error> {
        pollster::block_on(self.prepare())
    }

    /// Records new tokens into `encoder`, behind those that each of these sequences holds; `tokens` are
    /// `[sequences, num_kv_heads, len, dim]`. Two dispatches, for keys and for values; eight more, mostly, for a copy of a page that
    /// others read too. Rows of 16 bits and odd length, and such halves of a rotation, take two for each sequence and each jump between
    /// its pages.
    ///
    /// # Errors
    /// [`Error::Full`] if the pool has too few free pages, [`Error::Invalid`] for a sequence that the cache does not hold or that is given
    /// twice, for more tokens than a sequence may have, and for a buffer that is too small, the cache's own or without the STORAGE
    /// usage. Nothing is recorded then, and the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &[PagedSequence],
        tokens: &CacheTokens<'_>,
    ) -> Result<(), Error> {
        let growth = self.pool.grow(sequences, tokens.len, tokens.lens)?;
        let moves: Vec<Move> = growth
            .copies
            .iter()
            .map(|&[from, to, count]| Move { places: [[0, from], [0, to]], count })
            .collect();
        self.store.append(encoder, sequences.len(), tokens, (&moves, &growth.runs), None)?;
        self.pool.commit(growth);
        Ok(())
    }

    /// These sequences as they are now, for attention that is recorded into `encoder`. A sequence may be given twice.
    ///
    /// The table of their pages is uploaded to a buffer that no other batch writes until the encoder's work is done; buffers are used
    /// again, so that steps of one size make none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence that the cache does not hold, [`Error::Device`] if there is no room for the table.
    pub fn batch(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &[PagedSequence],
    ) -> Result<PagedBatch, Error> {
        let PageTable { lens, pages, pages_per_sequence, present } = self.pool.table(sequences)?;
        let (lease, table) = self.store.uploads.lease(bytemuck::cast_slice(&pages))?;
        encoder.on_submitted_work_done(move || drop(lease));
        let page_len = self.shape.page_len;
        let rows = [&self.store.problem.key, &self.store.problem.value];
        Ok(PagedBatch {
            shape: self.shape,
            pages_per_sequence,
            present,
            lens,
            key: self.store.key.clone(),
            value: self.store.value.clone(),
            table,
            layouts: rows.map(|rows| rows.paged_layout(page_len)),
        })
    }
}

impl PagedBatch {
    /// Tokens that each sequence holds.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The places of the last `q_len` tokens of each sequence, `[batch, q_len]`, for
    /// [`TableRows::Named`](crate::TableRows::Named); 0 before the first.
    #[must_use]
    pub fn positions(&self, q_len: usize) -> Vec<u32> {
        positions(&self.lens, q_len)
    }

    /// Attention of `q_len` queries to what the sequences hold; change any field but those of keys and values from there.
    /// `kv_len` is the longest sequence, `kv_lens` are given if they differ. Causality, windows and ALiBi need
    /// [`Align::BottomRight`](crate::Align).
    #[must_use]
    pub fn shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
        let PagedCacheShape { num_kv_heads, page_len, pages, head_dim, value_dim, element, .. } =
            self.shape;
        let longest = self.lens.iter().copied().max().unwrap_or_default();
        let is_ragged = self.lens.iter().any(|&len| len != longest);
        let [key, value] = self.layouts;
        let (pages_per_sequence, present) = (self.pages_per_sequence, self.present);
        AttentionShape {
            num_kv_heads,
            kv_len: longest,
            kv_lens: is_ragged.then(|| self.lens.clone()),
            value_dim,
            element,
            key,
            value,
            cached: true,
            pages: Some(PagedKeys { page_len, pages, pages_per_sequence, present }),
            ..AttentionShape::new(self.lens.len(), num_heads, q_len, head_dim)
        }
    }

    /// The buffers of a call with [`PagedBatch::shape`]; add optional ones by struct update.
    #[must_use]
    pub fn buffers<'a>(
        &'a self,
        query: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> AttentionBuffers<'a> {
        let pages = Some(&self.table);
        AttentionBuffers { pages, ..AttentionBuffers::new(query, &self.key, &self.value, out) }
    }
}
