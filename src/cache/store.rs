//! The part that both caches share: buffers of keys and of values, and the work that is recorded
//! for them.

use super::ranges::{AppendRange, CopyRange, places};
use super::rows::{CachedRows, NewRows};
use super::shape::{CacheRotary, KvCacheShape};
use super::tables::Tables;
use super::tokens::CacheTokens;
use crate::buffer::Parameters;
use crate::call::Call;
use crate::context::Context;
use crate::error::Error;
use crate::layers::{Encoding, LayerProblem, TokenProblem};
use crate::plan::{Dispatch, Program, Variant, check_buffer};
use crate::problem::{AttentionShape, Layout, Strides};
use crate::tensor::{Given, Tensor};
use std::sync::Arc;

/// Keys and values in two buffers, and the tables by which keys are rotated.
#[derive(Debug)]
pub(super) struct CacheStore {
    pub(super) context: Arc<Context>,
    pub(super) shape: KvCacheShape,
    pub(super) key: CachedRows,
    pub(super) value: CachedRows,
    pub(super) rotary: Parameters,
    pub(super) tables: Tables,
}

/// Dispatches, and the buffers that they bind besides the cosines and sines of the cache.
pub(super) struct Work {
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) buffers: Vec<(Tensor, wgpu::Buffer)>,
}

impl NewRows<'_> {
    /// A program by which they go into the cache, with the buffer that says where if the plan does
    /// not.
    pub(super) fn work(&self, program: Program, positions: Option<&wgpu::Buffer>) -> Work {
        let x = (Tensor::X, self.buffer.clone());
        let mut buffers = vec![x, (Tensor::Out, self.rows.buffer.clone())];
        buffers.extend(positions.map(|positions| (Tensor::Positions, positions.clone())));
        Work { dispatches: program.dispatches, buffers }
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

    /// Attention to sequences of these lengths, without queries.
    pub(super) fn keys(&self, lens: &[usize]) -> AttentionShape {
        let KvCacheShape { num_kv_heads, capacity, head_dim, value_dim, element, .. } = self.shape;
        let longest = lens.iter().copied().max().unwrap_or_default();
        let is_ragged = lens.iter().any(|&len| len != longest);
        let layout = |dim| {
            let head = capacity * dim;
            Layout::Strided(Strides { offset: 0, batch: num_kv_heads * head, head, row: dim })
        };
        AttentionShape {
            num_kv_heads,
            kv_len: longest,
            kv_lens: is_ragged.then(|| lens.to_vec()),
            value_dim,
            element,
            key: layout(head_dim),
            value: layout(value_dim),
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
        let ranges = [one.clone(), one];
        let is_empty = self.shape.batch == 0 || self.shape.capacity == 0;
        for rows in [&self.key, &self.value].into_iter().filter(|_| !is_empty) {
            let (view, sizes) = (rows.tokens([1, 1], Layout::Bhsd)?, [1, 1]);
            let new = NewRows { rows, buffer: &rows.buffer, view, sizes };
            for count in [1, 1 + usize::from(may_be_several)] {
                let (programs, _) = self.append_programs(&new, &ranges[..count])?;
                variants.extend(programs.iter().flat_map(Program::variants));
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
            Ok(NewRows { rows, buffer, view, sizes })
        };
        Ok([
            new(&self.key, tokens.key, tokens.key_layout)?,
            new(&self.value, tokens.value, tokens.value_layout)?,
        ])
    }

    /// Programs that append the new tokens that `ranges` name, and whether a table of places says
    /// where they go. It does so for several ranges, unless rows share words: then each range has a
    /// program of its own.
    fn append_programs(
        &self,
        new: &NewRows<'_>,
        ranges: &[AppendRange],
    ) -> Result<(Vec<Program>, bool), Error> {
        if ranges.len() > 1 {
            let program = self.program(new.append_all(Some(ranges))?)?;
            if !program.packs() {
                return Ok((vec![program], true));
            }
        }
        let programs = ranges.iter().map(|range| self.program(new.append(range)));
        Ok((programs.collect::<Result<_, _>>()?, false))
    }

    /// Work that appends the new tokens that `ranges` name.
    pub(super) fn append(
        &self,
        encoder: &wgpu::CommandEncoder,
        new: &[NewRows<'_>],
        ranges: &[AppendRange],
    ) -> Result<Vec<Work>, Error> {
        let mut work = Vec::new();
        let mut table = None;
        for new in new {
            let (programs, by_table) = self.append_programs(new, ranges)?;
            if by_table && table.is_none() {
                let places = places(new.sizes, ranges);
                table = Some(self.tables.upload(&self.context, encoder, &places)?);
            }
            let table = table.as_ref().filter(|_| by_table);
            work.extend(programs.into_iter().map(|program| new.work(program, table)));
        }
        Ok(work)
    }

    /// Work that copies rows within the cache. One dispatch cannot read and write one buffer
    /// through two bindings, so rows are copied aside, and back.
    pub(super) fn copy(&self, copies: &[CopyRange]) -> Result<Vec<Work>, Error> {
        let mut work = Vec::new();
        for copy in copies {
            for rows in [&self.key, &self.value] {
                let [away, back] = rows.copy(copy)?.map(|problem| self.program(problem));
                let aside = |own| move |x| if x == own { Tensor::Aside } else { x };
                let mut dispatches = away?.renamed(aside(Tensor::Out));
                dispatches.extend(back?.renamed(aside(Tensor::X)));
                let buffers = [Tensor::X, Tensor::Out].map(|own| (own, rows.buffer.clone()));
                work.push(Work { dispatches, buffers: buffers.into() });
            }
        }
        Ok(work)
    }

    pub(super) fn program(&self, problem: TokenProblem) -> Result<Program, Error> {
        problem.program(&self.context.capabilities)
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

/// How both caches are made, and the methods that only look at their store. `$lens` is the shader
/// that changes lengths on the GPU, of a cache that has them there.
macro_rules! of_store {
    ($cache:ident, $shape:ident, $operator:ident; $dims:literal, $lens:expr) => {
        impl $cache {
            /// An empty cache on your device, with pipelines of its own: those of one
            /// [`Gpu`](crate::Gpu) share them. With `rotary`, new keys are rotated on their way in.
            ///
            /// # Errors
            /// [`Error::Invalid`] for a shape or table that cannot be; [`Error::Unsupported`] or
            /// [`Error::Device`] if the device has no memory for it.
            pub fn new(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                shape: &$shape,
                rotary: Option<CacheRotary<'_>>,
            ) -> Result<Self, Error> {
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
                let rotary = &self.store.rotary;
                Some([rotary.get(Tensor::Cos)?, rotary.get(Tensor::Sin)?])
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
            /// [`Error::Shader`].
            pub async fn prepare(&self) -> Result<(), Error> {
                self.store.prepare($lens).await
            }

            #[doc = concat!("As [`", stringify!($cache), "::prepare`], blocking.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($cache), "::prepare`].")]
            pub fn prepare_blocking(&self) -> Result<(), Error> {
                pollster::block_on(self.prepare())
            }
        }

        impl crate::Gpu {
            #[doc = concat!("An empty [`", stringify!($cache), "`] on this device that shares its pipelines.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($cache), "::new`].")]
            pub fn $operator(
                &self,
                shape: &$shape,
                rotary: Option<CacheRotary<'_>>,
            ) -> Result<$cache, Error> {
                $cache::from_context(self.context.clone(), shape, rotary)
            }
        }
    };
}

/// The methods by which attention reads sequences: `$keys` is attention to them without queries,
/// `$buffers` are key, value and pages.
macro_rules! read_by_attention {
    ($read:ident, $self:ident => $keys:expr, $buffers:expr) => {
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
                let place = |len: usize, i: usize| to_u32((len + i).saturating_sub(q_len));
                self.lens.iter().flat_map(|&len| (0..q_len).map(move |i| place(len, i))).collect()
            }

            /// Attention of `q_len` queries to what the sequences hold now; change any field but
            /// those of keys and values from there. `kv_len` is the longest sequence, `kv_lens` are
            /// given if they differ. Causality, windows and ALiBi need
            /// [`Align::BottomRight`](crate::Align).
            #[must_use]
            pub fn shape(&$self, num_heads: usize, q_len: usize) -> AttentionShape {
                AttentionShape { num_heads, q_len, ..$keys }
            }

            #[doc = concat!("The buffers of a call with [`", stringify!($read), "::shape`]; add optional ones by struct update.")]
            #[must_use]
            pub fn buffers<'a>(
                &'a $self,
                query: impl Into<crate::BufferRange<'a>>,
                out: impl Into<crate::BufferRange<'a>>,
            ) -> AttentionBuffers<'a> {
                let (key, value, pages) = $buffers;
                AttentionBuffers { pages, ..AttentionBuffers::new(query, key, value, out) }
            }
        }
    };
}

pub(super) use {of_store, read_by_attention};
