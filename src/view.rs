//! Where the elements of a tensor lie in its buffer, as asked for and as resolved.

use crate::error::Error;
use std::ops::Range;

/// Where a `[batch, heads, len, dim]` tensor lies in its buffer or slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Contiguous `[batch, heads, len, dim]`.
    #[default]
    Bhsd,
    /// Contiguous `[batch, len, heads, dim]`.
    Bshd,
    /// Anything else whose last dimension is contiguous.
    Strided(Strides),
}

/// An offset and strides, in elements; the last dimension has stride 1. Stride 0 repeats an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strides {
    /// Index of the first element.
    pub offset: usize,
    /// From one sequence to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one row (query or key) to the next.
    pub row: usize,
}

/// Where a mask or bias `[batch, num_heads, q_len, kv_len]` lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BroadcastLayout {
    /// Contiguous with these sizes, each the full one or 1, which repeats.
    Sizes([usize; 4]),
    /// An offset and strides.
    Strided(BroadcastStrides),
}

impl BroadcastLayout {
    /// Aligns one to four sizes to the right of `[batch, num_heads, q_len, kv_len]`, as NumPy and
    /// PyTorch broadcast; three are `[heads, q, kv]`.
    ///
    /// # Errors
    /// With no or more than four sizes.
    pub fn from_dims(argument: &'static str, dims: &[usize]) -> Result<Self, Error> {
        let fits = (1..=4).contains(&dims.len());
        Error::require(fits, argument, "1 to 4 dimensions", format_args!("{dims:?}"))?;
        let mut sizes = [1; 4];
        sizes[4 - dims.len()..].copy_from_slice(dims);
        Ok(Self::Sizes(sizes))
    }
}

/// An offset and strides, in elements (for a mask on the GPU: in bits), of a mask or bias; stride 0
/// repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BroadcastStrides {
    /// Index of the first element.
    pub offset: usize,
    /// From one sequence to the next.
    pub batch: usize,
    /// From one query head to the next.
    pub head: usize,
    /// From one query to the next.
    pub query: usize,
    /// From one key to the next.
    pub key: usize,
}

/// A tensor's place, checked and ready for a shader: element indices fit u32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Index of the first element.
    pub offset: u32,
    /// From one sequence to the next.
    pub batch: u32,
    /// From one head to the next.
    pub head: u32,
    /// From one row to the next.
    pub row: u32,
    /// From one column to the next: 1, or 0 or more for a mask or bias.
    pub column: u32,
    /// Number of elements from the buffer's start to the last one used; 0 if the tensor is empty.
    pub extent: u32,
    /// Whether a slice must have exactly `extent` elements, or may have more.
    pub exact: bool,
}

/// Elements from the first to the last of `size` along an axis. A cut along the axis with the
/// longest reach shrinks a tensor's window most.
pub(crate) fn reach(stride: u32, size: u32) -> u64 {
    u64::from(stride) * u64::from(size.saturating_sub(1))
}

impl View {
    /// From one element to the next along batch, heads, rows and columns.
    pub(crate) fn strides(&self) -> [u32; 4] {
        [self.batch, self.head, self.row, self.column]
    }

    /// The index of one element.
    #[must_use]
    pub fn index(&self, batch: usize, head: usize, row: usize, column: usize) -> usize {
        self.offset as usize
            + batch * self.batch as usize
            + head * self.head as usize
            + row * self.row as usize
            + column * self.column as usize
    }
}

/// Sizes of a tensor: batch, heads, rows, columns.
pub(crate) type Sizes = [usize; 4];

/// Resolves `layout` for a tensor of `sizes`.
pub(crate) fn resolve(argument: &'static str, sizes: Sizes, layout: Layout) -> Result<View, Error> {
    let order = match layout {
        Layout::Bhsd => [0, 1, 2, 3],
        Layout::Bshd => [0, 2, 1, 3],
        Layout::Strided(s) => {
            return view(argument, sizes, s.offset, [s.batch, s.head, s.row, 1], false);
        }
    };
    let (strides, _) = contiguous(argument, sizes, order)?;
    view(argument, sizes, 0, strides, true)
}

/// As [`resolve`], for a tensor that is written: no two of its elements may share a place.
pub(crate) fn resolve_output(
    argument: &'static str,
    sizes: Sizes,
    layout: Layout,
) -> Result<View, Error> {
    let view = resolve(argument, sizes, layout)?;
    let strides = view.strides().map(|stride| stride as usize);
    let mut dims: Vec<_> = strides.into_iter().zip(sizes).filter(|&(_, size)| size > 1).collect();
    dims.sort_unstable();
    let mut reach = 0;
    for (stride, size) in dims {
        Error::require(
            stride > reach || view.extent == 0,
            argument,
            format_args!("strides that give each element of {sizes:?} a place of its own"),
            format_args!("{layout:?}"),
        )?;
        reach += stride * (size - 1);
    }
    Ok(view)
}

/// Resolves `layout` for a mask or bias that has to cover `sizes`.
pub(crate) fn resolve_broadcast(
    argument: &'static str,
    sizes: Sizes,
    layout: BroadcastLayout,
) -> Result<View, Error> {
    let own = match layout {
        BroadcastLayout::Sizes(own) => own,
        BroadcastLayout::Strided(s) => {
            return view(argument, sizes, s.offset, [s.batch, s.head, s.query, s.key], false);
        }
    };
    let fits = own.into_iter().zip(sizes).all(|(own, size)| own == size || own == 1);
    let expected = format_args!("a shape that broadcasts to {sizes:?}");
    Error::require(fits, argument, expected, format_args!("{own:?}"))?;
    let (mut strides, count) = contiguous(argument, own, [0, 1, 2, 3])?;
    for (stride, own) in strides.iter_mut().zip(own) {
        *stride = if own == 1 { 0 } else { *stride };
    }
    let view = view(argument, sizes, 0, strides, true)?;
    // Of a tensor that is broadcast against an empty axis nothing is read, yet all of it is given.
    Ok(View { extent: to_u32(argument, count)?, ..view })
}

/// Strides of elements side by side, those of the last axis in `order` closest, and their number.
fn contiguous(
    argument: &'static str,
    sizes: Sizes,
    order: [usize; 4],
) -> Result<([usize; 4], usize), Error> {
    let (mut strides, mut count) = ([0; 4], 1);
    for axis in order.into_iter().rev() {
        strides[axis] = count;
        count = multiply(argument, &[count, sizes[axis]])?;
    }
    Ok((strides, count))
}

fn view(
    argument: &'static str,
    sizes: Sizes,
    offset: usize,
    strides: [usize; 4],
    exact: bool,
) -> Result<View, Error> {
    // Nothing of an empty tensor is used, so nothing of it is what refuses it.
    if sizes.contains(&0) {
        return Ok(View { exact, ..View::default() });
    }
    let mut end = offset.checked_add(1).ok_or_else(|| too_large(argument))?;
    for (stride, size) in strides.into_iter().zip(sizes) {
        let reach = multiply(argument, &[stride, size - 1])?;
        end = end.checked_add(reach).ok_or_else(|| too_large(argument))?;
    }
    let stride = |axis| to_u32(argument, if sizes[axis] == 1 { 0 } else { strides[axis] });
    Ok(View {
        offset: to_u32(argument, offset)?,
        batch: stride(0)?,
        head: stride(1)?,
        row: stride(2)?,
        column: stride(3)?,
        extent: to_u32(argument, end)?,
        exact,
    })
}

pub(crate) fn multiply(argument: &'static str, factors: &[usize]) -> Result<usize, Error> {
    factors
        .iter()
        .try_fold(1_usize, |product, &factor| product.checked_mul(factor))
        .ok_or_else(|| too_large(argument))
}

pub(crate) fn to_u32(argument: &'static str, count: usize) -> Result<u32, Error> {
    u32::try_from(count).map_err(|_| Error::invalid(argument, "fewer than 2^32 elements", count))
}

pub(crate) fn too_large(argument: &'static str) -> Error {
    Error::invalid(argument, "fewer than 2^32 elements", "more")
}

/// Lengths and offsets stay below this, so that sums of two fit an i32.
pub(crate) const MAX_LEN: usize = 1 << 30;

/// Refuses sizes of 0.
pub(crate) fn check_not_zero<const N: usize>(
    sizes: [(&'static str, usize); N],
) -> Result<(), Error> {
    sizes.into_iter().try_for_each(|(name, size)| Error::require(size > 0, name, "at least 1", 0))
}

/// A length or size as shaders take it.
pub(crate) fn length(argument: &'static str, size: usize) -> Result<u32, Error> {
    Error::require(size <= MAX_LEN, argument, "at most 2^30", size)?;
    to_u32(argument, size)
}

/// Of a range.
pub(crate) fn count(range: &Range<u32>) -> u32 {
    range.end - range.start
}

/// Some of the sequences, heads and rows of a view, and so many columns.
pub(crate) fn move_view(
    view: View,
    batches: &Range<u32>,
    heads: &Range<u32>,
    rows: &Range<u32>,
    columns: u32,
) -> View {
    move_view_along(view, [batches.clone(), heads.clone(), rows.clone(), 0..columns])
}

/// The part of a view that has these ranges of batch, heads, rows and columns.
pub(crate) fn move_view_along(view: View, ranges: [Range<u32>; 4]) -> View {
    let sizes = ranges.each_ref().map(count);
    if sizes.contains(&0) || view.extent == 0 {
        return view;
    }
    // Within the view's extent, which fits u32.
    let moved = |steps: [u32; 4]| -> u32 {
        view.strides().into_iter().zip(steps).map(|(stride, step)| stride * step).sum()
    };
    let offset = view.offset + moved(ranges.map(|range| range.start));
    View { offset, extent: offset + moved(sizes.map(|size| size - 1)) + 1, ..view }
}
