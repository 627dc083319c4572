//! A cache of keys and values: its sizes, and which of its rows new tokens take.

use crate::error::Error;
use crate::problem::{
    ElementType, Encoding, Layout, RotaryPairs, Strides, TokenProblem, View, length, move_view,
    resolve,
};
use std::ops::Range;

/// Sizes of a cache: keys `[batch, num_kv_heads, capacity, head_dim]`, values `[batch, num_kv_heads, capacity, value_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvCacheShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of key/value heads.
    pub num_kv_heads: usize,
    /// Tokens that each sequence has room for.
    pub capacity: usize,
    /// Length of a key vector.
    pub head_dim: usize,
    /// Length of a value vector.
    pub value_dim: usize,
    /// What keys and values are stored as. In 16 bits, rows of odd length, and halves of odd length in a rotation, share
    /// words and take longer to append.
    pub element: ElementType,
}

impl KvCacheShape {
    /// Keys and values of `head_dim` each in f32; change any field from there.
    #[must_use]
    pub fn new(batch: usize, num_kv_heads: usize, capacity: usize, head_dim: usize) -> Self {
        let value_dim = head_dim;
        Self { batch, num_kv_heads, capacity, head_dim, value_dim, element: ElementType::F32 }
    }
}

/// How new keys are rotated on their way into a cache: by the row of the table that is their place in their sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheRotary<'a> {
    /// `[capacity or more, rotary_dim / 2]`: a row for each place, as [`RotaryTable`](crate::RotaryTable) makes.
    pub cos: &'a [f32],
    /// As `cos`.
    pub sin: &'a [f32],
    /// Columns that are rotated, the first ones: even, at least 2, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which columns make a pair.
    pub pairs: RotaryPairs,
}

/// A validated cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheProblem {
    pub(crate) shape: KvCacheShape,
    pub(crate) key: Rows,
    pub(crate) value: Rows,
}

/// The keys or the values of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    argument: &'static str,
    /// `[batch, num_kv_heads, capacity, dim]`.
    pub(crate) view: View,
    dim: usize,
    /// What is done to them on their way in.
    encoding: Encoding,
}

/// New tokens of neighbouring sequences that go into neighbouring rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Whose they are, among the new ones.
    pub(crate) batches: Range<u32>,
    /// The first of each sequence, among its new ones.
    pub(crate) first_token: u32,
    /// How many of each.
    pub(crate) count: u32,
    /// Sequence and row of the cache that the first goes into.
    pub(crate) to: [u32; 2],
    /// Place of the first of each in its sequence.
    pub(crate) position: u32,
}

impl Run {
    /// Whether another of one sequence goes on where this one ends.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        let end = Self {
            first_token: self.first_token + self.count,
            to: [self.to[0], self.to[1] + self.count],
            position: self.position + self.count,
            ..self.clone()
        };
        *next == Self { count: next.count, ..end }
    }
}

/// How many new tokens each of `batch` sequences takes: `len`, or `lens` of them.
pub(super) fn counts(
    batch: usize,
    len: usize,
    lens: Option<&[usize]>,
) -> Result<Vec<usize>, Error> {
    let Some(lens) = lens else { return Ok(vec![len; batch]) };
    if lens.len() != batch {
        let expected = format!("a number for each of {batch} sequences");
        return Err(Error::invalid("lens", expected, format!("{} numbers", lens.len())));
    }
    if let Some((sequence, count)) = lens.iter().enumerate().find(|(_, count)| **count > len) {
        let expected = format!("at most len = {len} new tokens of sequence {sequence}");
        return Err(Error::invalid("lens", expected, count));
    }
    Ok(lens.to_vec())
}

/// For each of `len` tokens of each of `batch` sequences its place in its sequence and the row of the cache that it goes into:
/// none for those that no run has.
pub(crate) fn places([batch, len]: [usize; 2], runs: &[Run]) -> Vec<[u32; 2]> {
    let mut places = vec![[0, u32::MAX]; batch * len];
    for Run { batches, first_token, count, to: [_, row], position } in runs {
        for sequence in batches.clone() {
            let first = sequence as usize * len + *first_token as usize;
            for (place, n) in places[first..].iter_mut().zip(0..*count) {
                *place = [position + n, row + n];
            }
        }
    }
    places
}

/// Refuses a prefix of more tokens than there are.
pub(crate) fn check_held(len: usize, held: usize) -> Result<(), Error> {
    if len > held {
        let expected = format!("at most {held} tokens, as the sequence holds");
        return Err(Error::invalid("len", expected, len));
    }
    Ok(())
}

/// Rows as they are.
const PLAIN: Encoding = Encoding::Rotary { pairs: RotaryPairs::Half, rotary_dim: 0 };

impl CacheProblem {
    /// A cache whose sequences have `longest` tokens at most.
    pub(crate) fn new(
        s: &KvCacheShape,
        longest: usize,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<Self, Error> {
        let sizes = [
            ("num_kv_heads", s.num_kv_heads),
            ("head_dim", s.head_dim),
            ("value_dim", s.value_dim),
        ];
        if let Some((argument, _)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(Error::invalid(argument, "at least 1", 0));
        }
        for (argument, size) in
            sizes.into_iter().chain([("batch", s.batch), ("capacity", s.capacity)])
        {
            length(argument, size)?;
        }
        let rows = |argument, dim, encoding| {
            let sizes = [s.batch, s.num_kv_heads, s.capacity, dim];
            Ok::<_, Error>(Rows {
                argument,
                view: resolve(argument, sizes, Layout::Bhsd)?,
                dim,
                encoding,
            })
        };
        let encoding = rotary.map_or(Ok(PLAIN), |rotary| encoding(s, longest, rotary))?;
        Ok(Self {
            shape: *s,
            key: rows("key", s.head_dim, encoding)?,
            value: rows("value", s.value_dim, PLAIN)?,
        })
    }

    /// Where the new tokens of each sequence go, behind those it holds.
    pub(crate) fn runs(
        &self,
        held: &[usize],
        len: usize,
        lens: Option<&[usize]>,
    ) -> Result<(Vec<usize>, Vec<Run>), Error> {
        let argument = if lens.is_some() { "lens" } else { "len" };
        let counts = counts(held.len(), len, lens)?;
        let mut runs: Vec<Run> = Vec::new();
        for (sequence, (&start, &count)) in held.iter().zip(&counts).enumerate() {
            self.check_room(argument, sequence, start, count)?;
            let [sequence, start, count] = [
                length("batch", sequence)?,
                length("capacity", start)?,
                length("capacity", count)?,
            ];
            match runs.last_mut() {
                Some(run)
                    if run.batches.end == sequence
                        && (run.position, run.count) == (start, count) =>
                {
                    run.batches.end += 1;
                }
                _ if count > 0 => runs.push(Run {
                    batches: sequence..sequence + 1,
                    first_token: length("len", len)? - count,
                    count,
                    to: [sequence, start],
                    position: start,
                }),
                _ => {}
            }
        }
        let lens = held.iter().zip(&counts).map(|(held, count)| held + count).collect();
        Ok((lens, runs))
    }

    /// Whether a sequence that holds so many tokens has room for so many more.
    pub(crate) fn check_room(
        &self,
        argument: &'static str,
        sequence: usize,
        held: usize,
        count: usize,
    ) -> Result<(), Error> {
        let capacity = self.shape.capacity;
        let room = capacity - held;
        if count <= room {
            return Ok(());
        }
        let expected =
            format!("at most {room} new tokens, as sequence {sequence} holds {held} of {capacity}");
        Err(Error::invalid(argument, expected, count))
    }

    pub(crate) fn batch(&self) -> u32 {
        u32::try_from(self.shape.batch).unwrap_or(u32::MAX)
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.shape.capacity).unwrap_or(u32::MAX)
    }

    /// Bytes of the first `extent` elements.
    pub(crate) fn bytes(&self, extent: u32) -> u64 {
        u64::from(extent.div_ceil(self.shape.element.per_word())) * 4
    }

    /// Where new tokens `[batch, num_kv_heads, len, dim]` lie.
    pub(crate) fn tokens(
        &self,
        rows: &Rows,
        [batch, len]: [usize; 2],
        layout: Layout,
    ) -> Result<View, Error> {
        resolve(rows.argument, [batch, self.shape.num_kv_heads, len, rows.dim], layout)
    }

    /// A run of the tokens of `x` on their way to their places.
    pub(crate) fn append(&self, rows: &Rows, x: View, run: &Run) -> Result<TokenProblem, Error> {
        let Run { batches, first_token, count, to: [to, row], position } = run;
        let batch = batches.end - batches.start;
        let heads = 0..length("num_kv_heads", self.shape.num_kv_heads)?;
        let dim = length(rows.argument, rows.dim)?;
        let x = move_view(x, batches, &heads, &(*first_token..first_token + count), dim);
        let out = move_view(rows.view, &(*to..to + batch), &heads, &(*row..row + count), dim);
        let table = rows.table(*position..position + count);
        self.copy(batch, *count, dim, [x, out], (rows.encoding, table))
    }

    /// All tokens of `x`, so many of each sequence, on their way behind as many as a buffer says that it holds.
    pub(crate) fn append_behind(
        &self,
        rows: &Rows,
        x: View,
        len: usize,
    ) -> Result<TokenProblem, Error> {
        let KvCacheShape { batch, capacity, .. } = self.shape;
        let [batches, len, dim] =
            [length("batch", batch)?, length("len", len)?, length(rows.argument, rows.dim)?];
        let capacity = length("capacity", capacity)?;
        let table = rows.table(0..capacity);
        let problem = self.copy(batches, len, dim, [x, rows.view], (rows.encoding, table))?;
        Ok(TokenProblem {
            positions: Some(resolve("lens", [batch, 1, 1, 1], Layout::Bhsd)?),
            last_row: capacity.saturating_sub(1),
            from_lens: Some(0),
            places: Some(capacity),
            ..problem
        })
    }

    /// The tokens of `runs`, so many of each of `batch` sequences, on their way to where [`places`] says.
    pub(crate) fn append_to_places(
        &self,
        rows: &Rows,
        x: View,
        [batch, len]: [usize; 2],
        runs: &[Run],
    ) -> Result<TokenProblem, Error> {
        let KvCacheShape { batch: sequences, capacity, .. } = self.shape;
        // A pool's rows are those of one sequence, whosever they are.
        let out = if sequences == 1 { View { batch: 0, ..rows.view } } else { rows.view };
        let end = runs.iter().map(Run::end).max().unwrap_or_default();
        let dim = length(rows.argument, rows.dim)?;
        let sizes = [length("batch", batch)?, length("len", len)?];
        let views = [x, out];
        let problem =
            self.copy(sizes[0], sizes[1], dim, views, (rows.encoding, rows.table(0..end)))?;
        Ok(TokenProblem {
            positions: Some(resolve("lens", [batch, 1, len, 2], Layout::Bhsd)?),
            last_row: end.saturating_sub(1),
            places: Some(length("capacity", capacity)?),
            ..problem
        })
    }

    /// Rows from one place, sequence and row, on their way into a buffer of their own, and from there to another.
    pub(crate) fn fork(
        &self,
        rows: &Rows,
        [from, to]: [[u32; 2]; 2],
        count: u32,
    ) -> Result<[TokenProblem; 2], Error> {
        let heads = 0..length("num_kv_heads", self.shape.num_kv_heads)?;
        let dim = length(rows.argument, rows.dim)?;
        let own = resolve(
            rows.argument,
            [1, self.shape.num_kv_heads, count as usize, rows.dim],
            Layout::Bhsd,
        )?;
        let of = |[sequence, row]: [u32; 2]| {
            move_view(rows.view, &(sequence..sequence + 1), &heads, &(row..row + count), dim)
        };
        let none = View { offset: 0, extent: 0, ..own };
        let copy = |views| self.copy(1, count, dim, views, (PLAIN, none));
        Ok([copy([of(from), own])?, copy([own, of(to)])?])
    }

    fn copy(
        &self,
        batch: u32,
        len: u32,
        dim: u32,
        [x, out]: [View; 2],
        (encoding, table): (Encoding, View),
    ) -> Result<TokenProblem, Error> {
        Ok(TokenProblem {
            batch,
            num_heads: length("num_kv_heads", self.shape.num_kv_heads)?,
            len,
            dim,
            element: self.shape.element,
            encoding,
            x: Some(x),
            out,
            in_place: false,
            table,
            positions: None,
            last_row: 0,
            from_lens: None,
            places: None,
        })
    }
}

impl Run {
    /// Which sequences.
    pub(crate) fn batches(&self) -> Range<u32> {
        self.batches.clone()
    }

    /// How many tokens each holds afterwards.
    pub(crate) fn end(&self) -> u32 {
        self.position + self.count
    }
}

impl Rows {
    /// Its name.
    pub(crate) fn argument(&self) -> &'static str {
        self.argument
    }

    /// The rows of the rotary table that belong to these places.
    fn table(&self, places: Range<u32>) -> View {
        let width = match self.encoding {
            Encoding::Rotary { rotary_dim, .. } => rotary_dim / 2,
            Encoding::Positional => 0,
        };
        View {
            offset: places.start * width,
            batch: 0,
            head: 0,
            row: width,
            column: 1,
            extent: places.end * width,
            exact: true,
        }
    }

    /// As attention reads them.
    pub(crate) fn layout(&self) -> Layout {
        self.strided(self.view.batch as usize)
    }

    /// As attention reads them in pages of so many rows.
    pub(crate) fn paged_layout(&self, page_len: usize) -> Layout {
        self.strided(page_len * self.dim)
    }

    fn strided(&self, batch: usize) -> Layout {
        let [head, row] = [self.view.head, self.view.row].map(|stride| stride as usize);
        Layout::Strided(Strides { offset: 0, batch, head, row })
    }
}

fn encoding(s: &KvCacheShape, longest: usize, rotary: CacheRotary<'_>) -> Result<Encoding, Error> {
    let CacheRotary { cos, sin, rotary_dim, pairs } = rotary;
    if rotary_dim == 0 || rotary_dim % 2 == 1 || rotary_dim > s.head_dim {
        let expected = format!("an even number from 2 to head_dim = {}", s.head_dim);
        return Err(Error::invalid("rotary_dim", expected, rotary_dim));
    }
    let width = rotary_dim / 2;
    for (argument, column) in [("cos", cos), ("sin", sin)] {
        if column.len() / width < longest || column.len() % width != 0 {
            let expected = format!("{longest} rows of {width} or more");
            return Err(Error::invalid(argument, expected, format!("{} elements", column.len())));
        }
    }
    Ok(Encoding::Rotary { pairs, rotary_dim: length("rotary_dim", rotary_dim)? })
}
