//! Additive attention from slices.

use super::Gpu;
use crate::error::Error;
use crate::ops::Additive;
use crate::problem::{AdditiveInputs, AdditiveOutputs, AdditiveShape, Element};
use crate::tensor::Tensor;

impl Gpu {
    /// An additive attention on this device that shares its pipelines.
    #[must_use]
    pub fn additive_operator(&self) -> Additive {
        Additive::from_context(self.context.clone())
    }

    /// Additive attention from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn additive<T: Element>(
        &self,
        shape: &AdditiveShape,
        inputs: &AdditiveInputs<'_, T>,
    ) -> Result<AdditiveOutputs<T, f32>, Error> {
        let operator = self.additive_operator();
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.problem)?;
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("additive attention", call, data).await?;
        let out = written.read(Tensor::Out)?.unwrap_or_default();
        Ok(AdditiveOutputs { out, weights: written.read(Tensor::Weights)? })
    }

    /// As [`Gpu::additive`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::additive`].
    pub fn additive_blocking<T: Element>(
        &self,
        shape: &AdditiveShape,
        inputs: &AdditiveInputs<'_, T>,
    ) -> Result<AdditiveOutputs<T, f32>, Error> {
        pollster::block_on(self.additive(shape, inputs))
    }
}
