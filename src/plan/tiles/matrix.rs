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
    /// Rows and columns of a matrix.
    pub matrix_size: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// Columns of a key, all of which are staged.
    pub head_dim: u32,
    /// Columns of out.
    pub value_dim: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
}

/// Matrices that the kernel is written for.
const SHAPES: &str = "8x8x8 or 16x16x16, f16 in and f32 out";

impl MatrixTiles {
    pub(crate) fn new(problem: &Problem, capabilities: &Capabilities) -> Result<Self, Error> {
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
            let workgroup_bytes = 2 * halves + 4 * words;
            let matrix_size = size;
            Self { matrix_size, subgroup, subgroups, keys, head_dim, value_dim, workgroup_bytes }
        });
        let most = packed_rows(problem).div_ceil(size).clamp(1, 4).next_power_of_two();
        let fits = |tiles: &&Self| {
            tiles.size().threads <= capabilities.workgroup_invocations
                && tiles.workgroup_bytes <= capabilities.workgroup_memory
                && tiles.subgroups <= most
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

    pub(crate) fn size(&self) -> TileSize {
        TileSize {
            threads: self.subgroups * self.subgroup,
            rows: self.subgroups * self.matrix_size,
            rows_each: 1,
            keys: self.keys,
            head_columns: self.head_dim,
            value_columns: self.value_dim,
            workgroup_bytes: self.workgroup_bytes,
        }
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, Constant)> {
        counts([
            ("HEAD_DIM", self.head_dim),
            ("VALUE_DIM", self.value_dim),
            ("MATRIX_SIZE", self.matrix_size),
            ("SUBGROUPS", self.subgroups),
            ("THREADS", self.subgroups * self.subgroup),
            ("KEYS", self.keys),
        ])
        .collect()
    }
}

impl fmt::Display for MatrixTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { matrix_size, subgroup, subgroups, .. } = self;
        write!(f, "{subgroups} subgroups of {subgroup} threads, each {matrix_size} rows")
    }
}
