//! A linear layer recorded into the caller's encoder.

use super::launch::check_buffer;
use super::launch::check_plan;
use crate::call::Call;
use crate::context::{Context, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::{LinearDispatch, LinearPlan, LinearTensor};
use crate::problem::LinearShape;
use std::sync::Arc;

/// `out = x weight^T + bias` on one device: the projections around attention.
///
/// The same verbs as [`Attention`](crate::Attention): `plan` validates a shape, `encode` records the plan into your
/// encoder. Sums are f32 for every element type.
#[derive(Clone, Debug)]
pub struct Linear {
    context: Arc<Context>,
}

/// The buffers of one call, laid out as its [`LinearShape`] says; all need [`wgpu::BufferUsages::STORAGE`].
///
/// Inputs may share a buffer; out shares with nothing.
#[derive(Clone, Copy, Debug)]
pub struct LinearBuffers<'a> {
    /// `[batch, len, in_features]` of the shape's element type.
    pub x: &'a wgpu::Buffer,
    /// `[out_features, in_features]`, as x.
    pub weight: &'a wgpu::Buffer,
    /// `[out_features]`, as x; given exactly if the shape has a bias.
    pub bias: Option<&'a wgpu::Buffer>,
    /// `[batch, len, out_features]`, as x, written.
    pub out: &'a wgpu::Buffer,
}

impl Linear {
    /// An operator on your device, with pipelines and workspace of its own. Operators made from one
    /// [`Gpu`](crate::Gpu) share theirs.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let capabilities = Capabilities::of(device);
        Self::from_context(Arc::new(Context::new(device, queue, capabilities)))
    }

    pub(crate) fn from_context(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &LinearShape) -> Result<LinearPlan, Error> {
        LinearPlan::new(shape, &self.context.capabilities)
    }

    /// Compiles the plan's pipelines now rather than at the first `encode`.
    ///
    /// # Errors
    /// [`Error::Shader`].
    pub async fn prepare(&self, plan: &LinearPlan) -> Result<(), Error> {
        self.context.pipelines.prepare(&plan.variants()).await
    }

    /// As [`Linear::prepare`], blocking.
    ///
    /// # Errors
    /// As [`Linear::prepare`].
    pub fn prepare_blocking(&self, plan: &LinearPlan) -> Result<(), Error> {
        pollster::block_on(self.prepare(plan))
    }

    /// Records the plan into `encoder`.
    ///
    /// # Errors
    /// As [`Linear::bind`]; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        plan: &LinearPlan,
        buffers: &LinearBuffers<'_>,
    ) -> Result<(), Error> {
        self.bind(plan, buffers)?.encode(encoder);
        Ok(())
    }

    /// Binds the plan to its buffers, for calls that are recorded again and again: see [`Call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a buffer that is missing, not wanted, too small, shared or without the STORAGE
    /// usage, or for a plan for other capabilities.
    pub fn bind(&self, plan: &LinearPlan, buffers: &LinearBuffers<'_>) -> Result<Call, Error> {
        check_plan(&plan.capabilities, &self.context)?;
        buffers.validate(plan)?;
        let steps = self.steps(plan, buffers)?;
        self.context.bind("linear", Vec::new(), &steps)
    }

    /// The plan's dispatches with the buffers they bind.
    pub(crate) fn steps<'a>(
        &self,
        plan: &'a LinearPlan,
        buffers: &LinearBuffers<'_>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let Context { device, unpacked, .. } = &*self.context;
        let unpacked = unpacked.get(device, plan.workspace())?;
        let find = |tensor| match tensor {
            LinearTensor::X => Some(buffers.x),
            LinearTensor::Weight => Some(buffers.weight),
            LinearTensor::Bias => buffers.bias,
            LinearTensor::Out => Some(buffers.out),
            LinearTensor::Unpacked => unpacked.as_ref(),
        };
        let step = |dispatch: &'a LinearDispatch| Step {
            variant: &dispatch.variant,
            params: &dispatch.params,
            table: &[],
            buffers: dispatch
                .bound
                .iter()
                .filter_map(|&(number, tensor, window)| {
                    Some((number, find(tensor)?.clone(), window))
                })
                .collect(),
            grid: dispatch.grid,
        };
        Ok(plan.dispatches.iter().map(step).collect())
    }
}

impl LinearBuffers<'_> {
    fn validate(&self, plan: &LinearPlan) -> Result<(), Error> {
        let p = &plan.problem;
        let bytes = |extent: u32| u64::from(extent.div_ceil(p.element.per_word())) * 4;
        check_buffer("x", Some(bytes(p.x.extent)), Some(self.x))?;
        check_buffer("weight", Some(bytes(p.weight.extent)), Some(self.weight))?;
        check_buffer("bias", p.bias.map(|view| bytes(view.extent)), self.bias)?;
        let out_bytes = u64::from(p.out.extent.div_ceil(p.out_element.per_word())) * 4;
        check_buffer("out", Some(out_bytes), Some(self.out))?;
        let inputs = [("x", Some(self.x)), ("weight", Some(self.weight)), ("bias", self.bias)];
        match inputs.into_iter().find(|(_, input)| *input == Some(self.out)) {
            Some((name, _)) => {
                Err(Error::invalid("out", "a buffer of its own", format!("that of {name}")))
            }
            None => Ok(()),
        }
    }
}
