//! Small tensors of a word an element, which kernels read through one binding.

use super::{Problem, View};
use crate::error::Error;

/// One of them, in the order in which they stand where a call has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmallTensor {
    /// ALiBi slopes.
    AlibiSlopes,
    /// Segment ids of queries and keys.
    Segments,
    /// How many of its keys each sequence has.
    Lens,
    /// The table of pages.
    Pages,
    /// Attention sinks.
    Sinks,
}

impl SmallTensor {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AlibiSlopes, Self::Segments, Self::Lens, Self::Pages, Self::Sinks];
}

/// How long each of a call's small tensors is, 0 for those that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmallTensors([u32; SmallTensor::ALL.len()]);

impl SmallTensors {
    /// Of the whole tensors, in the order of [`SmallTensor::ALL`].
    pub(super) fn new(wholes: [Option<View>; SmallTensor::ALL.len()]) -> Result<Self, Error> {
        let lens = wholes.map(|whole| whole.map_or(0, |view| view.extent));
        let sum = lens.iter().try_fold(0_u32, |sum, &len| sum.checked_add(len));
        let few = "fewer than 2^32 elements with the other small tensors";
        sum.map(|_| Self(lens)).ok_or_else(|| Error::invalid("segments", few, "more"))
    }

    /// Elements of one.
    #[must_use]
    pub fn len(&self, tensor: SmallTensor) -> u32 {
        self.0[tensor as usize]
    }

    /// Where one begins if all stand in one buffer, one after the other.
    #[must_use]
    pub fn first(&self, tensor: SmallTensor) -> u32 {
        self.0[..tensor as usize].iter().sum()
    }

    /// Those that the call has.
    pub fn present(&self) -> impl Iterator<Item = SmallTensor> {
        SmallTensor::ALL.into_iter().filter(|&tensor| self.len(tensor) > 0)
    }

    /// Whether there are several, which then have to be copied into one buffer.
    #[must_use]
    pub fn are_joined(&self) -> bool {
        self.present().count() > 1
    }
}

impl Problem {
    /// What the call reads of its small tensors, each view as if all stood in one buffer.
    pub(crate) fn small_views(&self) -> impl Iterator<Item = (SmallTensor, View)> {
        let ids = self.segments.as_ref();
        let views = [
            (SmallTensor::AlibiSlopes, self.alibi),
            (SmallTensor::Segments, ids.map(|ids| ids.query)),
            (SmallTensor::Segments, ids.map(|ids| ids.key)),
            (SmallTensor::Lens, self.lens.map(|lens| lens.view)),
            (SmallTensor::Pages, self.pages.map(|pages| pages.table)),
            (SmallTensor::Sinks, self.sinks),
        ];
        let placed = |tensor, view: View| {
            let first = self.small.first(tensor);
            View { offset: view.offset + first, extent: view.extent + first, ..view }
        };
        let present = views.into_iter().filter_map(|(tensor, view)| Some((tensor, view?)));
        present
            .filter(|(_, view)| view.extent > 0)
            .map(move |(tensor, view)| (tensor, placed(tensor, view)))
    }
}
