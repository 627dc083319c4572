//! Cuts a call into parts that fit the device. The limits are workgroups per axis, bytes per
//! binding and scratch buffer, sequences per table, work per part, and keys per row.

use super::MOST_SEQUENCES;
use super::dispatch::{Bound, Dispatch};
use super::variant::Entry;
use crate::device::Capabilities;
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::Range;

/// A piece of a call. It may be cut into smaller pieces.
pub(crate) trait Part: Sized {
    /// Whether there is nothing to compute.
    fn is_empty(&self) -> bool;

    /// Its dispatches. They may exceed the limits of the device, which [`fit`] checks: only kernels
    /// and tiles depend on what the device can do.
    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch>;

    /// Multiply-adds. 0: the part is never cut because of its work.
    fn work(&self) -> u64 {
        0
    }

    /// A limit that the part exceeds and that its dispatches do not show.
    fn own_excess(&self) -> Option<Excess> {
        None
    }

    /// Smaller parts that together make this one, in order. Each has less of what `excess` names.
    /// None if it cannot be cut further.
    fn cut(&self, excess: &Excess) -> Option<Vec<Self>>;
}

/// Why a part does not fit: what it `needed`, and the `limit` of the device.
#[derive(Debug)]
pub(crate) enum Excess {
    /// Its grid is too large along an axis.
    Grid { axis: usize, needed: u32, limit: u32 },
    /// A binding is larger than the device takes, or a scratch buffer than we do.
    Memory { bound: Bound, limit: u64 },
    /// The grid of the kernel that packs 16-bit outputs into words is too large.
    Words { bound: Bound, needed: u32, limit: u32 },
    /// A table of sequences is too long.
    Sequences { needed: u32, limit: u32 },
    /// A dispatch of the part would take too long.
    Work { needed: u64, limit: u64 },
    /// A row has more keys than one invocation may loop over.
    Keys { needed: u32, limit: u32 },
}

/// Bytes of one scratch buffer. A call that needs more is cut.
const MOST_WORKSPACE: u64 = 64 << 20;

/// A call of more dispatches is refused. Planning it would take gigabytes and minutes.
const MOST_DISPATCHES: usize = 1 << 14;

/// The limit on work cuts a call into about this many parts. A larger call gets longer parts
/// instead. Cutting in halves can double the number. A part has at most seven dispatches.
const MOST_PARTS_FOR_WORK: u64 = 1 << 10;

/// The dispatches of `wholes`, each cut until the device takes its parts.
pub(crate) fn fit<P: Part>(
    wholes: Vec<P>,
    capabilities: &Capabilities,
) -> Result<Vec<Dispatch>, Error> {
    let work = wholes.iter().map(P::work).fold(0, u64::saturating_add);
    let most_work = capabilities.dispatch_work.max(work / MOST_PARTS_FOR_WORK);
    let mut fitted = Vec::new();
    // A stack of parts still to be looked at, the next one last: parts come out in order.
    let mut waiting = wholes;
    waiting.reverse();
    while let Some(part) = waiting.pop() {
        if part.is_empty() {
            continue;
        }
        let dispatches = part.dispatches(capabilities);
        let (needed, limit) = (part.work(), most_work);
        let excess = dispatches.iter().find_map(|dispatch| excess(dispatch, capabilities));
        let excess = excess
            .or_else(|| (needed > limit).then_some(Excess::Work { needed, limit }))
            .or_else(|| part.own_excess());
        match excess.map(|excess| (part.cut(&excess), excess)) {
            None => fitted.extend(dispatches),
            Some((Some(parts), _)) => waiting.extend(parts.into_iter().rev()),
            Some((None, excess)) => return Err(excess.into()),
        }
        if fitted.len() > MOST_DISPATCHES {
            return Err(Error::Unsupported {
                what: "dispatches per call",
                expected: format!("more than {MOST_DISPATCHES}"),
                found: MOST_DISPATCHES.to_string(),
            });
        }
    }
    Ok(fitted)
}

/// The first limit that a dispatch exceeds.
fn excess(dispatch: &Dispatch, capabilities: &Capabilities) -> Option<Excess> {
    let sequences = u32::try_from(dispatch.table.len()).unwrap_or(u32::MAX);
    if sequences > MOST_SEQUENCES {
        return Some(Excess::Sequences { needed: sequences, limit: MOST_SEQUENCES });
    }
    let limit = capabilities.workgroups_per_axis;
    if let Some(axis) = dispatch.grid.iter().position(|&size| size > limit) {
        let needed = dispatch.grid[axis];
        return Some(match dispatch.find(Tensor::Unpacked) {
            Some(&bound) if dispatch.variant.entry == Entry::Pack => {
                Excess::Words { bound, needed, limit }
            }
            _ => Excess::Grid { axis, needed, limit },
        });
    }
    dispatch.bound.iter().find_map(|&bound| {
        let limit = match bound.tensor.is_scratch() {
            true => MOST_WORKSPACE.min(capabilities.binding_size).min(capabilities.buffer_size),
            false => capabilities.binding_size,
        };
        (bound.window.size > limit).then_some(Excess::Memory { bound, limit })
    })
}

/// Half of `size`. If that is at least `step`, it is rounded up to a multiple of `step`.
pub(super) fn middle(size: u32, step: u32) -> u32 {
    match size / 2 {
        half if half >= step => half.next_multiple_of(step),
        half => half,
    }
}

/// Cuts the range at `axis` in two, the first a multiple of `step` if it is so long. None if that
/// range has fewer than two elements.
pub(crate) fn halves<const N: usize>(
    whole: [Range<u32>; N],
    axis: usize,
    step: u32,
) -> Option<[[Range<u32>; N]; 2]> {
    let Range { start, end } = whole[axis];
    let middle = start + middle(end - start, step);
    (middle > start).then(|| cut_at(whole, axis, middle))
}

/// Cuts the range at `axis` in two, the second from `middle` on.
pub(super) fn cut_at<const N: usize>(
    whole: [Range<u32>; N],
    axis: usize,
    middle: u32,
) -> [[Range<u32>; N]; 2] {
    let (mut first, mut second) = (whole.clone(), whole);
    (first[axis].end, second[axis].start) = (middle, middle);
    [first, second]
}

/// Names the limit on keys of a row in errors: some drivers stop long loops.
pub(crate) const KEYS: &str = "keys of a row before the driver stops a loop";

impl From<Excess> for Error {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Sequences { needed, limit } => {
                Self::unsupported("sequences of one dispatch", needed, limit)
            }
            Excess::Work { needed, limit } => {
                Self::unsupported("multiply-adds of one dispatch", needed, limit)
            }
            Excess::Keys { needed, limit } => Self::unsupported(KEYS, needed, limit),
            Excess::Grid { needed, limit, .. } | Excess::Words { needed, limit, .. } => {
                Self::unsupported("workgroups along one axis of a dispatch", needed, limit)
            }
            Excess::Memory { bound, limit } => {
                Self::unsupported("bytes of one storage binding", bound.window.size, limit)
            }
        }
    }
}
