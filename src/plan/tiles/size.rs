//! What tiles of every kernel have, and what of a device they must fit.

use crate::device::{Capabilities, check_limits};
use crate::error::Error;
use crate::plan::variant::{Constant, count};
use crate::problem::Problem;
use crate::tensor::Tensor;

/// What tiles of every kernel have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileSize {
    /// Invocations of a workgroup.
    pub threads: u32,
    /// Rows of a workgroup.
    pub rows: u32,
    /// Rows of which one invocation sees which keys are visible.
    pub rows_each: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Keys that are computed at a time.
    pub keys_each: u32,
    /// Columns of a key staged at once, with padding.
    pub head_columns: u32,
    /// Columns of out that a workgroup computes, with padding.
    pub value_columns: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

/// The visibility of a tile's keys is one 32-bit word.
pub(crate) const MOST_KEYS: u32 = 32;
/// Fewer keys than this are not worth a tile, which has a multiple of them.
const FEWEST_KEYS: u32 = 4;
/// Fewer tiles of keys than this are not worth a workgroup of their own.
const FEWEST_TILES: u32 = 4;
/// Workgroups that keep a device busy. No API tells how many processors a GPU has: two for each of
/// a large one's.
const WORKGROUPS: u32 = 256;
/// Workgroups for each processor of a software adapter: so many parts of keys are even shares.
const WORKGROUPS_EACH: u32 = 16;
/// Fewer workgroups for each processor are not shared evenly.
pub(super) const FEWEST_WORKGROUPS_EACH: u32 = 4;
/// Invocations that a software adapter runs as one vector.
pub(super) const SOFTWARE_LOCKSTEP: u32 =
    count(include_str!("../../../shaders/shared/lockstep.wgsl"), "LOCKSTEP");
/// Columns that an invocation keeps in registers.
pub(super) const MOST_COLUMNS: u32 = 128;
/// Bytes of a kernel's note on values that are not finite.
pub(super) const FLAG_BYTES: u32 = 4;
/// Each invocation of the softmax has a maximum and a flag in workgroup memory.
const SOFTMAX_BYTES_EACH: u32 = 8;

impl TileSize {
    /// With as many keys as workgroup memory holds, and its bytes.
    pub(super) fn fit(
        self,
        bytes_per_key: u32,
        other_bytes: u32,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let room = capabilities.workgroup_memory.saturating_sub(other_bytes) / bytes_per_key;
        let fitting = room.clamp(FEWEST_KEYS, most_keys(problem));
        let keys = match problem.pages {
            // Tiles divide a page, whose length is a power of two.
            Some(_) => 1 << fitting.ilog2(),
            None => fitting / FEWEST_KEYS * FEWEST_KEYS,
        };
        let workgroup_bytes = keys * bytes_per_key + other_bytes;
        Self { keys, workgroup_bytes, ..self }.checked(capabilities)
    }

    /// Itself, if the device has room for it.
    pub(super) fn checked(self, capabilities: &Capabilities) -> Result<Self, Error> {
        // Every device has what the softmax needs, so no kernel is offered to one that has not.
        let softmax = softmax_threads(capabilities);
        let bytes = self.workgroup_bytes.max(softmax * SOFTMAX_BYTES_EACH);
        let threads = self.threads.max(softmax);
        check_limits([
            ("bytes of workgroup memory", bytes, capabilities.workgroup_memory),
            ("invocations per workgroup", threads, capabilities.workgroup_invocations),
        ])?;
        Ok(self)
    }

    /// How many workgroups share a row, each for a chunk of its output's columns.
    pub(crate) fn value_chunks(&self, problem: &Problem) -> u32 {
        problem.value_dim.div_ceil(self.value_columns)
    }

    /// How many workgroups share the keys of a row, so that few queries of many keys keep a device
    /// busy.
    pub(crate) fn splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let wanted = match capabilities.processors {
            0 => WORKGROUPS,
            processors => processors.saturating_mul(WORKGROUPS_EACH),
        };
        self.shares(wanted, self.keys * FEWEST_TILES, u32::MAX, problem, capabilities)
    }

    /// The same for so many workgroups in all, if each has `fewest` keys at least, and if possible
    /// `most_keys` at most.
    pub(super) fn shares(
        &self,
        wanted: u32,
        fewest: u32,
        most_keys: u32,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> u32 {
        let chunks = self.value_chunks(problem);
        let workgroups = workgroups(problem, self.rows).saturating_mul(chunks);
        let reaches = problem.counted_rows().map(|(_, line)| line.sequence.reach());
        let keys = reaches.max().unwrap_or_default();
        let most = capabilities.workgroups_per_axis / chunks.max(1);
        // Their shares are found from as many tiles as a row of the tensor has, times the number of
        // a workgroup.
        let countable = u32::MAX / problem.kv_len.div_ceil(self.keys).max(1);
        let most = most.min(countable);
        let least = keys.div_ceil(most_keys);
        (wanted / workgroups.max(1)).min(keys / fewest).max(least).min(most).max(1)
    }

    /// Turns of loops for each key of a tile to see which rows it is visible to, where biases or
    /// segments decide.
    pub(super) fn visibility_turns(&self, problem: &Problem) -> u32 {
        let is_there = |tensor| u32::from(problem.has(tensor));
        (is_there(Tensor::Bias) + is_there(Tensor::Segments)) * self.rows_each
    }

    /// Turns of loops that an invocation takes for a tile of keys, at most: what is staged, and
    /// three a key beside visibility.
    pub(super) fn turns(&self, problem: &Problem) -> u32 {
        let staging = (self.keys * self.vectors(problem)).div_ceil(self.threads);
        staging + (3 + self.visibility_turns(problem)) * self.keys
    }

    /// Vectors of a key and its value.
    pub(super) fn vectors(&self, problem: &Problem) -> u32 {
        problem.head_dim.div_ceil(4) + self.value_columns.div_ceil(4)
    }
}

/// Keys of a tile, which lies in one page.
pub(super) fn most_keys(problem: &Problem) -> u32 {
    problem.pages.map_or(MOST_KEYS, |pages| pages.page_len.min(MOST_KEYS))
}

/// Columns that `forward` takes: on a software adapter those that its nearest cache holds.
pub(crate) fn most_columns(capabilities: &Capabilities) -> u32 {
    if capabilities.is_software() { 2 * MOST_COLUMNS } else { MOST_COLUMNS }
}

/// Invocations that share a row of the softmax. Each step of their sums is a barrier, which a
/// software adapter takes for each vector of them.
pub(crate) fn softmax_threads(capabilities: &Capabilities) -> u32 {
    if capabilities.is_software() { SOFTWARE_LOCKSTEP } else { 64 }
}

/// Rows that share the keys of one key/value head.
pub(super) fn packed_rows(problem: &Problem) -> u32 {
    problem.q_len.saturating_mul(problem.group()).min(1 << 30)
}

/// Workgroups of so many rows that see all of the keys.
pub(super) fn workgroups(problem: &Problem, rows: u32) -> u32 {
    let tiles = problem
        .counted_rows()
        .map(|(count, line)| {
            line.q_len().saturating_mul(problem.group()).div_ceil(rows).saturating_mul(count)
        })
        .fold(0, u32::saturating_add);
    tiles.saturating_mul(problem.num_kv_heads)
}

/// Covers `dim` in as few pieces of at most so many columns, all of one size, in vectors of four.
pub(super) fn even_chunk(dim: u32, most: u32) -> u32 {
    dim.div_ceil(dim.div_ceil(most)).next_multiple_of(4)
}

/// Named counts as constants.
pub(super) fn counts<const N: usize>(
    counts: [(&'static str, u32); N],
) -> Vec<(&'static str, Constant)> {
    counts.map(|(name, count)| (name, Constant::Count(count))).into()
}
