//! A cache of keys and values, filled in the caller's encoder.

use super::lens::{LenChange, change_lens};
use super::ranges::{AppendRange, CopyRange, SequenceRow, check_prefix, new_counts, to_u32};
use super::shape::{CacheRotary, KvCacheShape};
use super::store::{CacheStore, Work, of_store, read_by_attention};
use super::tokens::CacheTokens;
use crate::attention::AttentionBuffers;
use crate::buffer::output;
use crate::context::Context;
use crate::error::Error;
use crate::host::Gpu;
use crate::plan::Variant;
use crate::problem::AttentionShape;
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of the tokens so far, of fixed capacity, in two buffers that are allocated once.
///
/// `append` records new tokens into your encoder, behind those that each sequence holds; attention
/// over the cache is [`Attention`](crate::Attention) with [`KvCache::shape`] and
/// [`KvCache::buffers`]. With [`Align::BottomRight`](crate::Align) the last query of a sequence
/// stands beside its last key; the default, [`Align::TopLeft`](crate::Align), is refused where it
/// would hide the past from it:
///
/// ```no_run
/// # use wgpu_attention::{Align, AttentionOptions, Error, Gpu, wgpu, cache::{CacheTokens, KvCache}};
/// # fn step(gpu: &Gpu, cache: &mut KvCache, encoder: &mut wgpu::CommandEncoder, buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// let options = AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() };
/// let attention = gpu.attention_operator(&options)?;
/// cache.append(encoder, &CacheTokens::new(key, value, 1))?;
/// let plan = attention.plan(&cache.shape(num_heads, 1))?;
/// attention.encode(encoder, &plan, &cache.buffers(query, out))?;
/// # Ok(())
/// # }
/// ```
///
/// A step that is recorded for every token can be bound once: see [`KvCache::bind_append`].
/// Sequences that are to outgrow any capacity under a window belong in a
/// [`PagedKvCache`](crate::cache::PagedKvCache), which gives back what the window leaves behind.
///
/// Lengths count what has been recorded. An application that drops an encoder takes the encoder's
/// tokens back with [`KvCache::truncate`]. Lengths are kept twice: on the host, and in
/// [`KvCache::lens_buffer`] on the GPU, where they change in the order in which commands run.
///
/// A cache whose device is lost has lost its tokens, whatever its lengths say. It then records
/// nothing, or returns errors.
#[derive(Debug)]
pub struct KvCache {
    pub(super) store: CacheStore,
    pub(super) lens: Vec<usize>,
    /// The same on the GPU, u32 `[batch]`.
    pub(super) lens_buffer: wgpu::Buffer,
}

of_store!(KvCache, KvCacheShape, "batch, num_kv_heads, capacity");
read_by_attention!(KvCache);

impl KvCache {
    pub(crate) fn from_context(
        context: Arc<Context>,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let store = CacheStore::new(context, shape, shape.capacity, rotary)?;
        let lens_buffer = output(&store.context.device, "lengths", shape.batch as u64 * 4)?;
        Ok(Self { store, lens: vec![0; shape.batch], lens_buffer })
    }

    /// Tokens that each sequence may hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.store.shape.capacity
    }

    /// Records new tokens into `encoder`, behind those that each sequence holds. Commands that are
    /// recorded later, into the same encoder too, see them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more tokens than a sequence has capacity for, and for a buffer that
    /// is too small, the cache's own or without the STORAGE usage. Nothing is recorded then, and
    /// the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        tokens: &CacheTokens<'_>,
    ) -> Result<(), Error> {
        let counts = new_counts(&self.lens, self.capacity(), tokens.len, tokens.lens)?;
        let ranges = AppendRange::behind(&self.lens, &counts, tokens.len);
        let sizes = [self.lens.len(), tokens.len];
        let new = self.store.new_rows(sizes, tokens, Some(&self.lens_buffer))?;
        let mut work = self.store.append(encoder, sizes, &new, &ranges)?;
        let set = |range: &AppendRange| {
            self.change_lens(range.sequences.clone(), LenChange::Set(range.end()))
        };
        work.extend(ranges.iter().map(set));
        self.store.record(encoder, "append to cache", &work)?;
        self.lens.iter_mut().zip(counts).for_each(|(len, count)| *len += count);
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
        self.store.record(encoder, "truncate cache", &[self.set_len(sequence, len)])?;
        self.lens[sequence] = len;
        Ok(())
    }

    /// Records into `encoder` that all tokens of all sequences are forgotten.
    ///
    /// # Errors
    /// [`Error::Shader`] or [`Error::Device`] for what the device refuses.
    pub fn reset(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let set = self.change_lens(0..to_u32(self.lens.len()), LenChange::Set(0));
        self.store.record(encoder, "reset cache", &[set])?;
        self.lens.fill(0);
        Ok(())
    }

    /// Records into `encoder` that sequence `to` becomes a copy of the first `len` tokens of
    /// `from`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no such sequences, or `from` holds fewer; the cache is as it
    /// was then.
    pub fn fork(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        from: usize,
        to: usize,
        len: usize,
    ) -> Result<(), Error> {
        self.check_prefix("from", from, len)?;
        self.check_prefix("to", to, 0)?;
        let first = |sequence| SequenceRow { sequence: to_u32(sequence), row: 0 };
        let copy = CopyRange { from: first(from), to: first(to), count: to_u32(len) };
        let copies = if from != to && len > 0 { &[copy][..] } else { &[] };
        let mut work = self.store.copy(copies)?;
        work.push(self.set_len(to, len));
        self.store.record(encoder, "fork cache", &work)?;
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
        check_prefix(len, held)
    }

    /// Work that changes the lengths of some sequences on the GPU.
    pub(super) fn change_lens(&self, sequences: Range<u32>, change: LenChange) -> Work {
        let CacheStore { shape, context, .. } = &self.store;
        change_lens(&self.lens_buffer, shape, &context.capabilities, sequences, change)
    }

    fn set_len(&self, sequence: usize, len: usize) -> Work {
        let sequence = to_u32(sequence);
        self.change_lens(sequence..sequence + 1, LenChange::Set(to_u32(len)))
    }

    fn lens_variant(&self) -> Option<Variant> {
        let change = self.change_lens(0..to_u32(self.lens.len()), LenChange::Set(0));
        change.dispatches.into_iter().next().map(|dispatch| dispatch.variant)
    }

    fn keys(&self) -> AttentionShape {
        self.store.keys(&self.lens)
    }

    fn key_buffers(&self) -> (&wgpu::Buffer, &wgpu::Buffer, Option<&wgpu::Buffer>) {
        (self.key(), self.value(), None)
    }
}

impl Gpu {
    /// An empty cache of keys and values on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn kv_cache(
        &self,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<KvCache, Error> {
        KvCache::from_context(self.context.clone(), shape, rotary)
    }
}
