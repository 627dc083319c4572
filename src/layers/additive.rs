//! Additive attention: projections, then a fused kernel.

use super::linear::{LinearShape, step};
use super::prelude::*;
use crate::plan::{HIDDEN_MARK, KEYS, Params, softmax_variant};
use crate::view::resolve_broadcast;

/// Sizes of one additive attention call; all tensors are contiguous. `batch`, `q_len` and `kv_len`
/// may be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditiveShape {
    /// Number of sequences.
    pub batch: usize,
    /// Queries per sequence.
    pub q_len: usize,
    /// Keys per sequence.
    pub kv_len: usize,
    /// Length of a query.
    pub query_dim: usize,
    /// Length of a key.
    pub key_dim: usize,
    /// Length of a value and of an output vector.
    pub value_dim: usize,
    /// Length of the vectors that queries and keys are projected to.
    pub hidden_dim: usize,
    /// Element type of inputs and out; projections, sums and weights are f32.
    pub element: ElementType,
    /// Whether there is a `b`.
    pub bias: bool,
    /// Sizes of a boolean mask, true = attend: each that of `[batch, q_len, kv_len]`, or 1, which
    /// repeats.
    pub mask: Option<[usize; 3]>,
    /// Ask for the attention weights `[batch, q_len, kv_len]`.
    pub weights: bool,
}

impl AdditiveShape {
    /// `[q_len, kv_len]`, `[query_dim, key_dim, value_dim]`; f32, with a bias, without mask and
    /// weights; change any field from there.
    #[must_use]
    pub fn new(batch: usize, lens: [usize; 2], dims: [usize; 3], hidden_dim: usize) -> Self {
        let ([q_len, kv_len], [query_dim, key_dim, value_dim]) = (lens, dims);
        Self {
            batch,
            q_len,
            kv_len,
            query_dim,
            key_dim,
            value_dim,
            hidden_dim,
            bias: true,
            ..Self::default()
        }
    }
}

tensors! {
    /// The buffers of one call, contiguous.
    buffers AdditiveBuffers;
    /// The tensors of one additive attention call, as contiguous slices.
    inputs AdditiveInputs<T>;
    read {
        /// `[batch, q_len, query_dim]`.
        Query => query: T,
        /// `[batch, kv_len, key_dim]`.
        Key => key: T,
        /// `[batch, kv_len, value_dim]`.
        Value => value: T,
        /// `[hidden_dim, query_dim]`.
        QueryWeight => w_q: T,
        /// `[hidden_dim, key_dim]`.
        KeyWeight => w_k: T,
        /// `[hidden_dim]`.
        ValueWeight => w_v: T,
        /// `[hidden_dim]`, given exactly if the shape has a bias.
        InBias => b: ?T,
        /// Given exactly if the shape has a mask; true = attend.
        Mask => mask: ?bool,
    }
    written {
        /// `[batch, q_len, value_dim]`.
        Out => out: T,
        /// `[batch, q_len, kv_len]`; given exactly if the shape asks for it.
        Weights => weights: ?f32,
    }
}

/// The results of one additive attention call: out as `T`, the weights as `S`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdditiveOutputs<T = f32, S = T> {
    /// `[batch, q_len, value_dim]`.
    pub out: Vec<T>,
    /// `[batch, q_len, kv_len]`, if asked for: each row sums to 1, or is 0 if it sees no key.
    pub weights: Option<Vec<S>>,
}

layer! {
    /// Additive attention on one device: `e_ij = w_v . tanh(W_q query_i + W_k key_j + b)`, a
    /// softmax over the visible keys, the weighted sum of the values.
    ///
    /// Queries and keys are projected first; then one kernel goes over the keys, and never stores
    /// what the tanh is taken of. Nothing here submits, waits or reads back.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions, layers::{AdditiveInputs, AdditiveShape}};
    /// // Two keys, of which the second scores ln 3 higher.
    /// let w_v = 3_f32.ln() / 1_f32.tanh();
    /// let shape = AdditiveShape { bias: false, ..AdditiveShape::new(1, [1, 2], [1, 1, 1], 1) };
    /// let inputs = AdditiveInputs {
    ///     query: &[0.0], key: &[0.0, 1.0], value: &[4.0, 8.0],
    ///     w_q: &[1.0], w_k: &[1.0], w_v: &[w_v], ..AdditiveInputs::default()
    /// };
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// assert!((gpu.additive_blocking(&shape, &inputs)?.out[0] - 7.0).abs() < 1e-4);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// Source: Bahdanau et al., arXiv 1409.0473, appendix A.1.2.
    Additive, "additive attention", additive_operator;
    AdditivePlan, AdditiveProblem = AdditiveProblem::new;
    AdditiveShape, AdditiveBuffers, AdditiveInputs;
    /// Additive attention from slices: uploads, runs, reads back.
    additive, additive_blocking -> AdditiveOutputs<T, f32> = |_, written| AdditiveOutputs {
        out: written.read_all(Tensor::Out)?,
        weights: written.read(Tensor::Weights)?,
    };
}

impl AdditiveShape {
    /// Sequences, 1 head, rows and columns of a tensor, if the call has it.
    fn sizes(&self, tensor: Tensor) -> Option<[usize; 4]> {
        let Self { batch, q_len, kv_len, query_dim, key_dim, value_dim, hidden_dim, .. } = *self;
        let (is_given, sizes) = match tensor {
            Tensor::Query => (true, [batch, 1, q_len, query_dim]),
            Tensor::Key => (true, [batch, 1, kv_len, key_dim]),
            Tensor::Value => (true, [batch, 1, kv_len, value_dim]),
            Tensor::QueryWeight => (true, [1, 1, hidden_dim, query_dim]),
            Tensor::KeyWeight => (true, [1, 1, hidden_dim, key_dim]),
            Tensor::ValueWeight => (true, [1, 1, 1, hidden_dim]),
            Tensor::InBias => (self.bias, [1, 1, 1, hidden_dim]),
            Tensor::Mask => (self.mask.is_some(), [batch, 1, q_len, kv_len]),
            Tensor::Weights => (self.weights, [batch, 1, q_len, kv_len]),
            _ => (true, [batch, 1, q_len, value_dim]),
        };
        is_given.then_some(sizes)
    }
}

/// A validated call, or some of its sequences and queries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdditiveProblem {
    shape: AdditiveShape,
    given: Vec<Given>,
    /// Where projected queries and keys lie, among those of all sequences that are projected
    /// together.
    query: View,
    key: View,
}

impl AdditiveProblem {
    pub(crate) fn new(shape: &AdditiveShape) -> Result<Self, Error> {
        let s = *shape;
        let dims = [
            ("query_dim", s.query_dim),
            ("key_dim", s.key_dim),
            ("value_dim", s.value_dim),
            ("hidden_dim", s.hidden_dim),
        ];
        check_not_zero(dims)?;
        let lens = [("batch", s.batch), ("q_len", s.q_len), ("kv_len", s.kv_len)];
        for (argument, size) in dims.into_iter().chain(lens) {
            length(argument, size)?;
        }
        let mut given = AdditiveBuffers::given(s.element, |_| None);
        for Given { tensor, name, view, .. } in &mut given {
            let Some(sizes) = s.sizes(*tensor) else { continue };
            let resolved = match s.mask.filter(|_| *tensor == Tensor::Mask) {
                Some([batch, rows, columns]) => {
                    let own = BroadcastLayout::Sizes([batch, 1, rows, columns]);
                    resolve_broadcast(name, sizes, own)
                }
                None => resolve(name, sizes, Layout::Bhsd),
            };
            *view = Some(resolved?);
        }
        Ok(Self { shape: s, given, query: View::default(), key: View::default() })
    }

    /// Where a tensor lies, if the call has it.
    pub(crate) fn view(&self, tensor: Tensor) -> Option<View> {
        self.given.iter().find(|given| given.tensor == tensor)?.view
    }

    /// The projections: the bias is folded into the queries.
    fn project(&self, capabilities: &Capabilities) -> Result<Vec<Dispatch>, Error> {
        let s = &self.shape;
        let linear = |len, features, bias: bool, tensors: [Tensor; 4]| {
            let x = self.view(tensors[0]).unwrap_or_default();
            let [offset, batch, row] = [x.offset, x.batch, x.row].map(|size| size as usize);
            let shape = LinearShape {
                batch: s.batch,
                element: s.element,
                out_f32: true,
                bias: bias.then_some(0),
                x: Layout::Strided(Strides { offset, batch, head: 0, row }),
                ..LinearShape::new(len, features, s.hidden_dim)
            };
            step(&shape, capabilities, tensors)
        };
        let q = [Tensor::Query, Tensor::QueryWeight, Tensor::InBias, Tensor::ProjectedQuery];
        let k = [Tensor::Key, Tensor::KeyWeight, Tensor::Bias, Tensor::ProjectedKey];
        let mut dispatches = linear(s.q_len, s.query_dim, s.bias, q)?;
        dispatches.extend(linear(s.kv_len, s.key_dim, false, k)?);
        Ok(dispatches)
    }

    /// The same for some of the sequences and queries.
    fn slice(&self, [batches, queries]: &[Range<u32>; 2]) -> Self {
        let (batch, q_len) = (batches.len(), queries.len());
        let shape = AdditiveShape { batch, q_len, ..self.shape };
        let keys = &(0..narrow(shape.kv_len));
        let moved = |view, rows, columns| move_view(view, batches, &(0..1), rows, narrow(columns));
        let mut given = self.given.clone();
        for Given { tensor, view, .. } in &mut given {
            let rows = match *tensor {
                Tensor::Key | Tensor::Value => keys,
                Tensor::Query | Tensor::Mask | Tensor::Out | Tensor::Weights => queries,
                _ => continue,
            };
            let sizes = shape.sizes(*tensor);
            *view = view.zip(sizes).map(|(view, [.., columns])| moved(view, rows, columns));
        }
        let query = moved(self.query, queries, shape.hidden_dim);
        let key = moved(self.key, keys, shape.hidden_dim);
        Self { shape, given, query, key }
    }
}

impl LayerProblem for AdditiveProblem {
    fn element(&self) -> ElementType {
        self.shape.element
    }

    fn given(&self) -> Vec<Given> {
        self.given.clone()
    }

    fn program(&self, capabilities: &Capabilities) -> Result<Program, Error> {
        let s = &self.shape;
        capabilities.check_bindings()?;
        // No shape has fewer keys than a tile.
        let most_keys = most_keys(s, capabilities).max(32);
        check_limits([
            ("bytes of workgroup memory", WORKGROUP_BYTES, capabilities.workgroup_memory),
            (KEYS, narrow(s.kv_len), most_keys),
        ])?;
        // One buffer holds the projections of `step` sequences.
        let most = capabilities.buffer_size.min(u64::from(u32::MAX));
        let longest = s.q_len.max(s.kv_len) as u64;
        let bytes = longest.saturating_mul(s.hidden_dim as u64).saturating_mul(4).max(1);
        if bytes > most {
            return Err(Error::unsupported("bytes of one buffer", bytes, most));
        }
        let step = usize::try_from(most / bytes).unwrap_or(usize::MAX);
        let mut dispatches = Vec::new();
        for first in (0..s.batch).step_by(step).filter(|_| s.q_len > 0) {
            let batches = narrow(first)..narrow(s.batch.min(first.saturating_add(step)));
            let mut part = self.slice(&[batches, 0..narrow(s.q_len)]);
            let sizes = |len| [part.shape.batch, 1, len, s.hidden_dim];
            part.query = resolve("query", sizes(s.q_len), Layout::Bhsd)?;
            part.key = resolve("key", sizes(s.kv_len), Layout::Bhsd)?;
            dispatches.extend(part.project(capabilities)?);
            dispatches.extend(fit(vec![part], capabilities)?);
        }
        Program::new(capabilities, self.given.iter().copied(), dispatches)
    }
}

/// Queries and columns of a workgroup, in which each invocation has four, and the bytes of its
/// tiles.
const ROWS: u32 = Entry::AdditiveForward.count("ROWS");
const COLUMNS: u32 = 4 * Entry::AdditiveForward.count("THREADS");
const WORKGROUP_BYTES: u32 = 12_224;
/// Multiply-adds that a tanh costs.
const TANH: u64 = 8;

/// Keys whose loops end before the driver stops them: for a tile of 32, its exponentials, its
/// values, and what each 64 hidden columns take to stage and multiply.
fn most_keys(shape: &AdditiveShape, capabilities: &Capabilities) -> u32 {
    match capabilities.loop_turns {
        u32::MAX => u32::MAX,
        turns => turns / (96 + 32 * narrow(shape.hidden_dim.div_ceil(64))) * 32,
    }
}

impl Part for AdditiveProblem {
    fn is_empty(&self) -> bool {
        self.shape.batch == 0 || self.shape.q_len == 0
    }

    fn dispatches(&self, capabilities: &Capabilities) -> Vec<Dispatch> {
        let (p, s) = (self, &self.shape);
        let on = |count: usize| s.value_dim.is_multiple_of(count);
        let storage = of(s.element, on(4) && s.hidden_dim.is_multiple_of(4), capabilities);
        let written = p.view(Tensor::Out).unwrap_or_default();
        let out = writing(storage, !on(2) || !starts_on(&written, 2));
        let per_word = s.element.per_word();
        let mask = p.view(Tensor::Mask);
        let mut bindings = Bindings::new(capabilities);
        let mut bind = |name, tensor, per_word| {
            bindings.bind(name, tensor, per_word, p.view(tensor).filter(|_| s.kv_len > 0))
        };
        let mut params = Params {
            value: bind("value", Tensor::Value, per_word),
            mask: bind("mask", Tensor::Mask, 32),
            scores: bind("weights", Tensor::Weights, 1),
            q_len: narrow(s.q_len),
            kv_len: narrow(s.kv_len),
            head_dim: narrow(s.hidden_dim),
            value_dim: narrow(s.value_dim),
            hidden_bits: HIDDEN_MARK,
            group: 1,
            flags: Params::HAS_MASK * u32::from(mask.is_some())
                + Params::STORES_SCORES * u32::from(s.weights),
            mask_column: mask.map_or(0, |mask| mask.column),
            ..Params::default()
        };
        params.query = bindings.bind("query", Tensor::ProjectedQuery, 1, self.query);
        params.key = bindings.bind("key", Tensor::ProjectedKey, 1, self.key);
        bindings.bind("w_v", Tensor::ValueWeight, per_word, p.view(Tensor::ValueWeight));
        params.out = bindings.bind_out(Tensor::Out, per_word, written, out);
        let batches = narrow(s.batch);
        let grid = [params.q_len.div_ceil(ROWS), narrow(s.value_dim).div_ceil(COLUMNS), batches];
        let variant = Variant::new(Entry::AdditiveForward, [storage, out], []);
        let forward = bindings.dispatch(variant, &params, grid);
        let softmax = forward.find(Tensor::Weights).map(|&bound| Dispatch {
            variant: softmax_variant(capabilities),
            bound: vec![bound],
            grid: [params.q_len, 1, batches],
            ..forward.clone()
        });
        let mut dispatches = forward.packed_into(Tensor::Out, storage, capabilities);
        dispatches.extend(softmax);
        dispatches
    }

    fn work(&self) -> u64 {
        let s = &self.shape;
        if s.batch <= 1 && s.q_len <= ROWS as usize {
            return 0;
        }
        let pairs = s.batch as u64 * s.q_len as u64;
        let pairs = pairs.saturating_mul(s.kv_len as u64);
        pairs.saturating_mul(s.hidden_dim as u64 * TANH + s.value_dim as u64)
    }

    fn cut(&self, excess: &Excess) -> Option<Vec<Self>> {
        let [batch, q_len] = [self.shape.batch, self.shape.q_len].map(narrow);
        let is_of_queries = match excess {
            Excess::Grid { axis, .. } => *axis == 0,
            Excess::Memory { bound, .. } | Excess::Words { bound, .. } => match bound.tensor {
                Tensor::ProjectedKey | Tensor::Value | Tensor::ValueWeight => false,
                _ => reach(bound.view.row, q_len) > reach(bound.view.batch, batch),
            },
            Excess::Work { .. } => q_len > ROWS,
            _ => true,
        };
        let whole = [0..batch, 0..q_len];
        let axis = usize::from(is_of_queries && q_len > 1);
        Some(halves(whole, axis, [1, ROWS][axis])?.map(|half| self.slice(&half)).into())
    }
}

/// Sizes are below 2^30 and extents below 2^32, both checked; what is larger is refused as too
/// large.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
