//! The layers around attention, from slices to vectors.

use super::Gpu;
use crate::buffer::{download, output, read, upload};
use crate::error::Error;
use crate::ops::{Linear, LinearBuffers};
use crate::problem::{Element, LinearInputs, LinearShape};

impl Gpu {
    /// A linear operator on this device that shares its pipelines.
    #[must_use]
    pub fn linear_operator(&self) -> Linear {
        Linear::from_context(self.context.clone())
    }

    /// A linear layer from slices: uploads, runs, reads back out `[batch, len, out_features]`, laid out as the shape
    /// says.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn linear<T: Element>(
        &self,
        shape: &LinearShape,
        inputs: &LinearInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        let operator = self.linear_operator();
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.problem)?;
        if plan.problem.out_element != T::TYPE {
            return Err(Error::invalid("out_f32", "false, as out comes back as x is", "true"));
        }
        operator.prepare(&plan).await?;
        let device = self.device();
        let x = upload(device, "x", bytemuck::cast_slice(inputs.x))?;
        let weight = upload(device, "weight", bytemuck::cast_slice(inputs.weight))?;
        let bias = inputs.bias.map(|bias| upload(device, "bias", bytemuck::cast_slice(bias)));
        let bias = bias.transpose()?;
        let len = plan.problem.out.extent;
        let bytes = u64::from(len.div_ceil(T::TYPE.per_word())) * 4;
        let out = output(device, "out", bytes)?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffers = LinearBuffers { x: &x, weight: &weight, bias: bias.as_ref(), out: &out };
        operator.encode(&mut encoder, &plan, &buffers)?;
        let mapped = download(device, self.queue(), encoder, &[&out]).await?;
        mapped.first().map_or(Ok(Vec::new()), |copy| read(copy, len as usize))
    }

    /// As [`Gpu::linear`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::linear`].
    pub fn linear_blocking<T: Element>(
        &self,
        shape: &LinearShape,
        inputs: &LinearInputs<'_, T>,
    ) -> Result<Vec<T>, Error> {
        pollster::block_on(self.linear(shape, inputs))
    }
}
