//! Which part of a buffer is bound: bindings start at aligned offsets and end at a limit.

use crate::device::Capabilities;
use crate::problem::View;

/// The part of a buffer that a dispatch binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First byte, aligned for the device.
    pub start: u64,
    /// Number of bytes.
    pub size: u64,
    /// Element at `start`.
    pub first_element: u32,
}

impl Window {
    /// Onto a tensor with so many elements in a 32-bit word.
    pub(super) fn onto(per_word: u32, view: &View, capabilities: &Capabilities) -> Self {
        let step = capabilities.storage_alignment.max(4) / 4 * per_word;
        let first_element = view.offset / step * step;
        let bytes = |elements: u32| u64::from(elements.div_ceil(per_word)) * 4;
        let start = bytes(first_element);
        Self { start, size: bytes(view.extent) - start, first_element }
    }

    /// The elements of a window onto out, each as a word of its own at the start of another buffer.
    pub(super) fn unpacked(out: &Self, view: &View) -> Self {
        let elements = u64::from(view.extent - out.first_element).next_multiple_of(2);
        Self { start: 0, size: elements * 4, first_element: out.first_element }
    }
}
