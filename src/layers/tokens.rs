//! Encodings that take a row of a table at each token: the part that rotary and positional share.

use super::prelude::*;
use crate::plan::ViewParams;
use crate::view::{multiply, to_u32};

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
    /// Each token names its row in a table `[rows, width]`: positions are u32 `[batch, len]`. On
    /// the GPU a number past the table takes the last row.
    Named {
        /// Rows of the table.
        rows: usize,
    },
    /// The tokens are the last ones of sequences whose lengths are u32 `[batch]`, given as
    /// positions: token `i` takes row `length - len + i` of a table `[rows, width]`.
    /// [`KvCache::lens_buffer`](crate::cache::KvCache::lens_buffer) has such lengths. On the GPU a
    /// row before the table's first is the first, and one past its last the last.
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

/// A validated call of either kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenProblem {
    pub(crate) batch: u32,
    pub(crate) num_heads: u32,
    pub(crate) len: u32,
    pub(crate) dim: u32,
    pub(crate) element: ElementType,
    pub(crate) encoding: Encoding,
    /// The tensor that is read, if any.
    pub(crate) x: Option<View>,
    /// The tensor that is written.
    pub(crate) out: View,
    /// Whether x and out are one.
    pub(crate) in_place: bool,
    /// Where the table lies, or each of two.
    pub(crate) table: View,
    pub(crate) positions: Option<View>,
    /// Last row of the table.
    pub(crate) last_row: u32,
    /// Where positions are the lengths of sequences: how many tokens before its end the first one
    /// stands.
    pub(crate) from_lens: Option<u32>,
    /// Rows of out, if each token goes to the one that its position names beside that of the table,
    /// or, of lengths, to the same.
    pub(crate) places: Option<u32>,
}

/// The use of a token, and of its row of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    Rotary {
        pairs: RotaryPairs,
        rotary_dim: u32,
    },
    Positional,
    /// Rows are copied, and there is no table.
    #[default]
    Copy,
}

impl TokenProblem {
    /// `rows` with the width of a row of the table.
    pub(super) fn new(
        sizes: [usize; 4],
        element: ElementType,
        encoding: Encoding,
        [x, out]: [Option<Layout>; 2],
        (rows, width): (TableRows, usize),
    ) -> Result<Self, Error> {
        let [batch, num_heads, len, dim] = sizes;
        let (table, positions) = table([batch, len], rows, width)?;
        let (last_row, from_lens) = match rows {
            TableRows::Named { rows } => (length("rows", rows)?, None),
            TableRows::Last { rows } => (length("rows", rows)?, Some(length("len", len)?)),
            _ => (0, None),
        };
        let in_place = out.is_none();
        let resolve_x = if in_place { resolve_output } else { resolve };
        let x = x.map(|x| resolve_x("x", sizes, x)).transpose()?;
        let out = out.map(|out| resolve_output("out", sizes, out)).transpose()?;
        let Some(out) = out.or(x) else {
            return Err(Error::invalid("out", "a layout, as there is no x", "none"));
        };
        Ok(Self {
            batch: length("batch", batch)?,
            num_heads: length("num_heads", num_heads)?,
            len: length("len", len)?,
            dim: length("dim", dim)?,
            element,
            encoding,
            x,
            out,
            in_place,
            table,
            positions,
            last_row: last_row.saturating_sub(1),
            from_lens,
            places: None,
        })
    }

    /// Its tables, with their names in the public structs and in the shader.
    fn tables(&self) -> &'static [(Tensor, &'static str, &'static str)] {
        match self.encoding {
            Encoding::Rotary { .. } => {
                &[(Tensor::Cos, "cos", "cosine"), (Tensor::Sin, "sin", "sine")]
            }
            Encoding::Positional => &[(Tensor::Table, "table", "table")],
            Encoding::Copy => &[],
        }
    }

    /// The tensor that is written: x where it is encoded in place.
    pub(super) fn written(&self) -> Tensor {
        if self.in_place { Tensor::X } else { Tensor::Out }
    }

    /// Columns of a table's row.
    pub(crate) fn width(&self) -> u32 {
        match self.encoding {
            Encoding::Rotary { rotary_dim, .. } => rotary_dim / 2,
            Encoding::Positional => self.dim,
            Encoding::Copy => 0,
        }
    }

    /// The same for some of the sequences, heads and tokens.
    fn slice(&self, [tokens, heads, batches]: &[Range<u32>; 3]) -> Self {
        let moved = |view, columns| move_view(view, batches, heads, tokens, columns);
        let is_named = self.positions.is_some();
        // Of each token: its row of the table and its place in out, or just the first.
        let numbers = if self.places.is_some() && self.from_lens.is_none() { 2 } else { 1 };
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
            positions: self.positions.map(|positions| moved(positions, numbers)),
            from_lens: self.from_lens.map(|back| back - tokens.start),
            ..*self
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

/// Where the rows of the table lie, and where those that are named are.
fn table(
    [batch, len]: [usize; 2],
    rows: TableRows,
    width: usize,
) -> Result<(View, Option<View>), Error> {
    let is_empty = batch == 0 || len == 0;
    let dense = |argument, sizes| resolve(argument, sizes, Layout::Bhsd);
    let of_rows = |rows| dense("table", [1, 1, rows, width]);
    match rows {
        TableRows::From { rows, .. } if is_empty => Ok((of_rows(rows)?, None)),
        TableRows::From { start, rows } => {
            if start.checked_add(len).is_none_or(|end| end > rows) {
                let expected = format!("at least start + len = {start} + {len} rows of the table");
                return Err(Error::invalid("rows", expected, rows));
            }
            let table = of_rows(rows)?;
            let offset = to_u32("table", multiply("table", &[start, width])?)?;
            Ok((View { offset, ..table }, None))
        }
        TableRows::Named { rows: 0 } | TableRows::Last { rows: 0 } if !is_empty => {
            Err(Error::invalid("rows", "at least 1 row of the table", 0))
        }
        TableRows::Named { rows } => {
            let positions = dense("positions", [batch, 1, len, 1])?;
            Ok((of_rows(rows)?, Some(positions)))
        }
        TableRows::Last { rows } => {
            let lens = dense("positions", [batch, 1, 1, 1])?;
            Ok((of_rows(rows)?, Some(lens)))
        }
        TableRows::PerToken => Ok((dense("table", [batch, 1, len, width])?, None)),
    }
}

/// The uniform block of rotary.wgsl and positional.wgsl. Mirrors shaders/shared/tokens.wgsl, which
/// a host test checks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "the names are those of RotaryShape, or explained in the shader")]
pub struct TokenParams {
    pub x: ViewParams,
    pub out: ViewParams,
    pub table: ViewParams,
    pub positions: ViewParams,
    pub num_heads: u32,
    pub len: u32,
    pub dim: u32,
    pub rotary_dim: u32,
    pub rotating: u32,
    pub per_row: u32,
    pub count: u32,
    pub last_row: u32,
    pub last_place: u32,
    pub back: u32,
}

const THREADS: u32 = Entry::Rotary.count("THREADS");
const _: () = assert!(Entry::Positional.count("THREADS") == THREADS);

impl LayerProblem for TokenProblem {
    fn element(&self) -> ElementType {
        self.element
    }

    /// In place, x is written, and an out would be one too many.
    fn given(&self) -> Vec<Given> {
        let per_word = self.element.per_word();
        let x = Given::input(Tensor::X, "x", self.x, per_word);
        let out = Some(self.out).filter(|_| !self.in_place);
        let table = |&(tensor, name, _): &_| Given::input(tensor, name, self.table, 1);
        let tables = self.tables().iter().map(table);
        let others = [
            Given::input(Tensor::Positions, "positions", self.positions, 1),
            // Outputs come last: each is compared with all tensors before it.
            Given { is_output: self.in_place, ..x },
            Given::output(Tensor::Out, "out", out, per_word),
        ];
        tables.chain(others).collect()
    }

    /// Compares the lengths of slices with what is needed, and positions with the table.
    fn validate<'a, T: Element>(&self, inputs: &impl Slices<'a, T>) -> Result<(), Error> {
        check_inputs(self.element, &self.given(), |tensor| inputs.get(tensor))?;
        let Some(Data::Words(positions)) = inputs.get(Tensor::Positions) else { return Ok(()) };
        let (what, most) = match self.from_lens {
            Some(_) => ("at most as many as rows of the table", self.last_row + 1),
            None => ("rows of the table", self.last_row),
        };
        match positions.iter().find(|&&row| row > most) {
            Some(row) => {
                let expected = format!("{what}, 0 to {most}");
                Err(Error::invalid("positions", expected, row))
            }
            None => Ok(()),
        }
    }
}

impl Part for TokenProblem {
    fn is_empty(&self) -> bool {
        self.out.extent == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (storage, out) = storages(self, capabilities);
        let (entry, own) = match self.encoding {
            // The kernel copies the columns that it does not rotate: those of a copy are all such.
            Encoding::Rotary { .. } | Encoding::Copy => {
                let interleaved = RotaryPairs::Interleaved;
                let is_interleaved =
                    matches!(self.encoding, Encoding::Rotary { pairs, .. } if pairs == interleaved);
                let to_place = self.places.is_some();
                (Entry::Rotary, vec![("INTERLEAVED", is_interleaved), ("TO_PLACE", to_place)])
            }
            Encoding::Positional => (Entry::Positional, vec![("HAS_X", self.x.is_some())]),
        };
        // Unpacked elements are written elsewhere, so x can be read where it is.
        let in_place = self.in_place && out != Storage::Unpacked;
        let flags = [
            ("IN_PLACE", in_place),
            ("HAS_POSITIONS", self.positions.is_some() && self.from_lens.is_none()),
            ("FROM_LENS", self.from_lens.is_some()),
        ];
        let constants = own.into_iter().chain(flags);
        let constants = constants.map(|(name, on)| (name, Constant::Flag(on)));
        let variant = Variant::new(entry, [storage, out], constants);

        let mut params = params(self);
        let mut bindings = Bindings::new(capabilities);
        let per_word = self.element.per_word();
        params.x = bindings.bind("x", Tensor::X, per_word, self.x.filter(|_| !in_place));
        for &(tensor, _, name) in self.tables() {
            params.table = bindings.bind(name, tensor, 1, self.table);
        }
        params.positions = bindings.bind("positions", Tensor::Positions, 1, self.positions);
        params.out = bindings.bind_out(self.written(), per_word, self.out, out);
        let groups = params.count.div_ceil(THREADS);
        let most = capabilities.workgroups_per_axis;
        let grid = [groups.min(most), groups.div_ceil(most), 1];
        let encode = bindings.dispatch(variant, &params, grid);
        encode.packed_into(self.written(), storage, capabilities)
    }

    /// Two halves along the axis on which what is too large reaches farthest.
    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        // A grid shrinks with each of the sizes.
        let even = View { batch: 1, head: 1, row: 1, ..View::default() };
        let (view, of) = match excess {
            Excess::Memory { bound, .. } | Excess::Words { bound, .. } => {
                (bound.view, Some(bound.tensor))
            }
            Excess::Grid { .. } => (even, None),
            _ => return None,
        };
        let View { batch, head, row, .. } = view;
        let is_of_table = self.tables().iter().any(|&(table, ..)| Some(table) == of);
        // Tokens that go to places stay together where fewer of them have as many.
        let is_written = of == Some(self.written()) || of == Some(Tensor::Unpacked);
        let stay = self.places.is_some() && (self.from_lens.is_some() || is_written);
        let tokens = if stay { 1 } else { self.len };
        let axes = [
            (0, reach(row, tokens)),
            (1, reach(head, self.num_heads)),
            (2, reach(batch, self.batch)),
        ];
        let (axis, longest) = axes.into_iter().max_by_key(|&(_, reach)| reach)?;
        if longest == 0 || self.positions.is_some() && is_of_table {
            return None;
        }
        let whole = [0..self.len, 0..self.num_heads, 0..self.batch];
        Some(halves(whole, axis, 1)?.map(|half| self.slice(&half)).into())
    }
}

/// How x is read and out is written.
fn storages(part: &TokenProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    // An invocation's elements start at multiples of these, besides the row itself.
    let starts = match part.encoding {
        Encoding::Rotary { pairs: RotaryPairs::Half, rotary_dim } => [part.dim, rotary_dim / 2],
        Encoding::Rotary { rotary_dim, .. } => [part.dim, rotary_dim],
        Encoding::Positional | Encoding::Copy => [part.dim, part.dim],
    };
    let on = |count: u32| starts.iter().all(|start| start.is_multiple_of(count));
    let by_four =
        on(4) && starts_on(&part.out, 4) && part.x.as_ref().is_none_or(|x| starts_on(x, 4));
    let storage = of(part.element, by_four, capabilities);
    (storage, writing(storage, !on(2) || !starts_on(&part.out, 2)))
}

/// Everything but the views, which depend on what is bound.
fn params(part: &TokenProblem) -> TokenParams {
    let (rotary_dim, rotating, copying) = match part.encoding {
        // In place, there is nothing to copy.
        Encoding::Rotary { pairs, rotary_dim } => {
            let copied = if part.in_place { 0 } else { part.dim - rotary_dim };
            let rotating = match pairs {
                RotaryPairs::Half => (rotary_dim / 2).div_ceil(4),
                RotaryPairs::Interleaved => rotary_dim.div_ceil(4),
            };
            (rotary_dim, rotating, copied.div_ceil(4))
        }
        Encoding::Positional | Encoding::Copy => (0, 0, part.dim.div_ceil(4)),
    };
    let per_row = rotating + copying;
    TokenParams {
        num_heads: part.num_heads,
        len: part.len,
        dim: part.dim,
        rotary_dim,
        rotating,
        per_row,
        // No two elements of out share a place below 2^32, and each row has fewer invocations than
        // elements.
        count: part.batch * part.num_heads * part.len * per_row,
        last_row: part.last_row,
        last_place: part.places.unwrap_or_default().saturating_sub(1),
        back: part.from_lens.unwrap_or_default(),
        ..TokenParams::default()
    }
}
