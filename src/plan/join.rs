//! Small tensors copied into one buffer, if a call has several: kernels have one binding for all of
//! them.

use super::dispatch::{Bindings, Dispatch};
use super::fit::{Excess, Part, halves};
use super::storage::Storage;
use super::variant::{Entry, Variant};
use crate::device::Capabilities;
use crate::problem::{Problem, View};
use crate::tensor::Tensor;
use std::ops::Range;

/// The uniform block of join.wgsl, which a host test compares with this.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "explained in the shader")]
pub struct JoinParams {
    pub first: u32,
    pub first_out: u32,
    pub count: u32,
}

const THREADS: u32 = Entry::Join.count("THREADS");

/// Some elements of a small tensor on their way into the buffer of all.
pub(super) struct Join {
    tensor: Tensor,
    /// Where the tensor begins in that buffer.
    first: u32,
    elements: Range<u32>,
}

impl Join {
    /// All that a call has to copy.
    pub(super) fn all(problem: &Problem) -> Vec<Self> {
        let small = problem.small;
        let part =
            |tensor| Self { tensor, first: small.first(tensor), elements: 0..small.len(tensor) };
        small.present().filter(|_| small.are_joined()).map(part).collect()
    }
}

impl Part for Join {
    fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let Self { tensor, first, elements: Range { start, end } } = self;
        let view = |first: u32| {
            let (offset, extent) = (first + start, first + end);
            View { offset, extent, row: 1, column: 1, exact: true, ..View::default() }
        };
        let mut bindings = Bindings::new(capabilities);
        let params = JoinParams {
            first: bindings.bind("x", *tensor, 1, view(0)).offset,
            first_out: bindings.bind("out", Tensor::Joined, 1, view(*first)).offset,
            count: end - start,
        };
        let variant = Variant::new(Entry::Join, [Storage::F32; 2], []);
        let (groups, most) = (params.count.div_ceil(THREADS), capabilities.workgroups_per_axis);
        vec![bindings.dispatch(variant, &params, [groups.min(most), groups.div_ceil(most), 1])]
    }

    fn cut(&self, _: &Excess) -> Option<Vec<Self>> {
        let part = |[elements]: [Range<u32>; 1]| Self { elements, ..*self };
        Some(halves([self.elements.clone()], 0, 1)?.map(part).into())
    }
}
