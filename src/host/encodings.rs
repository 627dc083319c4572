//! Positional encodings from slices.

use super::Gpu;
use crate::error::Error;
use crate::ops::{Positional, Rotary};
use crate::problem::{Element, PositionalInputs, PositionalShape, RotaryInputs, RotaryShape};

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
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("rotary", call, data).await?;
        Ok(written.read(plan.problem.written())?.unwrap_or_default())
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
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("positional", call, data).await?;
        Ok(written.read(plan.problem.written())?.unwrap_or_default())
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
