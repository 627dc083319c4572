//! A cache of keys and values in pages, filled in the caller's encoder.

use super::pool::{PagePool, PagedSequence};
use super::ranges::to_u32;
use super::shape::{CacheRotary, PagedCacheShape};
use super::store::{CacheStore, of_store, read_by_attention};
use super::tokens::CacheTokens;
use crate::attention::AttentionBuffers;
use crate::context::Context;
use crate::error::Error;
use crate::problem::{AttentionShape, PagedKeys, PresentKeys};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Keys and values of any number of sequences, in pages of one pool. A sequence takes pages as it
/// grows, and frees them as it leaves.
///
/// [`PagedKvCache::fork`] copies nothing: sequences that begin alike share pages, and the first to
/// write into a shared page gets a copy. `append` records new tokens into your encoder. Attention
/// reads the pages where they lie, for the sequences of a [`PagedBatch`]:
///
/// ```no_run
/// # use wgpu_attention::{Align, AttentionOptions, Error, Gpu, wgpu, cache::{CacheTokens, PagedKvCache, PagedSequence}};
/// # fn step(gpu: &Gpu, cache: &mut PagedKvCache, encoder: &mut wgpu::CommandEncoder, sequences: &[PagedSequence], buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// let options = AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() };
/// let attention = gpu.attention_operator(&options)?;
/// cache.append(encoder, sequences, &CacheTokens::new(key, value, 1))?;
/// let batch = cache.batch(encoder, sequences)?;
/// let plan = attention.plan(&batch.shape(num_heads, 1))?;
/// attention.encode(encoder, &plan, &batch.buffers(query, out))?;
/// # Ok(())
/// # }
/// ```
///
/// Lengths count what has been recorded: submit encoders in the order in which they were recorded.
/// An application that drops an encoder removes the sequences that the encoder appended to. All
/// pages of one head have to fit into a binding of the device.
///
/// Source: Kwon et al. 2023, arXiv 2309.06180.
#[derive(Debug)]
pub struct PagedKvCache {
    store: CacheStore,
    shape: PagedCacheShape,
    pool: PagePool,
}

/// Some sequences of a [`PagedKvCache`] as they are now, in the caller's order, for attention that
/// is recorded into the encoder it was made for: what [`PagedKvCache::batch`] returns.
#[derive(Debug)]
pub struct PagedBatch {
    /// Attention without queries.
    keys: AttentionShape,
    lens: Vec<usize>,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
    table: wgpu::Buffer,
}

of_store! {
    PagedKvCache, PagedCacheShape, paged_kv_cache; "num_kv_heads, pages, page_len", None
}

read_by_attention! {
    PagedBatch, self => self.keys.clone(), (&self.key, &self.value, Some((&self.table).into()))
}

impl PagedKvCache {
    pub(crate) fn from_context(
        context: Arc<Context>,
        shape: &PagedCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let pool = PagePool::new(shape)?;
        shape.check_binding(&context.capabilities)?;
        let store = CacheStore::new(context, &shape.as_one_sequence()?, shape.longest(), rotary)?;
        Ok(Self { store, shape: *shape, pool })
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

    /// A new sequence that begins with the first `len` tokens of `from` and shares their pages.
    /// Nothing is recorded.
    ///
    /// # Errors
    /// As [`PagedKvCache::truncate`].
    pub fn fork(&mut self, from: PagedSequence, len: usize) -> Result<PagedSequence, Error> {
        self.pool.fork(from, len)
    }

    /// Forgets all but the first `len` tokens of a sequence. Nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cache does not hold the sequence, if it has fewer tokens, or if
    /// the prefix ends between evicted tokens.
    pub fn truncate(&mut self, sequence: PagedSequence, len: usize) -> Result<(), Error> {
        self.pool.truncate(sequence, len)
    }

    /// Frees the pages between the first `present.first` and the last `present.last` tokens of a
    /// sequence, so that it can go on for ever in a pool of few pages. Its length and the places of
    /// its tokens stay. Attention must look at no evicted token, by
    /// [`AttentionOptions::window_left`](crate::AttentionOptions::window_left): planning checks it.
    /// Nothing is recorded.
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
        self.pool.sequences.is_empty()
    }

    /// The sequences, in the order in which they came.
    pub fn sequences(&self) -> impl Iterator<Item = PagedSequence> {
        self.pool.sequences.keys().copied()
    }

    /// Pages that no sequence holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.pool.free.len()
    }

    /// Records new tokens into `encoder`, behind those that each of these sequences holds; `tokens`
    /// are `[sequences, num_kv_heads, len, dim]`. This takes two dispatches, and four or more for
    /// each shared page that is copied first. Rows of 16 bits and odd length, and such halves of a
    /// rotation, take dispatches for each sequence and each jump between its pages.
    ///
    /// # Errors
    /// [`Error::Full`] if the pool has too few free pages, [`Error::Invalid`] for a sequence that
    /// the cache does not hold or that is given twice, for more tokens than a sequence may have,
    /// and for a buffer that is too small, the cache's own or without the STORAGE usage. Nothing is
    /// recorded then, and the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &[PagedSequence],
        tokens: &CacheTokens<'_>,
    ) -> Result<(), Error> {
        let growth = self.pool.grow(sequences, tokens.len, tokens.lens)?;
        let sizes = [sequences.len(), tokens.len];
        let new = self.store.new_rows(sizes, tokens, None)?;
        let mut work = self.store.copy(&growth.copies)?;
        work.extend(self.store.append(encoder, &new, &growth.appends)?);
        self.store.bind("append to cache", &work)?.encode(encoder);
        self.pool.commit(growth);
        Ok(())
    }

    /// These sequences as they are now, for attention that is recorded into `encoder`. A sequence
    /// may be given twice. The table of their pages is uploaded to a buffer that is used again once
    /// the encoder's work is done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence that the cache does not hold, [`Error::Device`] if there
    /// is no memory for the table.
    pub fn batch(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &[PagedSequence],
    ) -> Result<PagedBatch, Error> {
        let (table, present) = self.pool.table(sequences)?;
        let lens = sequences.iter().map(|&sequence| self.pool.len(sequence));
        let lens = lens.collect::<Result<Vec<_>, _>>()?;
        let PagedCacheShape { page_len, pages, head_dim, value_dim, .. } = self.shape;
        let pages_per_sequence = table.len() / sequences.len().max(1);
        let pages = PagedKeys { page_len, pages, pages_per_sequence, present };
        Ok(PagedBatch {
            keys: AttentionShape {
                key: pages.by_head(head_dim),
                value: pages.by_head(value_dim),
                pages: Some(pages),
                ..self.store.keys(&lens)
            },
            lens,
            key: self.key().clone(),
            value: self.value().clone(),
            table: self.store.tables.upload(&self.store.context, encoder, &table)?,
        })
    }
}
