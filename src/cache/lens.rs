//! The lengths of a cache's sequences on the GPU: set and taken further there.

use crate::device::Capabilities;
use crate::plan::{Entry, Launch, Storage, Variant, Window};
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

/// The only tensor that is bound: lengths `[batch]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheLens;

const THREADS: u32 = Entry::CacheLens.count("THREADS");

/// Adds to the lengths of these sequences, or sets them.
pub(crate) fn cache_lens(
    batches: Range<u32>,
    [kept, added]: [u32; 2],
    [batch, capacity]: [u32; 2],
    capabilities: &Capabilities,
) -> Launch<CacheLens> {
    let count = batches.end - batches.start;
    let params = CacheLensParams { first: batches.start, count, kept, added, capacity };
    let groups = count.div_ceil(THREADS);
    let most = capabilities.workgroups_per_axis;
    Launch {
        variant: Variant {
            entry: Entry::CacheLens,
            storage: Storage::F32,
            out: Storage::F32,
            constants: [].into(),
        },
        params: bytemuck::bytes_of(&params).to_vec(),
        bound: vec![(
            4,
            CacheLens,
            Window { start: 0, size: u64::from(batch) * 4, first_element: 0 },
        )],
        grid: [groups.min(most), groups.div_ceil(most), 1],
    }
}
