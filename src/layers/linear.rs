//! A linear layer.

use super::prelude::*;

/// Sizes and layouts of `out = x weight^T + bias`, the linear layer as PyTorch's `nn.Linear` has
/// it.
///
/// Rows come in `batch` groups of `len`, so that `[batch, len, features]` and `[len, batch,
/// features]` go into each other without a copy. Any size but `out_features` may be 0; without
/// features in, out is the bias.
///
/// ```
/// use wgpu_attention::{Layout, Strides, layers::LinearShape};
/// // From [len 5, batch 2, 8] to [batch 2, len 5, 12].
/// let x = Layout::Strided(Strides { batch: 8, row: 16, ..Strides::default() });
/// let shape = LinearShape { batch: 2, x, bias: Some(0), ..LinearShape::new(5, 8, 12) };
/// # let _ = shape;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinearShape {
    /// Number of groups of rows.
    pub batch: usize,
    /// Rows of each group.
    pub len: usize,
    /// Length of a row of x.
    pub in_features: usize,
    /// Length of a row of out.
    pub out_features: usize,
    /// Element type of all four tensors.
    pub element: ElementType,
    /// Whether out is f32 all the same, the sums not rounded.
    pub out_f32: bool,
    /// Where x `[batch, len, in_features]` lies; its head stride is not used.
    pub x: Layout,
    /// Where out `[batch, len, out_features]` goes; its head stride is not used.
    pub out: Layout,
    /// The element at which the weight `[out_features, in_features]` begins.
    pub weight: usize,
    /// The element at which the bias `[out_features]` begins, if there is one.
    pub bias: Option<usize>,
}

impl LinearShape {
    /// `len` contiguous rows, without a bias; change any field from there.
    #[must_use]
    pub fn new(len: usize, in_features: usize, out_features: usize) -> Self {
        Self { batch: 1, len, in_features, out_features, ..Self::default() }
    }
}

tensors! {
    /// The buffers of one call, laid out as its [`LinearShape`] says.
    buffers LinearBuffers;
    /// The tensors of a linear layer as slices.
    inputs LinearInputs<T>;
    read {
        /// `[batch, len, in_features]`.
        X => x: T,
        /// `[out_features, in_features]`.
        Weight => weight: T,
        /// `[out_features]`; given exactly if the shape has a bias.
        Bias => bias: ?T,
    }
    written {
        /// `[batch, len, out_features]`; f32 if the shape says so.
        Out => out: T,
    }
}

layer! {
    /// `out = x weight^T + bias` on one device: the projections around attention.
    ///
    /// The same verbs as [`Attention`](crate::Attention): `plan` validates a shape, `encode`
    /// records the plan into your encoder. Sums are f32 for every element type.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{LinearInputs, LinearShape}};
    /// // One row of 2 features into 1.
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let shape = LinearShape { bias: Some(0), ..LinearShape::new(1, 2, 1) };
    /// let inputs = LinearInputs { x: &[1.0_f32, 2.0], weight: &[3.0, 4.0], bias: Some(&[0.5]) };
    /// assert_eq!(gpu.linear_blocking(&shape, &inputs)?, [11.5]);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    Linear, "linear", linear_operator;
    LinearPlan, LinearProblem = LinearProblem::new;
    LinearShape, LinearBuffers, LinearInputs;
    /// A linear layer from slices: uploads, runs, reads back out `[batch, len, out_features]`, laid
    /// out as the shape says.
    linear, linear_blocking -> Vec<T> = |_, written| written.read_all(Tensor::Out)?;
}

/// A validated linear layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearProblem {
    batch: u32,
    len: u32,
    in_features: u32,
    out_features: u32,
    element: ElementType,
    out_element: ElementType,
    /// Rows of `in_features`.
    pub(crate) x: View,
    /// Rows of `in_features`, one for each column of out.
    pub(crate) weight: View,
    /// Rows of one element, one for each column of out.
    pub(crate) bias: Option<View>,
    /// Rows of `out_features`.
    pub(crate) out: View,
}

impl LinearProblem {
    pub(crate) fn new(shape: &LinearShape) -> Result<Self, Error> {
        let s = shape;
        check_not_zero([("out_features", s.out_features)])?;
        let from = |offset, row| match offset {
            0 => Layout::Bhsd,
            offset => Layout::Strided(Strides { offset, row, ..Strides::default() }),
        };
        let weight = from(s.weight, s.in_features);
        let bias = |offset| resolve("bias", [1, 1, s.out_features, 1], from(offset, 1));
        Ok(Self {
            batch: length("batch", s.batch)?,
            len: length("len", s.len)?,
            in_features: length("in_features", s.in_features)?,
            out_features: length("out_features", s.out_features)?,
            element: s.element,
            out_element: if s.out_f32 { ElementType::F32 } else { s.element },
            x: resolve("x", [s.batch, 1, s.len, s.in_features], s.x)?,
            weight: resolve("weight", [1, 1, s.out_features, s.in_features], weight)?,
            bias: s.bias.map(bias).transpose()?,
            out: resolve_output("out", [s.batch, 1, s.len, s.out_features], s.out)?,
        })
    }

    /// Some of the rows and columns of out, which is not empty.
    fn part(&self, [batches, rows, columns]: &[Range<u32>; 3]) -> Self {
        let one = 0..1;
        let by_column = |view, width| move_view(view, &one, &one, columns, width);
        let out = View { offset: self.out.offset + columns.start, ..self.out };
        Self {
            batch: count(batches),
            len: count(rows),
            out_features: count(columns),
            x: move_view(self.x, batches, &one, rows, self.in_features),
            weight: by_column(self.weight, self.in_features),
            bias: self.bias.map(|view| by_column(view, 1)),
            out: move_view(out, batches, &one, rows, count(columns)),
            ..*self
        }
    }
}

impl LayerProblem for LinearProblem {
    fn element(&self) -> ElementType {
        self.element
    }

    fn given(&self) -> Vec<Given> {
        let mut given = LinearBuffers::given(self.element, |tensor| match tensor {
            Tensor::X => Some(self.x),
            Tensor::Weight => Some(self.weight),
            Tensor::Bias => self.bias,
            _ => Some(self.out),
        });
        for out in given.iter_mut().filter(|given| given.is_output) {
            out.per_word = self.out_element.per_word();
        }
        given
    }

    fn validate_output(&self, read_as: ElementType) -> Result<(), Error> {
        if read_as == ElementType::F32 || self.out_element == self.element {
            return Ok(());
        }
        Err(Error::invalid("out_f32", "false, as out comes back as x is", "true"))
    }

    fn program(&self, capabilities: &Capabilities) -> Result<Program, Error> {
        let bytes = Tile::new(u32::MAX, capabilities).workgroup_bytes;
        check_limits([
            ("invocations per workgroup", 64, capabilities.workgroup_invocations),
            ("bytes of workgroup memory", bytes, capabilities.workgroup_memory),
        ])?;
        capabilities.check_bindings()?;
        Program::new(capabilities, self.given(), fit(vec![self.clone()], capabilities)?)
    }
}

/// A linear layer as a step of another: its dispatches with those tensors in place of x, weight,
/// bias and out.
pub(super) fn step(
    shape: &LinearShape,
    capabilities: &Capabilities,
    [x, weight, bias, out]: [Tensor; 4],
) -> Result<Vec<Dispatch>, Error> {
    Ok(LinearPlan::new(shape, capabilities)?.program.renamed(|tensor| match tensor {
        Tensor::X => x,
        Tensor::Weight => weight,
        Tensor::Bias => bias,
        Tensor::Out => out,
        tensor => tensor,
    }))
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
const COLUMNS: u32 = 64;

/// Workgroup memory of the least GPU: it holds both tiles of linear_tiled.wgsl.
const LEAST_OF_GPU: u32 = 16 << 10;
/// Workgroup memory for each column: 32 vectors of four features, as in linear.wgsl.
const BYTES_PER_COLUMN: u32 = 32 * 16;

/// The kernel, and the rows and columns of a workgroup.
struct Tile {
    entry: Entry,
    constants: Vec<(&'static str, Constant)>,
    rows: u32,
    columns: u32,
    workgroup_bytes: u32,
}

impl Tile {
    fn new(rows: u32, capabilities: &Capabilities) -> Self {
        let constants = |counts: &[(&'static str, u32)]| {
            counts.iter().map(|&(name, count)| (name, Constant::Count(count))).collect()
        };
        // No GPU has less.
        let has_room = capabilities.workgroup_memory >= LEAST_OF_GPU
            && capabilities.workgroup_invocations >= 256;
        if !capabilities.is_software() && has_room {
            let rows_each = if rows <= 32 { 4 } else { 8 };
            return Self {
                entry: Entry::LinearTiled,
                constants: constants(&[("ROWS_EACH", rows_each)]),
                rows: rows_each * ROW_LANES,
                columns: COLUMNS,
                workgroup_bytes: LEAST_OF_GPU,
            };
        }
        // A software adapter reads each row's features one number at a time, so that many columns
        // share them, as two rows share the weights' bounds checks and broadcasts.
        let (threads, rows_each) = if rows <= 8 { (8, 1) } else { (32, 2) };
        let has_room = capabilities.workgroup_memory >= 32 * BYTES_PER_COLUMN;
        let columns = if has_room { 32 } else { 16 };
        let counts = [("THREADS", threads), ("ROWS_EACH", rows_each), ("COLUMNS", columns)];
        Self {
            entry: Entry::Linear,
            constants: constants(&counts),
            rows: threads * rows_each,
            columns,
            workgroup_bytes: columns * BYTES_PER_COLUMN,
        }
    }
}

impl Part for LinearProblem {
    fn is_empty(&self) -> bool {
        self.batch == 0 || self.len == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (storage, out) = storages(self, capabilities);
        let rows = self.batch.saturating_mul(self.len);
        let tile = Tile::new(rows, capabilities);
        let has_bias = ("HAS_BIAS", Constant::Flag(self.bias.is_some()));
        let constants = tile.constants.into_iter().chain([has_bias]);
        let variant = Variant::new(tile.entry, [storage, out], constants);
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
        let grid = [self.out_features.div_ceil(tile.columns), rows.div_ceil(tile.rows), 1];
        let product = bindings.dispatch(variant, &params, grid);
        product.packed_into(Tensor::Out, storage, capabilities)
    }

    fn work(&self) -> u64 {
        let rows = u64::from(self.batch) * u64::from(self.len);
        let features = u64::from(self.in_features) * u64::from(self.out_features);
        if rows > u64::from(ROWS) { rows.saturating_mul(features) } else { 0 }
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let axis = match excess {
            Excess::Grid { axis: 0, .. } => 2,
            Excess::Memory { bound, .. } | Excess::Words { bound, .. } => match bound.tensor {
                Tensor::Weight | Tensor::Bias => 2,
                _ => usize::from(
                    reach(bound.view.row, self.len) > reach(bound.view.batch, self.batch),
                ),
            },
            _ => usize::from(self.batch == 1),
        };
        let whole = [0..self.batch, 0..self.len, 0..self.out_features];
        Some(halves(whole, axis, [1, ROWS, COLUMNS][axis])?.map(|half| self.part(&half)).into())
    }
}

/// How x, weight and bias are read, and out written.
fn storages(p: &LinearProblem, capabilities: &Capabilities) -> (Storage, Storage) {
    let fours = |count: u32, views: &[&View]| {
        count.is_multiple_of(4) && views.iter().all(|view| starts_on(view, 4))
    };
    let bias_by_four =
        p.bias.is_none_or(|view| view.offset.is_multiple_of(4) && p.out_features.is_multiple_of(4));
    let in_by_four = bias_by_four && fours(p.in_features, &[&p.x, &p.weight]);
    let input = of(p.element, in_by_four, capabilities);
    let out_by_four = fours(p.out_features, &[&p.out]);
    let output = of(p.out_element, out_by_four, capabilities);
    let parts_words = !starts_on(&p.out, 2) || !p.out_features.is_multiple_of(2);
    (input, writing(output, parts_words))
}
