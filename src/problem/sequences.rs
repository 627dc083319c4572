//! Sequences of their own lengths: in a batch with room to spare, and packed one after the other.

use super::options::{Align, AttentionOptions};
use super::shape::AttentionShape;
use crate::error::Error;
use crate::view::{MAX_LEN, count, length};
use std::ops::Range;

/// Query `i` sees key `j` only if `i + lower <= j <= i + upper`, or `j < kept` in place of the
/// first.
///
/// An open side is the bound that no pair of a query and a key reaches: `-q_len` and `kv_len`.
/// Where lengths in a buffer move the band, by `most` at most, the lower one is `-q_len - most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Band {
    /// Lowest `j - i` that is visible.
    pub lower: i32,
    /// Highest `j - i` that is visible.
    pub upper: i32,
    /// Keys from here on the lower bound hides.
    pub kept: u32,
}

impl Band {
    /// Open on both sides, whatever up to `moved` is added to its bounds.
    pub(crate) fn open(q_len: u32, kv_len: u32, moved: u32) -> Self {
        Self {
            lower: 0_i32.saturating_sub_unsigned(q_len).saturating_sub_unsigned(moved),
            upper: 0_i32.saturating_add_unsigned(kv_len),
            kept: 0,
        }
    }

    /// A bound past an open one is as good as open.
    pub(super) fn clamp(self, bound: i32) -> i32 {
        bound.clamp(self.lower, self.upper)
    }

    /// Whether query `i` sees key `j`.
    #[must_use]
    pub fn contains(&self, i: usize, j: usize) -> bool {
        let distance = j as i64 - i as i64;
        let is_late_enough = i64::from(self.lower) <= distance || j < self.kept as usize;
        is_late_enough && distance <= i64::from(self.upper)
    }
}

/// What may differ between the sequences of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Keys from here on are hidden.
    pub seen_len: u32,
    /// Query `i` stands at key `i + offset`.
    pub offset: i32,
    /// Which keys causality and the windows leave visible.
    pub band: Band,
}

/// A sequence, and where it lies in tensors that hold one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSequence {
    /// Its queries.
    pub queries: Range<u32>,
    /// Its keys.
    pub keys: Range<u32>,
    /// Counted from its own first query and key.
    pub sequence: Sequence,
}

impl PackedSequence {
    pub(crate) fn q_len(&self) -> u32 {
        count(&self.queries)
    }
}

/// Lengths `[batch]` that are read from a buffer when the call runs.
///
/// The problem's offset and band then count without them: if the lengths move them, both are `len`
/// further along the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lens {
    /// Keys that there is room for: a length above it counts as this.
    pub most: u32,
    /// Keys of the whole that lie before the problem's first.
    pub before: u32,
    /// Whether a sequence's end is what offset and band count from.
    pub moves: bool,
}

impl Lens {
    pub(super) fn new(
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Option<Self>, Error> {
        if !shape.lens {
            return Ok(None);
        }
        Error::require(shape.kv_lens.is_none(), "kv_lens", "none beside lens", "one")?;
        Error::require(shape.cu_seqlens.is_none(), "cu_seqlens", "none beside lens", "one")?;
        let moves = options.align == Align::BottomRight;
        Ok(Some(Self { most: length("kv_len", shape.kv_len)?, before: 0, moves }))
    }

    /// How far lengths that are not known yet may move offset and band.
    pub(super) fn most_moved(lens: Option<Self>) -> u32 {
        lens.filter(|lens| lens.moves).map_or(0, |lens| lens.most)
    }
}

impl Sequence {
    /// Of a sequence that may have `unknown` keys less, offset and band count without these.
    pub(super) fn new(
        options: &AttentionOptions,
        q_len: usize,
        kv_len: usize,
        unknown: u32,
    ) -> Result<Self, Error> {
        let (q_len, seen_len) = (length("q_len", q_len)?, length("kv_len", kv_len)?);
        let offset = match options.align {
            Align::TopLeft => 0,
            Align::BottomRight => i64::from(seen_len - unknown) - i64::from(q_len),
            Align::Offset(offset) => offset,
        };
        let near =
            i32::try_from(offset).ok().filter(|near| near.unsigned_abs() as usize <= MAX_LEN);
        let offset =
            near.ok_or_else(|| Error::invalid("align", "an offset within 2^30 of 0", offset))?;
        let band = band(options, offset, Band::open(q_len, seen_len, unknown));
        Ok(Self { seen_len, offset, band })
    }

    /// The same counted from a later query and from the first of some keys; `open` is the open band
    /// of what is left.
    pub(super) fn part(self, first_query: u32, keys: &Range<u32>, open: Band) -> Self {
        let moved = |bound: i32| {
            bound.saturating_add_unsigned(first_query).saturating_sub_unsigned(keys.start)
        };
        let Band { lower, upper, kept } = self.band;
        Self {
            seen_len: self.seen_len.saturating_sub(keys.start).min(count(keys)),
            offset: moved(self.offset),
            band: Band {
                lower: open.clamp(moved(lower)),
                upper: open.clamp(moved(upper)),
                kept: kept.saturating_sub(keys.start),
            },
        }
    }

    /// Number of keys that one query sees at most, as far as lengths, causality and windows go.
    pub(crate) fn reach(&self) -> u32 {
        let window = i64::from(self.band.upper) - i64::from(self.band.lower) + 1;
        let window = u32::try_from(window.max(0)).unwrap_or(u32::MAX);
        self.seen_len.min(window.saturating_add(self.band.kept))
    }

    /// Whether query `i` sees key `j`, as far as lengths, causality and windows go.
    #[must_use]
    pub fn contains(&self, i: usize, j: usize) -> bool {
        j < self.seen_len as usize && self.band.contains(i, j)
    }
}

/// One for each sequence, if the shape gives their lengths.
pub(super) fn sequences(
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> Result<Option<Vec<Sequence>>, Error> {
    let Some(lens) = &shape.kv_lens else { return Ok(None) };
    let expected = format_args!("one length for each of {} sequences", shape.batch);
    Error::require(lens.len() == shape.batch, "kv_lens", expected, lens.len())?;
    let sequence = |&len: &usize| {
        let expected = format_args!("at most kv_len = {}", shape.kv_len);
        Error::require(len <= shape.kv_len, "kv_lens", expected, len)?;
        Sequence::new(options, shape.q_len, len, 0)
    };
    lens.iter().map(sequence).collect::<Result<_, _>>().map(Some)
}

/// One for each sequence, if the shape says where they begin.
pub(super) fn packed(
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> Result<Option<Vec<PackedSequence>>, Error> {
    let Some(cu_seqlens) = &shape.cu_seqlens else { return Ok(None) };
    for (name, given) in [
        ("mask", shape.mask.is_some()),
        ("bias", shape.bias.is_some()),
        ("kv_lens", shape.kv_lens.is_some()),
        ("weights", shape.weights.is_some()),
        ("raw_scores", shape.raw_scores.is_some()),
        ("capped_scores", shape.capped_scores.is_some()),
        ("masked_scores", shape.masked_scores.is_some()),
    ] {
        Error::require(!given, name, "none beside cu_seqlens", "one")?;
    }
    Error::require(shape.batch == 1, "batch", "1 beside cu_seqlens", shape.batch)?;
    let queries = ranges("cu_seqlens.query", &cu_seqlens.query, shape.q_len)?;
    let keys = ranges("cu_seqlens.key", &cu_seqlens.key, shape.kv_len)?;
    let expected = format_args!("{} elements, as cu_seqlens.query", queries.len() + 1);
    Error::require(queries.len() == keys.len(), "cu_seqlens.key", expected, keys.len() + 1)?;
    let one = |(queries, keys): (Range<u32>, Range<u32>)| {
        let sequence = Sequence::new(options, queries.len(), keys.len(), 0)?;
        Ok(PackedSequence { queries, keys, sequence })
    };
    queries.into_iter().zip(keys).map(one).collect::<Result<_, _>>().map(Some)
}

fn ranges(
    argument: &'static str,
    starts: &[usize],
    total: usize,
) -> Result<Vec<Range<u32>>, Error> {
    let found = match (starts, starts.windows(2).find(|ends| ends[0] > ends[1])) {
        ([], _) => "no numbers".to_owned(),
        (_, Some(ends)) => format!("{} after {}", ends[1], ends[0]),
        ([first, ..], None) if *first != 0 => format!("{first} as the first"),
        ([.., last], None) if *last != total => format!("{last} as the last"),
        _ => String::new(),
    };
    let expected = format_args!("numbers from 0 to {total} that never fall");
    Error::require(found.is_empty(), argument, expected, &found)?;
    let range = |ends: &[usize]| Ok(length(argument, ends[0])?..length(argument, ends[1])?);
    starts.windows(2).map(range).collect()
}

/// Folds causality and windows into one band; a bound past the ends of the sequences is as good as
/// open, so clamping to them loses nothing and keeps the shader's sums small.
fn band(options: &AttentionOptions, offset: i32, open: Band) -> Band {
    let steps = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let right = options.window_right.map(steps);
    let upper = right.map_or(open.upper, |right| offset.saturating_add_unsigned(right));
    let upper = if options.causal { upper.min(offset) } else { upper };
    let (lower, kept) = match options.window_left {
        None => (open.lower, 0),
        Some(left) => {
            (offset.saturating_sub_unsigned(steps(left)), steps(options.window_keeps.min(MAX_LEN)))
        }
    };
    Band { lower: open.clamp(lower), upper: open.clamp(upper), kept }
}
