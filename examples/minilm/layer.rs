//! One layer: attention and a feed-forward part, each added to what goes in and normalised.

use super::common::{Checkpoint, Dense, Pass, input, output};
use super::{HEADS, MiniLm, Result, WIDTH};
use wgpu_attention::layers::{
    MultiHeadAttention, MultiHeadBuffers, MultiHeadShape, MultiHeadWeights,
};
use wgpu_attention::{Gpu, Layout, wgpu};

/// Length of a row inside of the feed-forward part.
const HIDDEN: usize = 1536;

/// What the layers hand on, a row for each token.
pub(super) struct Rows {
    /// What goes into a layer and comes out of it.
    pub(super) x: wgpu::Buffer,
    /// What attention, and then the feed-forward part, adds.
    pub(super) change: wgpu::Buffer,
    /// Between the two.
    pub(super) middle: wgpu::Buffer,
    /// `[tokens, HIDDEN]`
    hidden: wgpu::Buffer,
    pub(super) tokens: usize,
}

pub(super) struct Layer {
    attention: MultiHeadAttention,
    attention_norm: Norm,
    widen: Dense,
    narrow: Dense,
    norm: Norm,
}

/// A layer norm's parameters.
pub(super) struct Norm([wgpu::Buffer; 2]);

impl Rows {
    /// For tokens with these embeddings of words and of positions, which are yet to be added.
    pub(super) fn new(device: &wgpu::Device, words: &[f32], positions: &[f32]) -> Self {
        let tokens = words.len() / WIDTH;
        Self {
            x: output(device, tokens * WIDTH),
            change: input(device, positions),
            middle: input(device, words),
            hidden: output(device, tokens * HIDDEN),
            tokens,
        }
    }
}

impl Layer {
    /// Layer number `at`, whose names are BERT's.
    pub(super) fn load(gpu: &Gpu, tensors: &Checkpoint<'_>, at: usize) -> Result<Self> {
        let part = |name: &str| format!("encoder.layer.{at}.{name}");
        let matrix = |name| tensors.floats(&part(name), &[WIDTH, WIDTH]);
        let vector = |name| tensors.floats(&part(name), &[WIDTH]);
        let in_bias = [
            vector("attention.self.query.bias")?,
            vector("attention.self.key.bias")?,
            vector("attention.self.value.bias")?,
        ];
        let weights = MultiHeadWeights {
            embed_dim: WIDTH,
            num_heads: HEADS,
            kdim: WIDTH,
            vdim: WIDTH,
            query: &matrix("attention.self.query.weight")?,
            key: &matrix("attention.self.key.weight")?,
            value: &matrix("attention.self.value.weight")?,
            in_bias: Some(&in_bias.concat()),
            out: &matrix("attention.output.dense.weight")?,
            out_bias: Some(&vector("attention.output.dense.bias")?),
            extra: None,
            add_zero_attn: false,
        };
        let dense = |name, features| Dense::load(gpu, tensors, &part(name), features);
        Ok(Self {
            attention: gpu.multi_head_operator(&weights)?,
            attention_norm: Norm::load(gpu, tensors, &part("attention.output.LayerNorm"))?,
            widen: dense("intermediate.dense", [WIDTH, HIDDEN])?,
            narrow: dense("output.dense", [HIDDEN, WIDTH])?,
            norm: Norm::load(gpu, tensors, &part("output.LayerNorm"))?,
        })
    }

    /// Records the layer, from `rows.x` to `rows.x`; the shape says whether the attention's weights are wanted.
    pub(super) fn encode(
        &self,
        model: &MiniLm,
        encoder: &mut wgpu::CommandEncoder,
        shape: &MultiHeadShape,
        rows: &Rows,
        weights: Option<&wgpu::Buffer>,
    ) -> Result<()> {
        let Rows { x, change, middle, hidden, tokens } = rows;
        let plan = self.attention.plan(shape)?;
        let buffers = MultiHeadBuffers {
            weights: weights.map(Into::into),
            ..MultiHeadBuffers::new(x, x, x, change)
        };
        self.attention.encode(encoder, &plan, &buffers)?;
        self.attention_norm.encode(&model.add_norm, encoder, *tokens, [x, change, middle])?;
        self.widen.encode(encoder, *tokens, Layout::Bhsd, [middle, hidden])?;
        model.gelu.encode(encoder, *tokens, &[hidden])?;
        self.narrow.encode(encoder, *tokens, Layout::Bhsd, [hidden, change])?;
        self.norm.encode(&model.add_norm, encoder, *tokens, [middle, change, x])
    }
}

impl Norm {
    pub(super) fn load(gpu: &Gpu, tensors: &Checkpoint<'_>, name: &str) -> Result<Self> {
        let weight = tensors.floats(&format!("{name}.weight"), &[WIDTH])?;
        let bias = tensors.floats(&format!("{name}.bias"), &[WIDTH])?;
        Ok(Self([input(gpu.device(), &weight), input(gpu.device(), &bias)]))
    }

    /// The sum of the first two, normalised, into the third.
    pub(super) fn encode(
        &self,
        pass: &Pass,
        encoder: &mut wgpu::CommandEncoder,
        tokens: usize,
        [x, y, out]: [&wgpu::Buffer; 3],
    ) -> Result<()> {
        let [weight, bias] = &self.0;
        pass.encode(encoder, tokens, &[x, y, weight, bias, out])
    }
}
