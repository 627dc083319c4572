//! Additive attention from slices.

use super::Gpu;
use crate::buffer::{download, output, pack_bits, read, upload};
use crate::error::Error;
use crate::ops::{Additive, AdditiveBuffers};
use crate::problem::{AdditiveInputs, AdditiveOutputs, AdditiveShape, Element};

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
        operator.prepare(&plan).await?;

        let device = self.device();
        let elements = |label, slice: &[T]| upload(device, label, bytemuck::cast_slice(slice));
        let bits = inputs.mask.map(pack_bits);
        let mask = bits.map(|bits| upload(device, "mask", bytemuck::cast_slice(&bits)));
        let (query, key) = (elements("query", inputs.query)?, elements("key", inputs.key)?);
        let (value, w_q) = (elements("value", inputs.value)?, elements("w_q", inputs.w_q)?);
        let (w_k, w_v) = (elements("w_k", inputs.w_k)?, elements("w_v", inputs.w_v)?);
        let b = inputs.b.map(|b| elements("b", b)).transpose()?;
        let mask = mask.transpose()?;
        let out_len = plan.problem.out.extent as usize;
        let out = output(device, "out", (out_len * size_of::<T>()) as u64)?;
        let weights_len = plan.problem.weights.map(|view| view.extent as usize);
        let weights =
            weights_len.map(|len| output(device, "weights", len as u64 * 4)).transpose()?;

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffers = AdditiveBuffers {
            query: &query,
            key: &key,
            value: &value,
            w_q: &w_q,
            w_k: &w_k,
            w_v: &w_v,
            b: b.as_ref(),
            mask: mask.as_ref(),
            out: &out,
            weights: weights.as_ref(),
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        let written: Vec<_> = [Some(&out), weights.as_ref()].into_iter().flatten().collect();
        let mapped = download(device, self.queue(), encoder, &written).await?;
        let out = mapped.first().map(|copy| read(copy, out_len)).transpose()?;
        let weights = mapped.get(1).zip(weights_len).map(|(copy, len)| read(copy, len));
        Ok(AdditiveOutputs { out: out.unwrap_or_default(), weights: weights.transpose()? })
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
