//! What caches of keys and values share: their buffers, and rows on their way into them.

use super::attention::{AttentionBuffers, Footprint, check_buffer};
use super::cache::CacheTokens;
use super::rotary::token_steps;
use crate::buffer::{output, upload};
use crate::context::Context;
use crate::error::Error;
use crate::plan::{TokenPlan, TokenTensor};
use crate::problem::{CacheProblem, CacheRotary, Layout, Rows, Run, TokenProblem, View};
use std::sync::Arc;

/// Keys and values in two buffers, and the tables by which keys are rotated.
#[derive(Debug)]
pub(super) struct CacheStore {
    pub(super) context: Arc<Context>,
    pub(super) problem: CacheProblem,
    pub(super) key: wgpu::Buffer,
    pub(super) value: wgpu::Buffer,
    tables: Option<[wgpu::Buffer; 2]>,
}

/// So many rows from one place, sequence and row, to another.
pub(super) struct Move {
    pub(super) places: [[u32; 2]; 2],
    pub(super) count: u32,
}

/// Rows of one buffer on their way into another.
struct Copy {
    plan: TokenPlan,
    x: wgpu::Buffer,
    out: wgpu::Buffer,
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
        Ok(Self { context, problem, key, value, tables })
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
        Footprint {
            pipelines: self.context.pipelines.len(),
            uniform_slots: self.context.uniforms.capacity(),
        }
    }

    /// Compiles what contiguous new tokens need.
    pub(super) async fn prepare(
        &self,
        [batch, len]: [usize; 2],
        runs: &[Run],
    ) -> Result<(), Error> {
        for rows in [&self.problem.key, &self.problem.value] {
            let x = self.problem.tokens(rows, [batch, len], Layout::Bhsd)?;
            for plan in self.plans(rows, x, runs)? {
                self.context.pipelines.prepare(&plan.variants()).await?;
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
        moves: &[Move],
        runs: &[Run],
    ) -> Result<(), Error> {
        let mut copies = self.moved(moves)?;
        for (argument, rows, own, buffer, layout) in [
            ("key", &self.problem.key, &self.key, tokens.key, tokens.key_layout),
            ("value", &self.problem.value, &self.value, tokens.value, tokens.value_layout),
        ] {
            let x = self.problem.tokens(rows, [batch, tokens.len], layout)?;
            check_buffer(argument, Some(self.problem.bytes(x.extent)), Some(buffer))?;
            if *buffer == self.key || *buffer == self.value {
                return Err(Error::invalid(argument, "a buffer of its own", "that of the cache"));
            }
            let copy = |plan| Copy { plan, x: buffer.clone(), out: own.clone() };
            copies.extend(self.plans(rows, x, runs)?.into_iter().map(copy));
        }
        self.record(encoder, "append to cache", &copies)
    }

    /// Records `moves`.
    pub(super) fn relocate(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        moves: &[Move],
    ) -> Result<(), Error> {
        self.record(encoder, "copy in cache", &self.moved(moves)?)
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
        let Context { device, workspace, .. } = &*self.context;
        let Some(aside) = workspace.get(device, bytes)? else { return Ok(Vec::new()) };
        let mut copies = Vec::new();
        for ([there, back], own) in halves {
            let ways = [(there, own, &aside), (back, &aside, own)];
            for (problem, x, out) in ways {
                let plan = self.plan(problem)?;
                copies.push(Copy { plan, x: x.clone(), out: out.clone() });
            }
        }
        Ok(copies)
    }

    fn plan(&self, problem: TokenProblem) -> Result<TokenPlan, Error> {
        TokenPlan::new(problem, &self.context.capabilities)
    }

    /// New keys or values on their way to their places, a plan for each run.
    fn plans(&self, rows: &Rows, x: View, runs: &[Run]) -> Result<Vec<TokenPlan>, Error> {
        runs.iter().map(|run| self.plan(self.problem.append(rows, x, run)?)).collect()
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        label: &'static str,
        copies: &[Copy],
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

/// The places of the last `q_len` tokens of sequences of these lengths, 0 before the first.
pub(super) fn positions(lens: &[usize], q_len: usize) -> Vec<u32> {
    let place =
        |len: usize, i: usize| u32::try_from((len + i).saturating_sub(q_len)).unwrap_or(u32::MAX);
    lens.iter().flat_map(|&len| (0..q_len).map(move |i| place(len, i))).collect()
}
