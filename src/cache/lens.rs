//! The lengths of a cache's sequences on the GPU: set and taken further there.

use super::ranges::to_u32;
use super::shape::KvCacheShape;
use super::store::Work;
use crate::device::Capabilities;
use crate::plan::{Bindings, Entry, Storage, Variant};
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

/// A change of a sequence's length.
#[derive(Clone, Copy)]
pub(super) enum LenChange {
    /// The length is this.
    Set(u32),
    /// The length grows by this.
    Add(u32),
}

/// Work that changes the lengths of some of the sequences of a cache; the buffer `lens` holds all
/// of them.
pub(super) fn change_lens(
    lens: &wgpu::Buffer,
    shape: &KvCacheShape,
    capabilities: &Capabilities,
    sequences: Range<u32>,
    change: LenChange,
) -> Work {
    let (kept, added) = match change {
        LenChange::Set(len) => (0, len),
        LenChange::Add(count) => (1, count),
    };
    let [batch, capacity] = [shape.batch, shape.capacity].map(to_u32);
    let count = sequences.end - sequences.start;
    let params = CacheLensParams { first: sequences.start, count, kept, added, capacity };
    let groups = count.div_ceil(THREADS);
    let most = capabilities.workgroups_per_axis;
    let variant = Variant::new(Entry::CacheLens, [Storage::F32; 2], []);
    let view = View { batch: 1, column: 1, extent: batch, exact: true, ..View::default() };
    let mut bindings = Bindings::new(capabilities);
    bindings.bind("lens", Tensor::Lens, 1, view);
    let grid = [groups.min(most), groups.div_ceil(most), 1];
    Work::new(vec![bindings.dispatch(variant, &params, grid)], [(Tensor::Lens, Some(lens))])
}
