//! Small tensors of a word an element, which kernels read through one binding.

use crate::error::Error;
use crate::tensor::{Tensor, Views};

/// How long each of [`Tensor::SMALL`] is, 0 for those that a call does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmallTensors([u32; Tensor::SMALL.len()]);

impl SmallTensors {
    pub(super) fn new(views: &Views) -> Result<Self, Error> {
        let extent = |tensor: Tensor| views[tensor].map_or(0, |view| view.extent);
        let lens = Tensor::SMALL.map(|tensor| match tensor {
            Tensor::Segments => extent(tensor).max(extent(Tensor::KeySegments)),
            tensor => extent(tensor),
        });
        let sum = lens.iter().try_fold(0_u32, |sum, &len| sum.checked_add(len));
        let few = "fewer than 2^32 elements with the other small tensors";
        sum.map(|_| Self(lens)).ok_or_else(|| Error::invalid("segments", few, "more"))
    }

    /// Elements of one.
    #[must_use]
    pub fn len(&self, tensor: Tensor) -> u32 {
        let lens = Tensor::SMALL.into_iter().zip(self.0);
        lens.filter(|(small, _)| *small == tensor).map(|(_, len)| len).sum()
    }

    /// Where one begins if all stand in one buffer, one after the other.
    #[must_use]
    pub fn first(&self, tensor: Tensor) -> u32 {
        let lens = Tensor::SMALL.into_iter().zip(self.0);
        lens.take_while(|(small, _)| *small != tensor).map(|(_, len)| len).sum()
    }

    /// Those that the call has.
    pub fn present(&self) -> impl Iterator<Item = Tensor> {
        Tensor::SMALL.into_iter().filter(|&tensor| self.len(tensor) > 0)
    }

    /// Whether there are several, which then have to be copied into one buffer.
    #[must_use]
    pub fn are_joined(&self) -> bool {
        self.present().count() > 1
    }
}
