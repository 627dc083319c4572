//! Tile sizes from shape and device.

use super::variant::{Constant, Entry};
use crate::device::{Capabilities, Matrices};
use crate::error::Error;
use crate::problem::{ElementType, Problem};
use crate::tensor::Tensor;
use std::fmt;

/// Sizes of a kernel's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Invocations of a workgroup.
    pub threads: u32,
    /// Rows that an invocation owns, or has a part in.
    pub rows_each: u32,
    /// Invocations that share a row.
    pub lanes: u32,
    /// Invocations whose rows pass over hidden tiles together.
    pub lockstep: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Keys that are computed at a time.
    pub keys_each: u32,
    /// Whether the next tile is loaded while this one is computed.
    pub ahead: bool,
    /// Columns of a key staged at once, with padding.
    pub head_chunk: u32,
    /// Columns of out that a workgroup computes, with padding.
    pub value_chunk: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

/// What a workgroup of `forward` and `decode` takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardTile {
    /// Invocations: a power of two from 8 to 256.
    pub threads: u32,
    /// Rows that each owns: 1, 2 or 4.
    pub rows_each: u32,
    /// Keys that are computed at a time: 1, 2 or 4.
    pub keys_each: u32,
    /// Whether each tile of keys is loaded into registers while the one before it is computed.
    pub ahead: bool,
}

impl fmt::Display for ForwardTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, rows_each, keys_each, ahead } = self;
        write!(f, "{threads} threads, each {rows_each} rows and {keys_each} keys at a time")?;
        if *ahead { f.write_str(", the next tile ahead") } else { Ok(()) }
    }
}

/// The visibility of a tile's keys is one 32-bit word.
pub(super) const MOST_KEYS: u32 = 32;
/// Workgroups that keep a device busy. No API tells how many processors a GPU has: two for each of a large one's.
const WORKGROUPS: u32 = 256;
/// Workgroups for each processor of a CPU that plays the GPU: so many parts of keys are even shares.
const WORKGROUPS_EACH: u32 = 16;
/// Fewer of them for each are not shared evenly.
const FEWEST_WORKGROUPS_EACH: u32 = 4;
/// Invocations that such a CPU runs as one vector.
const SOFTWARE_LOCKSTEP: u32 = 8;
/// Fewer tiles of keys than this are not worth a workgroup of their own.
const FEWEST_TILES: u32 = 4;
/// Fewer keys than this are not worth a tile, which has a multiple of them.
const FEWEST_KEYS: u32 = 4;
/// Matrices that kernels are written for.
const SHAPES: &str = "8x8x8 or 16x16x16, f16 in and f32 out";
/// Bytes of a kernel's note on values that are not finite.
const FLAG_BYTES: u32 = 4;
/// Invocations of a workgroup of the three stages' products.
const PRODUCT_THREADS: u32 = Entry::Scores.count("THREADS");
const _: () = assert!(Entry::WeightedSum.count("THREADS") == PRODUCT_THREADS);
/// Columns that an invocation keeps in registers.
const MOST_COLUMNS: u32 = 128;
/// Vectors of the next tile that an invocation has registers for.
const MOST_VECTORS_AHEAD: u32 = 16;
/// Of the softmax, each invocation has a maximum and a flag in workgroup memory.
const SOFTMAX_BYTES_EACH: u32 = 8;

impl Tiles {
    /// Tiles of the fused kernel, which stages whole keys and values side by side; `tile` insists on one.
    pub(super) fn forward(
        problem: &Problem,
        capabilities: &Capabilities,
        tile: Option<ForwardTile>,
    ) -> Result<Self, Error> {
        let rows = packed_rows(problem);
        let software = capabilities.is_software();
        let (threads, rows_each, keys_each) = match (tile, software, rows) {
            (Some(tile), ..) => (tile.threads, tile.rows_each, tile.keys_each),
            (None, true, _) => software_tile(problem, capabilities.processors),
            (None, false, ..=32) => (32, 1, 4),
            (None, false, _) => (64, 1, 4),
        };
        let ahead = tile.is_some_and(|tile| tile.ahead);
        // A CPU runs eight invocations as one vector, and leaves out what none of them does: under a band they
        // skip the tiles that none of their rows sees. 512 causal queries, dim 64: 25 ms in workgroups of 64
        // rows that skip together, 18 in those of 256 rows where 32 do; dim 128, 38 and 32.
        let lockstep = if software { SOFTWARE_LOCKSTEP } else { threads };
        let head_chunk = parts(problem.head_dim, rows_each, keys_each).columns();
        let value_chunk = parts(problem.value_dim, rows_each, keys_each).columns();
        // A value's vectors have one more between them and the next value's.
        let gap = if software { 4 } else { 0 };
        let bytes_per_key = (head_chunk + value_chunk + gap) * 4;
        let tiles = Self {
            threads,
            rows_each,
            lanes: 1,
            lockstep,
            keys: most_keys(problem),
            keys_each,
            ahead,
            head_chunk,
            value_chunk,
            workgroup_bytes: 0,
        };
        tiles.with_memory(problem, bytes_per_key, FLAG_BYTES, capabilities)
    }

    /// Whether the fused kernel can be compiled for a tile, and the device has room for it.
    pub(super) fn admits(
        tile: ForwardTile,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> bool {
        let ForwardTile { threads, rows_each, keys_each, ahead } = tile;
        let count = |dim| parts(dim, rows_each, keys_each).count;
        let is_small = |count| matches!(count, 1 | 2 | 4);
        is_small(rows_each)
            && is_small(keys_each)
            && threads.is_power_of_two()
            && (SOFTWARE_LOCKSTEP..=256).contains(&threads)
            && [problem.head_dim, problem.value_dim].into_iter().all(|dim| count(dim) <= 4)
            && Self::forward(problem, capabilities, Some(tile))
                .is_ok_and(|tiles| !ahead || tiles.vectors_each() <= MOST_VECTORS_AHEAD)
    }

    /// Vectors of a tile of keys and values that each invocation stages.
    fn vectors_each(&self) -> u32 {
        self.keys * (self.head_chunk + self.value_chunk) / 4 / self.threads
    }

    /// What of it a measurement may change.
    #[must_use]
    pub fn forward_tile(&self) -> ForwardTile {
        let Self { threads, rows_each, keys_each, ahead, .. } = *self;
        ForwardTile { threads, rows_each, keys_each, ahead }
    }

    /// Tiles of the kernels that go through one tile in chunks of columns.
    pub(super) fn chunked(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let head_chunk = balanced_chunk(problem.head_dim);
        let value_chunk = balanced_chunk(problem.value_dim);
        let threads = if packed_rows(problem) <= 32 { 32 } else { 64 };
        let tiles = Self {
            threads,
            rows_each: 1,
            lanes: 1,
            lockstep: threads,
            keys: most_keys(problem),
            keys_each: 4,
            ahead: false,
            head_chunk,
            value_chunk,
            workgroup_bytes: 0,
        };
        tiles.with_memory(problem, head_chunk.max(value_chunk) * 4, 0, capabilities)
    }

    /// Tiles of the products of the three stages: sums of two rows and 32 keys or columns stay in 64 registers, one read of a
    /// key or value serves both rows, one of a query or weight all keys or columns.
    ///
    /// lavapipe 26, 512 queries and keys of 8 heads, dim 64, rows x keys and columns: 2 x 32 57 ms, 4 x 16 65, 2 x 16 64; one row
    /// with its query in registers, 72.
    pub(super) fn products(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        let tiles = Self {
            threads: PRODUCT_THREADS,
            rows_each: if packed_rows(problem) <= PRODUCT_THREADS { 1 } else { 2 },
            lanes: 1,
            lockstep: PRODUCT_THREADS,
            keys: MOST_KEYS,
            keys_each: MOST_KEYS,
            ahead: false,
            head_chunk: even_chunk(problem.head_dim, 64),
            value_chunk: even_chunk(problem.value_dim, 32),
            workgroup_bytes: 0,
        };
        let bytes_per_key = tiles.head_chunk.max(tiles.value_chunk) * 4;
        let tiles = tiles.with_memory(problem, bytes_per_key, FLAG_BYTES, capabilities)?;
        Ok(Self { keys_each: tiles.keys, ..tiles })
    }

    /// Tiles of the kernel of cooperative matrices.
    ///
    /// A subgroup takes as many rows as a matrix has, with their queries and outputs in registers: of 16 rows and 128
    /// columns, 96 in each of 32 lanes; of 256 columns 192, the most there is room for. Four subgroups share what is staged.
    pub(super) fn matrix(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        if problem.element != ElementType::F16 {
            let found = format!("forward-matrix of {}", problem.element);
            return Err(Error::invalid("kernel", "another, or elements of f16", found));
        }
        let unsupported = |what, expected: String, found: String| {
            Err(Error::Unsupported { what, expected, found })
        };
        let Some(Matrices { size, subgroup }) =
            capabilities.matrices.filter(|_| capabilities.shader_f16)
        else {
            return unsupported("cooperative matrices", SHAPES.to_owned(), "none".to_owned());
        };
        let dims = [problem.head_dim, problem.value_dim];
        if dims.iter().any(|dim| !dim.is_multiple_of(size) || *dim > 2 * MOST_COLUMNS) {
            let expected = format!("another, or dims that are multiples of {size} up to 256");
            let found = format!("forward-matrix of {} and {}", dims[0], dims[1]);
            return Err(Error::invalid("kernel", expected, found));
        }
        let columns = dims[0].max(dims[1]);
        let most = packed_rows(problem).div_ceil(size).clamp(1, 4).next_power_of_two();
        let candidates = [(4, 32), (2, 32), (1, 32), (1, 16)].map(|(subgroups, keys)| {
            let (rows, threads) = (subgroups * size, subgroups * subgroup);
            let halves = keys * (columns + 8) + rows * (keys + 8);
            let words = rows * (keys + 4) + threads + 2 * rows + 5;
            let workgroup_bytes = 2 * halves + 4 * words;
            Self {
                threads,
                rows_each: 1,
                lanes: subgroup / size,
                lockstep: threads,
                keys,
                keys_each: size,
                ahead: false,
                head_chunk: problem.head_dim,
                value_chunk: problem.value_dim,
                workgroup_bytes,
            }
        });
        let fits = |tiles: &&Self| {
            tiles.threads <= capabilities.workgroup_invocations
                && tiles.workgroup_bytes <= capabilities.workgroup_memory
                && tiles.rows() <= most * size
                && tiles.keys <= most_keys(problem)
        };
        match candidates.iter().find(fits) {
            Some(tiles) => Ok(*tiles),
            None => {
                let least = candidates[3].workgroup_bytes;
                let found = capabilities.workgroup_memory.to_string();
                unsupported("bytes of workgroup memory", format!("at least {least}"), found)
            }
        }
    }

    /// As many keys as workgroup memory holds beside `other_bytes`.
    fn with_memory(
        self,
        problem: &Problem,
        bytes_per_key: u32,
        other_bytes: u32,
        capabilities: &Capabilities,
    ) -> Result<Self, Error> {
        let room = capabilities.workgroup_memory.saturating_sub(other_bytes) / bytes_per_key;
        let fitting = room.clamp(FEWEST_KEYS, self.keys);
        let keys = match problem.pages {
            // Tiles divide a page, whose length is a power of two.
            Some(_) => 1 << fitting.ilog2(),
            None => fitting / FEWEST_KEYS * FEWEST_KEYS,
        };
        let workgroup_bytes = keys * bytes_per_key + other_bytes;
        // Every device has what the softmax needs, so no kernel is offered to one that has not.
        let softmax = softmax_threads(capabilities);
        let bytes = workgroup_bytes.max(softmax * SOFTMAX_BYTES_EACH);
        let threads = self.threads.max(softmax);
        let needs = [
            ("bytes of workgroup memory", bytes, capabilities.workgroup_memory),
            ("invocations per workgroup", threads, capabilities.workgroup_invocations),
        ];
        for (what, expected, found) in needs {
            if expected > found {
                let (expected, found) = (format!("at least {expected}"), found.to_string());
                return Err(Error::Unsupported { what, expected, found });
            }
        }
        Ok(Self { keys, workgroup_bytes, ..self })
    }

    /// Turns of loops for each key of a tile to see which rows it is visible to, where biases or segments decide.
    pub(super) fn visibility_turns(&self, problem: &Problem) -> u32 {
        let tensors =
            u32::from(problem.has(Tensor::Bias)) + u32::from(problem.has(Tensor::Segments));
        tensors * self.rows_each
    }

    /// Turns of loops that an invocation takes for a tile of keys, at most: what is staged, then a turn for each vector of a
    /// key and value where loops over columns are not unrolled, and three a key beside visibility.
    pub(super) fn turns_per_tile(&self, problem: &Problem, entry: Entry) -> u32 {
        let vectors = problem.head_dim.div_ceil(4) + self.value_chunk.div_ceil(4);
        let staging = (self.keys * vectors).div_ceil(self.threads);
        let products = match entry {
            Entry::AttentionForwardWide => self.keys / 4 * vectors,
            _ => 0,
        };
        staging + products + (3 + self.visibility_turns(problem)) * self.keys
    }

    /// Rows of a workgroup.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.threads * self.rows_each / self.lanes
    }

    /// How many workgroups share the keys of a row, so that few queries of many keys keep a device busy.
    pub(super) fn splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let workgroups =
            workgroups(problem, self.rows()).saturating_mul(self.value_chunks(problem));
        let wanted = match capabilities.processors {
            0 => WORKGROUPS,
            processors => processors.saturating_mul(WORKGROUPS_EACH),
        };
        let keys = problem
            .counted_lines()
            .map(|(_, line)| line.sequence.reach())
            .max()
            .unwrap_or_default();
        let most = capabilities.workgroups_per_axis / self.value_chunks(problem).max(1);
        // Their shares are found from as many tiles as a row of the tensor has, times the number of a workgroup.
        let countable = u32::MAX / problem.kv_len.div_ceil(self.keys).max(1);
        let most = most.min(countable);
        (wanted / workgroups.max(1)).min(keys / (self.keys * FEWEST_TILES)).min(most).max(1)
    }

    /// The same for the kernel that stores the weights: each of them loads its queries anew, so on a CPU that is busy they
    /// are no more than needed.
    pub(super) fn weights_splits(&self, problem: &Problem, capabilities: &Capabilities) -> u32 {
        let busy = capabilities.processors.saturating_mul(FEWEST_WORKGROUPS_EACH);
        // As many as a driver that stops long loops needs.
        let turns = self.turns_per_tile(problem, Entry::AttentionWeights);
        let tiles = problem.kv_len.div_ceil(self.keys);
        let least = tiles.saturating_mul(turns).div_ceil(capabilities.loop_turns).max(1);
        if capabilities.is_software() && workgroups(problem, self.rows()) >= busy {
            return least;
        }
        self.splits(problem, capabilities).max(least)
    }

    /// How many workgroups share a row, each for a chunk of its output's columns.
    pub(super) fn value_chunks(&self, problem: &Problem) -> u32 {
        problem.value_dim.div_ceil(self.value_chunk)
    }

    /// Constants of the fused kernel.
    pub(super) fn forward_constants(
        &self,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Vec<(&'static str, Constant)> {
        let head = parts(problem.head_dim, self.rows_each, self.keys_each);
        let value = parts(problem.value_dim, self.rows_each, self.keys_each);
        [
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_PARTS", head.count),
            ("HEAD_PART", head.vectors),
            ("VALUE_DIM", problem.value_dim),
            ("VALUE_PARTS", value.count),
            ("VALUE_PART", value.vectors),
            ("THREADS", self.threads),
            ("KEYS", self.keys),
            ("ROWS_EACH", self.rows_each),
            ("KEYS_EACH", self.keys_each),
        ]
        .map(|(name, count)| (name, Constant::Count(count)))
        .into_iter()
        .chain(
            [("AHEAD", self.ahead), ("SOFTWARE", capabilities.is_software())]
                .map(|(name, on)| (name, Constant::Flag(on))),
        )
        .collect()
    }

    /// Constants of the kernel that stores the weights, which has tiles of the fused one.
    pub(super) fn weights_constants(
        &self,
        problem: &Problem,
        capabilities: &Capabilities,
    ) -> Vec<(&'static str, Constant)> {
        let head = parts(problem.head_dim, self.rows_each, self.keys_each);
        [
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_PARTS", head.count),
            ("HEAD_PART", head.vectors),
            ("THREADS", self.threads),
            ("KEYS", self.keys),
            ("ROWS_EACH", self.rows_each),
            ("KEYS_EACH", self.keys_each),
        ]
        .map(|(name, count)| (name, Constant::Count(count)))
        .into_iter()
        .chain([("SOFTWARE", Constant::Flag(capabilities.is_software()))])
        .collect()
    }

    /// Constants of the kernel of cooperative matrices.
    pub(super) fn matrix_constants(&self, problem: &Problem) -> [(&'static str, Constant); 6] {
        [
            ("HEAD_DIM", problem.head_dim),
            ("VALUE_DIM", problem.value_dim),
            ("MATRIX_SIZE", self.keys_each),
            ("SUBGROUPS", self.rows() / self.keys_each),
            ("THREADS", self.threads),
            ("KEYS", self.keys),
        ]
        .map(|(name, count)| (name, Constant::Count(count)))
    }

    /// Constants of the three stages' products.
    pub(super) fn product_constants(&self) -> [(&'static str, Constant); 2] {
        [("ROWS_EACH", self.rows_each), ("KEYS", self.keys)]
            .map(|(name, count)| (name, Constant::Count(count)))
    }

    /// Constants of the kernels that have chunks.
    pub(super) fn chunk_constants(&self) -> [(&'static str, Constant); 2] {
        [("ROWS", self.threads), ("KEYS", self.keys)]
            .map(|(name, count)| (name, Constant::Count(count)))
    }

    /// Those of them that concern keys.
    pub(super) fn head_constants(&self, problem: &Problem) -> [(&'static str, Constant); 3] {
        [
            ("HEAD_DIM", problem.head_dim),
            ("HEAD_CHUNK", self.head_chunk),
            ("HEAD_STEP", step(self.head_chunk)),
        ]
        .map(|(name, count)| (name, Constant::Count(count)))
    }

    /// Those of them that concern values.
    pub(super) fn value_constants(&self, problem: &Problem) -> [(&'static str, Constant); 3] {
        [
            ("VALUE_DIM", problem.value_dim),
            ("VALUE_CHUNK", self.value_chunk),
            ("VALUE_STEP", step(self.value_chunk)),
        ]
        .map(|(name, count)| (name, Constant::Count(count)))
    }
}

/// A tile lies in one page.
fn most_keys(problem: &Problem) -> u32 {
    problem.pages.map_or(MOST_KEYS, |pages| pages.page_len.min(MOST_KEYS))
}

/// Rows that share the keys of one key/value head.
fn packed_rows(problem: &Problem) -> u32 {
    problem.q_len.saturating_mul(problem.group()).min(1 << 30)
}

/// A vector's columns as `count` loops over `vectors` vectors of four.
struct Parts {
    count: u32,
    vectors: u32,
}

impl Parts {
    fn columns(&self) -> u32 {
        self.count * self.vectors * 4
    }
}

/// Columns that the fused kernel takes: on a CPU those that its nearest cache holds. lavapipe 26, 512 queries and keys of
/// 4 heads: dim 192, 57 ms, and 170 with `forward-wide`; 256, 111 and 115.
pub(super) fn most_columns(capabilities: &Capabilities) -> u32 {
    if capabilities.is_software() { 2 * MOST_COLUMNS } else { MOST_COLUMNS }
}

/// Invocations, rows that each owns and keys at a time, where a CPU plays the GPU.
///
/// Each column of a key costs it a bounds check and a broadcast, so two rows share it, and each number of an output a load and a
/// store, so two keys share that; a GPU has no registers for both. More are compiled for longer and are no faster. lavapipe
/// 26, 512 queries and keys, rows x keys each, time over that of 2 x 2 by turns: dim 64, 8 heads, 2 x 1 1.19, 2 x 4 1.03, 4 x 1 1.08,
/// 4 x 2 1.36; dim 128, 2 x 1 1.20; dim 256, 1 x 1 1.18 of 1 x 2, 2 x 2 0.75
/// of it, but compiled for 10 s in place of 4; one query of 4,096 keys, dim 128, 32 heads in groups of 4, 1 x 4 1.11 of 1 x 2.
///
/// Each vector of invocations takes every tile's barriers, with rows or without, but many of them share what is staged. Time over that of
/// 64 invocations, 8 heads of dim 64 by turns: 24 queries, 2,048 keys, 16 0.83, 32 0.89, 128 1.27; 77 queries, 32 1.13, 128 1.12; 128 queries, 32
/// 1.08, 128 1.04; 200 queries, 32 1.06, 128 0.95; 512 queries and keys, 256 for 128, 0.9 to 0.98. 16 and 128 would be two
/// compilations more for a program whose lengths change.
fn software_tile(problem: &Problem, processors: u32) -> (u32, u32, u32) {
    let rows = packed_rows(problem);
    let dim = problem.head_dim.max(problem.value_dim);
    let rows_each = if rows <= 8 || dim > MOST_COLUMNS { 1 } else { 2 };
    let busy = processors.saturating_mul(FEWEST_WORKGROUPS_EACH);
    let threads = match rows {
        0..=8 => 8,
        9..=64 => 32,
        257.. if workgroups(problem, 256 * rows_each) >= busy => 256,
        _ => 64,
    };
    (threads, rows_each, 2)
}

/// Invocations that share a row of the softmax. Each step of their sums is a barrier, which a CPU that plays the GPU takes for
/// each vector of them: lavapipe 26, 4,096 rows of 512 keys, 8 invocations 8.8 ms, 16 10.1, 32 13.5, 64 19.5.
pub(super) fn softmax_threads(capabilities: &Capabilities) -> u32 {
    if capabilities.is_software() { SOFTWARE_LOCKSTEP } else { 64 }
}

/// Workgroups of so many rows that see all of the keys.
fn workgroups(problem: &Problem, rows: u32) -> u32 {
    let tiles = problem
        .counted_lines()
        .map(|(count, line)| {
            line.q_len().saturating_mul(problem.group()).div_ceil(rows).saturating_mul(count)
        })
        .fold(0, u32::saturating_add);
    tiles.saturating_mul(problem.num_kv_heads)
}

/// As few loops as drivers still unroll, up to 64 dot products each; at most four cover all columns.
fn parts(dim: u32, rows_each: u32, keys_each: u32) -> Parts {
    let vectors = dim.div_ceil(4);
    let most = (64 / (rows_each * keys_each)).min(16);
    let count = vectors.div_ceil(most);
    Parts { count, vectors: vectors.div_ceil(count) }
}

/// Columns that one loop goes through where loops come in two.
const ONE_LOOP: u32 = 64;

/// Vectors of a chunk that an inner loop goes through: as many as drivers still unroll. At head_dim 128
/// on lavapipe 26, one loop of 32 runs at half the speed of two loops of 16.
fn step(chunk: u32) -> u32 {
    if chunk <= ONE_LOOP { chunk / 4 } else { chunk / 8 }
}

/// Covers `dim` in as few pieces as registers allow, each of a size that loops divide.
fn balanced_chunk(dim: u32) -> u32 {
    let chunk = even_chunk(dim, MOST_COLUMNS);
    if chunk <= ONE_LOOP { chunk } else { chunk.next_multiple_of(8) }
}

/// Covers `dim` in as few pieces of at most so many columns, all of one size, in vectors of four.
fn even_chunk(dim: u32, most: u32) -> u32 {
    dim.div_ceil(dim.div_ceil(most)).next_multiple_of(4)
}
