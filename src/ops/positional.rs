//! Positional encodings that are added, recorded into the caller's encoder.

use super::rotary::{check_plan, check_token_buffers, token_steps};
use crate::call::Call;
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{TokenPlan, TokenTensor};
use crate::problem::PositionalShape;
use std::sync::Arc;

/// Adds a row of a table to each token, or writes it: [`sinusoidal`](crate::sinusoidal) or learned positions.
///
/// Nothing here submits, waits or reads back.
///
/// Source: Vaswani et al., arXiv 1706.03762, section 3.5.
#[derive(Clone, Debug)]
pub struct Positional {
    context: Arc<Context>,
}

/// The buffers of one call, laid out as its [`PositionalShape`] says; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct PositionalBuffers<'a> {
    /// `[batch, len, dim]` of the shape's element type, given exactly if the shape has it; written if that has no out.
    pub x: Option<&'a wgpu::Buffer>,
    /// f32 `[rows, dim]`, or `[batch, len, dim]` with [`TableRows::PerToken`](crate::TableRows::PerToken).
    pub table: &'a wgpu::Buffer,
    /// u32 `[batch, len]`, given exactly with [`TableRows::Named`](crate::TableRows::Named); or lengths `[batch]`, with
    /// [`TableRows::Last`](crate::TableRows::Last).
    pub positions: Option<&'a wgpu::Buffer>,
    /// As x, written; a buffer of its own, given exactly if the shape has an out.
    pub out: Option<&'a wgpu::Buffer>,
}

impl Positional {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Positional::new`], on no more than `capabilities` of the device.
    #[must_use]
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
    ) -> Self {
        let capabilities = capabilities.granted(device);
        Self::from_context(Arc::new(Context::new(device, queue, capabilities)))
    }

    pub(crate) fn from_context(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn plan(&self, shape: &PositionalShape) -> Result<TokenPlan, Error> {
        TokenPlan::positional(shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`, and reports what the shader compiler says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &TokenPlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Positional::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Positional::prepare`].
    pub fn prepare_blocking(&self, plan: &TokenPlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`Positional::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &TokenPlan,
        buffers: &PositionalBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// As [`Rotary::bind`](crate::Rotary::bind).
    pub fn bind(&self, plan: &TokenPlan, buffers: &PositionalBuffers<'_>) -> Result<Call, Error> {
        check_plan(&self.context, plan, !plan.problem.is_rotary())?;
        let PositionalBuffers { x, table, positions, out } = *buffers;
        check_token_buffers(&plan.problem, x, &[("table", table)], positions, out)?;
        let steps = token_steps(&self.context, plan, |tensor| match tensor {
            TokenTensor::X => x,
            TokenTensor::Out | TokenTensor::Unpacked => out.or(x),
            TokenTensor::Table | TokenTensor::Sines => Some(table),
            TokenTensor::Positions => positions,
        })?;
        self.context.bind("positional", Vec::new(), &steps)
    }
}
