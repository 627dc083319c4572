//! Results over parts of the keys merged from slices.

use super::Gpu;
use crate::error::Error;
use crate::ops::Merge;
use crate::problem::{Element, MergeInputs, MergeShape, Outputs};
use crate::tensor::Tensor;

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
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("merge", call, data).await?;
        let out = written.read(Tensor::Out)?.unwrap_or_default();
        Ok(Outputs { out, lse: written.read(Tensor::Lse)?, ..Outputs::default() })
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
