//! What a row is of: a call of attention, or of a layer around it.

use super::attention;
use super::case::Case;
use super::device::Device;
use super::layer::Layer;
use super::trial::{Effort, Fault, Measured};
use half::{bf16, f16};
use wgpu_attention::ElementType;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Attention(Case),
    Layer(Layer),
}

/// What a report says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label {
    pub(super) sizes: Vec<usize>,
    pub(super) element: ElementType,
    pub(super) causal: bool,
    /// What hides keys or is added; of a layer what its sizes are.
    pub(super) words: String,
    /// `fwd` of plain attention, another name where a comparison by shape would take the rest for it.
    pub(super) pass: &'static str,
    /// The kernel, if one was asked for.
    pub(super) kernel: Option<&'static str>,
    /// Floating-point operations that count.
    pub(super) flops: f64,
    /// Of the tensors, each read or written once.
    pub(super) bytes: u64,
    /// Whether reading and writing holds it up, not computing.
    pub(super) moves: bool,
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

impl Label {
    /// The sizes as `--shapes` takes those of attention.
    pub(super) fn name(&self) -> String {
        self.sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}
