//! The part that both caches share: buffers of keys and of values, and the work that is recorded
//! for them.

use super::ranges::{AppendRange, CopyRange, places};
use super::rows::{CachedRows, Target};
use super::shape::{CacheRotary, KvCacheShape};
use super::tables::Tables;
use super::tokens::CacheTokens;
use crate::buffer::Parameters;
use crate::call::Call;
use crate::context::Context;
use crate::error::Error;
use crate::layers::{Encoding, LayerProblem, TokenProblem};
use crate::plan::{Dispatch, Program, Variant, check_buffer};
use crate::problem::{AttentionShape, Layout, Strides, View};
use crate::tensor::{Given, Tensor};
use std::sync::Arc;

/// Keys and values in two buffers, and the tables by which keys are rotated.
#[derive(Debug)]
pub(super) struct CacheStore {
    pub(super) context: Arc<Context>,
    pub(super) shape: KvCacheShape,
    pub(super) key: CachedRows,
    pub(super) value: CachedRows,
    rotary: Parameters,
    pub(super) tables: Tables,
}

/// New keys or new values: the cache's rows for them, and where they lie until then.
pub(super) struct NewRows<'a> {
    pub(super) rows: &'a CachedRows,
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) view: View,
}

/// Dispatches, and the buffers that they bind besides the tables of the cache.
pub(super) struct Work {
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) buffers: Vec<(Tensor, wgpu::Buffer)>,
}

impl Work {
    pub(super) fn new<'a>(
        dispatches: Vec<Dispatch>,
        buffers: impl IntoIterator<Item = (Tensor, Option<&'a wgpu::Buffer>)>,
    ) -> Self {
        let given =
            buffers.into_iter().filter_map(|(tensor, buffer)| Some((tensor, buffer?.clone())));
        Self { dispatches, buffers: given.collect() }
    }
}

impl NewRows<'_> {
    /// A program by which they go into the cache, with the buffer that says where if the plan does
    /// not.
    pub(super) fn work(&self, program: Program, positions: Option<&wgpu::Buffer>) -> Work {
        let [x, out] = [self.buffer, &self.rows.buffer].map(Some);
        let buffers = [(Tensor::X, x), (Tensor::Out, out), (Tensor::Positions, positions)];
        Work::new(program.dispatches, buffers)
    }
}

impl CacheStore {
    /// An empty cache whose sequences have `longest` tokens at most.
    pub(super) fn new(
        context: Arc<Context>,
        shape: &KvCacheShape,
        longest: usize,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        shape.check()?;
        let encoding = rotary.map(|rotary| rotary.encoding(shape.head_dim, longest)).transpose()?;
        let encoding = encoding.unwrap_or(Encoding::Copy);
        let device = &context.device;
        let (key, value) = (("key", "cached keys"), ("value", "cached values"));
        let key = CachedRows::new(device, key, shape, shape.head_dim, encoding)?;
        let value = CachedRows::new(device, value, shape, shape.value_dim, Encoding::Copy)?;
        let tables = [
            (Tensor::Cos, "cos", rotary.map(|rotary| rotary.cos)),
            (Tensor::Sin, "sin", rotary.map(|rotary| rotary.sin)),
        ];
        let rotary = Parameters::upload(device, &tables)?;
        Ok(Self { context, shape: *shape, key, value, rotary, tables: Tables::default() })
    }

    /// The cosines and sines that keys are rotated by.
    pub(super) fn rotary(&self) -> Option<[&wgpu::Buffer; 2]> {
        Some([self.rotary.get(Tensor::Cos)?, self.rotary.get(Tensor::Sin)?])
    }

    /// Attention to sequences of these lengths, without queries.
    pub(super) fn keys(&self, lens: &[usize]) -> AttentionShape {
        let KvCacheShape { num_kv_heads, head_dim, value_dim, element, .. } = self.shape;
        let longest = lens.iter().copied().max().unwrap_or_default();
        let is_ragged = lens.iter().any(|&len| len != longest);
        let layout = |rows: &CachedRows| {
            let View { batch, head, row, .. } = rows.view();
            let [batch, head, row] = [batch, head, row].map(|stride| stride as usize);
            Layout::Strided(Strides { offset: 0, batch, head, row })
        };
        AttentionShape {
            num_kv_heads,
            kv_len: longest,
            kv_lens: is_ragged.then(|| lens.to_vec()),
            value_dim,
            element,
            key: layout(&self.key),
            value: layout(&self.value),
            cached: true,
            ..AttentionShape::new(lens.len(), 0, 0, head_dim)
        }
    }

    /// Compiles the pipelines for contiguous new tokens, and the variant that changes lengths, if
    /// these are on the GPU too.
    pub(super) async fn prepare(&self, lens: Option<Variant>) -> Result<(), Error> {
        let may_be_several = self.shape.batch > 1 || lens.is_none();
        let mut variants = Vec::from_iter(lens);
        let one = AppendRange { sequences: 0..1, count: 1, ..AppendRange::default() };
        let is_empty = self.shape.batch == 0 || self.shape.capacity == 0;
        for rows in [&self.key, &self.value].into_iter().filter(|_| !is_empty) {
            let x = rows.tokens([1, 1], Layout::Bhsd)?;
            variants.extend(self.program(rows.append(x, &one))?.variants());
            if may_be_several {
                let places = Target::Places(std::slice::from_ref(&one));
                let program = self.program(rows.append_to(x, [1, 1], places)?)?;
                variants.extend(program.variants().into_iter().filter(|_| !program.packs()));
            }
        }
        self.context.pipelines.prepare(&variants).await
    }

    /// New tokens `[sequences, len]`, with buffers that fit and are none of the cache's own, `lens`
    /// among these.
    pub(super) fn new_rows<'a>(
        &'a self,
        sizes: [usize; 2],
        tokens: &CacheTokens<'a>,
        lens: Option<&wgpu::Buffer>,
    ) -> Result<[NewRows<'a>; 2], Error> {
        let new = |rows: &'a CachedRows, buffer: &'a wgpu::Buffer, layout| {
            let view = rows.tokens(sizes, layout)?;
            let per_word = self.shape.element.per_word();
            let given = Given::input(Tensor::X, rows.name, view, per_word);
            check_buffer(&given, Some(buffer.into()), 1, false)?;
            let own = [Some(&self.key.buffer), Some(&self.value.buffer), lens];
            if own.contains(&Some(buffer)) {
                return Err(Error::invalid(rows.name, "a buffer of its own", "that of the cache"));
            }
            Ok(NewRows { rows, buffer, view })
        };
        Ok([
            new(&self.key, tokens.key, tokens.key_layout)?,
            new(&self.value, tokens.value, tokens.value_layout)?,
        ])
    }

    /// Work that appends the new tokens that `ranges` name. A table says where those of several
    /// ranges go, unless rows share words: then each range has a program of its own.
    pub(super) fn append(
        &self,
        encoder: &wgpu::CommandEncoder,
        sizes: [usize; 2],
        new: &[NewRows<'_>],
        ranges: &[AppendRange],
    ) -> Result<Vec<Work>, Error> {
        let mut work = Vec::new();
        let mut table = None;
        for new in new {
            if ranges.len() > 1 {
                let problem = new.rows.append_to(new.view, sizes, Target::Places(ranges))?;
                let program = self.program(problem)?;
                if !program.packs() {
                    let table = match &mut table {
                        Some(table) => table,
                        None => {
                            let places = places(sizes, ranges);
                            table.insert(self.tables.upload(&self.context, encoder, &places)?)
                        }
                    };
                    work.push(new.work(program, Some(table)));
                    continue;
                }
            }
            for range in ranges {
                let program = self.program(new.rows.append(new.view, range))?;
                work.push(new.work(program, None));
            }
        }
        Ok(work)
    }

    /// Work that copies rows within the cache. One dispatch cannot read and write one buffer
    /// through two bindings, so rows are copied aside, and back.
    pub(super) fn copy(&self, copies: &[CopyRange]) -> Result<Vec<Work>, Error> {
        let mut problems = Vec::new();
        for copy in copies {
            for rows in [&self.key, &self.value] {
                problems.push((&rows.buffer, rows.copy(copy)?));
            }
        }
        let extent = problems.iter().map(|(_, [away, _])| away.out.extent).max();
        let words = extent.unwrap_or_default().div_ceil(self.shape.element.per_word());
        let aside = self.context.own(Tensor::Aside, u64::from(words) * 4)?;
        let Some(aside) = &aside else { return Ok(Vec::new()) };
        let mut work = Vec::new();
        for (own, [away, back]) in problems {
            for (problem, x, out) in [(away, own, aside), (back, aside, own)] {
                let dispatches = self.program(problem)?.dispatches;
                work.push(Work::new(dispatches, [(Tensor::X, Some(x)), (Tensor::Out, Some(out))]));
            }
        }
        Ok(work)
    }

    pub(super) fn program(&self, problem: TokenProblem) -> Result<Program, Error> {
        problem.program(&self.context.capabilities)
    }

    /// Records work into `encoder`.
    pub(super) fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        label: &'static str,
        work: &[Work],
    ) -> Result<(), Error> {
        self.bind(label, work)?.encode(encoder);
        Ok(())
    }

    /// Work in order, ready to be recorded.
    pub(super) fn bind(&self, label: &'static str, work: &[Work]) -> Result<Call, Error> {
        let mut steps = Vec::new();
        for Work { dispatches, buffers } in work {
            let find = |tensor| {
                let given = buffers.iter().find(|(given, _)| *given == tensor);
                let given = given.map(|(_, buffer)| buffer);
                given.or_else(|| self.rotary.get(tensor)).map(Into::into)
            };
            steps.extend(self.context.steps(dispatches, find)?);
        }
        self.context.call(label, &steps)
    }
}

/// The methods of both caches that only look at their store.
macro_rules! of_store {
    ($cache:ident, $shape:ident, $dims:literal) => {
        impl $cache {
            /// An empty cache on your device, with pipelines of its own: those of one
            /// [`Gpu`](crate::Gpu) share them. With `rotary`, new keys are rotated on their way in.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a shape or table that cannot be;
            /// [`Error::Unsupported`](crate::Error::Unsupported) or
            /// [`Error::Device`](crate::Error::Device) if the device has no memory for it.
            pub fn new(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                shape: &$shape,
                rotary: Option<CacheRotary<'_>>,
            ) -> Result<Self, crate::Error> {
                let context = Context::new(device, queue, crate::Capabilities::of(device));
                Self::from_context(Arc::new(context), shape, rotary)
            }

            #[doc = concat!("The keys, `[", $dims, ", head_dim]`, which can be copied from.")]
            #[must_use]
            pub fn key(&self) -> &wgpu::Buffer {
                &self.store.key.buffer
            }

            #[doc = concat!("The values, `[", $dims, ", value_dim]`, which can be copied from.")]
            #[must_use]
            pub fn value(&self) -> &wgpu::Buffer {
                &self.store.value.buffer
            }

            /// The cosines and sines that keys are rotated by: [`Rotary`](crate::layers::Rotary)
            /// turns queries by the same.
            #[must_use]
            pub fn tables(&self) -> Option<[&wgpu::Buffer; 2]> {
                self.store.rotary()
            }

            /// Pipelines, uniform slots and workspace made on this cache's device so far, without
            /// the cache's own buffers.
            #[must_use]
            pub fn footprint(&self) -> crate::Footprint {
                self.store.context.footprint()
            }

            /// Compiles the pipelines for contiguous new tokens now rather than at the first
            /// `append`, and reports what the shader compiler says.
            ///
            /// # Errors
            /// [`Error::Shader`](crate::Error::Shader).
            pub async fn prepare(&self) -> Result<(), crate::Error> {
                self.store.prepare(self.lens_variant()).await
            }

            #[doc = concat!("As [`", stringify!($cache), "::prepare`], blocking.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($cache), "::prepare`].")]
            pub fn prepare_blocking(&self) -> Result<(), crate::Error> {
                pollster::block_on(self.prepare())
            }
        }
    };
}

/// The methods by which attention reads sequences of a cache.
macro_rules! read_by_attention {
    ($read:ident) => {
        impl $read {
            /// Tokens that each sequence holds.
            #[must_use]
            pub fn lens(&self) -> &[usize] {
                &self.lens
            }

            /// The places of the last `q_len` tokens of each sequence, `[batch, q_len]`, for
            /// [`TableRows::Named`](crate::layers::TableRows::Named); 0 before the first.
            #[must_use]
            pub fn positions(&self, q_len: usize) -> Vec<u32> {
                super::ranges::positions(&self.lens, q_len)
            }

            /// Attention of `q_len` queries to what the sequences hold now; change any field but
            /// those of keys and values from there. `kv_len` is the longest sequence, `kv_lens` are
            /// given if they differ. Causality, windows and ALiBi need
            /// [`Align::BottomRight`](crate::Align).
            #[must_use]
            pub fn shape(&self, num_heads: usize, q_len: usize) -> AttentionShape {
                AttentionShape { num_heads, q_len, ..self.keys() }
            }

            #[doc = concat!("The buffers of a call with [`", stringify!($read), "::shape`]; add optional ones by struct update.")]
            #[must_use]
            pub fn buffers<'a>(
                &'a self,
                query: impl Into<crate::BufferRange<'a>>,
                out: impl Into<crate::BufferRange<'a>>,
            ) -> AttentionBuffers<'a> {
                let (key, value, pages) = self.key_buffers();
                let pages = pages.map(Into::into);
                AttentionBuffers { pages, ..AttentionBuffers::new(query, key, value, out) }
            }
        }
    };
}

pub(super) use {of_store, read_by_attention};
