//! Positional encodings from slices.

use super::Gpu;
use crate::buffer::{download, output, read, upload};
use crate::error::Error;
use crate::ops::{Positional, PositionalBuffers, Rotary, RotaryBuffers};
use crate::problem::{
    Element, PositionalInputs, PositionalShape, RotaryInputs, RotaryShape, TokenProblem,
};

impl Gpu {
    /// A rotary encoder on this device that shares its pipelines.
    #[must_use]
    pub fn rotary_operator(&self) -> Rotary {
        Rotary::from_context(self.context.clone())
    }

    /// A positional encoder on this device that shares its pipelines.
    #[must_use]
    pub fn positional_operator(&self) -> Positional {
        Positional::from_context(self.context.clone())
    }

    /// Rotary encoding from slices: uploads, runs, and reads back out, or x if that is rotated in place. Of an out with gaps
    /// between its rows, these are 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense, positions past the table among them; the other kinds for what
    /// the device refuses.
    pub async fn rotary<T: Element>(
        &self,
        shape: &RotaryShape,
        inputs: &RotaryInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        let operator = self.rotary_operator();
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.problem)?;
        operator.prepare(&plan).await?;
        let tokens = Tokens::upload(self, &plan.problem, Some(inputs.x), inputs.positions)?;
        let cos = upload(self.device(), "cos", bytemuck::cast_slice(inputs.cos))?;
        let sin = upload(self.device(), "sin", bytemuck::cast_slice(inputs.sin))?;
        let mut encoder = self.device().create_command_encoder(&Default::default());
        let Some(x) = tokens.x.as_ref().or(tokens.out.as_ref()) else { return Ok(Vec::new()) };
        let (positions, out) = (tokens.positions.as_ref(), tokens.out.as_ref());
        let buffers = RotaryBuffers { x, cos: &cos, sin: &sin, positions, out };
        operator.encode(&mut encoder, &plan, &buffers)?;
        tokens.download(self, encoder).await
    }

    /// As [`Gpu::rotary`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::rotary`].
    pub fn rotary_blocking<T: Element>(
        &self,
        shape: &RotaryShape,
        inputs: &RotaryInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        pollster::block_on(self.rotary(shape, inputs))
    }

    /// Positional encoding from slices: uploads, runs, and reads back out, or x if that is added to in place.
    ///
    /// # Errors
    /// As [`Gpu::rotary`].
    pub async fn positional<T: Element>(
        &self,
        shape: &PositionalShape,
        inputs: &PositionalInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        let operator = self.positional_operator();
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.problem)?;
        operator.prepare(&plan).await?;
        let tokens = Tokens::upload(self, &plan.problem, inputs.x, inputs.positions)?;
        let table = upload(self.device(), "table", bytemuck::cast_slice(inputs.table))?;
        let mut encoder = self.device().create_command_encoder(&Default::default());
        let buffers = PositionalBuffers {
            x: tokens.x.as_ref(),
            table: &table,
            positions: tokens.positions.as_ref(),
            out: tokens.out.as_ref(),
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        tokens.download(self, encoder).await
    }

    /// As [`Gpu::positional`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::positional`].
    pub fn positional_blocking<T: Element>(
        &self,
        shape: &PositionalShape,
        inputs: &PositionalInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        pollster::block_on(self.positional(shape, inputs))
    }
}

/// The buffers of a call besides its tables.
struct Tokens {
    x: Option<wgpu::Buffer>,
    positions: Option<wgpu::Buffer>,
    /// None if x is written.
    out: Option<wgpu::Buffer>,
    /// Elements that come back.
    len: usize,
}

impl Tokens {
    fn upload<T: Element>(
        gpu: &Gpu,
        problem: &TokenProblem,
        x: Option<&[T]>,
        positions: Option<&[u32]>,
    ) -> Result<Self, Error> {
        let device = gpu.device();
        // What is written in place may be longer than what is used of it.
        let len = x.filter(|_| problem.in_place).map_or(problem.out.extent as usize, <[T]>::len);
        let x = x.map(|x| upload(device, "x", bytemuck::cast_slice(x)));
        let out = (!problem.in_place).then(|| output(device, "out", (len * size_of::<T>()) as u64));
        let positions =
            positions.map(|positions| upload(device, "positions", bytemuck::cast_slice(positions)));
        Ok(Self {
            x: x.transpose()?,
            positions: positions.transpose()?,
            out: out.transpose()?,
            len,
        })
    }

    async fn download<T: Element>(
        &self,
        gpu: &Gpu,
        encoder: wgpu::CommandEncoder,
    ) -> Result<Vec<T>, Error> {
        let written = self.out.as_ref().or(self.x.as_ref());
        let written: Vec<_> = written.into_iter().collect();
        let mapped = download(gpu.device(), gpu.queue(), encoder, &written).await?;
        mapped.first().map_or_else(|| Ok(Vec::new()), |copy| read(copy, self.len))
    }
}
