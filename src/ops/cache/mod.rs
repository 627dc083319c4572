//! A cache of keys and values, filled in the caller's encoder.

mod step;

pub use step::CacheStep;

use super::attention::{AttentionBuffers, Footprint, check_buffer};
use super::launch::steps;
use super::rotary::token_steps;
use crate::buffer::{output, upload};
use crate::call::Call;
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{CacheLens, Launch, TokenPlan, TokenTensor, cache_lens};
use crate::problem::{
    AttentionShape, CacheProblem, CacheRotary, KvCacheShape, Layout, Rows, Run, TokenProblem, View,
};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of the tokens so far, of fixed capacity, in two buffers that are allocated once.
///
/// `append` records new tokens into your encoder, behind those that each sequence holds; attention over the cache is
/// [`Attention`](crate::Attention) with [`KvCache::shape`] and [`KvCache::buffers`]. With
/// [`Align::BottomRight`](crate::Align) the last query of a sequence stands beside its last key:
///
/// ```no_run
/// # use wgpu_attention::{Attention, CacheTokens, Error, KvCache, wgpu};
/// # fn step(attention: &Attention, cache: &mut KvCache, encoder: &mut wgpu::CommandEncoder, buffers: [&wgpu::Buffer; 4]) -> Result<(), Error> {
/// # let [query, key, value, out] = buffers;
/// # let num_heads = 8;
/// cache.append(encoder, &CacheTokens::new(key, value, 1))?;
/// let plan = attention.plan(&cache.shape(num_heads, 1))?;
/// attention.encode(encoder, &plan, &cache.buffers(query, out))?;
/// # Ok(())
/// # }
/// ```
///
/// A step that is recorded for every token can be bound once: see [`KvCache::bind_append`].
///
/// Lengths count what has been recorded: whoever drops an encoder takes its tokens back with [`KvCache::truncate`]. They are held
/// twice, here and, in the order of what is recorded, on the GPU: [`KvCache::lens_buffer`].
///
/// Once its device is lost a cache has lost what it held, whatever its lengths say: what it records is then errors, or nothing.
#[derive(Debug)]
pub struct KvCache {
    context: Arc<Context>,
    problem: CacheProblem,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
    tables: Option<[wgpu::Buffer; 2]>,
    lens: Vec<usize>,
    /// The same on the GPU, u32 `[batch]`.
    lens_buffer: wgpu::Buffer,
}

/// New tokens for every sequence of a cache; both buffers need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct CacheTokens<'a> {
    /// `[batch, num_kv_heads, len, head_dim]` of the cache's element type, not rotated yet if the cache rotates.
    pub key: &'a wgpu::Buffer,
    /// `[batch, num_kv_heads, len, value_dim]`, as key.
    pub value: &'a wgpu::Buffer,
    /// Where key lies.
    pub key_layout: Layout,
    /// Where value lies.
    pub value_layout: Layout,
    /// Tokens per sequence.
    pub len: usize,
    /// How many of them each sequence takes, if not all: `[batch]`, at most `len` each, the last ones. Padding stands before
    /// them, so that a sequence's last query and last key are the same token's.
    pub lens: Option<&'a [usize]>,
}

impl<'a> CacheTokens<'a> {
    /// Contiguous keys and values of `len` tokens for each sequence; change any field from there.
    #[must_use]
    pub fn new(key: &'a wgpu::Buffer, value: &'a wgpu::Buffer, len: usize) -> Self {
        Self { key, value, key_layout: Layout::Bhsd, value_layout: Layout::Bhsd, len, lens: None }
    }
}

impl KvCache {
    /// An empty cache on your device; with `rotary`, new keys are rotated on their way in.
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
        let context = Context::new(device, queue, Capabilities::of(device), None);
        Self::from_context(Arc::new(context), shape, rotary)
    }

    pub(crate) fn from_context(
        context: Arc<Context>,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let problem = CacheProblem::new(shape, rotary)?;
        let device = &context.device;
        let key = output(device, "cached keys", problem.bytes(problem.key.view.extent))?;
        let value = output(device, "cached values", problem.bytes(problem.value.view.extent))?;
        let floats = |label, table: &[f32]| upload(device, label, bytemuck::cast_slice(table));
        let tables = match rotary {
            Some(CacheRotary { cos, sin, .. }) => Some([floats("cos", cos)?, floats("sin", sin)?]),
            None => None,
        };
        let lens = vec![0; shape.batch];
        let lens_buffer = output(device, "lengths", shape.batch as u64 * 4)?;
        Ok(Self { context, problem, key, value, tables, lens, lens_buffer })
    }

    /// Tokens that each sequence holds.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Tokens that each sequence has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.problem.shape.capacity
    }

    /// The keys, `[batch, num_kv_heads, capacity, head_dim]`, which can be copied from.
    #[must_use]
    pub fn key(&self) -> &wgpu::Buffer {
        &self.key
    }

    /// The values, `[batch, num_kv_heads, capacity, value_dim]`, which can be copied from.
    #[must_use]
    pub fn value(&self) -> &wgpu::Buffer {
        &self.value
    }

    /// The cosines and sines that keys are rotated by: [`Rotary`](crate::Rotary) turns queries by the same.
    #[must_use]
    pub fn tables(&self) -> Option<[&wgpu::Buffer; 2]> {
        self.tables.as_ref().map(|[cos, sin]| [cos, sin])
    }

    /// The places of the last `q_len` tokens of each sequence, `[batch, q_len]`, for
    /// [`TableRows::Named`](crate::TableRows::Named); 0 before the first.
    #[must_use]
    pub fn positions(&self, q_len: usize) -> Vec<u32> {
        let place = |len: usize, i: usize| {
            u32::try_from((len + i).saturating_sub(q_len)).unwrap_or(u32::MAX)
        };
        self.lens.iter().flat_map(|&len| (0..q_len).map(move |i| place(len, i))).collect()
    }

    /// Attention of `q_len` queries to what the cache holds now; change any field but those of keys and values from there.
    /// `kv_len` is the longest sequence, `kv_lens` are given if they differ.
    #[must_use]
    pub fn shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
        let CacheProblem { shape, key, value } = &self.problem;
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
        AttentionBuffers::new(query, &self.key, &self.value, out)
    }

    /// Compiles what contiguous new tokens need now rather than at the first `append`, and reports what the shader compiler
    /// says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self) -> Result<(), Error> {
        let len = self.capacity().min(1);
        let (_, runs) = self.problem.runs(&vec![0; self.lens.len()], len, None)?;
        for rows in [&self.problem.key, &self.problem.value] {
            let x = self.problem.tokens(rows, len, Layout::Bhsd)?;
            for plan in self.plans(rows, x, len, &runs)? {
                self.context.pipelines.prepare(&plan.variants()).await?;
            }
        }
        let lens = self.set_lens(0..self.problem.batch(), 0);
        self.context.pipelines.prepare(&[lens.variant]).await
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
        Footprint {
            pipelines: self.context.pipelines.len(),
            uniform_slots: self.context.uniforms.capacity(),
        }
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
        let (lens, runs) = self.problem.runs(&self.lens, tokens.len, tokens.lens)?;
        let mut copies = Vec::new();
        for Given { rows, view, x, out } in self.given(tokens)? {
            let plans = self.plans(rows, view, tokens.len, &runs)?;
            copies.extend(plans.into_iter().map(|plan| Copy { plan, x, out }));
        }
        let set: Vec<_> = runs.iter().map(|run| self.set_lens(run.batches(), run.end())).collect();
        self.bind("append to cache", &copies, &set)?.encode(encoder);
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
        self.bind("truncate cache", &[], &[self.set_len(sequence, len)])?.encode(encoder);
        self.lens[sequence] = len;
        Ok(())
    }

    /// Records into `encoder` that all tokens of all sequences are forgotten.
    ///
    /// # Errors
    /// [`Error::Shader`] or [`Error::Device`] for what the device refuses.
    pub fn reset(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        self.bind("reset cache", &[], &[self.set_lens(0..self.problem.batch(), 0)])?
            .encode(encoder);
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
        if from != to && len > 0 {
            // One dispatch cannot read and write one buffer through two bindings.
            let (key, value) = (&self.problem.key, &self.problem.value);
            let forks = [key, value].map(|rows| self.problem.fork(rows, [from, to], len));
            let [[key_aside, key_back], [value_aside, value_back]] = match forks {
                [Ok(key), Ok(value)] => [key, value],
                [Err(error), _] | [_, Err(error)] => return Err(error),
            };
            let extent = key_aside.out.extent.max(value_aside.out.extent);
            let Context { device, workspace, .. } = &*self.context;
            let Some(aside) = workspace.get(device, self.problem.bytes(extent))? else {
                return Ok(());
            };
            let copies = [
                (key_aside, &self.key, &aside),
                (key_back, &aside, &self.key),
                (value_aside, &self.value, &aside),
                (value_back, &aside, &self.value),
            ];
            let copy = |(problem, x, out)| Ok(Copy { plan: self.plan(problem)?, x, out });
            let copies = copies.map(copy).into_iter().collect::<Result<Vec<_>, Error>>()?;
            self.bind("fork in cache", &copies, &set)?.encode(encoder);
        } else {
            self.bind("fork in cache", &[], &set)?.encode(encoder);
        }
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
        if len > held {
            let expected = format!("at most {held} tokens, as sequence {sequence} holds");
            return Err(Error::invalid("len", expected, len));
        }
        Ok(())
    }

    fn plan(&self, problem: TokenProblem) -> Result<TokenPlan, Error> {
        TokenPlan::new(problem, &self.context.capabilities)
    }

    /// New keys or values on their way to their places, a plan for each run.
    fn plans(
        &self,
        rows: &Rows,
        x: View,
        len: usize,
        runs: &[Run],
    ) -> Result<Vec<TokenPlan>, Error> {
        runs.iter().map(|run| self.plan(self.problem.append(rows, x, len, run)?)).collect()
    }

    /// What new tokens are and where they go, with buffers that fit.
    fn given<'a>(&'a self, tokens: &CacheTokens<'a>) -> Result<[Given<'a>; 2], Error> {
        let given = |argument, rows, out, x: &'a wgpu::Buffer, layout| {
            let view = self.problem.tokens(rows, tokens.len, layout)?;
            check_buffer(argument, Some(self.problem.bytes(view.extent)), Some(x))?;
            if [&self.key, &self.value, &self.lens_buffer].contains(&x) {
                return Err(Error::invalid(argument, "a buffer of its own", "that of the cache"));
            }
            Ok(Given { rows, view, x, out })
        };
        let CacheProblem { key, value, .. } = &self.problem;
        Ok([
            given("key", key, &self.key, tokens.key, tokens.key_layout)?,
            given("value", value, &self.value, tokens.value, tokens.value_layout)?,
        ])
    }

    /// That some sequences hold `len` tokens.
    fn set_lens(&self, batches: Range<u32>, len: u32) -> Launch<CacheLens> {
        self.change_lens(batches, [0, len])
    }

    /// That a sequence holds `len` tokens, at most its capacity.
    fn set_len(&self, sequence: usize, len: usize) -> Launch<CacheLens> {
        let [sequence, len] = [sequence, len].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        self.set_lens(sequence..sequence.saturating_add(1), len)
    }

    /// That some sequences hold 0 or 1 times as many tokens as before, and so many more.
    fn change_lens(&self, batches: Range<u32>, change: [u32; 2]) -> Launch<CacheLens> {
        let sizes = [self.problem.batch(), self.problem.capacity()];
        cache_lens(batches, change, sizes, &self.context.capabilities)
    }

    /// Copies, and then what becomes of lengths, ready to be recorded.
    fn bind(
        &self,
        label: &'static str,
        copies: &[Copy<'_>],
        lens: &[Launch<CacheLens>],
    ) -> Result<Call, Error> {
        let mut all = Vec::new();
        for Copy { plan, x, out } in copies {
            all.extend(token_steps(&self.context, plan, |tensor| match tensor {
                TokenTensor::X => Some(x),
                TokenTensor::Out => Some(out),
                TokenTensor::Table => self.tables.as_ref().map(|[cos, _]| cos),
                TokenTensor::Sines => self.tables.as_ref().map(|[_, sin]| sin),
                TokenTensor::Positions => Some(&self.lens_buffer),
                TokenTensor::Unpacked => None,
            })?);
        }
        all.extend(steps(lens, |CacheLens| Some(self.lens_buffer.clone())));
        self.context.bind(label, Vec::new(), &all)
    }
}

/// New keys or values: the cache's rows for them, where they lie, their buffer and the cache's own.
struct Given<'a> {
    rows: &'a Rows,
    view: View,
    x: &'a wgpu::Buffer,
    out: &'a wgpu::Buffer,
}

/// Rows of one buffer on their way into another.
struct Copy<'a> {
    plan: TokenPlan,
    x: &'a wgpu::Buffer,
    out: &'a wgpu::Buffer,
}
