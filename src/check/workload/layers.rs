//! The layers around attention, in f32. The reference says one sequence at a time.

use super::{Compared, Workload, contents, noise, unwritten};
use crate::buffer::upload;
use crate::call::Call;
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{
    AdditiveBuffers, AdditiveInputs, AdditiveShape, LinearBuffers, LinearInputs, LinearShape,
    MultiHeadBuffers, MultiHeadInputs, MultiHeadShape, MultiHeadWeights, PositionalBuffers,
    PositionalInputs, PositionalShape, RotaryBuffers, RotaryInputs, RotaryShape,
    SelfAttentionBuffers, SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights,
};
use crate::problem::{ElementType, Layout};

/// A tensor here and on the device.
struct Tensor {
    here: Vec<f32>,
    there: wgpu::Buffer,
}

impl Tensor {
    /// Noise of variance 1.
    fn vectors(gpu: &Gpu, seed: u64, count: usize) -> Result<Self, Error> {
        Self::new(gpu, noise(seed, count))
    }

    fn matrix(gpu: &Gpu, seed: u64, rows: usize, width: usize) -> Result<Self, Error> {
        Self::new(gpu, matrix(seed, rows, width))
    }

    fn new(gpu: &Gpu, here: Vec<f32>) -> Result<Self, Error> {
        let there = upload(gpu.device(), "tensor", bytemuck::cast_slice(&here))?;
        Ok(Self { here, there })
    }

    /// What belongs to one sequence of `batch`.
    fn part(&self, sequence: usize, batch: usize) -> &[f32] {
        part(&self.here, sequence, batch)
    }
}

/// A matrix that leaves the variance of vectors of `width` as it is.
fn matrix(seed: u64, rows: usize, width: usize) -> Vec<f32> {
    let spread = 1.0 / (width as f32).sqrt();
    noise::<f32>(seed, rows * width).into_iter().map(|x| spread * x).collect()
}

fn part(tensor: &[f32], sequence: usize, batch: usize) -> &[f32] {
    let len = tensor.len() / batch;
    &tensor[sequence * len..(sequence + 1) * len]
}

impl<'g> Workload<'g> {
    /// A layer whose out `[batch, len, width]` the reference gives one sequence at a time.
    fn layer(
        gpu: &'g Gpu,
        kernel: &'static str,
        [batch, len, width]: [usize; 3],
        prepare: impl Fn() -> Result<(), Error> + 'g,
        bind: impl Fn(&wgpu::Buffer) -> Result<Call, Error> + 'g,
        reference: impl Fn(usize) -> Result<Vec<f64>, Error> + 'g,
    ) -> Result<Self, Error> {
        let out = unwritten(gpu, "out", 4 * batch * len * width)?;
        let written = out.clone();
        let compare = move || {
            let found: Vec<f32> = contents(gpu, &written, batch * len * width)?;
            // Sequences are all alike; the first and the last one show what is wrong with any.
            let mut ends = vec![0, batch - 1];
            ends.dedup();
            let (mut expected, mut sampled) = (Vec::new(), Vec::new());
            for &sequence in &ends {
                expected.extend(reference(sequence)?);
                sampled.extend_from_slice(part(&found, sequence, batch));
            }
            let rows = [ends.len() * len, batch * len];
            let compared = Compared::new("out", &sampled, &expected, ElementType::F32, rows)?;
            Ok(compared.bounded("out", &found, None))
        };
        Ok(Self {
            kernel,
            tuned: None,
            prepare: Box::new(prepare),
            bind: Box::new(move |_| bind(&out)),
            compare: Box::new(compare),
        })
    }

    /// A linear layer with a bias, by batch, length, features in and features out.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn linear(gpu: &'g Gpu, [batch, len, from, to]: [usize; 4]) -> Result<Self, Error> {
        let shape = LinearShape { batch, bias: Some(0), ..LinearShape::new(len, from, to) };
        let x = Tensor::vectors(gpu, 1, batch * len * from)?;
        let (weight, bias) = (Tensor::matrix(gpu, 2, to, from)?, Tensor::vectors(gpu, 3, to)?);
        let operator = gpu.linear_operator();
        let plan = operator.plan(&shape)?;
        let (compiler, planned) = (operator.clone(), plan.clone());
        let buffers = [&x, &weight, &bias].map(|tensor| tensor.there.clone());
        Self::layer(
            gpu,
            "linear",
            [batch, len, to],
            move || compiler.prepare_blocking(&planned),
            move |out| {
                let [x, weight, bias] = &buffers;
                operator.bind(
                    &plan,
                    &LinearBuffers {
                        x: x.into(),
                        weight: weight.into(),
                        bias: Some(bias.into()),
                        out: out.into(),
                    },
                )
            },
            move |sequence| {
                let x = x.part(sequence, batch);
                let inputs = LinearInputs { x, weight: &weight.here, bias: Some(&bias.here[..]) };
                cpu::linear(&LinearShape { batch: 1, ..shape }, &inputs)
            },
        )
    }

    /// A multi-head layer with biases in which every token looks at all, by batch, length, width
    /// and heads.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn multi_head(gpu: &'g Gpu, [batch, len, width, heads]: [usize; 4]) -> Result<Self, Error> {
        let matrices = [1, 2, 3, 4].map(|seed| matrix(seed, width, width));
        let biases = [noise(5, 3 * width), noise(6, width)];
        fn weights<'a>(
            heads: usize,
            [query, key, value, out]: &'a [Vec<f32>; 4],
            [in_bias, out_bias]: &'a [Vec<f32>; 2],
        ) -> MultiHeadWeights<'a> {
            let width = out_bias.len();
            MultiHeadWeights {
                embed_dim: width,
                num_heads: heads,
                kdim: width,
                vdim: width,
                query,
                key,
                value,
                in_bias: Some(in_bias),
                out,
                out_bias: Some(out_bias),
                extra: None,
                add_zero_attn: false,
            }
        }
        let x = Tensor::vectors(gpu, 7, batch * len * width)?;
        let operator = gpu.multi_head_operator(&weights(heads, &matrices, &biases))?;
        let plan = operator.plan(&MultiHeadShape::new(batch, len))?;
        let (compiler, planned, buffer) = (operator.clone(), plan.clone(), x.there.clone());
        Self::layer(
            gpu,
            "multi-head",
            [batch, len, width],
            move || compiler.prepare_blocking(&planned),
            move |out| operator.bind(&plan, &MultiHeadBuffers::new(&buffer, &buffer, &buffer, out)),
            move |sequence| {
                let x = x.part(sequence, batch);
                let inputs = MultiHeadInputs { query: x, key: x, value: x, ..Default::default() };
                let (weights, shape) =
                    (weights(heads, &matrices, &biases), MultiHeadShape::new(1, len));
                Ok(cpu::multi_head_attention(&weights, &shape, &inputs)?.out)
            },
        )
    }

    /// The self-attention of many tutorials, by batch, length, width and heads.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn self_attention(
        gpu: &'g Gpu,
        [batch, len, width, heads]: [usize; 4],
    ) -> Result<Self, Error> {
        let head_dim = width / heads;
        let shared = [1, 2, 3].map(|seed| matrix(seed, head_dim, head_dim));
        let fc_out = (matrix(4, width, width), noise(5, width));
        fn weights<'a>(
            heads: usize,
            [values, keys, queries]: &'a [Vec<f32>; 3],
            (fc_out, fc_out_bias): &'a (Vec<f32>, Vec<f32>),
        ) -> SelfAttentionWeights<'a> {
            let embed_size = fc_out_bias.len();
            SelfAttentionWeights { embed_size, heads, values, keys, queries, fc_out, fc_out_bias }
        }
        let x = Tensor::vectors(gpu, 6, batch * len * width)?;
        let operator = gpu.self_attention_operator(&weights(heads, &shared, &fc_out))?;
        let plan = operator.plan(&SelfAttentionShape::new(batch, len))?;
        let (compiler, planned, buffer) = (operator.clone(), plan.clone(), x.there.clone());
        Self::layer(
            gpu,
            "self-attention",
            [batch, len, width],
            move || compiler.prepare_blocking(&planned),
            move |out| {
                operator.bind(&plan, &SelfAttentionBuffers::new(&buffer, &buffer, &buffer, out))
            },
            move |sequence| {
                let x = x.part(sequence, batch);
                let inputs = SelfAttentionInputs { values: x, keys: x, queries: x, mask: None };
                let (weights, shape) =
                    (weights(heads, &shared, &fc_out), SelfAttentionShape::new(1, len));
                Ok(cpu::self_attention(&weights, &shape, &inputs)?.out)
            },
        )
    }

    /// Additive attention whose keys are the values too, by batch, queries, keys and the width of
    /// all vectors.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn additive(
        gpu: &'g Gpu,
        [batch, q_len, kv_len, width]: [usize; 4],
    ) -> Result<Self, Error> {
        let shape = AdditiveShape::new(batch, [q_len, kv_len], [width; 3], width);
        let query = Tensor::vectors(gpu, 1, batch * q_len * width)?;
        let key = Tensor::vectors(gpu, 2, batch * kv_len * width)?;
        let w_q = Tensor::matrix(gpu, 3, width, width)?;
        let w_k = Tensor::matrix(gpu, 4, width, width)?;
        let (w_v, b) = (Tensor::matrix(gpu, 5, 1, width)?, Tensor::vectors(gpu, 6, width)?);
        let operator = gpu.additive_operator();
        let plan = operator.plan(&shape)?;
        let (compiler, planned) = (operator.clone(), plan.clone());
        let buffers = [&query, &key, &w_q, &w_k, &w_v, &b].map(|tensor| tensor.there.clone());
        Self::layer(
            gpu,
            "additive",
            [batch, q_len, width],
            move || compiler.prepare_blocking(&planned),
            move |out| {
                let [query, key, w_q, w_k, w_v, b] = &buffers;
                let (value, b, mask, weights) = (key, Some(b), None, None);
                let buffers = AdditiveBuffers {
                    query: query.into(),
                    key: key.into(),
                    value: value.into(),
                    w_q: w_q.into(),
                    w_k: w_k.into(),
                    w_v: w_v.into(),
                    b: b.map(Into::into),
                    mask,
                    out: out.into(),
                    weights,
                };
                operator.bind(&plan, &buffers)
            },
            move |sequence| {
                let keys = key.part(sequence, batch);
                let inputs = AdditiveInputs {
                    query: query.part(sequence, batch),
                    key: keys,
                    value: keys,
                    w_q: &w_q.here,
                    w_k: &w_k.here,
                    w_v: &w_v.here,
                    b: Some(&b.here[..]),
                    mask: None,
                };
                Ok(cpu::additive(&AdditiveShape { batch: 1, ..shape }, &inputs)?.out)
            },
        )
    }

    /// A rotary encoding, by batch, heads, length and head_dim.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn rotary(gpu: &'g Gpu, [batch, heads, len, head_dim]: [usize; 4]) -> Result<Self, Error> {
        let shape = RotaryShape::new(batch, heads, len, head_dim);
        let x = Tensor::vectors(gpu, 1, batch * heads * len * head_dim)?;
        let table = len * head_dim / 2;
        let (cos, sin) = (Tensor::vectors(gpu, 2, table)?, Tensor::vectors(gpu, 3, table)?);
        let operator = gpu.rotary_operator();
        let plan = operator.plan(&shape)?;
        let (compiler, planned) = (operator.clone(), plan.clone());
        let buffers = [&x, &cos, &sin].map(|tensor| tensor.there.clone());
        Self::layer(
            gpu,
            "rotary",
            [batch, heads * len, head_dim],
            move || compiler.prepare_blocking(&planned),
            move |out| {
                let [x, cos, sin] = &buffers;
                let buffers = RotaryBuffers {
                    x: x.into(),
                    cos: cos.into(),
                    sin: sin.into(),
                    positions: None,
                    out: Some(out.into()),
                };
                operator.bind(&plan, &buffers)
            },
            move |sequence| {
                let x = x.part(sequence, batch);
                let inputs = RotaryInputs { x, cos: &cos.here, sin: &sin.here, positions: None };
                cpu::rotary(&RotaryShape { batch: 1, ..shape }, &inputs)
            },
        )
    }

    /// An encoding that is added, by batch, length and width.
    ///
    /// # Errors
    /// What planning and uploading can end in.
    pub fn positional(gpu: &'g Gpu, [batch, len, width]: [usize; 3]) -> Result<Self, Error> {
        let out = Some(Layout::Bhsd);
        let shape = PositionalShape { out, ..PositionalShape::new(batch, len, width) };
        let x = Tensor::vectors(gpu, 1, batch * len * width)?;
        let table = Tensor::vectors(gpu, 2, len * width)?;
        let operator = gpu.positional_operator();
        let plan = operator.plan(&shape)?;
        let (compiler, planned) = (operator.clone(), plan.clone());
        let buffers = [&x, &table].map(|tensor| tensor.there.clone());
        Self::layer(
            gpu,
            "positional",
            [batch, len, width],
            move || compiler.prepare_blocking(&planned),
            move |out| {
                let [x, table] = &buffers;
                let buffers = PositionalBuffers {
                    x: Some(x.into()),
                    table: table.into(),
                    positions: None,
                    out: Some(out.into()),
                };
                operator.bind(&plan, &buffers)
            },
            move |sequence| {
                let x = Some(x.part(sequence, batch));
                let inputs = PositionalInputs { x, table: &table.here, positions: None };
                cpu::positional(&PositionalShape { batch: 1, ..shape }, &inputs)
            },
        )
    }
}
