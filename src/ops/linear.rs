//! A linear layer recorded into the caller's encoder.

use crate::buffer::BufferRange;
use crate::context::Context;
use crate::error::Error;
use crate::plan::LinearPlan;
use crate::problem::LinearShape;
use crate::tensor::Tensor;
use crate::verbs::{Buffers, constructors, verbs};
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

constructors!(Linear, LinearPlan);
verbs!(Linear, LinearPlan, LinearBuffers, "linear");

impl Linear {
    /// Validates `shape` and decides what will run.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn plan(&self, shape: &LinearShape) -> Result<LinearPlan, Error> {
        LinearPlan::new(shape, &self.context.capabilities)
    }
}

impl<'a> Buffers<'a> for LinearBuffers<'a> {
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>> {
        match tensor {
            Tensor::X => Some(self.x),
            Tensor::Weight => Some(self.weight),
            Tensor::Bias => self.bias,
            Tensor::Out => Some(self.out),
            _ => None,
        }
        .map(BufferRange::from)
    }
}
