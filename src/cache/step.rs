//! A decode step that is bound once: new tokens go where lengths on the GPU say, and take these further.

use super::contiguous::KvCache;
use super::store::{CacheTokens, Copy, NewRows};
use crate::call::Call;
use crate::error::Error;
use crate::ops::AttentionBuffers;
use crate::problem::AttentionShape;

/// New tokens bound to their buffers, of which [`KvCache::append_step`] records as many again for each sequence: what
/// [`KvCache::bind_append`] returns.
#[derive(Debug)]
pub struct CacheStep {
    call: Call,
    len: usize,
    /// Which cache it belongs to.
    lens: wgpu::Buffer,
}

impl KvCache {
    /// The lengths of the sequences, u32 `[batch]`, as they are once what has been recorded so far has run. It may be read and
    /// copied from.
    #[must_use]
    pub fn lens_buffer(&self) -> &wgpu::Buffer {
        &self.lens_buffer
    }

    /// As [`KvCache::shape`], for a call that is bound once and recorded as sequences grow: how many keys there are it finds in
    /// [`KvCache::lens_buffer`] when it runs. `kv_len` is the capacity.
    #[must_use]
    pub fn step_shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
        AttentionShape {
            kv_len: self.capacity(),
            kv_lens: None,
            lens: true,
            ..self.shape(num_heads, q_len)
        }
    }

    /// The buffers of a call with [`KvCache::step_shape`]; add optional ones by struct update.
    #[must_use]
    pub fn step_buffers<'a>(
        &'a self,
        query: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> AttentionBuffers<'a> {
        AttentionBuffers { lens: Some(&self.lens_buffer), ..self.buffers(query, out) }
    }

    /// Binds `tokens.len` new tokens of every sequence, for [`KvCache::append_step`]. What the buffers hold then counts, not what
    /// they hold now.
    ///
    /// Attention over the cache is bound beside it, and both are recorded for each token:
    ///
    /// ```no_run
    /// # use wgpu_attention::{Attention, CacheTokens, Error, KvCache, wgpu};
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
    /// Queries are rotated at the same places by [`Rotary`](crate::Rotary) with [`TableRows::Last`](crate::TableRows::Last), after the
    /// keys have been appended.
    ///
    /// # Errors
    /// As [`KvCache::append`], room aside; [`Error::Invalid`] if sequences should take different numbers of tokens, or if rows, or
    /// halves of a rotation, are of odd length and of 16 bits; [`Error::Unsupported`] if a head of a sequence is larger than a
    /// binding.
    pub fn bind_append(&self, tokens: &CacheTokens<'_>) -> Result<CacheStep, Error> {
        if tokens.lens.is_some() {
            return Err(Error::invalid("lens", "none, as all sequences take as many", "some"));
        }
        let mut copies = Vec::new();
        let lens = Some(&self.lens_buffer);
        for NewRows { rows, view, x, out } in self.store.given(self.lens.len(), tokens, lens)? {
            let problem = self.store.problem.append_behind(rows, view, tokens.len)?;
            let program = self.store.plan(problem)?;
            if program.packs() {
                let expected = "even lengths of rows, and of halves of a rotation, in 16 bits";
                return Err(Error::invalid(rows.argument(), expected, "an odd one"));
            }
            let positions = Some(self.lens_buffer.clone());
            copies.push(Copy { program, x: x.clone(), out: out.clone(), positions });
        }
        let added = u32::try_from(tokens.len).unwrap_or(u32::MAX);
        let further = [self.change_lens(0..self.store.problem.batch(), [1, added])];
        let change = Some(self.changed(&further));
        let call = self.store.bind("append step to cache", &copies, change)?;
        Ok(CacheStep { call, len: tokens.len, lens: self.lens_buffer.clone() })
    }

    /// Records the new tokens of a step into `encoder`, behind those that each sequence holds: nothing is planned or created.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a sequence has no room for them, or for a step of another cache. Nothing is recorded then, and the
    /// cache is as it was.
    pub fn append_step(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        step: &CacheStep,
    ) -> Result<(), Error> {
        if step.lens != self.lens_buffer {
            return Err(Error::invalid("step", "one of this cache", "that of another"));
        }
        for (sequence, &held) in self.lens.iter().enumerate() {
            self.store.problem.check_room("step", sequence, held, step.len)?;
        }
        step.call.encode(encoder);
        self.lens.iter_mut().for_each(|len| *len += step.len);
        Ok(())
    }
}
