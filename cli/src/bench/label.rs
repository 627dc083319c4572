//! What a report says of a subject.

use wgpu_attention::ElementType;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label {
    pub(super) sizes: Vec<usize>,
    pub(super) element: ElementType,
    pub(super) causal: bool,
    /// What hides keys or is added; of a layer what its sizes are.
    pub(super) words: String,
    /// `fwd` for plain attention; another name for what has the same shape.
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

impl Label {
    /// The sizes as `--shapes` takes those of attention.
    pub(super) fn name(&self) -> String {
        self.sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}
