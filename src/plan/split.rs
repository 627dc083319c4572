//! Cutting a problem into parts that a device takes.

use super::MOST_SEQUENCES;
use super::dispatch::{Bound, Dispatch, Tensor};
use super::tiles::MOST_KEYS;
use super::variant::Entry;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::Problem;

/// One part of a problem.
pub(super) struct Part {
    pub(super) dispatches: Vec<Dispatch>,
    /// Bytes of workspace that this part needs.
    pub(super) workspace: u64,
}

/// Halves of the queries are multiples of this, so that no tile is cut.
const QUERIES: u32 = 256;
/// Scores that nobody keeps take no more than this at a time.
const MOST_WORKSPACE: u64 = 64 << 20;

/// A call of more dispatches than this is refused, before planning it takes gigabytes and forever.
const MOST_DISPATCHES: usize = 1 << 14;

/// Work alone cuts a call into about this many parts at most: what has more of it is not for a device on
/// which that takes long. Halving makes up to twice as many, of up to seven dispatches.
const MOST_PARTS_FOR_WORK: u64 = 1 << 10;

/// The limit that is named where a driver stops long loops.
pub(super) const KEYS: &str = "keys of a row before the driver stops a loop";

/// Why a part does not fit.
enum Excess {
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

/// What a problem can be cut along.
#[derive(Clone, Copy)]
enum Axis {
    Batch,
    Heads,
    Queries,
}

/// Halves `problem` until `plan` of each part fits the device; an empty problem has no parts. Where sequences
/// differ, `plan` gets them together only if it `is_fused`; then it also is told in how many chunks to take the keys, of
/// which no more than `most_keys` may be in one.
pub(super) fn split(
    problem: &Problem,
    is_fused: bool,
    most_keys: u32,
    capabilities: &Capabilities,
    plan: impl Fn(&Problem, u32) -> Vec<Dispatch>,
) -> Result<Vec<Part>, Error> {
    let most_work = capabilities.dispatch_work.max(work(problem) / MOST_PARTS_FOR_WORK);
    let mut wholes: Box<dyn Iterator<Item = Problem>> = match is_fused {
        true => Box::new(std::iter::once(problem.clone())),
        false => problem.uniform(),
    };
    let mut parts = Vec::new();
    let mut count = 0;
    // A stack of parts still to be looked at, the next one last: parts come out in order.
    let mut waiting = Vec::new();
    while let Some((part, chunks)) = waiting.pop().or_else(|| Some((wholes.next()?, 1))) {
        if part.batch == 0 || part.q_len == 0 {
            continue;
        }
        let dispatches = plan(&part, chunks);
        let excess = excess(&dispatches, capabilities)
            .or_else(|| too_long(&part, most_work))
            .or_else(|| too_many_keys(&part, chunks, most_keys));
        if let Some(excess) = excess {
            match axis_to_cut(&part, &excess) {
                Some(axis) => {
                    waiting.extend(halve(&part, axis).into_iter().rev().map(|half| (half, chunks)));
                }
                None if is_fused && has_more_chunks(&part, chunks, &excess) => {
                    waiting.push((part, chunks * 2));
                }
                None => return Err(unsupported(&excess)),
            }
            continue;
        }
        count += dispatches.len();
        if count > MOST_DISPATCHES {
            return Err(Error::Unsupported {
                what: "dispatches per call",
                expected: format!("more than {MOST_DISPATCHES}"),
                found: MOST_DISPATCHES.to_string(),
            });
        }
        let workspace = workspace(&dispatches);
        parts.push(Part { dispatches, workspace });
    }
    Ok(parts)
}

fn workspace(dispatches: &[Dispatch]) -> u64 {
    Tensor::OWN.into_iter().map(|own| largest(dispatches, own)).sum()
}

/// Bytes that `dispatches` bind of a tensor, at most.
pub(crate) fn largest(dispatches: &[Dispatch], tensor: Tensor) -> u64 {
    let bound = dispatches.iter().flat_map(|dispatch| &dispatch.bound);
    let sizes = bound.filter(|bound| bound.tensor == tensor).map(|bound| bound.window.size);
    sizes.max().unwrap_or_default()
}

fn excess(dispatches: &[Dispatch], capabilities: &Capabilities) -> Option<Excess> {
    for dispatch in dispatches {
        let (expected, found) = (dispatch.params.sequences, MOST_SEQUENCES);
        if dispatch.variant.is_ragged() && expected > found {
            return Some(Excess::Sequences { expected, found });
        }
        let most = capabilities.workgroups_per_axis;
        if let Some(axis) = dispatch.grid.iter().position(|&size| size > most) {
            let (expected, found) = (dispatch.grid[axis], most);
            let out = dispatch.bound.iter().find(|bound| bound.tensor == Tensor::Out);
            return Some(match out {
                Some(&bound) if dispatch.variant.entry == Entry::Pack => {
                    Excess::Words { bound, expected, found }
                }
                _ => Excess::Grid { axis, expected, found },
            });
        }
        for bound in &dispatch.bound {
            let most = if Tensor::OWN.contains(&bound.tensor) {
                MOST_WORKSPACE.min(capabilities.binding_size).min(capabilities.buffer_size)
            } else {
                capabilities.binding_size
            };
            if bound.window.size > most {
                return Some(Excess::Memory { bound: *bound, found: most });
            }
        }
    }
    None
}

/// More multiply-adds than a dispatch may have. Below a tile of queries of one head there is nothing to gain
/// by cutting.
fn too_long(part: &Problem, most: u64) -> Option<Excess> {
    let expected = work(part);
    let is_divisible = part.sequence_count() > 1 || part.num_heads > 1 || part.q_len > QUERIES;
    (expected > most && is_divisible).then_some(Excess::Work { expected, found: most })
}

/// More keys of a row in one chunk than its loops go through.
fn too_many_keys(part: &Problem, chunks: u32, found: u32) -> Option<Excess> {
    if part.kv_len <= found {
        return None;
    }
    let reaches = part.counted_lines().map(|(_, line)| line.sequence.reach());
    let reach = reaches.max().unwrap_or_default();
    let step = part.pages.map_or(1, |pages| pages.page_len);
    let expected = reach.min(part.kv_len.div_ceil(step).div_ceil(chunks).saturating_mul(step));
    (expected > found).then_some(Excess::Keys { expected, found })
}

/// Multiply-adds of queries with keys and of weights with values, of the keys that a window leaves.
fn work(part: &Problem) -> u64 {
    let columns = u64::from(part.head_dim) + u64::from(part.value_dim);
    let pairs = part.counted_lines().map(|(count, line)| {
        let pairs = u64::from(line.q_len()) * u64::from(line.sequence.reach());
        pairs.saturating_mul(count.into())
    });
    let pairs = pairs.fold(0_u64, u64::saturating_add);
    pairs.saturating_mul(u64::from(part.num_heads)).saturating_mul(columns)
}

/// Whether what is too large shrinks if the keys come in more chunks, of a few tiles at least.
fn has_more_chunks(part: &Problem, chunks: u32, excess: &Excess) -> bool {
    let bound = match excess {
        Excess::Keys { found, .. } => {
            return part.pages.is_none_or(|pages| pages.page_len <= *found);
        }
        // Weights of a row are stored in one dispatch.
        Excess::Memory { bound, .. } if !part.stores_weights() => bound,
        _ => return false,
    };
    let shrinks = match bound.tensor {
        // Any of the pool's pages may hold any of the keys.
        Tensor::Key | Tensor::Value => part.pages.is_none(),
        Tensor::Mask | Tensor::Bias | Tensor::Segments | Tensor::Joined => true,
        _ => false,
    };
    let least = part.pages.map_or(4 * MOST_KEYS, |pages| pages.page_len.max(4 * MOST_KEYS));
    shrinks && part.kv_len / chunks >= least
}

/// The axis along which a cut brings the part nearest to fitting, if there is any.
fn axis_to_cut(part: &Problem, excess: &Excess) -> Option<Axis> {
    let count = part.sequence_count();
    match excess {
        // A packed sequence is cut along its keys once it is alone.
        Excess::Keys { .. } => part.pieces.is_some().then_some(Axis::Batch),
        Excess::Memory { bound, .. } if part.pages.is_some() && is_of_pool(bound) => {
            (part.num_kv_heads > 1).then_some(Axis::Heads)
        }
        _ if part.is_ragged() => match excess {
            Excess::Grid { axis: 1, .. } if part.num_heads > 1 => Some(Axis::Heads),
            _ => (count > 0).then_some(Axis::Batch),
        },
        Excess::Sequences { .. } => None,
        Excess::Grid { axis: 0, .. } if part.q_len > 1 => Some(Axis::Queries),
        // The heads of a group share the rows of a tile.
        Excess::Grid { axis: 0 | 1, .. } => (part.num_heads > 1).then_some(Axis::Heads),
        Excess::Grid { .. } => (part.batch > 1).then_some(Axis::Batch),
        Excess::Work { .. } if part.batch > 1 => Some(Axis::Batch),
        Excess::Work { .. } if part.num_kv_heads > 1 => Some(Axis::Heads),
        Excess::Work { .. } if part.q_len > QUERIES => Some(Axis::Queries),
        Excess::Work { .. } => Some(Axis::Heads),
        Excess::Memory { bound, .. } | Excess::Words { bound, .. } => {
            let (heads, rows) = match bound.tensor {
                Tensor::Key | Tensor::Value => (part.num_kv_heads, 1),
                _ => (part.num_heads, part.q_len),
            };
            // A tensor shrinks most along the axis that it reaches farthest on, and not at all along
            // one on which it repeats.
            let reach = |stride, size: u32| u64::from(stride) * u64::from(size - 1);
            [
                (Axis::Queries, reach(bound.view.row, rows)),
                (Axis::Heads, reach(bound.view.head, heads)),
                (Axis::Batch, reach(bound.view.batch, part.batch)),
            ]
            .into_iter()
            .filter(|&(_, reach)| reach > 0)
            .max_by_key(|&(_, reach)| reach)
            .map(|(axis, _)| axis)
        }
    }
}

fn is_of_pool(bound: &Bound) -> bool {
    matches!(bound.tensor, Tensor::Key | Tensor::Value)
}

/// Two halves, in order. Heads that share a key/value head stay together as long as there are others. A sequence that is
/// left alone differs from no other.
fn halve(part: &Problem, axis: Axis) -> Vec<Problem> {
    let count = part.sequence_count();
    if part.is_ragged() && matches!(axis, Axis::Batch) {
        return match count {
            1 => part.uniform().collect(),
            _ => vec![part.sequences(0..count / 2), part.sequences(count / 2..count)],
        };
    }
    let (size, middle) = match axis {
        Axis::Batch => (part.batch, part.batch / 2),
        Axis::Heads if part.num_kv_heads > 1 => {
            (part.num_heads, part.num_kv_heads / 2 * part.group())
        }
        Axis::Heads => (part.num_heads, part.num_heads / 2),
        Axis::Queries => match part.q_len / 2 {
            half if half >= QUERIES => (part.q_len, half.next_multiple_of(QUERIES)),
            half => (part.q_len, half),
        },
    };
    let cut = |range| {
        let (batches, heads, queries) = (0..part.batch, 0..part.num_heads, 0..part.q_len);
        match axis {
            Axis::Batch => part.slice(range, heads, queries),
            Axis::Heads => part.slice(batches, range, queries),
            Axis::Queries => part.slice(batches, heads, range),
        }
    };
    vec![cut(0..middle), cut(middle..size)]
}

fn unsupported(excess: &Excess) -> Error {
    let (what, expected, found) = match excess {
        Excess::Sequences { expected, found } => {
            ("sequences of one dispatch", u64::from(*expected), u64::from(*found))
        }
        Excess::Work { expected, found } => ("multiply-adds of one dispatch", *expected, *found),
        Excess::Keys { expected, found } => (KEYS, (*expected).into(), (*found).into()),
        Excess::Grid { expected, found, .. } | Excess::Words { expected, found, .. } => {
            let what = "workgroups along one axis of a dispatch";
            (what, u64::from(*expected), u64::from(*found))
        }
        Excess::Memory { bound, found } => {
            ("bytes of one storage binding", bound.window.size, *found)
        }
    };
    Error::Unsupported { what, expected: format!("at least {expected}"), found: found.to_string() }
}
