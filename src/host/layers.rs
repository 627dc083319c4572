//! The layers around attention, from slices to vectors.

use super::Gpu;
use super::masks::merge;
use crate::error::Error;
use crate::ops::{Linear, MultiHeadAttention, SelfAttention};
use crate::problem::{
    Data, Element, LinearInputs, LinearShape, MultiHeadInputs, MultiHeadOutputs, MultiHeadShape,
    MultiHeadWeights, SelfAttentionInputs, SelfAttentionOutputs, SelfAttentionShape,
    SelfAttentionWeights,
};
use crate::tensor::Tensor;

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
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("linear", call, data).await?;
        Ok(written.read(Tensor::Out)?.unwrap_or_default())
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
        let call = (&operator, &plan.program);
        let data = |tensor| match tensor {
            Tensor::Mask => mask.as_ref().map(|(_, mask)| Data::Flags(mask)),
            Tensor::Bias => bias.as_ref().map(|(_, bias)| Data::Floats(bias)),
            tensor => inputs.get(tensor),
        };
        let written = self.context.run_once("multi-head attention", call, data).await?;
        let out = written.read(Tensor::Out)?.unwrap_or_default();
        Ok(MultiHeadOutputs { out, weights: written.read(Tensor::Weights)? })
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
        inputs.validate(&plan.problem)?;
        let call = (&operator, &plan.program);
        let data = |tensor| inputs.get(tensor);
        let written = self.context.run_once("self-attention", call, data).await?;
        let out = written.read(Tensor::Out)?.unwrap_or_default();
        Ok(SelfAttentionOutputs { out, weights: written.read(Tensor::Weights)? })
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
}
