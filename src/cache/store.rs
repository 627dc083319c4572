//! What caches of keys and values share: their buffers, and rows on their way into them.

use super::shape::{CacheProblem, CacheRotary, Rows, Run, places};
use super::uploads::Uploads;
use crate::buffer::{BufferRange, output, upload};
use crate::call::Call;
use crate::context::{Context, Footprint};
use crate::error::Error;
use crate::ops::AttentionBuffers;
use crate::plan::{Dispatch, Program, check_buffer};
use crate::problem::{Layout, TokenProblem, View};
use crate::tensor::{Given, Tensor};
use std::sync::Arc;

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

/// Keys and values in two buffers, and the tables by which keys are rotated.
#[derive(Debug)]
pub(super) struct CacheStore {
    pub(super) context: Arc<Context>,
    pub(super) problem: CacheProblem,
    pub(super) key: wgpu::Buffer,
    pub(super) value: wgpu::Buffer,
    tables: Option<[wgpu::Buffer; 2]>,
    /// Tables of pages and places.
    pub(super) uploads: Uploads,
}

/// So many rows from one place, sequence and row, to another.
pub(super) struct Move {
    pub(super) places: [[u32; 2]; 2],
    pub(super) count: u32,
}

/// What becomes of lengths on the GPU once rows have moved.
#[derive(Clone, Copy)]
pub(super) struct LensChange<'a> {
    pub(super) lens: &'a wgpu::Buffer,
    pub(super) dispatches: &'a [Dispatch],
}

/// New keys or values: the cache's rows for them, where they lie, their buffer and the cache's own.
pub(super) struct NewRows<'a> {
    pub(super) rows: &'a Rows,
    pub(super) view: View,
    pub(super) x: &'a wgpu::Buffer,
    pub(super) out: &'a wgpu::Buffer,
}

/// Rows of one buffer on their way into another.
pub(super) struct Copy {
    pub(super) program: Program,
    pub(super) x: wgpu::Buffer,
    pub(super) out: wgpu::Buffer,
    /// What says where they go, if the plan does not.
    pub(super) positions: Option<wgpu::Buffer>,
}

impl CacheStore {
    pub(super) fn new(
        context: Arc<Context>,
        problem: CacheProblem,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let device = &context.device;
        let key = output(device, "cached keys", problem.bytes(problem.key.view.extent))?;
        let value = output(device, "cached values", problem.bytes(problem.value.view.extent))?;
        let floats = |label, table: &[f32]| upload(device, label, bytemuck::cast_slice(table));
        let tables = match rotary {
            Some(CacheRotary { cos, sin, .. }) => Some([floats("cos", cos)?, floats("sin", sin)?]),
            None => None,
        };
        let uploads = Uploads::new(device, &context.queue);
        Ok(Self { context, problem, key, value, tables, uploads })
    }

    pub(super) fn tables(&self) -> Option<[&wgpu::Buffer; 2]> {
        self.tables.as_ref().map(|[cos, sin]| [cos, sin])
    }

    pub(super) fn buffers<'a>(
        &'a self,
        query: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> AttentionBuffers<'a> {
        AttentionBuffers::new(query, &self.key, &self.value, out)
    }

    pub(super) fn footprint(&self) -> Footprint {
        self.context.footprint()
    }

    /// Compiles what contiguous new tokens need, of one run and, where there may be, of several.
    pub(super) async fn prepare(
        &self,
        sizes: [usize; 2],
        runs: &[Run],
        may_be_several: bool,
    ) -> Result<(), Error> {
        for rows in [&self.problem.key, &self.problem.value] {
            let x = self.problem.tokens(rows, sizes, Layout::Bhsd)?;
            let mut plans = self.plans(rows, x, sizes, runs)?;
            if may_be_several {
                plans.extend(self.plans(rows, x, sizes, &[runs, runs].concat())?);
            }
            for program in plans {
                self.context.pipelines.prepare(&program.variants()).await?;
            }
        }
        Ok(())
    }

    /// Records `moves`, then new tokens of `batch` sequences on their way to their places; on an error, nothing.
    pub(super) fn append(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        batch: usize,
        tokens: &CacheTokens<'_>,
        (moves, runs): (&[Move], &[Run]),
        change: Option<LensChange<'_>>,
    ) -> Result<(), Error> {
        let sizes = [batch, tokens.len];
        let mut copies = self.moved(moves)?;
        for NewRows { rows, view, x, out } in self.given(batch, tokens, change.map(|c| c.lens))? {
            let copy = |program| Copy { program, x: x.clone(), out: out.clone(), positions: None };
            copies.extend(self.plans(rows, view, sizes, runs)?.into_iter().map(copy));
        }
        let goes_to_places = |copy: &&mut Copy| {
            copy.program.dispatches.iter().any(|d| d.find(Tensor::Positions).is_some())
        };
        let mut named = copies.iter_mut().filter(goes_to_places).peekable();
        if named.peek().is_some() {
            let table = places(sizes, runs);
            let (lease, table) = self.uploads.lease(bytemuck::cast_slice(&table))?;
            encoder.on_submitted_work_done(move || drop(lease));
            named.for_each(|copy| copy.positions = Some(table.clone()));
        }
        self.bind("append to cache", &copies, change)?.encode(encoder);
        Ok(())
    }

    /// What new tokens of `batch` sequences are and where they go, with buffers that fit; `lens` is the cache's own, if it has
    /// lengths on the GPU.
    pub(super) fn given<'a>(
        &'a self,
        batch: usize,
        tokens: &CacheTokens<'a>,
        lens: Option<&wgpu::Buffer>,
    ) -> Result<[NewRows<'a>; 2], Error> {
        let given = |argument, rows, out, x: &'a wgpu::Buffer, layout| {
            let view = self.problem.tokens(rows, [batch, tokens.len], layout)?;
            let per_word = self.problem.shape.element.per_word();
            let given = Given::input(Tensor::X, argument, view, per_word);
            check_buffer(&given, Some(x.into()), 1, false)?;
            if *x == self.key || *x == self.value || Some(x) == lens {
                return Err(Error::invalid(argument, "a buffer of its own", "that of the cache"));
            }
            Ok(NewRows { rows, view, x, out })
        };
        let CacheProblem { key, value, .. } = &self.problem;
        Ok([
            given("key", key, &self.key, tokens.key, tokens.key_layout)?,
            given("value", value, &self.value, tokens.value, tokens.value_layout)?,
        ])
    }

    /// Records `moves`, if there are any, and what becomes of lengths.
    pub(super) fn relocate(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        moves: &[Move],
        change: Option<LensChange<'_>>,
    ) -> Result<(), Error> {
        self.bind("copy in cache", &self.moved(moves)?, change)?.encode(encoder);
        Ok(())
    }

    /// One dispatch cannot read and write one buffer through two bindings, so rows are copied aside, and back.
    fn moved(&self, moves: &[Move]) -> Result<Vec<Copy>, Error> {
        let mut halves = Vec::new();
        for Move { places, count } in moves {
            for (rows, own) in [(&self.problem.key, &self.key), (&self.problem.value, &self.value)]
            {
                halves.push((self.problem.fork(rows, *places, *count)?, own));
            }
        }
        let extent = halves.iter().map(|([aside, _], _)| aside.out.extent).max();
        let bytes = self.problem.bytes(extent.unwrap_or_default());
        let Some(aside) = self.context.own(Tensor::Aside, bytes)? else { return Ok(Vec::new()) };
        let mut copies = Vec::new();
        for ([there, back], own) in halves {
            let ways = [(there, own, &aside), (back, &aside, own)];
            for (problem, x, out) in ways {
                let program = self.plan(problem)?;
                copies.push(Copy { program, x: x.clone(), out: out.clone(), positions: None });
            }
        }
        Ok(copies)
    }

    pub(super) fn plan(&self, problem: TokenProblem) -> Result<Program, Error> {
        problem.program(&self.context.capabilities)
    }

    /// New keys or values on their way to their places. Of several runs a table names these, unless rows share words: then each
    /// has a plan of its own.
    fn plans(
        &self,
        rows: &Rows,
        x: View,
        sizes: [usize; 2],
        runs: &[Run],
    ) -> Result<Vec<Program>, Error> {
        if runs.len() > 1 {
            let program = self.plan(self.problem.append_to_places(rows, x, sizes, runs)?)?;
            if !program.packs() {
                return Ok(vec![program]);
            }
        }
        runs.iter().map(|run| self.plan(self.problem.append(rows, x, run)?)).collect()
    }

    /// Copies, and then what becomes of lengths, ready to be recorded.
    pub(super) fn bind(
        &self,
        label: &'static str,
        copies: &[Copy],
        change: Option<LensChange<'_>>,
    ) -> Result<Call, Error> {
        let mut steps = Vec::new();
        for Copy { program, x, out, positions } in copies {
            let [cos, sin] = self.tables().map_or([None; 2], |tables| tables.map(Some));
            let find = |tensor| match tensor {
                Tensor::X => Some(x),
                Tensor::Out => Some(out),
                Tensor::Cos => cos,
                Tensor::Sin => sin,
                Tensor::Positions => positions.as_ref(),
                _ => None,
            };
            let find = |tensor| find(tensor).map(BufferRange::from);
            steps.extend(self.context.steps(&program.dispatches, find)?);
        }
        if let Some(LensChange { lens, dispatches }) = change {
            steps.extend(self.context.steps(dispatches, |_| Some(lens.into()))?);
        }
        self.context.call(label, &steps)
    }
}

/// The places of the last `q_len` tokens of sequences of these lengths, 0 before the first.
pub(super) fn positions(lens: &[usize], q_len: usize) -> Vec<u32> {
    let place =
        |len: usize, i: usize| u32::try_from((len + i).saturating_sub(q_len)).unwrap_or(u32::MAX);
    lens.iter().flat_map(|&len| (0..q_len).map(move |i| place(len, i))).collect()
}
