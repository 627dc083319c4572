//! Segment ids: which document each query and each key belongs to.

use super::shape::{AttentionShape, SegmentLayout};
use crate::error::Error;
use crate::tensor::{Tensor, Views};
use crate::view::View;

/// Checks that ids go with the rest of the shape. Those of the keys then begin where those of the
/// queries end, or are the same.
pub(super) fn put_keys_behind_queries(
    shape: &AttentionShape,
    views: &mut Views,
) -> Result<(), Error> {
    let (Some(layout), Some(query), Some(key)) =
        (shape.segments, views[Tensor::Segments], views[Tensor::KeySegments])
    else {
        return Ok(());
    };
    if shape.cu_seqlens.is_some() {
        return Err(Error::invalid("segments", "none beside cu_seqlens", "some"));
    }
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
    views[Tensor::KeySegments] = Some(View { offset: before_keys, extent, ..key });
    Ok(())
}
