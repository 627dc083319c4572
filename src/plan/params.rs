//! What a kernel is told per dispatch. Mirrors shaders/shared/params.wgsl, which a host test
//! checks.

use crate::problem::{Lens, PackedSequence, Pages, Problem};
use crate::tensor::Tensor;

/// Where element `[batch, head, row, 0]` of a tensor lies, in elements of its binding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ViewParams {
    /// Index of the first element.
    pub offset: u32,
    /// From one sequence to the next.
    pub batch: u32,
    /// From one head to the next.
    pub head: u32,
    /// From one row to the next.
    pub row: u32,
}

/// Where lengths come from, and what they do.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct LensParams {
    /// Index of the first.
    pub offset: u32,
    /// What a larger one counts as.
    pub most: u32,
    /// Keys before the first of this dispatch.
    pub before: u32,
    /// By how much offset and band move for each key: 0 or 1.
    pub moves: u32,
}

/// The uniform block of every kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "the names are those of Problem")]
pub struct Params {
    pub query: ViewParams,
    pub key: ViewParams,
    pub value: ViewParams,
    pub out: ViewParams,
    pub lse: ViewParams,
    pub scores: ViewParams,
    pub partial_out: ViewParams,
    pub partial_lse: ViewParams,
    pub mask: ViewParams,
    pub bias: ViewParams,
    pub lens: LensParams,
    pub mask_column: u32,
    pub bias_column: u32,
    pub splits: u32,
    pub out_split: u32,
    pub lse_split: u32,
    pub sequences: u32,
    pub alibi_offset: u32,
    pub alibi_batch: u32,
    pub query_segment_offset: u32,
    pub query_segment_batch: u32,
    pub key_segment_offset: u32,
    pub key_segment_batch: u32,
    pub pages_offset: u32,
    pub pages_batch: u32,
    pub page_len: u32,
    pub last_page: u32,
    pub sinks_offset: u32,
    pub q_len: u32,
    pub kv_len: u32,
    pub seen_len: u32,
    pub group: u32,
    pub band_lower: i32,
    pub band_upper: i32,
    pub kept: u32,
    pub offset: i32,
    pub scale: f32,
    pub softcap: f32,
    pub words: u32,
    pub flags: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    pub hidden_bits: u32,
}

/// A line of the table of sequences. Mirrors shaders/shared/locate_ragged.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "the names are those of shaders/shared/sequence.wgsl")]
pub struct SequenceParams {
    pub first_tile: u32,
    pub first_query: u32,
    pub first_key: u32,
    pub q_len: u32,
    pub seen_len: u32,
    pub band_lower: i32,
    pub band_upper: i32,
    pub offset: i32,
}

/// Lines of a table, which is as large as any device lets a uniform block be.
pub(crate) const MOST_SEQUENCES: u32 = 512;

impl SequenceParams {
    /// The lines of a ragged problem, and its workgroups of `rows` rows in all.
    pub(super) fn table(problem: &Problem, rows: u32) -> (Vec<Self>, u32) {
        let mut tiles = 0_u32;
        let line = |line: PackedSequence| {
            let (first_tile, q_len) = (tiles, line.q_len());
            let PackedSequence { queries, keys, sequence } = line;
            tiles = tiles.saturating_add(q_len.saturating_mul(problem.group()).div_ceil(rows));
            Self {
                first_tile,
                first_query: queries.start,
                first_key: keys.start,
                q_len,
                seen_len: sequence.seen_len,
                band_lower: sequence.band.lower,
                band_upper: sequence.band.upper,
                offset: sequence.offset,
            }
        };
        let lines = problem.sequence_rows().map(line).collect();
        (lines, tiles)
    }
}

/// Bits of `flags`, as in shaders/shared/params.wgsl.
#[expect(missing_docs, reason = "the names are those of shaders/shared/params.wgsl")]
impl Params {
    pub const HAS_LSE: u32 = 1;
    pub const STORES_SUMS: u32 = 2;
    pub const HAS_SINKS: u32 = 4;
    pub const HAS_LENS: u32 = 8;
    pub const HAS_MASK: u32 = 16;
    pub const HAS_SEGMENTS: u32 = 32;
    pub const HAS_PAGES: u32 = 64;
    pub const READS_SUMS: u32 = 128;
    pub const STORES_SCORES: u32 = 256;
    pub const MARKS_HIDDEN: u32 = 512;
    pub const HAS_WEIGHTS: u32 = 1024;
    pub const SETTLES: u32 = 2048;
}

/// By how much a subnormal scale is larger here: transform.wgsl takes it off again.
const TINY_SCALE: f32 = (1_u64 << 63) as f32;

impl Params {
    /// Everything but the views, which depend on what is bound.
    pub(super) fn new(problem: &Problem) -> Self {
        let scale = problem.scale_f32();
        Self {
            q_len: problem.q_len,
            kv_len: problem.kv_len,
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            splits: 1,
            seen_len: problem.seen_len,
            group: problem.group(),
            band_lower: problem.band.lower,
            band_upper: problem.band.upper,
            kept: problem.band.kept,
            offset: problem.offset,
            scale: if problem.has_tiny_scale() { scale * TINY_SCALE } else { scale },
            // A device may take a subnormal softcap for 0, and 0 / 0 is NaN.
            softcap: problem.softcap.unwrap_or_default().max(f32::MIN_POSITIVE),
            sequences: problem.sequence_count(),
            ..Self::default()
        }
    }

    /// Places within the binding of small tensors, which begins at element `first` of them.
    pub(super) fn set_small(&mut self, problem: &Problem, first: u32) {
        let within = |tensor| {
            let view = problem.small_view(tensor)?;
            Some((view.offset - first, view.batch))
        };
        if let Some(place) = within(Tensor::AlibiSlopes) {
            (self.alibi_offset, self.alibi_batch) = place;
        }
        if let (Some(query), Some(key)) = (within(Tensor::Segments), within(Tensor::KeySegments)) {
            self.flags |= Self::HAS_SEGMENTS;
            (self.query_segment_offset, self.query_segment_batch) = query;
            (self.key_segment_offset, self.key_segment_batch) = key;
        }
        if let (Some(Lens { most, before, moves }), Some((offset, _))) =
            (problem.lens, within(Tensor::Lens))
        {
            self.flags |= Self::HAS_LENS;
            self.lens = LensParams { offset, most, before, moves: moves.into() };
        }
        if let (Some(Pages { page_len, count }), Some(place)) =
            (problem.pages, within(Tensor::Pages))
        {
            self.flags |= Self::HAS_PAGES;
            (self.pages_offset, self.pages_batch) = place;
            (self.page_len, self.last_page) = (page_len, count.saturating_sub(1));
        }
        if let Some((offset, _)) = within(Tensor::Sinks) {
            self.flags |= Self::HAS_SINKS;
            self.sinks_offset = offset;
        }
    }
}
