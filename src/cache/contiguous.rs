//! A cache of keys and values, filled in the caller's encoder.

use super::ranges::{AppendRange, CopyRange, SequenceRow, check_prefix, new_counts, to_u32};
use super::shape::{CacheRotary, KvCacheShape};
use super::store::{CacheStore, Work, of_store, read_by_attention};
use super::tokens::CacheTokens;
use crate::attention::AttentionBuffers;
use crate::buffer::output;
use crate::context::Context;
use crate::error::Error;
use crate::problem::AttentionShape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Keys and values of the tokens so far, of fixed capacity, in two buffers that are allocated once.
///
/// `append` records new tokens into your encoder, behind those that each sequence holds.
/// [`Attention`](crate::Attention) reads them with [`KvCache::shape`] and [`KvCache::buffers`]. With
/// [`Align::BottomRight`](crate::Align) the last query of a sequence stands beside its last key; the
/// default, [`Align::TopLeft`](crate::Align), is refused where it would hide the past:
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
/// Sequences that outgrow any capacity under a window belong in a
/// [`PagedKvCache`](crate::cache::PagedKvCache).
///
/// Lengths count what has been recorded, on the host and, in the order in which commands run, in
/// [`KvCache::lens_buffer`] on the GPU. An application that drops an encoder takes the encoder's
/// tokens back with [`KvCache::truncate`]. A cache whose device is lost has lost its tokens.
#[derive(Debug)]
pub struct KvCache {
    pub(super) store: CacheStore,
    pub(super) lens: Vec<usize>,
    /// The same on the GPU, u32 `[batch]`.
    pub(super) lens_buffer: wgpu::Buffer,
}

of_store! {
    KvCache, KvCacheShape, kv_cache;
    "batch, num_kv_heads, capacity", Some(Self::lens_variant())
}

read_by_attention! {
    KvCache, self => self.store.keys(&self.lens), (self.key(), self.value(), None)
}

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
    /// recorded later see them.
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
        let mut ranges = Vec::new();
        for (sequence, (&held, &count)) in self.lens.iter().zip(&counts).enumerate() {
            let place = |position| (SequenceRow::new(sequence, position), count);
            let positions = held..held + count;
            AppendRange::add(&mut ranges, sequence, tokens.len - count, positions, place);
        }
        let sizes = [self.lens.len(), tokens.len];
        let new = self.store.new_rows(sizes, tokens, Some(&self.lens_buffer))?;
        let mut work = self.store.append(encoder, &new, &ranges)?;
        let set = |range: &AppendRange| self.set_lens(range.sequences.clone(), range.end());
        work.extend(ranges.iter().map(set));
        self.store.bind("append to cache", &work)?.encode(encoder);
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
        check_prefix(len, self.held("sequence", sequence)?)?;
        self.store.bind("truncate cache", &[self.set_len(sequence, len)])?.encode(encoder);
        self.lens[sequence] = len;
        Ok(())
    }

    /// Records into `encoder` that all tokens of all sequences are forgotten.
    ///
    /// # Errors
    /// [`Error::Shader`] or [`Error::Device`] for what the device refuses.
    pub fn reset(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let set = self.set_lens(0..to_u32(self.lens.len()), 0);
        self.store.bind("reset cache", &[set])?.encode(encoder);
        self.lens.fill(0);
        Ok(())
    }

    /// Records into `encoder` that sequence `to` becomes a copy of the first `len` tokens of
    /// `from`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no such sequences, or `from` holds fewer.
    pub fn fork(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        from: usize,
        to: usize,
        len: usize,
    ) -> Result<(), Error> {
        check_prefix(len, self.held("from", from)?)?;
        self.held("to", to)?;
        let first = |sequence| SequenceRow::new(sequence, 0);
        let copy = CopyRange { from: first(from), to: first(to), count: to_u32(len) };
        let copies = if from != to && len > 0 { &[copy][..] } else { &[] };
        let mut work = self.store.copy(copies)?;
        work.push(self.set_len(to, len));
        self.store.bind("fork cache", &work)?.encode(encoder);
        self.lens[to] = len;
        Ok(())
    }

    /// Tokens of a sequence, which an argument names.
    fn held(&self, argument: &'static str, sequence: usize) -> Result<usize, Error> {
        let expected = || format!("one of {} sequences", self.lens.len());
        let held = self.lens.get(sequence).copied();
        held.ok_or_else(|| Error::invalid(argument, expected(), sequence))
    }

    fn set_len(&self, sequence: usize, len: usize) -> Work {
        let sequence = to_u32(sequence);
        self.set_lens(sequence..sequence + 1, to_u32(len))
    }
}
