//! Rotary encoding recorded into the caller's encoder.

use super::launch::{Given, bytes, check_buffers, steps};
use crate::call::Call;
use crate::context::{Context, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{TokenPlan, TokenTensor, largest_of};
use crate::problem::{RotaryShape, TokenProblem};
use std::sync::Arc;

/// Rotary encoding on one device: pairs of columns rotated by the angles of a table, such as
/// [`RotaryTable`](crate::RotaryTable) makes.
///
/// Source and destination lie as the shape says, apart from each other: keys can be rotated on their way into a cache.
/// Nothing here submits, waits or reads back.
///
/// Source: Su et al., "RoFormer", arXiv 2104.09864, equation 34.
#[derive(Clone, Debug)]
pub struct Rotary {
    context: Arc<Context>,
}

/// The buffers of one call, laid out as its [`RotaryShape`] says; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct RotaryBuffers<'a> {
    /// `[batch, num_heads, len, head_dim]` of the shape's element type; written if the shape has no out.
    pub x: &'a wgpu::Buffer,
    /// f32 `[rows, rotary_dim / 2]`, or `[batch, len, rotary_dim / 2]` with
    /// [`TableRows::PerToken`](crate::TableRows::PerToken).
    pub cos: &'a wgpu::Buffer,
    /// As `cos`.
    pub sin: &'a wgpu::Buffer,
    /// u32 `[batch, len]`, given exactly with [`TableRows::Named`](crate::TableRows::Named); or lengths `[batch]`, with
    /// [`TableRows::Last`](crate::TableRows::Last).
    pub positions: Option<&'a wgpu::Buffer>,
    /// As x, written; a buffer of its own, given exactly if the shape has an out.
    pub out: Option<&'a wgpu::Buffer>,
}

impl Rotary {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Rotary::new`], on no more than `capabilities` of the device.
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
    pub fn plan(&self, shape: &RotaryShape) -> Result<TokenPlan, Error> {
        TokenPlan::rotary(shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`, and reports what the shader compiler says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &TokenPlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Rotary::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Rotary::prepare`].
    pub fn prepare_blocking(&self, plan: &TokenPlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`Rotary::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &TokenPlan,
        buffers: &RotaryBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the STORAGE usage, or
    /// for a plan of another operation or for other capabilities.
    pub fn bind(&self, plan: &TokenPlan, buffers: &RotaryBuffers<'_>) -> Result<Call, Error> {
        check_plan(&self.context, plan, plan.problem.is_rotary())?;
        let tables = [("cos", buffers.cos), ("sin", buffers.sin)];
        let RotaryBuffers { x, positions, out, .. } = *buffers;
        check_token_buffers(&plan.problem, Some(x), &tables, positions, out)?;
        let steps = token_steps(&self.context, plan, |tensor| match tensor {
            TokenTensor::X => Some(x),
            TokenTensor::Out | TokenTensor::Unpacked => out.or(Some(x)),
            TokenTensor::Table => Some(buffers.cos),
            TokenTensor::Sines => Some(buffers.sin),
            TokenTensor::Positions => positions,
        })?;
        self.context.bind("rotary", Vec::new(), &steps)
    }
}

pub(super) fn check_plan(context: &Context, plan: &TokenPlan, is_own: bool) -> Result<(), Error> {
    if is_own && plan.capabilities == context.capabilities {
        return Ok(());
    }
    let found = if is_own { "one for other capabilities" } else { "one of another operation" };
    Err(Error::invalid("plan", "a plan of this operator's device", found))
}

pub(super) fn check_token_buffers(
    problem: &TokenProblem,
    x: Option<&wgpu::Buffer>,
    tables: &[(&'static str, &wgpu::Buffer)],
    positions: Option<&wgpu::Buffer>,
    out: Option<&wgpu::Buffer>,
) -> Result<(), Error> {
    let per_word = problem.element.per_word();
    let x = ("x", problem.x.map(|x| bytes(x.extent, per_word)), x);
    let table = |&(name, buffer)| (name, Some(bytes(problem.table.extent, 1)), Some(buffer));
    let positions = ("positions", problem.positions.map(|view| bytes(view.extent, 1)), positions);
    let mut inputs: Vec<Given<'_>> = tables.iter().map(table).chain([positions]).collect();
    if problem.in_place {
        check_buffers(&[], &[("out", None, out)])?;
        return check_buffers(&inputs, &[x]);
    }
    inputs.push(x);
    check_buffers(&inputs, &[("out", Some(bytes(problem.out.extent, per_word)), out)])
}

pub(crate) fn token_steps<'a, 'b>(
    context: &Context,
    plan: &'a TokenPlan,
    find: impl Fn(TokenTensor) -> Option<&'b wgpu::Buffer>,
) -> Result<Vec<Step<'a>>, Error> {
    let size = largest_of(&plan.launches, TokenTensor::Unpacked);
    let unpacked = context.unpacked.get(&context.device, size)?;
    Ok(steps(&plan.launches, |tensor| match tensor {
        TokenTensor::Unpacked => unpacked.clone(),
        tensor => find(tensor).cloned(),
    }))
}
