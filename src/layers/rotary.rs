//! Rotary encoding: pairs of columns rotated by the angles of a table.

use super::prelude::*;
use super::tokens::{Encoding, RotaryPairs, TableRows, TokenProblem};

/// Sizes and layouts of a rotary encoding. Sizes may be zero, except for `num_heads` and
/// `head_dim`.
///
/// ```
/// use wgpu_attention::layers::{RotaryShape, TableRows};
/// // 8 heads of one new token, which stands behind 100 cached ones; tables reach to position 2047.
/// let rows = TableRows::From { start: 100, rows: 2048 };
/// let shape = RotaryShape { rows, ..RotaryShape::new(1, 8, 1, 64) };
/// assert_eq!(shape.rotary_dim, 64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RotaryShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of heads.
    pub num_heads: usize,
    /// Tokens per sequence.
    pub len: usize,
    /// Length of a token's vector in one head.
    pub head_dim: usize,
    /// Columns that are rotated, the first ones: even, at least 2, at most `head_dim`. The others
    /// are left as they are.
    pub rotary_dim: usize,
    /// Element type of x and out; tables are f32.
    pub element: ElementType,
    /// Which columns make a pair.
    pub pairs: RotaryPairs,
    /// Which row of the tables a token takes.
    pub rows: TableRows,
    /// Where x `[batch, num_heads, len, head_dim]` lies.
    pub x: Layout,
    /// Where out goes, sized as x; none: x is rotated in place.
    pub out: Option<Layout>,
}

impl RotaryShape {
    /// Contiguous `[batch, num_heads, len, head_dim]`, rotated whole from position 0 on into an out
    /// that lies as x, by tables of `len` rows; change any field from there.
    #[must_use]
    pub fn new(batch: usize, num_heads: usize, len: usize, head_dim: usize) -> Self {
        Self {
            batch,
            num_heads,
            len,
            head_dim,
            rotary_dim: head_dim,
            element: ElementType::F32,
            pairs: RotaryPairs::Half,
            rows: TableRows::From { start: 0, rows: len },
            x: Layout::Bhsd,
            out: Some(Layout::Bhsd),
        }
    }
}

tensors! {
    /// The buffers of one call, laid out as its [`RotaryShape`] says.
    buffers RotaryBuffers;
    /// The tensors of one rotary encoding, as slices laid out as its [`RotaryShape`] says.
    inputs RotaryInputs<T>;
    read {
        /// `[batch, num_heads, len, head_dim]`; rotated in place if the shape has no out.
        X => x: T,
        /// `[rows, rotary_dim / 2]`, or `[batch, len, rotary_dim / 2]` with
        /// [`TableRows::PerToken`].
        Cos => cos: f32,
        /// As `cos`.
        Sin => sin: f32,
        /// Given exactly with [`TableRows::Named`] and [`TableRows::Last`], as these say.
        Positions => positions: ?u32,
    }
    written {
        /// As x; a buffer of its own, given exactly if the shape has an out.
        Out => out: ?T,
    }
}

layer! {
    /// Rotary encoding on one device: pairs of columns rotated by the angles of a table, such as
    /// [`RotaryTable`](crate::layers::RotaryTable) makes.
    ///
    /// Source and destination lie as the shape says, apart from each other: keys can be rotated on
    /// their way into a cache. Nothing here submits, waits or reads back.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{RotaryInputs, RotaryShape}};
    /// // One token of one head, a quarter turn.
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let inputs = RotaryInputs { x: &[3.0_f32, 1.0], cos: &[0.0], sin: &[1.0], positions: None };
    /// assert_eq!(gpu.rotary_blocking(&RotaryShape::new(1, 1, 1, 2), &inputs)?, [-1.0, 3.0]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// Source: Su et al., "RoFormer", arXiv 2104.09864, equation 34.
    Rotary, "rotary", rotary_operator;
    RotaryPlan, TokenProblem = TokenProblem::rotary;
    RotaryShape, RotaryBuffers, RotaryInputs;
    /// Rotary encoding from slices: uploads, runs, and reads back out, or x if that is rotated in
    /// place. Gaps between the rows of out are 0. Positions past the table are refused.
    rotary, rotary_blocking -> Vec<T> = |problem, written| written.read_all(problem.written())?;
}

impl TokenProblem {
    pub(crate) fn rotary(s: &RotaryShape) -> Result<Self, Error> {
        check_not_zero([("num_heads", s.num_heads), ("head_dim", s.head_dim)])?;
        if s.rotary_dim == 0 || s.rotary_dim % 2 == 1 || s.rotary_dim > s.head_dim {
            let expected = format!("an even number from 2 to head_dim = {}", s.head_dim);
            return Err(Error::invalid("rotary_dim", expected, s.rotary_dim));
        }
        let sizes = [s.batch, s.num_heads, s.len, s.head_dim];
        let rotary_dim = length("rotary_dim", s.rotary_dim)?;
        let encoding = Encoding::Rotary { pairs: s.pairs, rotary_dim };
        Self::new(sizes, s.element, encoding, [Some(s.x), s.out], (s.rows, s.rotary_dim / 2))
    }
}
