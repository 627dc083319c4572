//! Segment ids: which document each query and each key belongs to.

use super::strides::{Layout, resolve};
use super::{AttentionShape, SegmentLayout, View};
use crate::error::Error;

/// Where the segment ids lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Place of the queries' ids: batch and row strides.
    pub query: View,
    /// Place of the keys' ids: batch and row strides.
    pub key: View,
}

impl Segments {
    pub(super) fn new(shape: &AttentionShape) -> Result<Option<Self>, Error> {
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
        let Some(extent) = key.extent.checked_add(before_keys) else {
            return Err(Error::invalid("segments", "fewer than 2^32 elements", "more"));
        };
        Ok(Some(Self { query, key: View { offset: before_keys, extent, ..key } }))
    }

    /// All of them.
    #[must_use]
    pub fn ids(&self) -> View {
        View { offset: 0, extent: self.query.extent.max(self.key.extent), ..self.query }
    }
}
