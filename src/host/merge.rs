//! Results over parts of the keys merged from slices.

use super::Gpu;
use crate::buffer::{download, output, read, upload};
use crate::error::Error;
use crate::ops::{Merge, MergeBuffers};
use crate::problem::{Element, MergeInputs, MergeShape, Outputs};

impl Gpu {
    /// A merger on this device that shares its pipelines.
    #[must_use]
    pub fn merge_operator(&self) -> Merge {
        Merge::from_context(self.context.clone())
    }

    /// Merges results over parts of the keys from slices: uploads, runs, and reads out and lse back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn merge<T: Element>(
        &self,
        shape: &MergeShape,
        inputs: &MergeInputs<'_, T>,
    ) -> Result<Outputs<T, f32>, Error> {
        let operator = self.merge_operator();
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.problem)?;
        operator.prepare(&plan).await?;
        let device = self.device();
        let partial_out = upload(device, "partial_out", bytemuck::cast_slice(inputs.out))?;
        let partial_lse = upload(device, "partial_lse", bytemuck::cast_slice(inputs.lse))?;
        let [elements, rows] =
            [plan.problem.out.extent, plan.problem.lse.extent].map(|extent| extent as usize);
        let out = output(device, "out", (elements * size_of::<T>()) as u64)?;
        let lse = output(device, "lse", (rows * size_of::<f32>()) as u64)?;
        let mut encoder = device.create_command_encoder(&Default::default());
        let buffers = MergeBuffers {
            partial_out: &partial_out,
            partial_lse: &partial_lse,
            out: &out,
            lse: &lse,
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        let mapped = download(device, self.queue(), encoder, &[&out, &lse]).await?;
        Ok(Outputs {
            out: read(&mapped[0], elements)?,
            lse: Some(read(&mapped[1], rows)?),
            ..Outputs::default()
        })
    }

    /// As [`Gpu::merge`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::merge`].
    pub fn merge_blocking<T: Element>(
        &self,
        shape: &MergeShape,
        inputs: &MergeInputs<'_, T>,
    ) -> Result<Outputs<T, f32>, Error> {
        pollster::block_on(self.merge(shape, inputs))
    }
}
