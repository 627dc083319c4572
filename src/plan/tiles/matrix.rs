//! Tiles of `attention_forward_matrix.wgsl`, which multiplies cooperative matrices.

use super::size::{MOST_COLUMNS, TileSize, counts, most_keys, packed_rows};
use crate::device::{Capabilities, Matrices};
use crate::error::Error;
use crate::plan::variant::Constant;
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
}

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
        let columns = head_dim.max(value_dim);
        let candidates = [(4, 32), (2, 32), (1, 32), (1, 16)].map(|(subgroups, keys)| {
            let (rows, threads) = (subgroups * size, subgroups * subgroup);
            let halves = keys * (columns + 8) + rows * (keys + 8);
            let words = rows * (keys + 4) + threads + 2 * rows + 5;
            let size = TileSize {
                threads,
                rows,
                rows_each: 1,
                keys,
                keys_each: keys,
                head_columns: head_dim,
                value_columns: value_dim,
                workgroup_bytes: 2 * halves + 4 * words,
            };
            Self { size, matrices, subgroups }
        });
        let most = packed_rows(problem).div_ceil(size).clamp(1, 4).next_power_of_two();
        let fits = |tiles: &&Self| {
            tiles.size.threads <= capabilities.workgroup_invocations
                && tiles.size.workgroup_bytes <= capabilities.workgroup_memory
                && tiles.subgroups <= most
                && tiles.size.keys <= most_keys(problem)
        };
        candidates.iter().find(fits).copied().ok_or_else(|| {
            let least = candidates[3].size.workgroup_bytes;
            Error::unsupported("bytes of workgroup memory", least, capabilities.workgroup_memory)
        })
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, Constant)> {
        counts([
            ("HEAD_DIM", self.size.head_columns),
            ("VALUE_DIM", self.size.value_columns),
            ("MATRIX_SIZE", self.matrices.size),
            ("SUBGROUPS", self.subgroups),
            ("THREADS", self.size.threads),
            ("KEYS", self.size.keys),
        ])
    }
}

impl fmt::Display for MatrixTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { matrices: Matrices { size, subgroup }, subgroups, .. } = self;
        write!(f, "{subgroups} subgroups of {subgroup} threads, each {size} rows")
    }
}
