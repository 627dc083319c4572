//! Lengths on the GPU, and a decode step that is bound once: new tokens go where the lengths say,
//! and take these further.

use super::contiguous::KvCache;
use super::ranges::{check_capacity, to_u32};
use super::store::Work;
use super::tokens::CacheTokens;
use crate::attention::AttentionBuffers;
use crate::call::Call;
use crate::error::Error;
use crate::plan::{Bindings, Entry, Storage, Variant};
use crate::problem::{AttentionShape, View};
use crate::tensor::Tensor;
use std::iter::repeat;
use std::ops::Range;

/// The uniform block of cache_lens.wgsl, which a host test compares with this.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "explained in the shader")]
pub struct CacheLensParams {
    pub first: u32,
    pub count: u32,
    pub kept: u32,
    pub added: u32,
    pub capacity: u32,
}

const THREADS: u32 = Entry::CacheLens.count("THREADS");

/// New tokens bound to their buffers: what [`KvCache::bind_append`] returns. Each
/// [`KvCache::append_step`] records as many of them again for every sequence. Attention over the
/// cache is bound beside it, and both are recorded for each token:
///
/// ```no_run
/// # use wgpu_attention::{Attention, Error, wgpu, cache::{CacheTokens, KvCache}};
/// # fn steps(attention: &Attention, cache: &mut KvCache, device: &wgpu::Device, buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// let append = cache.bind_append(&CacheTokens::new(key, value, 1))?;
/// let plan = attention.plan(&cache.step_shape(num_heads, 1))?;
/// let attend = attention.bind(&plan, &cache.step_buffers(query, out))?;
/// for _ in 0..100 {
///     let mut encoder = device.create_command_encoder(&Default::default());
///     // ... the layers that write query, key and value ...
///     cache.append_step(&mut encoder, &append)?;
///     attend.encode(&mut encoder);
///     // ... and what reads out; submit.
/// }
/// # Ok(())
/// # }
/// ```
///
/// Queries are rotated at the same places by [`Rotary`](crate::layers::Rotary) with
/// [`TableRows::Last`](crate::layers::TableRows::Last), after the keys have been appended.
#[derive(Debug)]
pub struct CacheStep {
    call: Call,
    len: usize,
    /// The lengths of the cache that it belongs to.
    lens: wgpu::Buffer,
}

impl KvCache {
    /// The lengths of the sequences, u32 `[batch]`, which may be read and copied from.
    #[must_use]
    pub fn lens_buffer(&self) -> &wgpu::Buffer {
        &self.lens_buffer
    }

    /// As [`KvCache::shape`], for a call that is bound once and recorded as sequences grow: it
    /// reads lengths from [`KvCache::lens_buffer`] when it runs. `kv_len` is the capacity.
    #[must_use]
    pub fn step_shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
        let shape = self.shape(num_heads, q_len);
        AttentionShape { kv_len: self.capacity(), kv_lens: None, lens: true, ..shape }
    }

    /// The buffers of a call with [`KvCache::step_shape`]; add optional ones by struct update.
    #[must_use]
    pub fn step_buffers<'a>(
        &'a self,
        query: impl Into<crate::BufferRange<'a>>,
        out: impl Into<crate::BufferRange<'a>>,
    ) -> AttentionBuffers<'a> {
        AttentionBuffers { lens: Some((&self.lens_buffer).into()), ..self.buffers(query, out) }
    }

    /// Binds `tokens.len` new tokens of every sequence for steps, see [`CacheStep`]. The buffers are
    /// read when a step runs, not now.
    ///
    /// # Errors
    /// As [`KvCache::append`], capacity aside; [`Error::Invalid`] if sequences should take
    /// different numbers of tokens, or if rows, or halves of a rotation, are of odd length and of
    /// 16 bits; [`Error::Unsupported`] if a head of a sequence is larger than a binding.
    pub fn bind_append(&self, tokens: &CacheTokens<'_>) -> Result<CacheStep, Error> {
        if tokens.lens.is_some() {
            return Err(Error::invalid("lens", "none, as all sequences take as many", "some"));
        }
        let lens = Some(&self.lens_buffer);
        let sizes = [self.lens.len(), tokens.len];
        let mut work = Vec::new();
        for new in self.store.new_rows(sizes, tokens, lens)? {
            let program = self.store.program(new.append_all(None)?)?;
            if program.packs() {
                let expected = "even lengths of rows, and of halves of a rotation, in 16 bits";
                return Err(Error::invalid(new.rows.name, expected, "an odd one"));
            }
            work.push(new.work(program, lens));
        }
        work.push(self.change_lens(0..to_u32(self.lens.len()), [1, to_u32(tokens.len)]));
        let call = self.store.bind("append step to cache", &work)?;
        Ok(CacheStep { call, len: tokens.len, lens: self.lens_buffer.clone() })
    }

    /// Records the new tokens of a step into `encoder`. Nothing is planned or created.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a sequence has no capacity for them, or for a step of another cache.
    /// Nothing is recorded then, and the cache is as it was.
    pub fn append_step(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        step: &CacheStep,
    ) -> Result<(), Error> {
        if step.lens != self.lens_buffer {
            return Err(Error::invalid("step", "one of this cache", "that of another"));
        }
        check_capacity("step", &self.lens, self.capacity(), repeat(step.len))?;
        step.call.encode(encoder);
        self.lens.iter_mut().for_each(|len| *len += step.len);
        Ok(())
    }

    /// Work that sets the lengths of some sequences on the GPU.
    pub(super) fn set_lens(&self, sequences: Range<u32>, len: u32) -> Work {
        self.change_lens(sequences, [0, len])
    }

    /// Work by which lengths on the GPU become `kept`, 0 or 1, times what they are, plus `added`.
    fn change_lens(&self, sequences: Range<u32>, [kept, added]: [u32; 2]) -> Work {
        let capabilities = &self.store.context.capabilities;
        let [batch, capacity] = [self.lens.len(), self.capacity()].map(to_u32);
        let count = sequences.end - sequences.start;
        let params = CacheLensParams { first: sequences.start, count, kept, added, capacity };
        let view = View { batch: 1, column: 1, extent: batch, exact: true, ..View::default() };
        let mut bindings = Bindings::new(capabilities);
        bindings.bind("lens", Tensor::Lens, 1, view);
        let groups = count.div_ceil(THREADS);
        let most = capabilities.workgroups_per_axis;
        let grid = [groups.min(most), groups.div_ceil(most), 1];
        let dispatches = vec![bindings.dispatch(Self::lens_variant(), &params, grid)];
        Work { dispatches, buffers: vec![(Tensor::Lens, self.lens_buffer.clone())] }
    }

    /// The shader that changes lengths.
    pub(super) fn lens_variant() -> Variant {
        Variant::new(Entry::CacheLens, [Storage::F32; 2], [])
    }
}
