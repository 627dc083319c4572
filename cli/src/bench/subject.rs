//! What a row is of: a call of attention, or of a layer around it.

use super::attention;
use super::case::Case;
use super::device::Device;
use super::label::Label;
use super::layer::Layer;
use super::trial::{Effort, Measured};
use super::verify::Fault;
use half::{bf16, f16};
use wgpu_attention::ElementType;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Attention(Case),
    Layer(Layer),
}

impl Subject {
    pub(super) fn label(&self) -> Label {
        match self {
            Self::Attention(case) => case.label(),
            Self::Layer(layer) => layer.label(),
        }
    }

    /// Computes it, compares the result with the reference, and only then times it.
    pub(super) fn time(&self, device: &Device<'_>, effort: Effort) -> Result<Measured, Fault> {
        match self {
            Self::Attention(case) => match case.element {
                ElementType::F32 => attention::time::<f32>(device, case, effort),
                ElementType::F16 => attention::time::<f16>(device, case, effort),
                ElementType::Bf16 => attention::time::<bf16>(device, case, effort),
            },
            Self::Layer(layer) => layer.time(device, effort.seconds),
        }
    }
}
