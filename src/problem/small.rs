//! Small tensors of a word an element, which kernels read through one binding.

use super::shape::{AttentionShape, SegmentLayout};
use crate::error::Error;
use crate::tensor::{Tensor, Views};
use crate::view::{View, too_large};

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

/// Checks that segment ids go with the rest of the shape. Those of the keys then begin where those
/// of the queries end, or are the same.
pub(super) fn put_keys_behind_queries(
    shape: &AttentionShape,
    views: &mut Views,
) -> Result<(), Error> {
    let (Some(layout), Some(query), Some(key)) =
        (shape.segments, views[Tensor::Segments], views[Tensor::KeySegments])
    else {
        return Ok(());
    };
    let is_packed = shape.cu_seqlens.is_some();
    Error::require(!is_packed, "segments", "none beside cu_seqlens", "some")?;
    let before_keys = match layout {
        SegmentLayout::PerSide => query.extent,
        SegmentLayout::Shared => {
            let (q_len, kv_len) = (shape.q_len, shape.kv_len);
            let expected = format_args!("as many queries as keys, {kv_len}, to share ids");
            Error::require(q_len == kv_len, "segments", expected, q_len)?;
            0
        }
    };
    let extent = key.extent.checked_add(before_keys).ok_or_else(|| too_large("segments"))?;
    views[Tensor::KeySegments] = Some(View { offset: before_keys, extent, ..key });
    Ok(())
}
