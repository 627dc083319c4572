//! Cutting a problem into parts that a device takes.

use super::dispatch::{Dispatch, Tensor};
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

/// Why a part does not fit.
enum Excess {
    /// Its grid is too large along an axis.
    Grid(usize),
    /// A binding or the workspace is too large.
    Memory { expected: u64, found: u64 },
}

/// Halves `problem` until `plan` of each part fits the device; an empty problem has no parts.
pub(super) fn split(
    problem: &Problem,
    capabilities: &Capabilities,
    plan: impl Fn(&Problem) -> Vec<Dispatch>,
) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    // A stack of parts still to be looked at, the next one last: parts come out in order.
    let mut waiting = vec![problem.clone()];
    while let Some(part) = waiting.pop() {
        if part.batch == 0 || part.q_len == 0 {
            continue;
        }
        let dispatches = plan(&part);
        match excess(&dispatches, capabilities) {
            None => {
                let workspace = workspace(&dispatches);
                parts.push(Part { dispatches, workspace });
            }
            Some(excess) => {
                let (first, second) = halve(&part, &excess)?;
                waiting.extend([second, first]);
            }
        }
    }
    Ok(parts)
}

fn workspace(dispatches: &[Dispatch]) -> u64 {
    let bound = dispatches.iter().flat_map(|dispatch| &dispatch.bound);
    bound
        .filter(|bound| bound.tensor == Tensor::Workspace)
        .map(|bound| bound.window.size)
        .max()
        .unwrap_or_default()
}

fn excess(dispatches: &[Dispatch], capabilities: &Capabilities) -> Option<Excess> {
    for dispatch in dispatches {
        let most = capabilities.workgroups_per_axis;
        if let Some(axis) = dispatch.grid.iter().position(|&size| size > most) {
            return Some(Excess::Grid(axis));
        }
        for bound in &dispatch.bound {
            let most = match bound.tensor {
                Tensor::Workspace => {
                    MOST_WORKSPACE.min(capabilities.binding_size).min(capabilities.buffer_size)
                }
                _ => capabilities.binding_size,
            };
            if bound.window.size > most {
                return Some(Excess::Memory { expected: bound.window.size, found: most });
            }
        }
    }
    None
}

/// Two halves along the axis that is to blame, or else the first of batch, heads and queries that
/// can be halved.
fn halve(part: &Problem, excess: &Excess) -> Result<(Problem, Problem), Error> {
    let batches = 0..part.batch;
    let heads = 0..part.num_kv_heads;
    let queries = 0..part.q_len;
    let at_batch = |middle| {
        let cut = |range| part.slice(range, heads.clone(), queries.clone());
        (cut(0..middle), cut(middle..part.batch))
    };
    let at_head = |middle| {
        let cut = |range| part.slice(batches.clone(), range, queries.clone());
        (cut(0..middle), cut(middle..part.num_kv_heads))
    };
    let at_query = |middle| {
        let cut = |range| part.slice(batches.clone(), heads.clone(), range);
        (cut(0..middle), cut(middle..part.q_len))
    };
    let middle_query = match part.q_len / 2 {
        half if half >= QUERIES => half.next_multiple_of(QUERIES),
        half => half,
    };
    match excess {
        Excess::Grid(0) if part.q_len > 1 => Ok(at_query(middle_query)),
        Excess::Grid(1) if part.num_kv_heads > 1 => Ok(at_head(part.num_kv_heads / 2)),
        Excess::Grid(2) if part.batch > 1 => Ok(at_batch(part.batch / 2)),
        Excess::Grid(axis) => Err(Error::Unsupported {
            what: "workgroups along one axis of a dispatch",
            expected: format!("enough for axis {axis} of the smallest part"),
            found: "fewer".to_owned(),
        }),
        Excess::Memory { .. } if part.batch > 1 => Ok(at_batch(part.batch / 2)),
        Excess::Memory { .. } if part.num_kv_heads > 1 => Ok(at_head(part.num_kv_heads / 2)),
        Excess::Memory { .. } if part.q_len > 1 => Ok(at_query(middle_query)),
        Excess::Memory { expected, found } => Err(Error::Unsupported {
            what: "bytes of one storage binding",
            expected: format!("at least {expected}"),
            found: found.to_string(),
        }),
    }
}
