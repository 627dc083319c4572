//! A cache of keys and values, filled in the caller's encoder.

use super::attention::{AttentionBuffers, Footprint, check_buffer};
use super::rotary::token_steps;
use crate::buffer::{output, upload};
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{TokenPlan, TokenTensor};
use crate::problem::{
    AttentionShape, CacheProblem, CacheRotary, KvCacheShape, Layout, Rows, Run, TokenProblem, View,
};
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
/// Lengths count what has been recorded: whoever drops an encoder takes its tokens back with [`KvCache::truncate`].
#[derive(Debug)]
pub struct KvCache {
    context: Arc<Context>,
    problem: CacheProblem,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
    tables: Option<[wgpu::Buffer; 2]>,
    lens: Vec<usize>,
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
        Ok(Self { context, problem, key, value, tables, lens })
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
        Ok(())
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
        for (argument, rows, own, buffer, layout) in [
            ("key", &self.problem.key, &self.key, tokens.key, tokens.key_layout),
            ("value", &self.problem.value, &self.value, tokens.value, tokens.value_layout),
        ] {
            let x = self.problem.tokens(rows, tokens.len, layout)?;
            check_buffer(argument, Some(self.problem.bytes(x.extent)), Some(buffer))?;
            if *buffer == self.key || *buffer == self.value {
                return Err(Error::invalid(argument, "a buffer of its own", "that of the cache"));
            }
            let plans = self.plans(rows, x, tokens.len, &runs)?;
            copies.extend(plans.into_iter().map(|plan| Copy { plan, x: buffer, out: own }));
        }
        self.record(encoder, "append to cache", &copies)?;
        self.lens = lens;
        Ok(())
    }

    /// Forgets all but the first `len` tokens of a sequence; nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such sequence, or it holds fewer.
    pub fn truncate(&mut self, sequence: usize, len: usize) -> Result<(), Error> {
        self.check_prefix("sequence", sequence, len)?;
        self.lens[sequence] = len;
        Ok(())
    }

    /// Forgets all tokens of all sequences; nothing is recorded.
    pub fn reset(&mut self) {
        self.lens.fill(0);
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
            self.record(encoder, "fork in cache", &copies)?;
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

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        label: &'static str,
        copies: &[Copy<'_>],
    ) -> Result<(), Error> {
        let mut steps = Vec::new();
        for Copy { plan, x, out } in copies {
            steps.extend(token_steps(&self.context, plan, |tensor| match tensor {
                TokenTensor::X => Some(x),
                TokenTensor::Out => Some(out),
                TokenTensor::Table => self.tables.as_ref().map(|[cos, _]| cos),
                TokenTensor::Sines => self.tables.as_ref().map(|[_, sin]| sin),
                TokenTensor::Unpacked | TokenTensor::Positions => None,
            })?);
        }
        self.context.bind(label, Vec::new(), &steps)?.encode(encoder);
        Ok(())
    }
}

/// Rows of one buffer on their way into another.
struct Copy<'a> {
    plan: TokenPlan,
    x: &'a wgpu::Buffer,
    out: &'a wgpu::Buffer,
}
