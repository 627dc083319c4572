//! Additive attention: projections, then the fused kernel, in parts that a device takes.

use super::kernels::{HIDDEN_MARK, softmax_variant};
use super::launch::Launch;
use super::linear::LinearPlan;
use super::params::{Params, ViewParams};
use super::split::KEYS;
use super::storage::{Storage, of, starts_on, writing};
use super::variant::{Entry, Variant};
use super::window::Window;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{AdditiveProblem, AdditiveShape, Layout, LinearShape, Strides, View};
use std::ops::Range;

/// What an additive attention will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct AdditivePlan {
    pub(crate) problem: AdditiveProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) parts: Vec<AdditivePart>,
}

/// Some of the sequences.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdditivePart {
    /// The bias is folded into the queries.
    pub(crate) queries: LinearPlan,
    pub(crate) keys: LinearPlan,
    pub(crate) launches: Vec<Launch<AdditiveTensor>>,
    /// Bytes of the projections.
    pub(crate) workspace: u64,
}

/// A tensor of additive attention, beside those that are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdditiveTensor {
    /// Projected queries, and behind them the keys; the operator's own buffer.
    Projected,
    Value,
    Factors,
    Mask,
    Out,
    /// Out before it is packed into words that rows share; the operator's own buffer.
    Unpacked,
    Weights,
}

/// Queries and columns of a workgroup, in which each invocation has four, and the bytes of its tiles.
const ROWS: u32 = Entry::AdditiveForward.count("ROWS");
const COLUMNS: u32 = 4 * Entry::AdditiveForward.count("THREADS");
const WORKGROUP_BYTES: u32 = 12_224;
/// Multiply-adds that a tanh costs.
const TANH: u64 = 8;
/// Elements that wait to be packed take no more than this at a time.
const MOST_UNPACKED: u64 = 64 << 20;
/// Work alone cuts a call into about this many parts at most.
const MOST_PARTS_FOR_WORK: u64 = 1 << 10;

/// What a part needs more of than the device has.
struct Excess {
    what: &'static str,
    expected: u64,
    found: u64,
    /// Whether fewer queries are of help.
    of_queries: bool,
}

impl AdditivePlan {
    /// Validates `shape` and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too small for.
    pub fn new(shape: &AdditiveShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let problem = AdditiveProblem::new(shape)?;
        capabilities.check_bindings()?;
        // No shape has fewer keys than a tile.
        let most_keys = most_keys(shape, capabilities).max(32);
        let needs = [
            ("bytes of workgroup memory", WORKGROUP_BYTES, capabilities.workgroup_memory),
            (KEYS, narrow(shape.kv_len), most_keys),
        ];
        for (what, expected, found) in needs {
            if expected > found {
                let (expected, found) = (expected.into(), found.into());
                return Err(unsupported(&Excess { what, expected, found, of_queries: false }));
            }
        }
        let mut parts = Vec::new();
        let all = 0..shape.batch;
        let mut waiting = vec![all];
        while let Some(batches) = waiting.pop() {
            if batches.is_empty() || shape.q_len == 0 {
                continue;
            }
            match part(&problem, batches.clone(), capabilities)? {
                Ok(part) => parts.push(part),
                Err(excess) if batches.len() == 1 => return Err(unsupported(&excess)),
                Err(_) => {
                    let middle = batches.start + batches.len() / 2;
                    waiting.extend([middle..batches.end, batches.start..middle]);
                }
            }
        }
        Ok(Self { problem, capabilities: *capabilities, parts })
    }

    /// The shaders it runs, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let of_part = |part: &AdditivePart| {
            let projections = [part.queries.variants(), part.keys.variants()].concat();
            let own: Vec<_> = part.launches.iter().map(|launch| launch.variant.clone()).collect();
            [projections, own].concat()
        };
        let mut variants: Vec<Variant> = self.parts.iter().flat_map(of_part).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }
}

/// Keys whose loops end before the driver stops them: for a tile of 32, its exponentials, its values, and what each 64
/// hidden columns take to stage and multiply.
fn most_keys(shape: &AdditiveShape, capabilities: &Capabilities) -> u32 {
    match capabilities.loop_turns {
        u32::MAX => u32::MAX,
        turns => turns / (96 + 32 * narrow(shape.hidden_dim.div_ceil(64))) * 32,
    }
}

fn unsupported(excess: &Excess) -> Error {
    Error::Unsupported {
        what: excess.what,
        expected: format!("at least {}", excess.expected),
        found: excess.found.to_string(),
    }
}

/// The sequences `batches`: their projections whole, their queries a range at a time.
fn part(
    p: &AdditiveProblem,
    batches: Range<usize>,
    capabilities: &Capabilities,
) -> Result<Result<AdditivePart, Excess>, Error> {
    let s = &p.shape;
    // Keys begin where a binding may.
    let query_elements = batches.len() as u64 * (s.q_len as u64) * s.hidden_dim as u64;
    let key_offset =
        query_elements.next_multiple_of(u64::from(capabilities.storage_alignment.max(4)));
    let elements = key_offset + batches.len() as u64 * s.kv_len as u64 * s.hidden_dim as u64;
    let workspace = elements * 4;
    let most = capabilities.buffer_size.min(u64::from(u32::MAX));
    if workspace > most {
        let what = "bytes of one buffer";
        return Ok(Err(Excess { what, expected: workspace, found: most, of_queries: false }));
    }
    let [key_offset, hidden] = [to_usize(key_offset), s.hidden_dim];
    let project = |len: usize, features: usize, offset: usize, bias: bool| {
        let shape = LinearShape {
            batch: batches.len(),
            element: s.element,
            out_f32: true,
            bias: bias.then_some(0),
            x: rows(batches.start * len * features, len, features),
            out: rows(offset, len, hidden),
            ..LinearShape::new(len, features, hidden)
        };
        LinearPlan::new(&shape, capabilities)
    };
    let queries = project(s.q_len, s.query_dim, 0, s.bias)?;
    let keys = project(s.kv_len, s.key_dim, key_offset, false)?;

    let mut launches = Vec::new();
    let all = 0..s.q_len;
    let mut waiting = vec![all];
    while let Some(range) = waiting.pop() {
        match launch(p, &batches, &range, key_offset, capabilities) {
            Ok(planned) => launches.extend(planned),
            Err(excess) if excess.of_queries && range.len() > 1 => {
                let middle = match range.len() / 2 {
                    half if half >= ROWS as usize => half.next_multiple_of(ROWS as usize),
                    half => half,
                };
                let middle = range.start + middle;
                waiting.extend([middle..range.end, range.start..middle]);
            }
            Err(excess) => return Ok(Err(excess)),
        }
    }
    Ok(Ok(AdditivePart { queries, keys, launches, workspace }))
}

/// Contiguous rows from an element on.
fn rows(offset: usize, len: usize, columns: usize) -> Layout {
    Layout::Strided(Strides { offset, batch: len * columns, head: 0, row: columns })
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Some queries of some sequences, as if there were no limits but those it is refused for.
fn launch(
    p: &AdditiveProblem,
    batches: &Range<usize>,
    queries: &Range<usize>,
    key_offset: usize,
    device: &Capabilities,
) -> Result<Vec<Launch<AdditiveTensor>>, Excess> {
    let s = &p.shape;
    let (storage, out) = storages(p, device);
    let mut params = Params {
        q_len: narrow(queries.len()),
        kv_len: narrow(s.kv_len),
        head_dim: narrow(s.hidden_dim),
        value_dim: narrow(s.value_dim),
        hidden_bits: HIDDEN_MARK,
        group: 1,
        flags: [(p.mask.is_some(), Params::HAS_MASK), (s.weights, Params::STORES_SCORES)]
            .into_iter()
            .map(|(is_on, flag)| if is_on { flag } else { 0 })
            .sum(),
        mask_column: p.mask.map_or(0, |mask| mask.column),
        ..Params::default()
    };
    check_work(s, [batches.len(), queries.len()], device)?;
    let mut bound = Vec::new();
    let mut bind = |number, tensor, per_word: u32, view: View, of_queries: bool| {
        if view.extent == 0 {
            return Ok((ViewParams::default(), None));
        }
        let window = Window::onto(per_word, &view, device);
        let (expected, found) = (window.size, device.binding_size);
        if expected > found {
            let what = "bytes of one storage binding";
            return Err(Excess { what, expected, found, of_queries });
        }
        bound.push((number, tensor, window));
        Ok((ViewParams::within(&view, &window), Some(window)))
    };
    // Projected rows count from the part's first sequence, all others from the call's.
    let place = |offset: usize, [batch, row]: [usize; 2], of_part: bool, lens: [usize; 2]| {
        let first = if of_part { 0 } else { batches.start };
        let [rows, columns] = lens;
        let offset = offset + first * batch;
        let last = offset + (batches.len() - 1) * batch + rows.saturating_sub(1) * row + columns;
        View {
            offset: narrow(offset),
            batch: narrow(batch),
            head: 0,
            row: narrow(row),
            column: 1,
            extent: if rows == 0 { 0 } else { narrow(last) },
            exact: true,
        }
    };
    let (hidden, lens) = (s.hidden_dim, [queries.len(), s.kv_len]);
    let per_word = s.element.per_word();
    let of_queries = |start: usize, columns: usize, of_part: bool| {
        let strides = [s.q_len * columns, columns];
        place(start + queries.start * columns, strides, of_part, [lens[0], columns])
    };
    let projected = AdditiveTensor::Projected;
    (params.query, _) = bind(1, projected, 1, of_queries(0, hidden, true), true)?;
    let view = place(key_offset, [s.kv_len * hidden, hidden], true, [s.kv_len, hidden]);
    (params.key, _) = bind(2, projected, 1, view, false)?;
    let strides = [s.kv_len * s.value_dim, s.value_dim];
    let view = place(0, strides, false, [s.kv_len, s.value_dim]);
    (params.value, _) = bind(3, AdditiveTensor::Value, per_word, view, false)?;
    bind(5, AdditiveTensor::Factors, per_word, p.w_v, false)?;
    if let Some(mask) = p.mask.filter(|_| s.kv_len > 0) {
        let strides = [mask.batch as usize, mask.row as usize];
        let columns = (s.kv_len - 1) * mask.column as usize + 1;
        let view = place(queries.start * strides[1], strides, false, [lens[0], columns]);
        (params.mask, _) = bind(6, AdditiveTensor::Mask, 32, view, true)?;
    }
    if s.weights {
        let view = of_queries(0, s.kv_len, false);
        (params.scores, _) = bind(9, AdditiveTensor::Weights, 1, view, true)?;
    }
    let written = of_queries(0, s.value_dim, false);
    let (place, window) = bind(4, AdditiveTensor::Out, per_word, written, true)?;
    params.out = place;

    let entry = Entry::AdditiveForward;
    let grid =
        [params.q_len.div_ceil(ROWS), narrow(s.value_dim).div_ceil(COLUMNS), narrow(batches.len())];
    let mut following = Vec::new();
    if let Some(window) = window.filter(|_| out == Storage::Unpacked) {
        let tensors = [AdditiveTensor::Unpacked, AdditiveTensor::Out];
        let pack = Launch::pack(storage, tensors, &written, window);
        let unpacked = Window::unpacked(&window, &written);
        let found = MOST_UNPACKED.min(device.binding_size).min(device.buffer_size);
        if unpacked.size > found {
            let (what, expected) = ("bytes of workspace", unpacked.size);
            return Err(Excess { what, expected, found, of_queries: true });
        }
        if let Some(last) = bound.last_mut() {
            *last = (4, AdditiveTensor::Unpacked, unpacked);
        }
        following.push(pack);
    }
    let params = bytemuck::bytes_of(&params).to_vec();
    if s.weights && s.kv_len > 0 {
        let weights: Vec<_> = bound
            .iter()
            .filter(|(_, tensor, _)| *tensor == AdditiveTensor::Weights)
            .copied()
            .collect();
        let variant = softmax_variant(device);
        let grid = [narrow(queries.len()), 1, narrow(batches.len())];
        following.push(Launch { variant, params: params.clone(), bound: weights, grid });
    }
    let variant = Variant { entry, storage, out, constants: [].into() };
    let mut launches = vec![Launch { variant, params, bound, grid }];
    launches.extend(following);
    check_grids(&launches, device)?;
    Ok(launches)
}

/// Sizes are below 2^30 and extents below 2^32, both checked; what is larger is refused as too large.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn check_work(
    s: &AdditiveShape,
    [batches, queries]: [usize; 2],
    device: &Capabilities,
) -> Result<(), Excess> {
    let work = |batches: usize, queries: usize| {
        let pairs = (batches as u64 * queries as u64).saturating_mul(s.kv_len as u64);
        pairs.saturating_mul(s.hidden_dim as u64 * TANH + s.value_dim as u64)
    };
    let expected = work(batches, queries);
    let found = device.dispatch_work.max(work(s.batch, s.q_len) / MOST_PARTS_FOR_WORK);
    if expected > found && (batches > 1 || queries > ROWS as usize) {
        let what = "multiply-adds of one dispatch";
        return Err(Excess { what, expected, found, of_queries: queries > ROWS as usize });
    }
    Ok(())
}

fn check_grids(launches: &[Launch<AdditiveTensor>], device: &Capabilities) -> Result<(), Excess> {
    let found = device.workgroups_per_axis;
    for launch in launches {
        if let Some(axis) = launch.grid.iter().position(|&size| size > found) {
            let (what, expected) =
                ("workgroups along one axis of a dispatch", launch.grid[axis].into());
            return Err(Excess { what, expected, found: found.into(), of_queries: axis == 0 });
        }
    }
    Ok(())
}

/// How values are read and out is written.
fn storages(p: &AdditiveProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    let on = |count: usize| p.shape.value_dim.is_multiple_of(count);
    let by_four = on(4) && p.shape.hidden_dim.is_multiple_of(4);
    let storage = of(p.shape.element, by_four, capabilities);
    (storage, writing(storage, !on(2) || !starts_on(&p.out, 2)))
}
