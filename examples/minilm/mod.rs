//! all-MiniLM-L6-v2: six layers of BERT that turn a sentence into 384 numbers. Attention and the linear layers are the
//! library's, layer norm and GELU two shaders of our own; a whole batch is one encoder, and nothing is read back before
//! the last layer.

#[path = "../common/mod.rs"]
mod common;
mod fetch;
mod layer;
mod tokens;

pub(crate) use common::Result;
pub(crate) use fetch::fetch;

use common::{Checkpoint, GELU, Pass, TOTAL, output, read_back};
use fetch::read;
use layer::{Layer, Norm, Rows};
use std::path::Path;
use tokenizers::Tokenizer;
use tokens::Batch;
use wgpu_attention::layers::{HeadWeights, MultiHeadShape};
use wgpu_attention::{Gpu, wgpu};

/// Length of a token's row, and of an embedding.
const WIDTH: usize = 384;
pub(crate) const HEADS: usize = 12;
const LAYERS: usize = 6;

pub(crate) struct MiniLm {
    gpu: Gpu,
    tokenizer: Tokenizer,
    /// `[vocabulary, WIDTH]`
    words: Vec<f32>,
    /// `[positions, WIDTH]`
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    add_norm: Pass,
    gelu: Pass,
}

/// How sentences of different lengths become one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Batching {
    /// `[sentences, longest]`, where what fills up the shorter ones is hidden.
    Padded,
    /// `[tokens]`, one sentence after the other.
    Packed,
}

/// How one layer attends in one sentence.
pub(crate) struct LayerAttention {
    pub(crate) tokens: Vec<String>,
    /// `[HEADS, tokens, tokens]`
    pub(crate) weights: Vec<f32>,
}

impl MiniLm {
    /// From a folder with `tokenizer.json` and `model.safetensors`.
    pub(crate) fn load(gpu: &Gpu, folder: &Path) -> Result<Self> {
        let bytes = read(&folder.join("model.safetensors"))?;
        let tensors = Checkpoint::parse(&bytes)?;
        let words = tensors.floats("embeddings.word_embeddings.weight", &[30_522, WIDTH])?;
        let mut positions =
            tensors.floats("embeddings.position_embeddings.weight", &[512, WIDTH])?;
        // All tokens are of the first of two types: one row for all, which the positions bring along.
        let types = tensors.floats("embeddings.token_type_embeddings.weight", &[2, WIDTH])?;
        for row in positions.chunks_exact_mut(WIDTH) {
            row.iter_mut().zip(&types).for_each(|(x, of_type)| *x += of_type);
        }
        Ok(Self {
            tokenizer: tokens::load(&folder.join("tokenizer.json"))?,
            words,
            positions,
            norm: Norm::load(gpu, &tensors, "embeddings.LayerNorm")?,
            layers: (0..LAYERS).map(|at| Layer::load(gpu, &tensors, at)).collect::<Result<_>>()?,
            add_norm: Pass::new(gpu.device(), &[TOTAL, include_str!("add_norm.wgsl")]),
            gelu: Pass::new(gpu.device(), &[GELU]),
            gpu: gpu.clone(),
        })
    }

    /// The embedding of each sentence: `WIDTH` numbers, a vector of length 1.
    pub(crate) fn embed(&self, sentences: &[&str], batching: Batching) -> Result<Vec<Vec<f32>>> {
        let batch = Batch::new(&self.tokenizer, sentences, batching)?;
        let (rows, _) = self.run(&batch, None)?;
        let pool = |tokens: &std::ops::Range<usize>| {
            // The mean over the tokens, of which only the direction is kept: so their sum will do.
            let mut sum = vec![0.0; WIDTH];
            for row in rows[tokens.start * WIDTH..tokens.end * WIDTH].chunks_exact(WIDTH) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
            sum.iter_mut().for_each(|x| *x /= length);
            sum
        };
        Ok(batch.sentences.iter().map(pool).collect())
    }

    /// How layer number `layer` attends in `sentence`.
    pub(crate) fn attention(&self, sentence: &str, layer: usize) -> Result<LayerAttention> {
        let batch = Batch::new(&self.tokenizer, &[sentence], Batching::Padded)?;
        let (_, weights) = self.run(&batch, Some(layer))?;
        let name = |&id| self.tokenizer.id_to_token(id).unwrap_or_default();
        Ok(LayerAttention { tokens: batch.ids.iter().map(name).collect(), weights })
    }

    /// The rows `[tokens, WIDTH]` behind the last layer, and the weights of the layer that is `asked` for them, if
    /// one is.
    fn run(&self, batch: &Batch, asked: Option<usize>) -> Result<(Vec<f32>, Vec<f32>)> {
        let device = self.gpu.device();
        let words: Vec<f32> =
            batch.ids.iter().flat_map(|&id| row(&self.words, id as usize)).copied().collect();
        let positions: Vec<f32> =
            batch.positions.iter().flat_map(|&at| row(&self.positions, at)).copied().collect();
        let rows = Rows::new(device, &words, &positions);
        let MultiHeadShape { batch: sentences, q_len, kv_len, .. } = batch.shape;
        let weights = asked.map(|_| output(device, HEADS * sentences * q_len * kv_len));

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let embedded = [&rows.middle, &rows.change, &rows.x];
        self.norm.encode(&self.add_norm, &mut encoder, rows.tokens, embedded)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let weights = weights.as_ref().filter(|_| asked == Some(at));
            let shape = MultiHeadShape {
                weights: weights.map(|_| HeadWeights::PerHead),
                ..batch.shape.clone()
            };
            layer.encode(self, &mut encoder, &shape, &rows, weights)?;
        }
        let wanted: Vec<_> = [&rows.x].into_iter().chain(&weights).collect();
        let mut found = read_back(&self.gpu, encoder, &wanted)?.into_iter();
        Ok((found.next().unwrap_or_default(), found.next().unwrap_or_default()))
    }
}

fn row(table: &[f32], at: usize) -> &[f32] {
    &table[at * WIDTH..][..WIDTH]
}
