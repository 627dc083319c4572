//! Tiles of `attention_forward_matrix.wgsl`, which multiplies cooperative matrices.

use super::size::{MOST_COLUMNS, TileSize, counts, packed_rows};
use crate::device::{Capabilities, Matrices};
use crate::error::Error;
use crate::plan::variant::{Constant, Entry};
use crate::problem::{ElementType, Problem};
use std::fmt;

/// A subgroup takes as many rows as a matrix has, with their queries and outputs in registers: of
/// 16 rows and 128 columns, 96 in each of 32 lanes; of 256 columns 192, the most there is room for.
/// Subgroups share what is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixTiles {
    /// What all tiles have.
    pub size: TileSize,
    /// What a subgroup multiplies.
    pub matrices: Matrices,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
    /// Whether they may be smaller than planned.
    has_parts: bool,
}

/// Subgroups that share what is staged.
const MOST_SUBGROUPS: u32 = 8;
/// Keys of a tile.
const KEYS: u32 = Entry::AttentionForwardMatrix.count("KEYS");
/// Elements between rows in workgroup memory.
const GAP: u32 = 8;
/// Bytes of what a workgroup has once.
const OTHER_BYTES: u32 = 24;

/// Matrices that the kernel is written for.
const SHAPES: &str = "8x8x8 or 16x16x16, f16 in and f32 out";

impl MatrixTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
        if problem.element != ElementType::F16 {
            let found = format!("forward-matrix of {}", problem.element);
            return Err(Error::invalid("kernel", "another, or elements of f16", found));
        }
        let matrices = capabilities.matrices.filter(|_| capabilities.shader_f16);
        let Some(matrices @ Matrices { size, subgroup }) = matrices else {
            let (expected, found) = (SHAPES.to_owned(), "none".to_owned());
            return Err(Error::Unsupported { what: "cooperative matrices", expected, found });
        };
        let dims @ [head_dim, value_dim] = [problem.head_dim, problem.value_dim];
        if dims.iter().any(|dim| !dim.is_multiple_of(size) || *dim > 2 * MOST_COLUMNS) {
            let expected = format!("another, or dims that are multiples of {size} up to 256");
            let found = format!("forward-matrix of {head_dim} and {value_dim}");
            return Err(Error::invalid("kernel", expected, found));
        }
        // Subgroups of a workgroup share what it stages: as many as have rows and room.
        let most = packed_rows(problem).div_ceil(size).clamp(1, MOST_SUBGROUPS);
        let tiles = |subgroups: u32| {
            let (rows, threads) = (subgroups * size, subgroups * subgroup);
            let tile = (KEYS * (head_dim + GAP)).max(value_dim * (KEYS + GAP));
            let bytes = 2 * tile + (4 + 2) * rows * (KEYS + GAP) + 8 * rows + OTHER_BYTES;
            let size = TileSize {
                threads,
                rows,
                rows_each: 1,
                keys: KEYS,
                keys_each: KEYS,
                head_columns: head_dim,
                value_columns: value_dim,
                workgroup_bytes: bytes,
            };
            let has_parts = capabilities.subgroup < subgroup;
            size.checked(capabilities).map(|size| Self { size, matrices, subgroups, has_parts })
        };
        let mut subgroups = most.next_power_of_two();
        while subgroups > 1 && tiles(subgroups).is_err() {
            subgroups /= 2;
        }
        tiles(subgroups)
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, Constant)> {
        let mut constants = counts([
            ("HEAD_DIM", self.size.head_columns),
            ("VALUE_DIM", self.size.value_columns),
            ("MATRIX_SIZE", self.matrices.size),
            ("SUBGROUPS", self.subgroups),
            ("THREADS", self.size.threads),
        ]);
        let keeps_queries = self.size.head_columns <= MOST_COLUMNS;
        constants.push(("KEEPS_QUERIES", Constant::Flag(keeps_queries)));
        constants.push(("HAS_PARTS", Constant::Flag(self.has_parts)));
        constants
    }
}

impl fmt::Display for MatrixTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { matrices: Matrices { size, subgroup }, subgroups, .. } = self;
        write!(f, "{subgroups} subgroups of {subgroup} threads, each {size} rows")
    }
}
