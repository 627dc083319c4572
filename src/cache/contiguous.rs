//! A cache of keys and values, filled in the caller's encoder.

use super::lens::cache_lens;
use super::shape::{CacheProblem, CacheRotary, KvCacheShape, check_held};
use super::store::{CacheStore, CacheTokens, LensChange, Move, positions};
use crate::buffer::output;
use crate::context::{Context, Footprint};
use crate::device::Capabilities;
use crate::error::Error;
use crate::ops::AttentionBuffers;
use crate::plan::Dispatch;
use crate::problem::{AttentionShape, length};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of the tokens so far, of fixed capacity, in two buffers that are allocated once.
///
/// `append` records new tokens into your encoder, behind those that each sequence holds; attention over the cache is
/// [`Attention`](crate::Attention) with [`KvCache::shape`] and [`KvCache::buffers`]. With
/// [`Align::BottomRight`](crate::Align) the last query of a sequence stands beside its last key; the default,
/// [`Align::TopLeft`](crate::Align), is refused where it would hide the past from it:
///
/// ```no_run
/// # use wgpu_attention::{Align, AttentionOptions, CacheTokens, Error, Gpu, KvCache, wgpu};
/// # fn step(gpu: &Gpu, cache: &mut KvCache, encoder: &mut wgpu::CommandEncoder, buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// let options = AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() };
/// let attention = gpu.operator(&options)?;
/// cache.append(encoder, &CacheTokens::new(key, value, 1))?;
/// let plan = attention.plan(&cache.shape(num_heads, 1))?;
/// attention.encode(encoder, &plan, &cache.buffers(query, out))?;
/// # Ok(())
/// # }
/// ```
///
/// A step that is recorded for every token can be bound once: see [`KvCache::bind_append`]. Sequences that are to outgrow any capacity
/// under a window belong in a [`PagedKvCache`](crate::PagedKvCache), which gives back what the window leaves behind.
///
/// Lengths count what has been recorded: whoever drops an encoder takes its tokens back with [`KvCache::truncate`]. They are held
/// twice, here and, in the order of what is recorded, on the GPU: [`KvCache::lens_buffer`].
///
/// Once its device is lost a cache has lost what it held, whatever its lengths say: what it records is then errors, or nothing.
#[derive(Debug)]
pub struct KvCache {
    pub(super) store: CacheStore,
    pub(super) lens: Vec<usize>,
    /// The same on the GPU, u32 `[batch]`.
    pub(super) lens_buffer: wgpu::Buffer,
}

impl KvCache {
    /// An empty cache on your device, with pipelines of its own: those of one [`Gpu`](crate::Gpu) share them.
    /// With `rotary`, new keys are rotated on their way in.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape or table that cannot be, [`Error::Unsupported`] or [`Error::Device`] if the device has
    /// no room for it.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let context = Context::new(device, queue, Capabilities::of(device));
        Self::from_context(Arc::new(context), shape, rotary)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let problem = CacheProblem::new(shape, shape.capacity, rotary)?;
        let store = CacheStore::new(context, problem, rotary)?;
        let lens = vec![0; shape.batch];
        let lens_buffer = output(&store.context.device, "lengths", shape.batch as u64 * 4)?;
        Ok(Self { store, lens, lens_buffer })
    }

    /// Tokens that each sequence holds.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Tokens that each sequence has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.store.problem.shape.capacity
    }

    /// The keys, `[batch, num_kv_heads, capacity, head_dim]`, which can be copied from.
    #[must_use]
    pub fn key(&self) -> &wgpu::Buffer {
        &self.store.key
    }

    /// The values, `[batch, num_kv_heads, capacity, value_dim]`, which can be copied from.
    #[must_use]
    pub fn value(&self) -> &wgpu::Buffer {
        &self.store.value
    }

    /// The cosines and sines that keys are rotated by: [`Rotary`](crate::Rotary) turns queries by the same.
    #[must_use]
    pub fn tables(&self) -> Option<[&wgpu::Buffer; 2]> {
        self.store.tables()
    }

    /// The places of the last `q_len` tokens of each sequence, `[batch, q_len]`, for
    /// [`TableRows::Named`](crate::TableRows::Named); 0 before the first.
    #[must_use]
    pub fn positions(&self, q_len: usize) -> Vec<u32> {
        positions(&self.lens, q_len)
    }

    /// Attention of `q_len` queries to what the cache holds now; change any field but those of keys and values from there.
    /// `kv_len` is the longest sequence, `kv_lens` are given if they differ. Causality, windows and ALiBi need
    /// [`Align::BottomRight`](crate::Align).
    #[must_use]
    pub fn shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
        let CacheProblem { shape, key, value } = &self.store.problem;
        let longest = self.lens.iter().copied().max().unwrap_or_default();
        let is_ragged = self.lens.iter().any(|&len| len != longest);
        AttentionShape {
            num_kv_heads: shape.num_kv_heads,
            kv_len: longest,
            kv_lens: is_ragged.then(|| self.lens.clone()),
            value_dim: shape.value_dim,
            element: shape.element,
            key: key.layout(),
            value: value.layout(),
            cached: true,
            ..AttentionShape::new(shape.batch, num_heads, q_len, shape.head_dim)
        }
    }

    /// The buffers of a call with [`KvCache::shape`]; add optional ones by struct update.
    #[must_use]
    pub fn buffers<'a>(
        &'a self,
        query: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> AttentionBuffers<'a> {
        self.store.buffers(query, out)
    }

    /// Compiles what contiguous new tokens need now rather than at the first `append`, and reports what the shader compiler
    /// says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self) -> Result<(), Error> {
        let len = self.capacity().min(1);
        let batch = self.lens.len();
        let (_, runs) = self.store.problem.runs(&vec![0; batch], len, None)?;
        self.store.prepare([batch, len], &runs, batch > 1).await?;
        let lens = self.set_lens(0..self.store.problem.batch(), 0);
        self.store.context.pipelines.prepare(&[lens.variant]).await
    }

    /// As [`KvCache::prepare`], blocking.
    ///
    /// # Errors
    /// As [`KvCache::prepare`].
    pub fn prepare_blocking(&self) -> Result<(), Error> {
        pollster::block_on(self.prepare())
    }

    /// What has been made on this cache's device so far, its own buffers aside.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.store.footprint()
    }

    /// Records new tokens into `encoder`, behind those that each sequence holds. What reads the cache later in the same
    /// encoder sees them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more tokens than a sequence has room for, and for a buffer that is too small, the cache's own or
    /// without the STORAGE usage. Nothing is recorded then, and the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        tokens: &CacheTokens<'_>,
    ) -> Result<(), Error> {
        let (lens, runs) = self.store.problem.runs(&self.lens, tokens.len, tokens.lens)?;
        let set: Vec<_> = runs.iter().map(|run| self.set_lens(run.batches(), run.end())).collect();
        let change = Some(self.changed(&set));
        self.store.append(encoder, self.lens.len(), tokens, (&[], &runs), change)?;
        self.lens = lens;
        Ok(())
    }

    /// Records into `encoder` that all but the first `len` tokens of a sequence are forgotten.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such sequence, or it holds fewer.
    pub fn truncate(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequence: usize,
        len: usize,
    ) -> Result<(), Error> {
        self.check_prefix("sequence", sequence, len)?;
        let set = [self.set_len(sequence, len)];
        self.store.relocate(encoder, &[], Some(self.changed(&set)))?;
        self.lens[sequence] = len;
        Ok(())
    }

    /// Records into `encoder` that all tokens of all sequences are forgotten.
    ///
    /// # Errors
    /// [`Error::Shader`] or [`Error::Device`] for what the device refuses.
    pub fn reset(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let set = [self.set_lens(0..self.store.problem.batch(), 0)];
        self.store.relocate(encoder, &[], Some(self.changed(&set)))?;
        self.lens.fill(0);
        Ok(())
    }

    /// Records into `encoder` that sequence `to` becomes a copy of the first `len` tokens of `from`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no such sequences, or `from` holds fewer; the cache is as it was then.
    pub fn fork(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        from: usize,
        to: usize,
        len: usize,
    ) -> Result<(), Error> {
        self.check_prefix("from", from, len)?;
        self.check_prefix("to", to, 0)?;
        let set = [self.set_len(to, len)];
        let mut moves = Vec::new();
        if from != to && len > 0 {
            let [from, to, count] = [length("from", from)?, length("to", to)?, length("len", len)?];
            moves.push(Move { places: [[from, 0], [to, 0]], count });
        }
        self.store.relocate(encoder, &moves, Some(self.changed(&set)))?;
        self.lens[to] = len;
        Ok(())
    }

    fn check_prefix(
        &self,
        argument: &'static str,
        sequence: usize,
        len: usize,
    ) -> Result<(), Error> {
        let Some(&held) = self.lens.get(sequence) else {
            let expected = format!("one of {} sequences", self.lens.len());
            return Err(Error::invalid(argument, expected, sequence));
        };
        check_held(len, held)
    }

    /// That some sequences hold `len` tokens.
    fn set_lens(&self, batches: Range<u32>, len: u32) -> Dispatch {
        self.change_lens(batches, [0, len])
    }

    /// That a sequence holds `len` tokens, at most its capacity.
    fn set_len(&self, sequence: usize, len: usize) -> Dispatch {
        let [sequence, len] = [sequence, len].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        self.set_lens(sequence..sequence.saturating_add(1), len)
    }

    /// That some sequences hold 0 or 1 times as many tokens as before, and so many more.
    pub(super) fn change_lens(&self, batches: Range<u32>, change: [u32; 2]) -> Dispatch {
        let sizes = [self.store.problem.batch(), self.store.problem.capacity()];
        cache_lens(batches, change, sizes, &self.store.context.capabilities)
    }

    /// These changes, of this cache's lengths.
    pub(super) fn changed<'a>(&'a self, dispatches: &'a [Dispatch]) -> LensChange<'a> {
        LensChange { lens: &self.lens_buffer, dispatches }
    }
}
