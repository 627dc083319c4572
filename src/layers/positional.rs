//! Positional encodings that are added: sinusoidal or learned.

use super::prelude::*;
use super::tokens::{Encoding, TableRows, TokenProblem};

/// Sizes and layouts of an encoding that is added: sinusoidal or learned. `batch` and `len` may be
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PositionalShape {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub len: usize,
    /// Length of a token's vector, and of a row of the table.
    pub dim: usize,
    /// Element type of x and out; the table is f32.
    pub element: ElementType,
    /// Which row of the table a token takes.
    pub rows: TableRows,
    /// Where x `[batch, len, dim]` lies; the strides of heads are not used. None: the encoding
    /// itself is written to out.
    pub x: Option<Layout>,
    /// Where out goes, sized as x; none: the encoding is added to x in place.
    pub out: Option<Layout>,
}

impl PositionalShape {
    /// Adds a table of `len` rows to a contiguous `[batch, len, dim]` in place; change any field
    /// from there.
    #[must_use]
    pub fn new(batch: usize, len: usize, dim: usize) -> Self {
        Self {
            batch,
            len,
            dim,
            element: ElementType::F32,
            rows: TableRows::From { start: 0, rows: len },
            x: Some(Layout::Bhsd),
            out: None,
        }
    }
}

tensors! {
    /// The buffers of one call, laid out as its [`PositionalShape`] says.
    buffers PositionalBuffers;
    /// The tensors of one positional encoding, as slices laid out as its [`PositionalShape`] says.
    inputs PositionalInputs<T>;
    read {
        /// `[batch, len, dim]`, given exactly if the shape has it; added to in place if that has no
        /// out.
        X => x: ?T,
        /// `[rows, dim]`, or `[batch, len, dim]` with [`TableRows::PerToken`].
        Table => table: f32,
        /// Given exactly with [`TableRows::Named`] and [`TableRows::Last`], as these say.
        Positions => positions: ?u32,
    }
    written {
        /// As x; a buffer of its own, given exactly if the shape has an out.
        Out => out: ?T,
    }
}

layer! {
    /// Adds a row of a table to each token, or writes it: [`sinusoidal`](crate::layers::sinusoidal)
    /// or learned positions.
    ///
    /// Nothing here submits, waits or reads back.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{PositionalInputs, PositionalShape}};
    /// // Two tokens of one number each.
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let (x, table) = (Some(&[3.0_f32, 4.0][..]), &[0.5, 0.25]);
    /// let inputs = PositionalInputs { x, table, positions: None };
    /// assert_eq!(gpu.positional_blocking(&PositionalShape::new(1, 2, 1), &inputs)?, [3.5, 4.25]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// Source: Vaswani et al., arXiv 1706.03762, section 3.5.
    Positional, "positional", positional_operator;
    PositionalPlan, TokenProblem = TokenProblem::positional;
    PositionalShape, PositionalBuffers, PositionalInputs;
    /// Positional encoding from slices: uploads, runs, and reads back out, or x if that is added to
    /// in place. Positions past the table are refused.
    positional, positional_blocking
    -> Vec<T> = |problem, written| written.read_all(problem.written())?;
}

impl TokenProblem {
    pub(crate) fn positional(s: &PositionalShape) -> Result<Self, Error> {
        check_not_zero([("dim", s.dim)])?;
        let sizes = [s.batch, 1, s.len, s.dim];
        Self::new(sizes, s.element, Encoding::Positional, [s.x, s.out], (s.rows, s.dim))
    }
}
