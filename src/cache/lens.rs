//! The lengths of a cache's sequences on the GPU: set and taken further there.

use crate::device::Capabilities;
use crate::plan::{Bindings, Dispatch, Entry, Storage, Variant};
use crate::problem::View;
use crate::tensor::Tensor;
use std::ops::Range;

/// The uniform block of cache_lens.wgsl, which a host test compares with this.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "explained in the shader")]
pub struct CacheLensParams {
    pub first: u32,
    pub count: u32,
    pub kept: u32,
    pub added: u32,
    pub capacity: u32,
}

const THREADS: u32 = Entry::CacheLens.count("THREADS");

/// Adds to the lengths of these sequences, or sets them.
pub(crate) fn cache_lens(
    batches: Range<u32>,
    [kept, added]: [u32; 2],
    [batch, capacity]: [u32; 2],
    capabilities: &Capabilities,
) -> Dispatch {
    let count = batches.end - batches.start;
    let params = CacheLensParams { first: batches.start, count, kept, added, capacity };
    let groups = count.div_ceil(THREADS);
    let most = capabilities.workgroups_per_axis;
    let variant = Variant::new(Entry::CacheLens, [Storage::F32; 2], []);
    let lens = View { batch: 1, column: 1, extent: batch, exact: true, ..View::default() };
    let mut bindings = Bindings::new(capabilities);
    bindings.bind("lens", Tensor::Lens, 1, lens);
    bindings.dispatch(variant, &params, [groups.min(most), groups.div_ceil(most), 1])
}
