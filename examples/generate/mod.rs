//! A language model whose language is sorting: after letters and ">" it says the same letters in order, and ".".
//!
//! It is a decoder as those of today (rotary encoding, grouped heads, RMSNorm) and runs as they do. A step takes the tokens
//! that have come since the last one, and finds what it needs of those before in a cache of each layer; it is one encoder, of
//! which only the logits are read back. `train.py` made the weights.

#[path = "../common/mod.rs"]
mod common;
mod layer;
mod past;
mod sequence;

pub(crate) use common::Result;
pub(crate) use past::Memory;

use common::{Checkpoint, Dense, GELU, Pass, TOTAL, input, read_back};
use layer::{Layer, Rows};
use past::Past;
use sequence::{Sequence, Step};
use wgpu_attention::{Gpu, Layout, Strides, wgpu};

/// Length of a token's row.
const WIDTH: usize = 64;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
/// Tokens of the longest word that it was trained on, of as many letters in order, and of both signs.
const CONTEXT: usize = 2 * 24 + 2;
/// What the tokens stand for.
const SIGNS: &[u8] = b"abcdefghijklmnopqrstuvwxyz>.";

pub(crate) struct Sorter {
    gpu: Gpu,
    /// `[SIGNS, WIDTH]`
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: wgpu::Buffer,
    /// From a row to the logits: the embedding once more.
    foretell: Dense,
    add_norm: Pass,
    gelu: Pass,
}

/// What the model says after a word.
pub(crate) struct Answer {
    /// Up to ".", if it came to that.
    pub(crate) text: String,
    /// `[text, SIGNS]`: each sign of the text is the one with the largest.
    pub(crate) logits: Vec<Vec<f32>>,
}

impl Sorter {
    pub(crate) fn load(gpu: &Gpu) -> Result<Self> {
        let tensors = Checkpoint::parse(include_bytes!("model.safetensors"))?;
        Ok(Self {
            embedding: tensors.floats("embedding.weight", &[SIGNS.len(), WIDTH])?,
            layers: (0..LAYERS).map(|at| Layer::load(gpu, &tensors, at)).collect::<Result<_>>()?,
            norm: input(gpu.device(), &tensors.floats("norm.weight", &[WIDTH])?),
            foretell: Dense::load(gpu, &tensors, "embedding", [WIDTH, SIGNS.len()])?,
            add_norm: Pass::new(gpu.device(), &[TOTAL, include_str!("add_norm.wgsl")]),
            gelu: Pass::new(gpu.device(), &[GELU]),
            gpu: gpu.clone(),
        })
    }

    /// What comes after each of the words, the likeliest sign at every step. With a cache they all go on together.
    pub(crate) fn generate(&self, words: &[&str], memory: Memory) -> Result<Vec<Answer>> {
        let together = if memory == Memory::None { 1 } else { words.len().max(1) };
        let batches = words.chunks(together).map(|words| self.generate_batch(words, memory));
        Ok(batches.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn generate_batch(&self, words: &[&str], memory: Memory) -> Result<Vec<Answer>> {
        let sequences = words.iter().map(|word| Sequence::new(word));
        let mut sequences = sequences.collect::<Result<Vec<_>>>()?;
        let mut past = Past::new(&self.gpu, memory, words.len())?;
        let mut last: Option<Rows> = None;
        while let Some(step) = Step::next(&sequences, &past.lens()?, memory) {
            let rows = match last {
                Some(rows) if rows.len == step.len => rows,
                _ => Rows::new(self.gpu.device(), words.len(), step.len),
            };
            let logits = self.run(&step, &rows, &mut past)?;
            for (b, logits) in logits.chunks_exact(SIGNS.len()).enumerate() {
                if step.is_last[b] {
                    sequences[b].go_on(logits);
                }
            }
            last = Some(rows);
        }
        Ok(sequences.into_iter().map(Sequence::answer).collect())
    }

    /// The logits `[batch, SIGNS]` behind the last token of each sequence.
    fn run(&self, step: &Step, rows: &Rows, past: &mut Past) -> Result<Vec<f32>> {
        let row = |&token: &usize| &self.embedding[token * WIDTH..][..WIDTH];
        let embedded: Vec<f32> = step.tokens.iter().flat_map(row).copied().collect();
        let queue = self.gpu.queue();
        queue.write_buffer(&rows.x, 0, bytemuck::cast_slice(&embedded));
        queue.write_buffer(&rows.positions, 0, bytemuck::cast_slice(&step.positions));

        let descriptor = wgpu::CommandEncoderDescriptor::default();
        let mut encoder = self.gpu.device().create_command_encoder(&descriptor);
        // To the embedding nothing is added yet.
        encoder.clear_buffer(&rows.change, 0, None);
        for (at, layer) in self.layers.iter().enumerate() {
            layer.encode_before(self, &mut encoder, rows)?;
            past.attend(&mut encoder, at, step, rows)?;
            layer.encode_after(self, &mut encoder, rows)?;
        }
        self.encode_add_norm(&mut encoder, rows, &self.norm)?;
        let last =
            Strides { offset: (step.len - 1) * WIDTH, row: step.len * WIDTH, ..Strides::default() };
        let buffers = [&rows.normed, &rows.logits];
        self.foretell.encode(&mut encoder, rows.batch, Layout::Strided(last), buffers)?;
        Ok(read_back(&self.gpu, encoder, &[&rows.logits])?.concat())
    }

    /// Records that what is to be added is added, and the sum normalised.
    fn encode_add_norm(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        rows: &Rows,
        weight: &wgpu::Buffer,
    ) -> Result<()> {
        let Rows { x, change, normed, .. } = rows;
        self.add_norm.encode(encoder, rows.tokens(), &[x, change, weight, normed])
    }
}
