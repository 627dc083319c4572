//! One layer: attention and a feed-forward part, each of which adds to what goes through.

use super::common::{Checkpoint, Dense, Result, input, output};
use super::{HEAD_DIM, HEADS, KV_HEADS, SIGNS, Sorter, WIDTH};
use wgpu_attention::{Gpu, Layout, wgpu};

/// Length of a row inside of the feed-forward part.
const HIDDEN: usize = 128;
/// Length of a row of queries, keys and values.
pub(super) const QKV: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

/// What the layers hand on in a step of `len` tokens of each sequence: a row for each token.
pub(super) struct Rows {
    /// What goes through all layers.
    pub(super) x: wgpu::Buffer,
    /// What is to be added to it.
    pub(super) change: wgpu::Buffer,
    pub(super) normed: wgpu::Buffer,
    /// `[tokens, QKV]`
    pub(super) qkv: wgpu::Buffer,
    /// What attention finds.
    pub(super) found: wgpu::Buffer,
    /// `[tokens, HIDDEN]`
    hidden: wgpu::Buffer,
    /// `[batch, SIGNS]`, of each sequence's last token.
    pub(super) logits: wgpu::Buffer,
    /// u32 `[tokens]`: which of its sequence each is.
    pub(super) positions: wgpu::Buffer,
    pub(super) batch: usize,
    pub(super) len: usize,
}

pub(super) struct Layer {
    attention_norm: wgpu::Buffer,
    qkv: Dense,
    out: Dense,
    mlp_norm: wgpu::Buffer,
    widen: Dense,
    narrow: Dense,
}

impl Rows {
    pub(super) fn new(device: &wgpu::Device, batch: usize, len: usize) -> Self {
        let rows = |width| output(device, batch * len * width);
        Self {
            x: rows(WIDTH),
            change: rows(WIDTH),
            normed: rows(WIDTH),
            qkv: rows(QKV),
            found: rows(WIDTH),
            hidden: rows(HIDDEN),
            logits: output(device, batch * SIGNS.len()),
            positions: rows(1),
            batch,
            len,
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.batch * self.len
    }
}

impl Layer {
    /// Layer number `at`.
    pub(super) fn load(gpu: &Gpu, tensors: &Checkpoint<'_>, at: usize) -> Result<Self> {
        let dense = |name, features| Dense::load(gpu, tensors, &format!("{at}.{name}"), features);
        let norm = |name| {
            let weight = tensors.floats(&format!("{at}.{name}.weight"), &[WIDTH])?;
            Result::Ok(input(gpu.device(), &weight))
        };
        Ok(Self {
            attention_norm: norm("attention_norm")?,
            qkv: dense("qkv", [WIDTH, QKV])?,
            out: dense("out", [WIDTH, WIDTH])?,
            mlp_norm: norm("mlp_norm")?,
            widen: dense("widen", [WIDTH, HIDDEN])?,
            narrow: dense("narrow", [HIDDEN, WIDTH])?,
        })
    }

    /// Records what comes before attention: queries, keys and values.
    pub(super) fn encode_before(
        &self,
        model: &Sorter,
        encoder: &mut wgpu::CommandEncoder,
        rows: &Rows,
    ) -> Result<()> {
        model.encode_add_norm(encoder, rows, &self.attention_norm)?;
        self.qkv.encode(encoder, rows.tokens(), Layout::Bhsd, [&rows.normed, &rows.qkv])
    }

    /// Records what comes after it, from what it found.
    pub(super) fn encode_after(
        &self,
        model: &Sorter,
        encoder: &mut wgpu::CommandEncoder,
        rows: &Rows,
    ) -> Result<()> {
        let Rows { change, normed, found, hidden, .. } = rows;
        let tokens = rows.tokens();
        self.out.encode(encoder, tokens, Layout::Bhsd, [found, change])?;
        model.encode_add_norm(encoder, rows, &self.mlp_norm)?;
        self.widen.encode(encoder, tokens, Layout::Bhsd, [normed, hidden])?;
        model.gelu.encode(encoder, tokens, &[hidden])?;
        self.narrow.encode(encoder, tokens, Layout::Bhsd, [hidden, change])
    }
}
