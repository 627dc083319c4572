//! The dispatches of a linear layer.

use super::dispatch::{Bindings, Dispatch};
use super::fit::{Excess, Part, fit, middle};
use super::program::Program;
use super::storage::{self, Storage};
use super::variant::{Constant, Entry, Variant};
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{LinearProblem, LinearShape, View};
use crate::tensor::Tensor;

/// What will run for a linear layer; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearPlan {
    pub(crate) problem: LinearProblem,
    pub(crate) program: Program,
}

/// The uniform block of linear.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[expect(missing_docs, reason = "strides and sizes as in LinearShape")]
pub struct LinearParams {
    pub x_offset: u32,
    pub x_batch: u32,
    pub x_row: u32,
    pub out_offset: u32,
    pub out_batch: u32,
    pub out_row: u32,
    pub weight_offset: u32,
    pub bias_offset: u32,
    pub len: u32,
    pub rows: u32,
    pub in_features: u32,
    pub out_features: u32,
}

/// Halves of the rows and of the columns are multiples of these, so that no tile is cut.
const ROWS: u32 = 128;
const COLUMNS: u32 = 32;

impl LinearPlan {
    /// Validates `shape` and plans it for a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shape that cannot be, [`Error::Unsupported`] for one that the device is too
    /// small for.
    pub fn new(shape: &LinearShape, capabilities: &Capabilities) -> Result<Self, Error> {
        let problem = LinearProblem::new(shape)?;
        capabilities.check_bindings()?;
        let bytes = BYTES_PER_COLUMN * Tile::new(u32::MAX, capabilities).columns;
        let needs = [
            ("invocations per workgroup", 64, capabilities.workgroup_invocations),
            ("bytes of workgroup memory", bytes, capabilities.workgroup_memory),
        ];
        for (what, expected, found) in needs {
            if expected > found {
                return Err(Error::unsupported(what, expected, found));
            }
        }
        let dispatches = fit(vec![problem.clone()], capabilities)?;
        Ok(Self { program: Program::new(capabilities, problem.given(), dispatches)?, problem })
    }
}

/// Of workgroup memory: 32 vectors of four features, as in linear.wgsl.
const BYTES_PER_COLUMN: u32 = 32 * 16;

/// What a workgroup takes upon itself.
struct Tile {
    threads: u32,
    rows_each: u32,
    columns: u32,
}

impl Tile {
    /// A software adapter reads each row's features one number at a time, so that many columns share
    /// them, as two rows share the weights' bounds checks and broadcasts.
    fn new(rows: u32, capabilities: &Capabilities) -> Self {
        let is_software = capabilities.is_software();
        let (threads, rows_each) = match (is_software, rows) {
            (true, ..=8) => (8, 1),
            (false, ..=32) => (32, 1),
            (true, _) => (32, 2),
            (false, _) => (64, 2),
        };
        let has_room = capabilities.workgroup_memory >= 32 * BYTES_PER_COLUMN;
        let columns = if is_software && has_room { 32 } else { 16 };
        Self { threads, rows_each, columns }
    }
}

impl Part for LinearProblem {
    fn is_empty(&self) -> bool {
        self.batch == 0 || self.len == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (storage, out) = storages(self, capabilities);
        let rows = self.batch.saturating_mul(self.len);
        let Tile { threads, rows_each, columns } = Tile::new(rows, capabilities);
        let constants = [
            ("THREADS", Constant::Count(threads)),
            ("ROWS_EACH", Constant::Count(rows_each)),
            ("COLUMNS", Constant::Count(columns)),
            ("HAS_BIAS", Constant::Flag(self.bias.is_some())),
        ];
        let variant = Variant::new(Entry::Linear, [storage, out], constants);
        let per_word = self.element.per_word();
        let mut bindings = Bindings::new(capabilities);
        let x = bindings.bind("x", Tensor::X, per_word, self.x);
        let weight = bindings.bind("weight", Tensor::Weight, per_word, self.weight);
        let bias = bindings.bind("bias", Tensor::Bias, per_word, self.bias);
        let written = bindings.bind_out(Tensor::Out, self.out_element.per_word(), self.out, out);
        let params = LinearParams {
            x_offset: x.offset,
            x_batch: self.x.batch,
            x_row: self.x.row,
            out_offset: written.offset,
            out_batch: self.out.batch,
            out_row: self.out.row,
            weight_offset: weight.offset,
            bias_offset: bias.offset,
            len: self.len,
            rows,
            in_features: self.in_features,
            out_features: self.out_features,
        };
        let grid = [self.out_features.div_ceil(columns), rows.div_ceil(threads * rows_each), 1];
        let product = bindings.dispatch(variant, &params, grid);
        product.packed_into(Tensor::Out, storage, capabilities)
    }

    fn work(&self) -> u64 {
        let rows = u64::from(self.batch) * u64::from(self.len);
        let features = u64::from(self.in_features) * u64::from(self.out_features);
        if rows > u64::from(ROWS) { rows.saturating_mul(features) } else { 0 }
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let is_of_columns = match excess {
            Excess::Grid { axis, .. } => *axis == 0,
            Excess::Memory { bound, .. } => matches!(bound.tensor, Tensor::Weight | Tensor::Bias),
            _ => false,
        };
        let (batches, rows, columns) = (0..self.batch, 0..self.len, 0..self.out_features);
        let (size, axis) = match (is_of_columns, self.batch) {
            (true, _) => (self.out_features, 2),
            (false, 2..) => (self.batch, 0),
            (false, _) => (self.len, 1),
        };
        let middle = middle(size, [1, ROWS, COLUMNS][axis]);
        let cut = |range| match axis {
            0 => self.part(range, rows.clone(), columns.clone()),
            1 => self.part(batches.clone(), range, columns.clone()),
            _ => self.part(batches.clone(), rows.clone(), range),
        };
        (middle > 0).then(|| vec![cut(0..middle), cut(middle..size)])
    }
}

/// How x, weight and bias are read, and out written.
fn storages(p: &LinearProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    let fours = |count: u32, views: &[&View]| {
        count.is_multiple_of(4) && views.iter().all(|view| storage::starts_on(view, 4))
    };
    let bias_by_four =
        p.bias.is_none_or(|view| view.offset.is_multiple_of(4) && p.out_features.is_multiple_of(4));
    let in_by_four = bias_by_four && fours(p.in_features, &[&p.x, &p.weight]);
    let input = storage::of(p.element, in_by_four, capabilities);
    let out_by_four = fours(p.out_features, &[&p.out]);
    let output = storage::of(p.out_element, out_by_four, capabilities);
    let parts_words = !storage::starts_on(&p.out, 2) || !p.out_features.is_multiple_of(2);
    (input, storage::writing(output, parts_words))
}
