//! Results over parts of the keys merged into the caller's encoder.

use super::launch::{bytes, check_buffers, check_plan, steps};
use crate::call::Call;
use crate::context::Context;
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{MergePlan, MergeTensor, largest_of};
use crate::problem::MergeShape;
use std::sync::Arc;

/// Merges out and lse over parts of the keys into those over all of them, on one device.
///
/// A part whose lse is `-inf` is left out; where all are, out is 0 and lse `-inf`. As lse says what out was divided by,
/// results merge in any order and in any number of steps: over chunks of a cache, over devices, over a prefix that
/// sequences share. Nothing here submits, waits or reads back.
///
/// Source: Juravsky et al., "Hydragen", arXiv 2402.05099, section 3.1.
#[derive(Clone, Debug)]
pub struct Merge {
    context: Arc<Context>,
}

/// The buffers of one call, contiguous; all need [`wgpu::BufferUsages::STORAGE`].
#[derive(Clone, Copy, Debug)]
pub struct MergeBuffers<'a> {
    /// `[parts, batch, num_heads, q_len, value_dim]` of the shape's element type.
    pub partial_out: &'a wgpu::Buffer,
    /// f32 `[parts, batch, num_heads, q_len]`.
    pub partial_lse: &'a wgpu::Buffer,
    /// `[batch, num_heads, q_len, value_dim]` of the shape's element type, written.
    pub out: &'a wgpu::Buffer,
    /// f32 `[batch, num_heads, q_len]`, written.
    pub lse: &'a wgpu::Buffer,
}

impl Merge {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Merge::new`], on no more than `capabilities` of the device.
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
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for: all
    /// parts of a row have to fit into one binding.
    pub fn plan(&self, shape: &MergeShape) -> Result<MergePlan, Error> {
        MergePlan::new(shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`, and reports what the shader compiler says.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &MergePlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Merge::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Merge::prepare`].
    pub fn prepare_blocking(&self, plan: &MergePlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`. Any number of plans may go into one encoder.
    ///
    /// # Errors
    /// As [`Merge::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &MergePlan,
        buffers: &MergeBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is too small, shared or without the STORAGE usage, or for a plan for
    /// other capabilities.
    pub fn bind(&self, plan: &MergePlan, buffers: &MergeBuffers<'_>) -> Result<Call, Error> {
        check_plan(&plan.capabilities, &self.context)?;
        let (p, per_word) = (&plan.problem, plan.problem.element.per_word());
        let MergeBuffers { partial_out, partial_lse, out, lse } = *buffers;
        check_buffers(
            &[
                ("partial_out", Some(bytes(p.partial_elements(), per_word)), Some(partial_out)),
                ("partial_lse", Some(bytes(p.partial_rows(), 1)), Some(partial_lse)),
            ],
            &[
                ("out", Some(bytes(p.out.extent, per_word)), Some(out)),
                ("lse", Some(bytes(p.lse.extent, 1)), Some(lse)),
            ],
        )?;
        let size = largest_of(&plan.launches, MergeTensor::Unpacked);
        let unpacked = self.context.unpacked.get(&self.context.device, size)?;
        let steps = steps(&plan.launches, |tensor| match tensor {
            MergeTensor::PartialOut => Some(partial_out.clone()),
            MergeTensor::PartialLse => Some(partial_lse.clone()),
            MergeTensor::Out => Some(out.clone()),
            MergeTensor::Lse => Some(lse.clone()),
            MergeTensor::Unpacked => unpacked.clone(),
        });
        self.context.bind("merge", Vec::new(), &steps)
    }
}
