//! Additive attention: projections, then the fused kernel, in parts that a device takes.

use super::dispatch::{Bindings, Dispatch};
use super::fit::{Excess, KEYS, Part, fit, middle};
use super::kernels::{HIDDEN_MARK, softmax_variant};
use super::linear::LinearPlan;
use super::params::Params;
use super::program::Program;
use super::storage::{Storage, of, starts_on, writing};
use super::variant::{Entry, Variant};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{AdditiveProblem, AdditiveShape, Layout, LinearShape, Strides, View};
use crate::tensor::Tensor;
use std::ops::Range;

/// What an additive attention will run; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct AdditivePlan {
    pub(crate) problem: AdditiveProblem,
    pub(crate) program: Program,
}

/// Queries and columns of a workgroup, in which each invocation has four, and the bytes of its tiles.
const ROWS: u32 = Entry::AdditiveForward.count("ROWS");
const COLUMNS: u32 = 4 * Entry::AdditiveForward.count("THREADS");
const WORKGROUP_BYTES: u32 = 12_224;
/// Multiply-adds that a tanh costs.
const TANH: u64 = 8;

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
                return Err(Error::unsupported(what, expected, found));
            }
        }
        // So many sequences at a time as their projections have room for.
        let most = capabilities.buffer_size.min(u64::from(u32::MAX));
        let longest = shape.q_len.max(shape.kv_len) as u64;
        let bytes = longest.saturating_mul(shape.hidden_dim as u64).saturating_mul(4).max(1);
        if bytes > most {
            return Err(Error::unsupported("bytes of one buffer", bytes, most));
        }
        let step = usize::try_from(most / bytes).unwrap_or(usize::MAX);
        let mut dispatches = Vec::new();
        for first in (0..shape.batch).step_by(step).filter(|_| shape.q_len > 0) {
            let projected = first..shape.batch.min(first.saturating_add(step));
            dispatches.extend(project(&problem, &projected, capabilities)?);
            let queries = 0..shape.q_len;
            let part =
                AdditivePart { problem: &problem, batches: projected.clone(), projected, queries };
            dispatches.extend(fit(vec![part], capabilities)?);
        }
        let program = Program::new(capabilities, problem.given(), dispatches)?;
        Ok(Self { problem, program })
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

/// The projections of some of the sequences: the bias is folded into the queries.
fn project(
    p: &AdditiveProblem,
    batches: &Range<usize>,
    capabilities: &Capabilities,
) -> Result<Vec<Dispatch>, Error> {
    let s = &p.shape;
    let linear = |len: usize, features: usize, bias: bool| {
        let offset = batches.start * len * features;
        let rows = Strides { offset, batch: len * features, head: 0, row: features };
        let shape = LinearShape {
            batch: batches.len(),
            element: s.element,
            out_f32: true,
            bias: bias.then_some(0),
            x: Layout::Strided(rows),
            ..LinearShape::new(len, features, s.hidden_dim)
        };
        Ok::<_, Error>(LinearPlan::new(&shape, capabilities)?.program)
    };
    let queries = linear(s.q_len, s.query_dim, s.bias)?.renamed(|tensor| match tensor {
        Tensor::X => Tensor::Query,
        Tensor::Weight => Tensor::QueryWeight,
        Tensor::Bias => Tensor::InBias,
        Tensor::Out => Tensor::ProjectedQuery,
        tensor => tensor,
    });
    let keys = linear(s.kv_len, s.key_dim, false)?.renamed(|tensor| match tensor {
        Tensor::X => Tensor::Key,
        Tensor::Weight => Tensor::KeyWeight,
        Tensor::Out => Tensor::ProjectedKey,
        tensor => tensor,
    });
    Ok([queries, keys].concat())
}

/// Some queries of some sequences, among those that are projected together.
#[derive(Clone)]
struct AdditivePart<'a> {
    problem: &'a AdditiveProblem,
    projected: Range<usize>,
    batches: Range<usize>,
    queries: Range<usize>,
}

impl AdditivePart<'_> {
    /// Rows from `first` on of each sequence; projected ones count from the first sequence that is projected, all others from
    /// the call's.
    fn rows(&self, from: usize, [batch, row]: [usize; 2], first: usize, rows: usize) -> View {
        let offset = (self.batches.start - from) * batch + first * row;
        let columns = row.max(1);
        let last =
            offset + (self.batches.len() - 1) * batch + rows.saturating_sub(1) * row + columns;
        View {
            offset: narrow(offset),
            batch: narrow(batch),
            head: 0,
            row: narrow(row),
            column: 1,
            extent: if rows == 0 || row == 0 { 0 } else { narrow(last) },
            exact: true,
        }
    }

    /// Contiguous rows, one a query.
    fn of_queries(&self, from: usize, columns: usize) -> View {
        let strides = [self.problem.shape.q_len * columns, columns];
        self.rows(from, strides, self.queries.start, self.queries.len())
    }

    /// Contiguous rows, one a key.
    fn of_keys(&self, from: usize, columns: usize) -> View {
        let kv_len = self.problem.shape.kv_len;
        self.rows(from, [kv_len * columns, columns], 0, kv_len)
    }

    /// Bits of the mask, which may repeat along each axis.
    fn mask(&self) -> Option<View> {
        let mask = self.problem.mask.filter(|_| self.problem.shape.kv_len > 0)?;
        let [batch, query] = [self.batches.start, self.queries.start].map(|first| narrow(first));
        let offset = batch * mask.batch + query * mask.row;
        let last = [
            (narrow(self.batches.len()), mask.batch),
            (narrow(self.queries.len()), mask.row),
            (narrow(self.problem.shape.kv_len), mask.column),
        ];
        let reach: u32 = last.into_iter().map(|(size, stride)| (size - 1) * stride).sum();
        Some(View { offset, extent: offset + reach + 1, ..mask })
    }
}

impl Part for AdditivePart<'_> {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() || self.queries.is_empty()
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (p, s) = (self.problem, &self.problem.shape);
        let (storage, out) = storages(p, capabilities);
        let per_word = s.element.per_word();
        let weights = s.weights.then(|| self.of_queries(0, s.kv_len));
        let projected = self.projected.start;
        let mut bindings = Bindings::new(capabilities);
        let mut bind = |name, tensor, per_word, view: Option<View>| {
            bindings.bind(name, tensor, per_word, view)
        };
        let query = self.of_queries(projected, s.hidden_dim);
        let key = self.of_keys(projected, s.hidden_dim);
        let mut params = Params {
            query: bind("query", Tensor::ProjectedQuery, 1, Some(query)),
            key: bind("key", Tensor::ProjectedKey, 1, Some(key)),
            value: bind("value", Tensor::Value, per_word, Some(self.of_keys(0, s.value_dim))),
            mask: bind("mask", Tensor::Mask, 32, self.mask()),
            scores: bind("weights", Tensor::Weights, 1, weights),
            q_len: narrow(self.queries.len()),
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
        bind("w_v", Tensor::ValueWeight, per_word, Some(p.w_v));
        params.out = bindings.bind_out(Tensor::Out, per_word, self.of_queries(0, s.value_dim), out);
        let batches = narrow(self.batches.len());
        let grid = [params.q_len.div_ceil(ROWS), narrow(s.value_dim).div_ceil(COLUMNS), batches];
        let variant = Variant::new(Entry::AdditiveForward, [storage, out], []);
        let forward = bindings.dispatch(variant, &params, grid);
        let bound = forward.find(Tensor::Weights).copied();
        let softmax = bound.map(|bound| Dispatch {
            variant: softmax_variant(capabilities),
            params: forward.params.clone(),
            bound: vec![bound],
            table: Vec::new(),
            grid: [params.q_len, 1, batches],
        });
        let mut dispatches = forward.packed_into(Tensor::Out, storage, capabilities);
        dispatches.extend(softmax);
        dispatches
    }

    fn work(&self) -> u64 {
        let s = &self.problem.shape;
        if self.batches.len() <= 1 && self.queries.len() <= ROWS as usize {
            return 0;
        }
        let pairs = self.batches.len() as u64 * self.queries.len() as u64;
        let pairs = pairs.saturating_mul(s.kv_len as u64);
        pairs.saturating_mul(s.hidden_dim as u64 * TANH + s.value_dim as u64)
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let is_of_queries = match excess {
            Excess::Grid { axis, .. } => *axis == 0,
            Excess::Memory { bound, .. } => {
                !matches!(bound.tensor, Tensor::ProjectedKey | Tensor::Value | Tensor::ValueWeight)
            }
            Excess::Work { .. } => self.queries.len() > ROWS as usize,
            _ => true,
        };
        let halves = |range: &Range<usize>, step: u32| {
            let middle = range.start + middle(narrow(range.len()), step) as usize;
            [range.start..middle, middle..range.end]
        };
        if is_of_queries && self.queries.len() > 1 {
            let part = |queries| Self { queries, ..self.clone() };
            return Some(halves(&self.queries, ROWS).map(part).into());
        }
        let part = |batches| Self { batches, ..self.clone() };
        (self.batches.len() > 1).then(|| halves(&self.batches, 1).map(part).into())
    }
}

/// Sizes are below 2^30 and extents below 2^32, both checked; what is larger is refused as too large.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How values are read and out is written.
fn storages(p: &AdditiveProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    let on = |count: usize| p.shape.value_dim.is_multiple_of(count);
    let by_four = on(4) && p.shape.hidden_dim.is_multiple_of(4);
    let storage = of(p.shape.element, by_four, capabilities);
    (storage, writing(storage, !on(2) || !starts_on(&p.out, 2)))
}
