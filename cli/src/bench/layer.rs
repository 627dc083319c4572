//! A layer around attention under the clock, in f32.

use super::device::Device;
use super::label::Label;
use super::trial::{Measured, Trial};
use super::verify::{Checked, Fault, repeated};
use wgpu_attention::wgpu::{Buffer, CommandEncoder};
use wgpu_attention::{
    AdditiveBuffers, AdditiveInputs, AdditiveShape, ElementType, Error, Layout, LinearBuffers,
    LinearInputs, LinearShape, MultiHeadBuffers, MultiHeadInputs, MultiHeadShape, MultiHeadWeights,
    PositionalBuffers, PositionalInputs, PositionalShape, RotaryBuffers, RotaryInputs, RotaryShape,
    SelfAttentionBuffers, SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights, cpu,
};

/// A layer, by its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Batch, length, features in, features out.
    Linear([usize; 4]),
    /// Batch, length, width, heads: every token looks at all.
    MultiHead([usize; 4]),
    /// As the multi-head layer's.
    SelfAttention([usize; 4]),
    /// Batch, queries, keys, width of all vectors.
    Additive([usize; 4]),
    /// Batch, heads, length, head_dim.
    Rotary([usize; 4]),
    /// Batch, length, width.
    Positional([usize; 3]),
}

impl Layer {
    /// Its name, what its sizes are, and they.
    fn sizes(&self) -> (&'static str, &'static str, &[usize]) {
        match self {
            Self::Linear(sizes) => ("linear", "B,S,in,out", sizes),
            Self::MultiHead(sizes) => ("multi-head", "B,S,width,heads", sizes),
            Self::SelfAttention(sizes) => ("self-attention", "B,S,width,heads", sizes),
            Self::Additive(sizes) => ("additive", "B,Sq,Skv,width", sizes),
            Self::Rotary(sizes) => ("rotary", "B,H,S,D", sizes),
            Self::Positional(sizes) => ("positional", "B,S,width", sizes),
        }
    }

    pub(super) fn label(&self) -> Label {
        let (name, words, sizes) = self.sizes();
        let (macs, elements) = self.work();
        Label {
            sizes: sizes.to_vec(),
            element: ElementType::F32,
            causal: false,
            words: words.to_owned(),
            pass: name,
            kernel: None,
            flops: 2.0 * macs as f64,
            bytes: 4 * elements as u64,
            moves: matches!(self, Self::Rotary(_) | Self::Positional(_)),
        }
    }

    /// Multiply-adds, those of projections and of visible pairs; elements of all tensors that come in and go out.
    fn work(&self) -> (usize, usize) {
        match *self {
            Self::Linear([batch, len, from, to]) => {
                (batch * len * from * to, batch * len * (from + to) + to * (from + 1))
            }
            Self::MultiHead([batch, len, width, _]) => {
                let macs = batch * len * (4 * width * width + 2 * len * width);
                (macs, 2 * batch * len * width + 4 * width * (width + 1))
            }
            Self::SelfAttention([batch, len, width, heads]) => {
                let head_dim = width / heads;
                let macs = batch * len * width * (3 * head_dim + width + 2 * len);
                (macs, 2 * batch * len * width + 3 * head_dim * head_dim + width * (width + 1))
            }
            Self::Additive([batch, q_len, kv_len, width]) => {
                let projections = batch * (q_len + kv_len) * width * width;
                let vectors = batch * (2 * q_len + kv_len) * width;
                (
                    projections + 2 * batch * q_len * kv_len * width,
                    vectors + 2 * width * (width + 1),
                )
            }
            Self::Rotary([batch, heads, len, head_dim]) => {
                let x = batch * heads * len * head_dim;
                (2 * x, 2 * x + len * head_dim)
            }
            Self::Positional([batch, len, width]) => {
                (batch * len * width, (2 * batch + 1) * len * width)
            }
        }
    }

    pub(super) fn time(&self, device: &Device<'_>, seconds: f64) -> Result<Measured, Fault> {
        let clock = Clock { device, seconds, name: self.sizes().0 };
        match *self {
            Self::Linear(sizes) => linear(&clock, sizes),
            Self::MultiHead(sizes) => multi_head(&clock, sizes),
            Self::SelfAttention(sizes) => self_attention(&clock, sizes),
            Self::Additive(sizes) => additive(&clock, sizes),
            Self::Rotary(sizes) => rotary(&clock, sizes),
            Self::Positional(sizes) => positional(&clock, sizes),
        }
    }
}

/// A tensor here and on the device.
struct Tensor {
    here: Vec<f32>,
    there: Buffer,
}

struct Clock<'a> {
    device: &'a Device<'a>,
    seconds: f64,
    name: &'static str,
}

impl Clock<'_> {
    /// Noise of variance 1.
    fn vectors(&self, seed: u64, count: usize) -> Result<Tensor, Error> {
        let here = repeated(seed, count);
        let there = self.device.upload(self.name, bytemuck::cast_slice(&here))?;
        Ok(Tensor { here, there })
    }

    /// A matrix that leaves the variance of vectors of `width` as it is.
    fn matrix(&self, seed: u64, rows: usize, width: usize) -> Result<Tensor, Error> {
        let here = matrix(seed, rows, width);
        let there = self.device.upload(self.name, bytemuck::cast_slice(&here))?;
        Ok(Tensor { here, there })
    }

    /// Times a layer whose out `[batch, len, width]` the reference says one sequence at a time.
    fn run(
        &self,
        [batch, len, width]: [usize; 3],
        prepare: impl Fn() -> Result<(), Error>,
        encode: impl Fn(&mut CommandEncoder, &Buffer) -> Result<(), Error>,
        reference: impl Fn(usize) -> Result<Vec<f64>, Error>,
    ) -> Result<Measured, Fault> {
        let out = self.device.unwritten("out", 4 * batch * len * width)?;
        let verify = |bytes: &[u8]| {
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            if let Some(at) = found.iter().position(|x| !x.is_finite()) {
                return Err(format!("out[{at}]: expected a number, found {}", found[at]).into());
            }
            // Sequences are all alike; the first and the last one show what is wrong with any.
            let mut ends = vec![0, batch - 1];
            ends.dedup();
            let (mut expected, mut sampled) = (Vec::new(), Vec::new());
            for &sequence in &ends {
                expected.extend(reference(sequence)?);
                sampled.extend_from_slice(part(&found, sequence, batch));
            }
            let rows = [ends.len() * len, batch * len];
            Checked::new("out", &sampled, &expected, ElementType::F32, rows)
        };
        let trial = Trial {
            kernel: self.name,
            prepare: &prepare,
            record: &mut |encoder, _| encode(encoder, &out),
            out: &out,
            verify: &verify,
        };
        trial.run(self.device, self.seconds)
    }
}

fn matrix(seed: u64, rows: usize, width: usize) -> Vec<f32> {
    let spread = 1.0 / (width as f32).sqrt();
    repeated::<f32>(seed, rows * width).into_iter().map(|x| spread * x).collect()
}

/// What of a tensor belongs to one sequence of `batch`.
fn part(tensor: &[f32], sequence: usize, batch: usize) -> &[f32] {
    let len = tensor.len() / batch;
    &tensor[sequence * len..(sequence + 1) * len]
}

fn linear(clock: &Clock<'_>, [batch, len, from, to]: [usize; 4]) -> Result<Measured, Fault> {
    let shape = LinearShape { batch, bias: Some(0), ..LinearShape::new(len, from, to) };
    let (x, weight) = (clock.vectors(1, batch * len * from)?, clock.matrix(2, to, from)?);
    let bias = clock.vectors(3, to)?;
    let operator = clock.device.gpu.linear_operator();
    let plan = operator.plan(&shape)?;
    clock.run(
        [batch, len, to],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let (x, weight, bias) = (&x.there, &weight.there, Some(&bias.there));
            operator.encode(encoder, &plan, &LinearBuffers { x, weight, bias, out })
        },
        |sequence| {
            let x = part(&x.here, sequence, batch);
            let inputs = LinearInputs { x, weight: &weight.here, bias: Some(&bias.here[..]) };
            cpu::linear(&LinearShape { batch: 1, ..shape }, &inputs)
        },
    )
}

fn multi_head(
    clock: &Clock<'_>,
    [batch, len, width, heads]: [usize; 4],
) -> Result<Measured, Fault> {
    let [query, key, value, out] = [1, 2, 3, 4].map(|seed| matrix(seed, width, width));
    let (in_bias, out_bias) = (repeated(5, 3 * width), repeated(6, width));
    let weights = MultiHeadWeights {
        embed_dim: width,
        num_heads: heads,
        kdim: width,
        vdim: width,
        query: &query,
        key: &key,
        value: &value,
        in_bias: Some(&in_bias),
        out: &out,
        out_bias: Some(&out_bias),
        extra: None,
        add_zero_attn: false,
    };
    let x = clock.vectors(7, batch * len * width)?;
    let operator = clock.device.gpu.multi_head_operator(&weights)?;
    let plan = operator.plan(&MultiHeadShape::new(batch, len))?;
    clock.run(
        [batch, len, width],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let buffers = MultiHeadBuffers::new(&x.there, &x.there, &x.there, out);
            operator.encode(encoder, &plan, &buffers)
        },
        |sequence| {
            let x = part(&x.here, sequence, batch);
            let inputs = MultiHeadInputs { query: x, key: x, value: x, ..Default::default() };
            Ok(cpu::multi_head_attention(&weights, &MultiHeadShape::new(1, len), &inputs)?.out)
        },
    )
}

fn self_attention(
    clock: &Clock<'_>,
    [batch, len, width, heads]: [usize; 4],
) -> Result<Measured, Fault> {
    let head_dim = width / heads;
    let [values, keys, queries] = [1, 2, 3].map(|seed| matrix(seed, head_dim, head_dim));
    let (fc_out, fc_out_bias) = (matrix(4, width, width), repeated(5, width));
    let weights = SelfAttentionWeights {
        embed_size: width,
        heads,
        values: &values,
        keys: &keys,
        queries: &queries,
        fc_out: &fc_out,
        fc_out_bias: &fc_out_bias,
    };
    let x = clock.vectors(6, batch * len * width)?;
    let operator = clock.device.gpu.self_attention_operator(&weights)?;
    let plan = operator.plan(&SelfAttentionShape::new(batch, len))?;
    clock.run(
        [batch, len, width],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let buffers = SelfAttentionBuffers::new(&x.there, &x.there, &x.there, out);
            operator.encode(encoder, &plan, &buffers)
        },
        |sequence| {
            let x = part(&x.here, sequence, batch);
            let inputs = SelfAttentionInputs { values: x, keys: x, queries: x, mask: None };
            Ok(cpu::self_attention(&weights, &SelfAttentionShape::new(1, len), &inputs)?.out)
        },
    )
}

fn additive(
    clock: &Clock<'_>,
    [batch, q_len, kv_len, width]: [usize; 4],
) -> Result<Measured, Fault> {
    let shape = AdditiveShape::new(batch, [q_len, kv_len], [width; 3], width);
    let (query, key) =
        (clock.vectors(1, batch * q_len * width)?, clock.vectors(2, batch * kv_len * width)?);
    let (w_q, w_k) = (clock.matrix(3, width, width)?, clock.matrix(4, width, width)?);
    let (w_v, b) = (clock.matrix(5, 1, width)?, clock.vectors(6, width)?);
    let operator = clock.device.gpu.additive_operator();
    let plan = operator.plan(&shape)?;
    clock.run(
        [batch, q_len, width],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let buffers = AdditiveBuffers {
                query: &query.there,
                key: &key.there,
                value: &key.there,
                w_q: &w_q.there,
                w_k: &w_k.there,
                w_v: &w_v.there,
                b: Some(&b.there),
                mask: None,
                out,
                weights: None,
            };
            operator.encode(encoder, &plan, &buffers)
        },
        |sequence| {
            let keys = part(&key.here, sequence, batch);
            let inputs = AdditiveInputs {
                query: part(&query.here, sequence, batch),
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

fn rotary(clock: &Clock<'_>, [batch, heads, len, head_dim]: [usize; 4]) -> Result<Measured, Fault> {
    let shape = RotaryShape::new(batch, heads, len, head_dim);
    let x = clock.vectors(1, batch * heads * len * head_dim)?;
    let table = len * head_dim / 2;
    let (cos, sin) = (clock.vectors(2, table)?, clock.vectors(3, table)?);
    let operator = clock.device.gpu.rotary_operator();
    let plan = operator.plan(&shape)?;
    clock.run(
        [batch, heads * len, head_dim],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let buffers = RotaryBuffers {
                x: &x.there,
                cos: &cos.there,
                sin: &sin.there,
                positions: None,
                out: Some(out),
            };
            operator.encode(encoder, &plan, &buffers)
        },
        |sequence| {
            let x = part(&x.here, sequence, batch);
            let inputs = RotaryInputs { x, cos: &cos.here, sin: &sin.here, positions: None };
            cpu::rotary(&RotaryShape { batch: 1, ..shape }, &inputs)
        },
    )
}

fn positional(clock: &Clock<'_>, [batch, len, width]: [usize; 3]) -> Result<Measured, Fault> {
    let shape =
        PositionalShape { out: Some(Layout::Bhsd), ..PositionalShape::new(batch, len, width) };
    let (x, table) = (clock.vectors(1, batch * len * width)?, clock.vectors(2, len * width)?);
    let operator = clock.device.gpu.positional_operator();
    let plan = operator.plan(&shape)?;
    clock.run(
        [batch, len, width],
        || operator.prepare_blocking(&plan),
        |encoder, out| {
            let buffers = PositionalBuffers {
                x: Some(&x.there),
                table: &table.there,
                positions: None,
                out: Some(out),
            };
            operator.encode(encoder, &plan, &buffers)
        },
        |sequence| {
            let x = Some(part(&x.here, sequence, batch));
            let inputs = PositionalInputs { x, table: &table.here, positions: None };
            cpu::positional(&PositionalShape { batch: 1, ..shape }, &inputs)
        },
    )
}
