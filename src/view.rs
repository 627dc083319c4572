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

/// An offset and strides, in elements; the last dimension has stride 1.
///
/// Stride 0 repeats an input along that dimension without a copy.
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
        if dims.is_empty() || dims.len() > 4 {
            return Err(Error::invalid(argument, "1 to 4 dimensions", format!("{dims:?}")));
        }
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

/// Elements from the first to the last of `size` along an axis. A tensor's window shrinks most if
/// the tensor is cut along the axis with the longest reach, and not at all along one without.
pub(crate) fn reach(stride: u32, size: u32) -> u64 {
    u64::from(stride) * u64::from(size.saturating_sub(1))
}

impl View {
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
    let [_, heads, rows, columns] = sizes;
    let product = |factors: &[usize]| multiply(argument, factors);
    let (offset, strides, exact) = match layout {
        Layout::Bhsd => {
            (0, [product(&[heads, rows, columns])?, product(&[rows, columns])?, columns, 1], true)
        }
        Layout::Bshd => {
            (0, [product(&[rows, heads, columns])?, columns, product(&[heads, columns])?, 1], true)
        }
        Layout::Strided(s) => (s.offset, [s.batch, s.head, s.row, 1], false),
    };
    view(argument, sizes, offset, strides, exact)
}

/// As [`resolve`], for a tensor that is written: no two of its elements may share a place.
pub(crate) fn resolve_output(
    argument: &'static str,
    sizes: Sizes,
    layout: Layout,
) -> Result<View, Error> {
    let view = resolve(argument, sizes, layout)?;
    let mut dims: Vec<(usize, usize)> = [view.batch, view.head, view.row, view.column]
        .into_iter()
        .zip(sizes)
        .filter(|&(_, size)| size > 1)
        .map(|(stride, size)| (stride as usize, size))
        .collect();
    dims.sort_unstable();
    let mut reach = 0;
    for (stride, size) in dims {
        if stride <= reach && view.extent > 0 {
            return Err(Error::invalid(
                argument,
                format!("strides that give each element of {sizes:?} a place of its own"),
                format!("{layout:?}"),
            ));
        }
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
    match layout {
        BroadcastLayout::Strided(s) => {
            view(argument, sizes, s.offset, [s.batch, s.head, s.query, s.key], false)
        }
        BroadcastLayout::Sizes(own) => {
            let mut strides = [0; 4];
            let mut stride = 1;
            for axis in (0..4).rev() {
                if own[axis] != sizes[axis] && own[axis] != 1 {
                    return Err(Error::invalid(
                        argument,
                        format!("a shape that broadcasts to {sizes:?}"),
                        format!("{own:?}"),
                    ));
                }
                strides[axis] = if own[axis] == 1 { 0 } else { stride };
                stride = multiply(argument, &[stride, own[axis]])?;
            }
            let mut view = view(argument, sizes, 0, strides, true)?;
            // Of a tensor that is broadcast against an empty axis nothing is read, yet all of it is
            // given.
            view.extent = to_u32(argument, stride)?;
            Ok(view)
        }
    }
}

fn view(
    argument: &'static str,
    sizes: Sizes,
    offset: usize,
    strides: [usize; 4],
    exact: bool,
) -> Result<View, Error> {
    let extent = if sizes.contains(&0) {
        0
    } else {
        let mut last = offset;
        for (stride, size) in strides.into_iter().zip(sizes) {
            let reach = multiply(argument, &[stride, size - 1])?;
            last = last.checked_add(reach).ok_or_else(|| too_large(argument))?;
        }
        last.checked_add(1).ok_or_else(|| too_large(argument))?
    };
    // The strides of an empty tensor are never used; clamped, they cannot be what refuses it.
    let stride =
        |s: usize, size: usize| to_u32(argument, if extent == 0 || size == 1 { 0 } else { s });
    let [batch, head, row, column] = strides;
    Ok(View {
        offset: if extent == 0 { 0 } else { to_u32(argument, offset)? },
        batch: stride(batch, sizes[0])?,
        head: stride(head, sizes[1])?,
        row: stride(row, sizes[2])?,
        column: stride(column, sizes[3])?,
        extent: to_u32(argument, extent)?,
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
    u32::try_from(count)
        .map_err(|_| Error::invalid(argument, "fewer than 2^32 elements", format!("{count}")))
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
    match sizes.into_iter().find(|&(_, size)| size == 0) {
        Some((argument, _)) => Err(Error::invalid(argument, "at least 1", 0)),
        None => Ok(()),
    }
}

/// A length or size as shaders take it.
pub(crate) fn length(argument: &'static str, size: usize) -> Result<u32, Error> {
    match u32::try_from(size) {
        Ok(len) if size <= MAX_LEN => Ok(len),
        _ => Err(Error::invalid(argument, "at most 2^30", size)),
    }
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
    let strides = [view.batch, view.head, view.row, view.column];
    let offset = view.offset + dot(strides, ranges.map(|range| range.start));
    View { offset, extent: offset + dot(strides, sizes.map(|size| size - 1)) + 1, ..view }
}

/// Within the view's extent, which fits u32.
fn dot(strides: [u32; 4], steps: [u32; 4]) -> u32 {
    strides.iter().zip(steps).map(|(stride, step)| stride * step).sum()
}
