//! Segment ids: which document each query and each key belongs to.

use super::strides::{Layout, resolve};
use super::{AttentionShape, SegmentLayout, View};
use crate::error::Error;

/// Where the segment ids lie. What a kernel reads besides the large tensors stands in one buffer, slopes before ids:
/// the views count from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Place of the queries' ids: batch and row strides.
    pub query: View,
    /// Place of the keys' ids: batch and row strides.
    pub key: View,
    /// Number of elements before them.
    pub first: u32,
}

impl Segments {
    /// After `first` elements of something else.
    pub(super) fn new(shape: &AttentionShape, first: u32) -> Result<Option<Self>, Error> {
        let Some(layout) = shape.segments else { return Ok(None) };
        if shape.cu_seqlens.is_some() {
            return Err(Error::invalid("segments", "none beside cu_seqlens", "some"));
        }
        let ids = |len: usize| resolve("segments", [shape.batch, 1, len, 1], Layout::Bhsd);
        let (query, key) = (ids(shape.q_len)?, ids(shape.kv_len)?);
        let before_keys = match layout {
            SegmentLayout::PerSide => query.extent,
            SegmentLayout::Shared if shape.q_len == shape.kv_len => 0,
            SegmentLayout::Shared => {
                let expected = format!("as many queries as keys, {}, to share ids", shape.kv_len);
                return Err(Error::invalid("segments", expected, shape.q_len));
            }
        };
        let after = |view: View, steps: &[u32]| {
            let places = [view.offset, view.extent]
                .map(|place| steps.iter().try_fold(place, |place, &step| place.checked_add(step)));
            let [Some(offset), Some(extent)] = places else {
                return Err(Error::invalid("segments", "fewer than 2^32 elements", "more"));
            };
            Ok(View { offset, extent, ..view })
        };
        Ok(Some(Self {
            query: after(query, &[first])?,
            key: after(key, &[first, before_keys])?,
            first,
        }))
    }

    /// All of them, as their own buffer or slice has them.
    #[must_use]
    pub fn ids(&self) -> View {
        View { offset: 0, extent: self.within().extent - self.first, ..self.query }
    }

    /// All of them, where they lie.
    pub(crate) fn within(&self) -> View {
        let Self { query, key, .. } = self;
        View {
            offset: query.offset.min(key.offset),
            extent: query.extent.max(key.extent),
            ..*query
        }
    }
}
