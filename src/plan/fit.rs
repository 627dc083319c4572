//! Cutting an operation into parts that a device takes: its grids, bindings, workspace, tables, and
//! the work of a dispatch.

use super::MOST_SEQUENCES;
use super::dispatch::{Bound, Dispatch};
use super::variant::Entry;
use crate::device::Capabilities;
use crate::error::Error;
use crate::tensor::Tensor;
use std::ops::Range;

/// Something to compute that can be cut.
pub(crate) trait Part: Sized {
    /// Whether there is nothing to compute.
    fn is_empty(&self) -> bool;

    /// Its dispatches, as if the device had no limits.
    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch>;

    /// Multiply-adds, or 0 for a part so small that there is nothing to gain by cutting it.
    fn work(&self) -> u64 {
        0
    }

    /// What it exceeds that only it knows of.
    fn own_excess(&self) -> Option<Excess> {
        None
    }

    /// Parts that are this one together, in order, each with less of what is too much; none if
    /// there are none.
    fn cut(&self, excess: &Excess) -> Option<Vec<Self>>;
}

/// Why a part does not fit.
#[derive(Debug)]
pub(crate) enum Excess {
    /// Its grid is too large along an axis.
    Grid { axis: usize, expected: u32, found: u32 },
    /// A binding or the workspace is too large.
    Memory { bound: Bound, found: u64 },
    /// There are too many words of out to pack at once.
    Words { bound: Bound, expected: u32, found: u32 },
    /// A table of sequences is too long.
    Sequences { expected: u32, found: u32 },
    /// A dispatch would take too long.
    Work { expected: u64, found: u64 },
    /// A row has more keys than the loops of one invocation take.
    Keys { expected: u32, found: u32 },
}

/// What lies in the operators' own buffers takes no more than this at a time.
const MOST_WORKSPACE: u64 = 64 << 20;

/// A call of more dispatches than this is refused, before planning it takes gigabytes and forever.
const MOST_DISPATCHES: usize = 1 << 14;

/// Work alone cuts a call into about this many parts at most: what has more of it is not for a
/// device on which that takes long. Halving makes up to twice as many, of up to seven dispatches.
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
        let excess = dispatches.iter().find_map(|dispatch| excess(dispatch, capabilities));
        let is_long = part.work() > most_work;
        let excess = excess
            .or_else(|| is_long.then(|| Excess::Work { expected: part.work(), found: most_work }))
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

fn excess(dispatch: &Dispatch, capabilities: &Capabilities) -> Option<Excess> {
    let lines = u32::try_from(dispatch.table.len()).unwrap_or(u32::MAX);
    if lines > MOST_SEQUENCES {
        return Some(Excess::Sequences { expected: lines, found: MOST_SEQUENCES });
    }
    let found = capabilities.workgroups_per_axis;
    if let Some(axis) = dispatch.grid.iter().position(|&size| size > found) {
        let expected = dispatch.grid[axis];
        return Some(match dispatch.find(Tensor::Unpacked) {
            Some(&bound) if dispatch.variant.entry == Entry::Pack => {
                Excess::Words { bound, expected, found }
            }
            _ => Excess::Grid { axis, expected, found },
        });
    }
    dispatch.bound.iter().find_map(|&bound| {
        let found = match bound.tensor.is_scratch() {
            true => MOST_WORKSPACE.min(capabilities.binding_size).min(capabilities.buffer_size),
            false => capabilities.binding_size,
        };
        (bound.window.size > found).then_some(Excess::Memory { bound, found })
    })
}

/// Half of `size`, a multiple of `step` if it is so long.
pub(crate) fn middle(size: u32, step: u32) -> u32 {
    match size / 2 {
        half if half >= step => half.next_multiple_of(step),
        half => half,
    }
}

/// Refuses what needs more than there is of something.
pub(crate) fn check_limits<const N: usize>(
    needs: [(&'static str, u32, u32); N],
) -> Result<(), Error> {
    match needs.into_iter().find(|&(_, expected, found)| expected > found) {
        Some((what, expected, found)) => Err(Error::unsupported(what, expected, found)),
        None => Ok(()),
    }
}

/// The ranges of two halves: of all axes, the one at `axis` cut at a multiple of `step`. None if
/// there is nothing to cut.
pub(crate) fn halves<const N: usize>(
    whole: [Range<u32>; N],
    axis: usize,
    step: u32,
) -> Option<[[Range<u32>; N]; 2]> {
    let (mut first, mut second) = (whole.clone(), whole);
    let middle = middle(first[axis].end, step);
    (first[axis].end, second[axis].start) = (middle, middle);
    (middle > 0).then_some([first, second])
}

/// The limit that is named where a driver stops long loops.
pub(crate) const KEYS: &str = "keys of a row before the driver stops a loop";

impl From<Excess> for Error {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Sequences { expected, found } => {
                Self::unsupported("sequences of one dispatch", expected, found)
            }
            Excess::Work { expected, found } => {
                Self::unsupported("multiply-adds of one dispatch", expected, found)
            }
            Excess::Keys { expected, found } => Self::unsupported(KEYS, expected, found),
            Excess::Grid { expected, found, .. } | Excess::Words { expected, found, .. } => {
                Self::unsupported("workgroups along one axis of a dispatch", expected, found)
            }
            Excess::Memory { bound, found } => {
                Self::unsupported("bytes of one storage binding", bound.window.size, found)
            }
        }
    }
}
