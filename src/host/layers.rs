//! The layers around attention, from slices to vectors.

use super::Gpu;
use super::masks::merge;
use crate::buffer::{download, output, pack_bits, read, upload};
use crate::error::Error;
use crate::ops::{
    Linear, LinearBuffers, MultiHeadAttention, MultiHeadBuffers, SelfAttention,
    SelfAttentionBuffers,
};
use crate::problem::{
    Element, LinearInputs, LinearShape, MultiHeadInputs, MultiHeadOutputs, MultiHeadShape,
    MultiHeadWeights, SelfAttentionInputs, SelfAttentionOutputs, SelfAttentionShape,
    SelfAttentionWeights,
};

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

    /// A multi-head operator on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::new`].
    pub fn multi_head_operator(
        &self,
        weights: &MultiHeadWeights<'_>,
    ) -> Result<MultiHeadAttention, Error> {
        MultiHeadAttention::from_context(self.context.clone(), weights)
    }

    /// A multi-head layer from slices, with masks as PyTorch has them: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn multi_head_attention(
        &self,
        weights: &MultiHeadWeights<'_>,
        shape: &MultiHeadShape,
        inputs: &MultiHeadInputs<'_>,
    ) -> Result<MultiHeadOutputs, Error> {
        inputs.validate(&weights.sizes()?, shape)?;
        // Before masks are put together: with sizes that are refused, that could be endless work.
        let operator = self.multi_head_operator(weights)?;
        operator.plan(shape)?;
        let (mask, bias) = merge(inputs, shape, weights.num_heads, weights.added_rows());
        let shape = MultiHeadShape {
            mask: mask.as_ref().map(|(layout, _)| *layout),
            bias: bias.as_ref().map(|(layout, _)| *layout),
            ..shape.clone()
        };
        let plan = operator.plan(&shape)?;
        operator.prepare(&plan).await?;

        let device = self.device();
        let floats = |label, slice: &[f32]| upload(device, label, bytemuck::cast_slice(slice));
        let query = floats("query", inputs.query)?;
        let key = floats("key", inputs.key)?;
        let value = floats("value", inputs.value)?;
        let bits = mask.map(|(_, mask)| pack_bits(&mask));
        let mask = bits.map(|bits| upload(device, "mask", bytemuck::cast_slice(&bits)));
        let mask = mask.transpose()?;
        let bias = bias.map(|(_, bias)| floats("bias", &bias)).transpose()?;
        let out = output(device, "out", inputs.query.len() as u64 * 4)?;
        let len = plan.weights_len(shape.weights);
        let weights = len.map(|len| output(device, "weights", u64::from(len) * 4)).transpose()?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffers = MultiHeadBuffers {
            mask: mask.as_ref(),
            bias: bias.as_ref(),
            weights: weights.as_ref(),
            ..MultiHeadBuffers::new(&query, &key, &value, &out)
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        let wanted = (inputs.query.len(), len.map(|len| len as usize));
        let (out, weights) = self.read_back(encoder, &out, weights.as_ref(), wanted).await?;
        Ok(MultiHeadOutputs { out, weights })
    }

    /// As [`Gpu::multi_head_attention`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::multi_head_attention`].
    pub fn multi_head_attention_blocking(
        &self,
        weights: &MultiHeadWeights<'_>,
        shape: &MultiHeadShape,
        inputs: &MultiHeadInputs<'_>,
    ) -> Result<MultiHeadOutputs, Error> {
        pollster::block_on(self.multi_head_attention(weights, shape, inputs))
    }

    /// A self-attention operator on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`SelfAttention::new`].
    pub fn self_attention_operator(
        &self,
        weights: &SelfAttentionWeights<'_>,
    ) -> Result<SelfAttention, Error> {
        SelfAttention::from_context(self.context.clone(), weights)
    }

    /// A self-attention module from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn self_attention(
        &self,
        weights: &SelfAttentionWeights<'_>,
        shape: &SelfAttentionShape,
        inputs: &SelfAttentionInputs<'_>,
    ) -> Result<SelfAttentionOutputs, Error> {
        let operator = self.self_attention_operator(weights)?;
        let plan = operator.plan(shape)?;
        inputs.validate(&plan.attention.problem)?;
        operator.prepare(&plan).await?;

        let device = self.device();
        let floats = |label, slice: &[f32]| upload(device, label, bytemuck::cast_slice(slice));
        let values = floats("values", inputs.values)?;
        let keys = floats("keys", inputs.keys)?;
        let queries = floats("queries", inputs.queries)?;
        let bits = inputs.mask.map(pack_bits);
        let mask = bits.map(|bits| upload(device, "mask", bytemuck::cast_slice(&bits)));
        let mask = mask.transpose()?;
        let out = output(device, "out", inputs.queries.len() as u64 * 4)?;
        let len = plan.attention.problem.weights.map(|view| view.extent);
        let weights = len.map(|len| output(device, "weights", u64::from(len) * 4)).transpose()?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffers = SelfAttentionBuffers {
            mask: mask.as_ref(),
            weights: weights.as_ref(),
            ..SelfAttentionBuffers::new(&values, &keys, &queries, &out)
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        let wanted = (inputs.queries.len(), len.map(|len| len as usize));
        let (out, weights) = self.read_back(encoder, &out, weights.as_ref(), wanted).await?;
        Ok(SelfAttentionOutputs { out, weights })
    }

    /// As [`Gpu::self_attention`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::self_attention`].
    pub fn self_attention_blocking(
        &self,
        weights: &SelfAttentionWeights<'_>,
        shape: &SelfAttentionShape,
        inputs: &SelfAttentionInputs<'_>,
    ) -> Result<SelfAttentionOutputs, Error> {
        pollster::block_on(self.self_attention(weights, shape, inputs))
    }

    /// Submits, and reads out and weights, of which so many elements are wanted.
    async fn read_back(
        &self,
        encoder: wgpu::CommandEncoder,
        out: &wgpu::Buffer,
        weights: Option<&wgpu::Buffer>,
        (out_len, weights_len): (usize, Option<usize>),
    ) -> Result<(Vec<f32>, Option<Vec<f32>>), Error> {
        let buffers: Vec<&wgpu::Buffer> = std::iter::once(out).chain(weights).collect();
        let mapped = download(self.device(), self.queue(), encoder, &buffers).await?;
        let mut mapped = mapped.iter();
        let out = mapped.next().map(|copy| read(copy, out_len)).transpose()?;
        let weights = mapped.next().zip(weights_len).map(|(copy, len)| read(copy, len));
        Ok((out.unwrap_or_default(), weights.transpose()?))
    }
}
