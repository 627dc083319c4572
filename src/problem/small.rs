//! Small tensors of a word an element, which kernels read through one binding.

use super::{Problem, View};
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

impl Problem {
    /// What the call reads of a small tensor, as if all stood in one buffer.
    pub(crate) fn small_view(&self, tensor: Tensor) -> Option<View> {
        let stored = if tensor == Tensor::KeySegments { Tensor::Segments } else { tensor };
        let first = self.small.first(stored);
        let view = self.views[tensor].filter(|view| view.extent > 0)?;
        Some(View { offset: view.offset + first, extent: view.extent + first, ..view })
    }

    /// What stands in the binding of small tensors, if there are any: which buffer, and from the first element that is read to
    /// the last.
    pub(crate) fn small_tensors(&self) -> Option<(Tensor, View)> {
        let tensor = match self.small.present().next()? {
            _ if self.small.are_joined() => Tensor::Joined,
            tensor => tensor,
        };
        let hull = |a: View, b: View| {
            let (offset, extent) = (a.offset.min(b.offset), a.extent.max(b.extent));
            View { offset, extent, ..a }
        };
        let read = Tensor::SMALL.into_iter().chain([Tensor::KeySegments]);
        Some((tensor, read.filter_map(|tensor| self.small_view(tensor)).reduce(hull)?))
    }
}
