//! Tensors that take a row of a table at each token: rotary and other positional encodings.

use super::tensors::check_len;
use super::{Data, Element, ElementType, Layout, Strides, View, length};
use crate::error::Error;
use crate::tensor::{Given, Tensor};
use crate::view::move_view;
use crate::view::{multiply, resolve, resolve_output, to_u32};
use std::ops::Range;

/// Which row of a table belongs to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableRows {
    /// Token `i` of every sequence takes row `start + i` of a table `[rows, width]`.
    From {
        /// Row of the first token, as the number of tokens in a cache.
        start: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// Each token names its row in a table `[rows, width]`: positions are u32 `[batch, len]`. On the GPU a number past the
    /// table takes the last row.
    Named {
        /// Rows of the table.
        rows: usize,
    },
    /// The tokens are the last ones of sequences whose lengths are u32 `[batch]`, given as positions: token `i` takes row
    /// `length - len + i` of a table `[rows, width]`. [`KvCache::lens_buffer`](crate::KvCache::lens_buffer) has such lengths. On the GPU
    /// a row before the table's first is the first, and one past its last the last.
    Last {
        /// Rows of the table.
        rows: usize,
    },
    /// The table is `[batch, len, width]`: each token has a row of its own.
    PerToken,
}

/// Which two columns make a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RotaryPairs {
    /// Columns `i` and `i + rotary_dim / 2`, as GPT-NeoX and most models since.
    #[default]
    Half,
    /// Columns `2i` and `2i + 1`, as in the paper and GPT-J.
    Interleaved,
}

/// Sizes and layouts of a rotary encoding. Sizes may be zero, except for `num_heads` and `head_dim`.
///
/// ```
/// use wgpu_attention::{RotaryShape, TableRows};
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
    /// Columns that are rotated, the first ones: even, at least 2, at most `head_dim`. The others are left as they are.
    pub rotary_dim: usize,
    /// What x and out are stored as; tables are f32.
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
    /// Contiguous `[batch, num_heads, len, head_dim]`, rotated whole from position 0 on into an out that lies as x, by tables of
    /// `len` rows; change any field from there.
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

/// Sizes and layouts of an encoding that is added: sinusoidal or learned. `batch` and `len` may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PositionalShape {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub len: usize,
    /// Length of a token's vector, and of a row of the table.
    pub dim: usize,
    /// What x and out are stored as; the table is f32.
    pub element: ElementType,
    /// Which row of the table a token takes.
    pub rows: TableRows,
    /// Where x `[batch, len, dim]` lies; the strides of heads are not used. None: the encoding itself is written to out.
    pub x: Option<Layout>,
    /// Where out goes, sized as x; none: the encoding is added to x in place.
    pub out: Option<Layout>,
}

impl PositionalShape {
    /// Adds a table of `len` rows to a contiguous `[batch, len, dim]` in place; change any field from there.
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

/// A validated call of either kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenProblem {
    pub(crate) batch: u32,
    pub(crate) num_heads: u32,
    pub(crate) len: u32,
    pub(crate) dim: u32,
    pub(crate) element: ElementType,
    pub(crate) encoding: Encoding,
    /// What is read; none: nothing is.
    pub(crate) x: Option<View>,
    /// What is written.
    pub(crate) out: View,
    /// Whether x and out are one.
    pub(crate) in_place: bool,
    /// Of a table, or of each of two.
    pub(crate) table: View,
    pub(crate) positions: Option<View>,
    /// Last row of the table.
    pub(crate) last_row: u32,
    /// Where positions are the lengths of sequences: how many tokens before its end the first one stands.
    pub(crate) from_lens: Option<u32>,
    /// Rows of out, if each token goes to the one that its position names beside that of the table, or, of lengths, to the same.
    pub(crate) places: Option<u32>,
}

/// What is done with a token, and its row of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    Rotary {
        pairs: RotaryPairs,
        rotary_dim: u32,
    },
    Positional,
    /// Nothing: rows are copied, and there is no table.
    #[default]
    Copy,
}

impl TokenProblem {
    pub(crate) fn rotary(s: &RotaryShape) -> Result<Self, Error> {
        for (argument, size) in [("num_heads", s.num_heads), ("head_dim", s.head_dim)] {
            if size == 0 {
                return Err(Error::invalid(argument, "at least 1", 0));
            }
        }
        if s.rotary_dim == 0 || s.rotary_dim % 2 == 1 || s.rotary_dim > s.head_dim {
            let expected = format!("an even number from 2 to head_dim = {}", s.head_dim);
            return Err(Error::invalid("rotary_dim", expected, s.rotary_dim));
        }
        let sizes = [s.batch, s.num_heads, s.len, s.head_dim];
        let rotary_dim = length("rotary_dim", s.rotary_dim)?;
        let encoding = Encoding::Rotary { pairs: s.pairs, rotary_dim };
        let width = s.rotary_dim / 2;
        Self::new(sizes, s.element, encoding, [Some(s.x), s.out], table(sizes, s.rows, width)?)
    }

    pub(crate) fn positional(s: &PositionalShape) -> Result<Self, Error> {
        if s.dim == 0 {
            return Err(Error::invalid("dim", "at least 1", 0));
        }
        let sizes = [s.batch, 1, s.len, s.dim];
        let table = table(sizes, s.rows, s.dim)?;
        Self::new(sizes, s.element, Encoding::Positional, [s.x, s.out], table)
    }

    fn new(
        sizes: [usize; 4],
        element: ElementType,
        encoding: Encoding,
        [x, out]: [Option<Layout>; 2],
        (table, positions, last_row, from_lens): (View, Option<View>, u32, Option<u32>),
    ) -> Result<Self, Error> {
        let in_place = out.is_none();
        let Some(written) = out.or(x) else {
            return Err(Error::invalid("out", "a layout, as there is no x", "none"));
        };
        let x_view = match x {
            Some(x) if in_place => Some(resolve_output("x", sizes, x)?),
            Some(x) => Some(resolve("x", sizes, x)?),
            None => None,
        };
        let [batch, num_heads, len, dim] = sizes;
        Ok(Self {
            batch: length("batch", batch)?,
            num_heads: length("num_heads", num_heads)?,
            len: length("len", len)?,
            dim: length("dim", dim)?,
            element,
            encoding,
            x: x_view,
            out: resolve_output(if in_place { "x" } else { "out" }, sizes, written)?,
            in_place,
            table,
            positions,
            last_row,
            from_lens,
            places: None,
        })
    }

    /// The shader's names of its tables, and what they are.
    pub(crate) fn tables(&self) -> [Option<(&'static str, Tensor)>; 2] {
        match self.encoding {
            Encoding::Rotary { .. } => [Some(("cosine", Tensor::Cos)), Some(("sine", Tensor::Sin))],
            Encoding::Positional => [Some(("table", Tensor::Table)), None],
            Encoding::Copy => [None, None],
        }
    }

    /// What is written: x where it is encoded in place.
    pub(crate) fn written(&self) -> Tensor {
        if self.in_place { Tensor::X } else { Tensor::Out }
    }

    /// What a caller gives. In place, x is written, and an out would be one too many.
    pub(crate) fn given(&self) -> Vec<Given> {
        let per_word = self.element.per_word();
        let table = |tensor, name| Given::input(tensor, name, self.table, 1);
        let mut given = match self.encoding {
            Encoding::Rotary { .. } => vec![table(Tensor::Cos, "cos"), table(Tensor::Sin, "sin")],
            Encoding::Positional => vec![table(Tensor::Table, "table")],
            Encoding::Copy => Vec::new(),
        };
        given.push(Given::input(Tensor::Positions, "positions", self.positions, 1));
        let out = Some(self.out).filter(|_| !self.in_place);
        given.push(Given {
            is_output: self.in_place,
            ..Given::input(Tensor::X, "x", self.x, per_word)
        });
        given.push(Given::output(Tensor::Out, "out", out, per_word));
        given
    }

    /// Columns of a table's row.
    pub(crate) fn width(&self) -> u32 {
        match self.encoding {
            Encoding::Rotary { rotary_dim, .. } => rotary_dim / 2,
            Encoding::Positional => self.dim,
            Encoding::Copy => 0,
        }
    }

    /// How many numbers a token has among the positions.
    fn numbers(&self) -> u32 {
        if self.places.is_some() && self.from_lens.is_none() { 2 } else { 1 }
    }

    /// The same for some of the sequences, heads and tokens.
    pub(crate) fn slice(
        &self,
        batches: &Range<u32>,
        heads: &Range<u32>,
        tokens: &Range<u32>,
    ) -> Self {
        let count = |range: &Range<u32>| range.end - range.start;
        let moved = |view, columns| move_view(view, batches, heads, tokens, columns);
        let is_named = self.positions.is_some();
        Self {
            batch: count(batches),
            num_heads: count(heads),
            len: count(tokens),
            x: self.x.map(|x| moved(x, self.dim)),
            out: match self.places {
                Some(rows) => move_view(self.out, batches, heads, &(0..rows), self.dim),
                None => moved(self.out, self.dim),
            },
            table: if is_named { self.table } else { moved(self.table, self.width()) },
            positions: self.positions.map(|positions| moved(positions, self.numbers())),
            from_lens: self.from_lens.map(|back| back - tokens.start),
            ..*self
        }
    }

    /// Compares the lengths of slices with what is needed, and positions with the table.
    pub(crate) fn validate<'a, T: Element>(
        &self,
        data: impl Fn(Tensor) -> Option<Data<'a, T>>,
        positions: Option<&[u32]>,
    ) -> Result<(), Error> {
        if T::TYPE != self.element {
            return Err(Error::invalid("x", format!("{} elements", self.element), T::TYPE));
        }
        for Given { tensor, name, view, .. } in self.given() {
            if tensor != Tensor::Out {
                check_len(name, view.as_ref(), data(tensor).map(|data| data.len()))?;
            }
        }
        let (what, most) = match self.from_lens {
            Some(_) => ("at most as many as rows of the table", self.last_row + 1),
            None => ("rows of the table", self.last_row),
        };
        match positions.unwrap_or_default().iter().find(|&&row| row > most) {
            Some(row) => {
                let expected = format!("{what}, 0 to {most}");
                Err(Error::invalid("positions", expected, row))
            }
            None => Ok(()),
        }
    }

    /// The row of the table that belongs to a token.
    pub(crate) fn table_start(&self, positions: Option<&[u32]>, batch: usize, i: usize) -> usize {
        let named = self.positions.zip(positions);
        let row = named.map_or(i, |(view, positions)| {
            let named = positions[view.index(batch, 0, i, 0)] as usize;
            self.from_lens.map_or(named, |back| (named + i).saturating_sub(back as usize))
        });
        self.table.index(batch, 0, row, 0)
    }
}

/// Where the rows of the table lie, where those that are named are, the table's last row, and how many tokens before its end a
/// sequence begins, if positions are lengths.
fn table(
    [batch, _, len, _]: [usize; 4],
    rows: TableRows,
    width: usize,
) -> Result<(View, Option<View>, u32, Option<u32>), Error> {
    let is_empty = batch == 0 || len == 0;
    let shared = |start: usize, rows: usize| {
        Ok::<_, Error>(View {
            offset: to_u32(
                "table",
                if is_empty { 0 } else { multiply("table", &[start, width])? },
            )?,
            batch: 0,
            head: 0,
            row: to_u32("table", width)?,
            column: 1,
            extent: to_u32("table", multiply("table", &[rows, width])?)?,
            exact: true,
        })
    };
    match rows {
        TableRows::From { start, rows } => match start.checked_add(len) {
            Some(end) if end <= rows || is_empty => Ok((shared(start, rows)?, None, 0, None)),
            _ => Err(Error::invalid(
                "rows",
                format!("at least start + len = {start} + {len} rows of the table"),
                rows,
            )),
        },
        TableRows::Named { rows: 0 } | TableRows::Last { rows: 0 } if !is_empty => {
            Err(Error::invalid("rows", "at least 1 row of the table", 0))
        }
        TableRows::Named { rows } => {
            let layout = Layout::Strided(Strides { batch: len, row: 1, ..Strides::default() });
            let positions =
                View { exact: true, ..resolve("positions", [batch, 1, len, 1], layout)? };
            let last_row = length("rows", rows)?.saturating_sub(1);
            Ok((shared(0, rows)?, Some(positions), last_row, None))
        }
        TableRows::Last { rows } => {
            let lens = resolve("positions", [batch, 1, 1, 1], Layout::Bhsd)?;
            let last_row = length("rows", rows)?.saturating_sub(1);
            Ok((shared(0, rows)?, Some(lens), last_row, Some(length("len", len)?)))
        }
        TableRows::PerToken => {
            Ok((resolve("table", [batch, 1, len, width], Layout::Bhsd)?, None, 0, None))
        }
    }
}

/// The tensors of one rotary encoding, as slices laid out as its [`RotaryShape`] says.
#[derive(Clone, Copy, Debug)]
pub struct RotaryInputs<'a, T = f32> {
    /// `[batch, num_heads, len, head_dim]`.
    pub x: &'a [T],
    /// `[rows, rotary_dim / 2]`, or `[batch, len, rotary_dim / 2]` with [`TableRows::PerToken`].
    pub cos: &'a [f32],
    /// As `cos`.
    pub sin: &'a [f32],
    /// `[batch, len]`, given exactly with [`TableRows::Named`]; or lengths `[batch]`, with [`TableRows::Last`].
    pub positions: Option<&'a [u32]>,
}

/// The tensors of one positional encoding, as slices laid out as its [`PositionalShape`] says.
#[derive(Clone, Copy, Debug)]
pub struct PositionalInputs<'a, T = f32> {
    /// `[batch, len, dim]`, given exactly if the shape has it.
    pub x: Option<&'a [T]>,
    /// `[rows, dim]`, or `[batch, len, dim]` with [`TableRows::PerToken`].
    pub table: &'a [f32],
    /// `[batch, len]`, given exactly with [`TableRows::Named`]; or lengths `[batch]`, with [`TableRows::Last`].
    pub positions: Option<&'a [u32]>,
}

impl<'a, T: Element> RotaryInputs<'a, T> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::X => Some(Data::Elements(self.x)),
            Tensor::Cos => Some(Data::Floats(self.cos)),
            Tensor::Sin => Some(Data::Floats(self.sin)),
            Tensor::Positions => self.positions.map(Data::Words),
            _ => None,
        }
    }

    pub(crate) fn validate(&self, problem: &TokenProblem) -> Result<(), Error> {
        problem.validate(|tensor| self.get(tensor), self.positions)
    }
}

impl<'a, T: Element> PositionalInputs<'a, T> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::X => self.x.map(Data::Elements),
            Tensor::Table => Some(Data::Floats(self.table)),
            Tensor::Positions => self.positions.map(Data::Words),
            _ => None,
        }
    }

    pub(crate) fn validate(&self, problem: &TokenProblem) -> Result<(), Error> {
        problem.validate(|tensor| self.get(tensor), self.positions)
    }
}
