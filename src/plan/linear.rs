//! The dispatches of a linear layer.

use super::dispatch::Tensor;
use super::launch::PACK_THREADS;
use super::params::Params;
use super::storage::{self, Storage};
use super::variant::{Constant, Entry, Variant};
use super::window::Window;
use crate::device::Capabilities;
use crate::error::Error;
use crate::problem::{LinearProblem, LinearShape, View};

/// What will run for a linear layer; plain data, made in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearPlan {
    pub(crate) problem: LinearProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) dispatches: Vec<LinearDispatch>,
}

/// One dispatch of a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearDispatch {
    pub(crate) variant: Variant,
    /// The uniform block.
    pub(crate) params: Vec<u8>,
    pub(crate) bound: Vec<(u32, LinearTensor, Window)>,
    pub(crate) grid: [u32; 3],
}

/// A tensor of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearTensor {
    X,
    Weight,
    Bias,
    Out,
    /// Out before it is packed; the operator's own buffer.
    Unpacked,
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
/// Out that has to be packed takes no more than this at a time.
const MOST_WORKSPACE: u64 = 64 << 20;

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
                let expected = format!("at least {expected}");
                return Err(Error::Unsupported { what, expected, found: found.to_string() });
            }
        }
        let mut dispatches = Vec::new();
        // A stack of parts still to be looked at, the next one last.
        let mut waiting = vec![problem.clone()];
        while let Some(part) = waiting.pop() {
            if part.batch == 0 || part.len == 0 {
                continue;
            }
            let planned = plan(&part, capabilities);
            match excess(&planned, &part, capabilities) {
                None => dispatches.extend(planned),
                Some(excess) => waiting.extend(halve(&part, &excess)?),
            }
        }
        Ok(Self { problem, capabilities: *capabilities, dispatches })
    }

    /// Every shader variant that the plan dispatches, each once.
    #[must_use]
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<Variant> =
            self.dispatches.iter().map(|dispatch| dispatch.variant.clone()).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }

    /// How many dispatches there are.
    #[must_use]
    pub fn dispatch_count(&self) -> usize {
        self.dispatches.len()
    }

    /// Bytes of the operator's own buffer.
    #[must_use]
    pub fn workspace(&self) -> u64 {
        let bound = self.dispatches.iter().flat_map(|dispatch| &dispatch.bound);
        let own = bound.filter(|(_, tensor, _)| *tensor == LinearTensor::Unpacked);
        own.map(|(_, _, window)| window.size).max().unwrap_or_default()
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
    /// On a CPU that plays the GPU each row's features are read one number at a time, so that many columns share them, as
    /// two rows share the weights' bounds checks and broadcasts. lavapipe 26, 512 rows, 512 features in and out by turns, over 4 rows and 16 columns
    /// each in 16 invocations: 2 and 32 in 16, 0.99, in 32, 0.73, in 128, 0.87; 1 and 64, 1.17.
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

/// The dispatches of a part as if the device had no limits.
fn plan(part: &LinearProblem, capabilities: &Capabilities) -> Vec<LinearDispatch> {
    let p = part;
    let (storage, out) = storages(p, capabilities);
    let rows = p.batch.saturating_mul(p.len);
    let Tile { threads, rows_each, columns } = Tile::new(rows, capabilities);
    let variant = Variant {
        entry: Entry::Linear,
        storage,
        out,
        constants: [
            ("THREADS", Constant::Count(threads)),
            ("ROWS_EACH", Constant::Count(rows_each)),
            ("COLUMNS", Constant::Count(columns)),
            ("HAS_BIAS", Constant::Flag(p.bias.is_some())),
        ]
        .into(),
    };
    let window = |tensor: Tensor, view: &View| tensor.window(p.element, view, capabilities);
    let inputs = [
        (1, LinearTensor::X, Some(p.x)),
        (2, LinearTensor::Weight, Some(p.weight)),
        (3, LinearTensor::Bias, p.bias),
    ];
    let inputs = inputs.map(|(number, tensor, view)| {
        // What an empty tensor would bind is a dummy.
        let view = view.filter(|view| view.extent > 0)?;
        Some((number, tensor, view, window(Tensor::Query, &view)))
    });
    let within = |at: usize| inputs[at].map_or(0, |(_, _, view, w)| view.offset - w.first_element);
    let out_window = Tensor::Out.window(p.out_element, &p.out, capabilities);
    let params = LinearParams {
        x_offset: within(0),
        x_batch: p.x.batch,
        x_row: p.x.row,
        out_offset: p.out.offset - out_window.first_element,
        out_batch: p.out.batch,
        out_row: p.out.row,
        weight_offset: within(1),
        bias_offset: within(2),
        len: p.len,
        rows,
        in_features: p.in_features,
        out_features: p.out_features,
    };
    let unpacked = Window::unpacked(&out_window, &p.out);
    let written = match out {
        Storage::Unpacked => (4, LinearTensor::Unpacked, unpacked),
        _ => (4, LinearTensor::Out, out_window),
    };
    let inputs = inputs.into_iter().flatten().map(|(number, tensor, _, w)| (number, tensor, w));
    let product = LinearDispatch {
        variant,
        params: bytemuck::bytes_of(&params).to_vec(),
        bound: inputs.chain([written]).collect(),
        grid: [p.out_features.div_ceil(columns), rows.div_ceil(threads * rows_each), 1],
    };
    if out != Storage::Unpacked {
        return vec![product];
    }
    let words = p.out.extent.div_ceil(2) - out_window.first_element / 2;
    let variant = Variant { entry: Entry::Pack, storage, out: storage, constants: [].into() };
    let pack = LinearDispatch {
        variant,
        params: bytemuck::bytes_of(&Params { words, ..Params::default() }).to_vec(),
        bound: vec![(4, LinearTensor::Unpacked, unpacked), (10, LinearTensor::Out, out_window)],
        grid: [words.div_ceil(PACK_THREADS), 1, 1],
    };
    vec![product, pack]
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
    let is_words = matches!(output, Storage::F16Words | Storage::Bf16Words);
    let parts_words = !storage::starts_on(&p.out, 2) || !p.out_features.is_multiple_of(2);
    if is_words && parts_words {
        return (input, Storage::Unpacked);
    }
    (input, output)
}

/// Why a part does not fit.
struct Excess {
    what: &'static str,
    expected: u64,
    found: u64,
    /// Whether fewer columns, and not fewer rows, are of help.
    of_columns: bool,
}

fn excess(
    planned: &[LinearDispatch],
    part: &LinearProblem,
    capabilities: &Capabilities,
) -> Option<Excess> {
    for dispatch in planned {
        let found = capabilities.workgroups_per_axis;
        if let Some(axis) = dispatch.grid.iter().position(|&size| size > found) {
            let what = "workgroups along one axis of a dispatch";
            let (expected, found) = (dispatch.grid[axis].into(), found.into());
            let of_columns = axis == 0 && dispatch.variant.entry == Entry::Linear;
            return Some(Excess { what, expected, found, of_columns });
        }
        for (_, tensor, window) in &dispatch.bound {
            let found = match tensor {
                LinearTensor::Unpacked => capabilities.binding_size.min(MOST_WORKSPACE),
                _ => capabilities.binding_size,
            };
            if window.size > found {
                let of_columns = matches!(tensor, LinearTensor::Weight | LinearTensor::Bias);
                let what = "bytes of one storage binding";
                return Some(Excess { what, expected: window.size, found, of_columns });
            }
        }
    }
    let rows = u64::from(part.batch) * u64::from(part.len);
    let features = u64::from(part.in_features) * u64::from(part.out_features);
    let expected = rows.saturating_mul(features);
    let is_long = expected > capabilities.dispatch_work && rows > u64::from(ROWS);
    let what = "multiply-adds of one dispatch";
    let found = capabilities.dispatch_work;
    is_long.then_some(Excess { what, expected, found, of_columns: false })
}

/// The halves of a part, the first one last.
fn halve(part: &LinearProblem, excess: &Excess) -> Result<[LinearProblem; 2], Error> {
    let (batches, rows, columns) = (0..part.batch, 0..part.len, 0..part.out_features);
    let middle = |size: u32, tile: u32| match size / 2 {
        half if half >= tile => half.next_multiple_of(tile),
        half => half,
    };
    let (size, axis) = match (excess.of_columns, part.batch) {
        (true, _) => (part.out_features, 2),
        (false, 2..) => (part.batch, 0),
        (false, _) => (part.len, 1),
    };
    let middle = middle(size, [1, ROWS, COLUMNS][axis]);
    if middle == 0 {
        return Err(Error::Unsupported {
            what: excess.what,
            expected: format!("at least {}", excess.expected),
            found: excess.found.to_string(),
        });
    }
    let cut = |range| match axis {
        0 => part.part(range, rows.clone(), columns.clone()),
        1 => part.part(batches.clone(), range, columns.clone()),
        _ => part.part(batches.clone(), rows.clone(), range),
    };
    Ok([cut(middle..size), cut(0..middle)])
}
