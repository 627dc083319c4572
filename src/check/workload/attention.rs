//! Attention of any shape without parts: all rows are compared, or samples of what would take the
//! reference long.

use super::super::data::Numbers;
use super::{Compared, Workload, contents, noise, unwritten};
use crate::attention::AttentionBuffers;
use crate::buffer::upload;
use crate::cpu::attend_rows;
use crate::error::Error;
use crate::host::Gpu;
use crate::plan::Kernel;
use crate::problem::{
    AttentionOptions, AttentionShape, Element, ElementType, Inputs, Outputs, Problem, View,
};

/// Multiply-adds that the reference may take: a fraction of a second.
pub(super) const WORK: usize = 1 << 28;
/// Rows that lie side by side in a sample, across the edge of a tile now and then.
const RUN: usize = 8;
const FEWEST_RUNS: usize = 6;

impl<'g> Workload<'g> {
    /// Attention on contiguous tensors, with a bias and with weights if the shape asks for them.
    ///
    /// Calls take turns with `copies` of key and value, so that they find them in memory and not in
    /// a cache. `tunes` times tiles first where the kernel has some to choose from, and takes the
    /// fastest.
    ///
    /// # Errors
    /// What planning, uploading and tuning can end in; [`Error::Unsupported`] for an element type
    /// that is not built in.
    pub fn attention(
        gpu: &'g Gpu,
        shape: &AttentionShape,
        options: &AttentionOptions,
        kernel: Option<Kernel>,
        copies: usize,
        tunes: bool,
    ) -> Result<Self, Error> {
        match shape.element {
            ElementType::F32 => new::<f32>(gpu, shape, options, kernel, copies, tunes),
            #[cfg(feature = "half")]
            ElementType::F16 => new::<half::f16>(gpu, shape, options, kernel, copies, tunes),
            #[cfg(feature = "half")]
            ElementType::Bf16 => new::<half::bf16>(gpu, shape, options, kernel, copies, tunes),
            #[cfg(not(feature = "half"))]
            element => {
                let (expected, found) = (element.to_string(), "f32".to_owned());
                Err(Error::Unsupported { what: "element types", expected, found })
            }
        }
    }
}

fn new<'g, T: Element>(
    gpu: &'g Gpu,
    shape: &AttentionShape,
    options: &AttentionOptions,
    kernel: Option<Kernel>,
    copies: usize,
    tunes: bool,
) -> Result<Workload<'g>, Error> {
    let operator = gpu.attention_operator(options)?;
    let mut plan = operator.plan_kernel(shape, kernel)?;
    let tensors = Tensors::<T>::new(&plan.problem);
    let given = |name, tensor: &[T]| upload(gpu.device(), name, bytemuck::cast_slice(tensor));
    let query = given("query", &tensors.query)?;
    let pairs = (0..copies.max(1))
        .map(|_| Ok([given("key", &tensors.key)?, given("value", &tensors.value)?]))
        .collect::<Result<Vec<_>, Error>>()?;
    let bias = tensors.bias.as_ref();
    let bias = bias.map(|bias| upload(gpu.device(), "bias", bytemuck::cast_slice(bias)));
    let bias = bias.transpose()?;
    let out_len = plan.problem.out().extent as usize;
    let out = unwritten(gpu, "out", out_len * size_of::<T>())?;
    let weights_len =
        plan.problem.view(crate::tensor::Tensor::Weights).map(|view| view.extent as usize);
    let weights = weights_len.map(|len| unwritten(gpu, "weights", 4 * len)).transpose()?;
    let mut tuned = None;
    if tunes && matches!(plan.kernel, Kernel::Forward | Kernel::Decode) {
        let [key, value] = &pairs[0];
        let other = unwritten(gpu, "out", out_len * size_of::<T>())?;
        let buffers = AttentionBuffers {
            bias: bias.as_ref().map(Into::into),
            weights: weights.as_ref().map(Into::into),
            ..AttentionBuffers::new(&query, key, value, &other)
        };
        let found = operator.tune_blocking(shape, &buffers)?;
        // The planned tile is one of those that are measured.
        let planned = plan.tiles.forward_tile();
        let planned = found.iter().find(|(tile, _)| Some(*tile) == planned);
        tuned = planned.zip(found.first()).map(|((_, planned), (tile, least))| {
            (*tile, planned.as_secs_f64() / least.as_secs_f64())
        });
        plan = operator.plan_kernel(shape, kernel)?;
    }
    let (compiler, planned) = (operator.clone(), plan.clone());
    let problem = plan.problem.clone();
    let (written, written_weights) = (out.clone(), weights.clone());
    Ok(Workload {
        kernel: plan.kernel.name(),
        tuned,
        prepare: Box::new(move || compiler.prepare_blocking(&planned)),
        bind: Box::new(move |turn| {
            let [key, value] = &pairs[turn % pairs.len()];
            let buffers = AttentionBuffers {
                bias: bias.as_ref().map(Into::into),
                weights: weights.as_ref().map(Into::into),
                ..AttentionBuffers::new(&query, key, value, &out)
            };
            operator.bind(&plan, &buffers)
        }),
        compare: Box::new(move || {
            let weights = written_weights.as_ref().zip(weights_len);
            let weights = weights.map(|(buffer, len)| contents(gpu, buffer, len)).transpose()?;
            let out = contents(gpu, &written, out_len)?;
            tensors.compare(&problem, &Outputs { out, weights, ..Outputs::default() })
        }),
    })
}

/// The tensors of a call.
pub(super) struct Tensors<T> {
    query: Vec<T>,
    key: Vec<T>,
    value: Vec<T>,
    bias: Option<Vec<f32>>,
}

impl<T: Element> Tensors<T> {
    pub(super) fn new(p: &Problem) -> Self {
        Self {
            query: noise(1, p.query().extent as usize),
            key: noise(2, p.key().extent as usize),
            value: noise(3, p.value().extent as usize),
            bias: p.view(crate::tensor::Tensor::Bias).map(|view| noise(4, view.extent as usize)),
        }
    }

    pub(super) fn inputs(&self) -> Inputs<'_, T> {
        let Self { query, key, value, bias } = self;
        Inputs { query, key, value, bias: bias.as_deref(), ..Inputs::default() }
    }

    /// Compares rows of out and weights with the reference. Of the others every element must be
    /// finite and within the range of the values, of which it is a mean; a weight, of 0 to 1.
    pub(super) fn compare(&self, p: &Problem, found: &Outputs<T, f32>) -> Result<Compared, Error> {
        let rows = rows(p);
        let inputs = self.inputs();
        inputs.validate(p)?;
        let widened = inputs.widen();
        let expected = attend_rows(p, &inputs.with(&widened), &rows);
        let counts = [rows.len(), p.batch as usize * p.num_heads as usize * p.q_len as usize];
        let sampled = |view: &View, columns: u32| {
            let starts = rows.iter().map(|&[batch, head, i]| view.index(batch, head, i, 0));
            starts.flat_map(move |start| start..start + columns as usize).collect::<Vec<_>>()
        };
        let places = sampled(&p.out(), p.value_dim);
        let out: Vec<f32> = places.into_iter().map(|at| found.out[at].to_f32()).collect();
        let mut compared = Compared::new("out", &out, &expected.out, T::TYPE, counts)?;
        if let (Some(view), Some(expected)) =
            (&p.view(crate::tensor::Tensor::Weights), &expected.weights)
        {
            let all = found.weights.as_deref().unwrap_or_default();
            let places = sampled(view, p.kv_len);
            let weights: Vec<f32> =
                places.into_iter().map(|at| all.get(at).copied().unwrap_or(f32::NAN)).collect();
            let weights = Compared::new("weights", &weights, expected, T::TYPE, counts)?;
            compared = compared.and(weights).bounded("weights", all, Some(1.0));
        }
        let largest = self.value.iter().fold(0.0, |most: f32, x| most.max(x.to_f32().abs()));
        Ok(compared.bounded("out", &found.out, Some(largest)))
    }
}

/// All rows, by batch, head and query; or the first and the last ones and some in between.
pub(super) fn rows(p: &Problem) -> Vec<[usize; 3]> {
    let [batch, heads, q_len] = [p.batch, p.num_heads, p.q_len].map(|size| size as usize);
    // Few keys do not make a row free.
    let work_of_row = (p.kv_len as usize * (p.head_dim + p.value_dim) as usize).max(1 << 10);
    if batch * heads * q_len <= WORK / work_of_row {
        let all = (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h)));
        return all.flat_map(|(b, h)| (0..q_len).map(move |i| [b, h, i])).collect();
    }
    let len = RUN.min(q_len);
    let count = (WORK / (work_of_row * len)).max(FEWEST_RUNS);
    let mut numbers = Numbers(5);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place below count"
    )]
    let mut below = |count: usize| {
        let place = (f64::from(numbers.unit()) + 1.0) / 2.0 * count as f64;
        (place as usize).min(count - 1)
    };
    let between = (0..count).map(|_| [below(batch), below(heads), below(q_len - len + 1)]);
    let ends = [[0; 3], [batch - 1, heads - 1, q_len - len]];
    let runs = ends.into_iter().chain(between).take(count);
    runs.flat_map(|[b, h, first]| (first..first + len).map(move |i| [b, h, i])).collect()
}
