//! Sizes of caches, checked before anything is allocated.

use crate::device::Capabilities;
use crate::error::Error;
use crate::layers::{Encoding, RotaryPairs};
use crate::problem::{ElementType, check_page_len, length};
use crate::view::check_not_zero;

/// Sizes of a [`KvCache`](crate::cache::KvCache): keys `[batch, num_kv_heads, capacity, head_dim]`,
/// values `[batch, num_kv_heads, capacity, value_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvCacheShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of key/value heads.
    pub num_kv_heads: usize,
    /// Tokens that each sequence may hold.
    pub capacity: usize,
    /// Length of a key vector.
    pub head_dim: usize,
    /// Length of a value vector.
    pub value_dim: usize,
    /// The type of stored keys and values. In 16 bits, rows of odd length, and halves of odd length
    /// in a rotation, share words and take longer to append.
    pub element: ElementType,
}

impl Default for KvCacheShape {
    /// One sequence in f32. The other sizes are 0, and have to be given.
    fn default() -> Self {
        let element = ElementType::F32;
        Self { batch: 1, num_kv_heads: 0, capacity: 0, head_dim: 0, value_dim: 0, element }
    }
}

impl KvCacheShape {
    /// Refuses sizes that no cache can have.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Self { batch, num_kv_heads, capacity, head_dim, value_dim, .. } = *self;
        let dims =
            [("num_kv_heads", num_kv_heads), ("head_dim", head_dim), ("value_dim", value_dim)];
        check_not_zero(dims)?;
        let sizes = dims.into_iter().chain([("batch", batch), ("capacity", capacity)]);
        sizes.into_iter().try_for_each(|(argument, size)| length(argument, size).map(|_| ()))
    }
}

/// Sizes of a [`PagedKvCache`](crate::cache::PagedKvCache): keys `[num_kv_heads, pages, page_len,
/// head_dim]`, values `[num_kv_heads, pages, page_len, value_dim]`. A head's pages lie together, so
/// that a pool too large for a binding can be read a few heads at a time; see
/// [`PagedKeys`](crate::PagedKeys) for other orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagedCacheShape {
    /// Number of key/value heads.
    pub num_kv_heads: usize,
    /// Pages of the pool, which all sequences share.
    pub pages: usize,
    /// Tokens of a page: a power of two from 16 to 256.
    pub page_len: usize,
    /// Tokens that one sequence may have; none: as many as the pool holds.
    pub longest: Option<usize>,
    /// Length of a key vector.
    pub head_dim: usize,
    /// Length of a value vector.
    pub value_dim: usize,
    /// The type of stored keys and values, as [`KvCacheShape::element`].
    pub element: ElementType,
}

impl Default for PagedCacheShape {
    /// Pages of 16 tokens in f32, all of which one sequence may have. The other sizes are 0, and
    /// have to be given.
    fn default() -> Self {
        Self {
            num_kv_heads: 0,
            pages: 0,
            page_len: 16,
            longest: None,
            head_dim: 0,
            value_dim: 0,
            element: ElementType::F32,
        }
    }
}

impl PagedCacheShape {
    /// Tokens that one sequence may have.
    pub(super) fn longest(&self) -> usize {
        self.longest.unwrap_or(self.page_len.saturating_mul(self.pages))
    }

    /// The pool as one sequence of as many rows.
    pub(super) fn as_one_sequence(&self) -> Result<KvCacheShape, Error> {
        let Self { num_kv_heads, pages, page_len, head_dim, value_dim, element, .. } = *self;
        check_page_len(page_len)?;
        let capacity = page_len.saturating_mul(pages);
        let too_many = |_| Error::invalid("pages", "at most 2^30 tokens in all", capacity);
        length("pages", capacity).map_err(too_many)?;
        length("longest", self.longest())?;
        let shape = KvCacheShape { batch: 1, num_kv_heads, capacity, head_dim, value_dim, element };
        shape.check().map(|()| shape)
    }

    /// Refuses a pool of which a device's bindings do not hold one head's pages: attention reads it
    /// a head at a time at least.
    pub(super) fn check_binding(&self, capabilities: &Capabilities) -> Result<(), Error> {
        let (most, alignment) = (capabilities.binding_size, capabilities.storage_alignment.into());
        let row = self.head_dim.max(self.value_dim) as u64;
        let page = self.page_len as u64 * row * 4 / u64::from(self.element.per_word());
        let heads = (self.num_kv_heads as u64).min(alignment);
        // Where a head's pages do not start aligned, the binding starts before them.
        let bytes = |pages: u64| {
            let head = pages.saturating_mul(page);
            let before = (0..heads).map(|h| h.saturating_mul(head) % alignment).max();
            head.saturating_add(before.unwrap_or_default())
        };
        let expected = bytes(self.pages as u64);
        if expected <= most {
            return Ok(());
        }
        let fitting = (0..=most / page).rev().find(|&pages| bytes(pages) <= most);
        let fitting = fitting.unwrap_or_default();
        Err(Error::Unsupported {
            what: "bytes of one storage binding",
            expected: format!("at least {expected} for one head of a pool of {} pages", self.pages),
            found: format!("{most}, in which {fitting} pages fit"),
        })
    }
}

/// How new keys are rotated on their way into a cache, each by the row of its place in its
/// sequence.
///
/// ```
/// use wgpu_attention::{cache::CacheRotary, layers::{RotaryPairs, RotaryTable}};
///
/// // Whole keys of 64 columns, in a cache of up to 4096 tokens a sequence.
/// let RotaryTable { cos, sin } = RotaryTable::new(64, 10_000.0, 0..4096)?;
/// let rotary = CacheRotary { cos: &cos, sin: &sin, rotary_dim: 64, pairs: RotaryPairs::Half };
/// # assert_eq!(rotary.cos.len(), 4096 * 32);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheRotary<'a> {
    /// `[capacity or more, rotary_dim / 2]`: a row for each place, as
    /// [`RotaryTable`](crate::layers::RotaryTable) makes.
    pub cos: &'a [f32],
    /// As `cos`.
    pub sin: &'a [f32],
    /// Columns that are rotated, the first ones: even, at least 2, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which columns make a pair.
    pub pairs: RotaryPairs,
}

impl CacheRotary<'_> {
    /// The encoding of keys of `head_dim` columns in sequences of up to `longest` tokens.
    pub(super) fn encoding(&self, head_dim: usize, longest: usize) -> Result<Encoding, Error> {
        let Self { cos, sin, rotary_dim, pairs } = *self;
        if rotary_dim == 0 || rotary_dim % 2 == 1 || rotary_dim > head_dim {
            let expected = format!("an even number from 2 to head_dim = {head_dim}");
            return Err(Error::invalid("rotary_dim", expected, rotary_dim));
        }
        let width = rotary_dim / 2;
        for (argument, column) in [("cos", cos), ("sin", sin)] {
            if column.len() / width < longest || column.len() % width != 0 {
                let expected = format!("{longest} rows of {width} or more");
                let found = format!("{} elements", column.len());
                return Err(Error::invalid(argument, expected, found));
            }
        }
        Ok(Encoding::Rotary { pairs, rotary_dim: length("rotary_dim", rotary_dim)? })
    }
}
