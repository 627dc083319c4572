//! Where a step finds the keys and values of the tokens before it.

use super::common::{Result, input};
use super::layer::{QKV, Rows};
use super::sequence::Step;
use super::{CONTEXT, HEAD_DIM, HEADS, KV_HEADS, LAYERS};
use wgpu_attention::cache::{
    CacheRotary, CacheTokens, KvCache, KvCacheShape, PagedCacheShape, PagedKvCache, PagedSequence,
};
use wgpu_attention::layers::{
    Rotary, RotaryBuffers, RotaryPairs, RotaryShape, RotaryTable, TableRows,
};
use wgpu_attention::{
    Align, Attention, AttentionBuffers, AttentionOptions, AttentionShape, Gpu, Layout, Strides,
    wgpu,
};

/// Base of the rotary encoding's angles.
const BASE: f64 = 10_000.0;

/// What is kept of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Nothing: each step takes all tokens again, of one sequence.
    None,
    /// Keys and values of each layer in a [`KvCache`]; a step takes up to `chunk` new tokens of each sequence.
    Cache { chunk: usize },
    /// The same in the pages of a [`PagedKvCache`], of which a sequence takes as many as it needs.
    Pages { chunk: usize },
}

/// Tokens of a page.
const PAGE_LEN: usize = 16;

/// What is kept, and what reads it.
pub(super) struct Past {
    attention: Attention,
    rotary: Rotary,
    tables: [wgpu::Buffer; 2],
    kept: Kept,
}

enum Kept {
    /// And so 0 tokens of each sequence.
    Nothing(Vec<usize>),
    /// One for each layer.
    Caches(Vec<KvCache>),
    /// One for each layer, and its sequences.
    Pages(Vec<(PagedKvCache, Vec<PagedSequence>)>),
}

impl Past {
    /// Of `batch` sequences that are yet to begin.
    pub(super) fn new(gpu: &Gpu, memory: Memory, batch: usize) -> Result<Self> {
        // The last query stands beside the last key.
        let options =
            AttentionOptions { causal: true, align: Align::BottomRight, ..Default::default() };
        let RotaryTable { cos, sin } = RotaryTable::new(HEAD_DIM, BASE, 0..CONTEXT as u64)?;
        let rotary =
            CacheRotary { cos: &cos, sin: &sin, rotary_dim: HEAD_DIM, pairs: RotaryPairs::Half };
        let kept = match memory {
            Memory::None => Kept::Nothing(vec![0; batch]),
            Memory::Cache { .. } => {
                let shape = KvCacheShape {
                    batch,
                    num_kv_heads: KV_HEADS,
                    capacity: CONTEXT,
                    head_dim: HEAD_DIM,
                    value_dim: HEAD_DIM,
                    ..Default::default()
                };
                let caches = (0..LAYERS).map(|_| gpu.kv_cache(&shape, Some(rotary)));
                Kept::Caches(caches.collect::<std::result::Result<_, _>>()?)
            }
            Memory::Pages { .. } => {
                let shape = PagedCacheShape {
                    num_kv_heads: KV_HEADS,
                    pages: batch * CONTEXT.div_ceil(PAGE_LEN),
                    page_len: PAGE_LEN,
                    longest: Some(CONTEXT),
                    head_dim: HEAD_DIM,
                    value_dim: HEAD_DIM,
                    ..Default::default()
                };
                let layer = |_| -> Result<_> {
                    let mut cache = gpu.paged_kv_cache(&shape, Some(rotary))?;
                    let sequences = (0..batch).map(|_| cache.add()).collect();
                    Ok((cache, sequences))
                };
                Kept::Pages((0..LAYERS).map(layer).collect::<Result<_>>()?)
            }
        };
        Ok(Self {
            attention: gpu.attention_operator(&options)?,
            rotary: gpu.rotary_operator(),
            tables: [input(gpu.device(), &cos), input(gpu.device(), &sin)],
            kept,
        })
    }

    /// How many tokens of each sequence need not be taken again.
    pub(super) fn lens(&self) -> Result<Vec<usize>> {
        match &self.kept {
            Kept::Nothing(none) => Ok(none.clone()),
            Kept::Caches(caches) => Ok(caches[0].lens().to_vec()),
            Kept::Pages(layers) => {
                let (cache, sequences) = &layers[0];
                sequences.iter().map(|&sequence| Ok(cache.len(sequence)?)).collect()
            }
        }
    }

    /// Records attention of a layer's queries to its keys up to now, those of this step and those kept.
    pub(super) fn attend(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        layer: usize,
        step: &Step,
        rows: &Rows,
    ) -> Result<()> {
        let Rows { qkv, found, .. } = rows;
        let [query, key, value] = [0, HEADS, HEADS + KV_HEADS].map(|head| {
            let (offset, batch) = (head * HEAD_DIM, step.len * QKV);
            Layout::Strided(Strides { offset, batch, head: HEAD_DIM, row: QKV })
        });
        // A cache turns keys as it takes them. Without one they are turned with the queries, beside which they lie.
        let turned = match self.kept {
            Kept::Nothing(_) => HEADS + KV_HEADS,
            Kept::Caches(_) | Kept::Pages(_) => HEADS,
        };
        let shape = RotaryShape {
            rows: TableRows::Named { rows: CONTEXT },
            x: query,
            out: None,
            ..RotaryShape::new(rows.batch, turned, step.len, HEAD_DIM)
        };
        let [cos, sin] = &self.tables;
        let buffers = RotaryBuffers {
            x: qkv.into(),
            cos: cos.into(),
            sin: sin.into(),
            positions: Some((&rows.positions).into()),
            out: None,
        };
        self.rotary.encode(encoder, &self.rotary.plan(&shape)?, &buffers)?;

        let tokens = CacheTokens {
            key_layout: key,
            value_layout: value,
            lens: Some(&step.lens),
            ..CacheTokens::new(qkv, qkv, step.len)
        };
        let batch;
        let (shape, buffers) = match &mut self.kept {
            Kept::Nothing(_) => {
                let shape = AttentionShape::new(rows.batch, HEADS, step.len, HEAD_DIM);
                let shape = AttentionShape { num_kv_heads: KV_HEADS, key, value, ..shape };
                (shape, AttentionBuffers::new(qkv, qkv, qkv, found))
            }
            Kept::Caches(caches) => {
                let cache = &mut caches[layer];
                cache.append(encoder, &tokens)?;
                (cache.shape(HEADS, step.len), cache.buffers(qkv, found))
            }
            Kept::Pages(layers) => {
                let (cache, sequences) = &mut layers[layer];
                cache.append(encoder, sequences, &tokens)?;
                batch = cache.batch(encoder, sequences)?;
                (batch.shape(HEADS, step.len), batch.buffers(qkv, found))
            }
        };
        let plan = self.attention.plan(&AttentionShape { query, out: Layout::Bshd, ..shape })?;
        Ok(self.attention.encode(encoder, &plan, &buffers)?)
    }
}
