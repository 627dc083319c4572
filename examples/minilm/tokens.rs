//! From sentences to token ids, and where each token lies in a batch.

use super::{Batching, Result};
use std::ops::Range;
use std::path::Path;
use tokenizers::{Tokenizer, TruncationParams};
use wgpu_attention::CuSeqlens;
use wgpu_attention::layers::MultiHeadShape;

/// Of longer sentences only so many tokens count, as where the model was published.
const MOST_TOKENS: usize = 256;

const PADDING: u32 = 0;

pub(super) fn load(path: &Path) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_file(path)?;
    // The file asks for 128 tokens, no more and no less.
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: MOST_TOKENS, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation))?;
    Ok(tokenizer)
}

/// Sentences as tokens.
pub(super) struct Batch {
    pub(super) shape: MultiHeadShape,
    pub(super) ids: Vec<u32>,
    /// Of each token in its sentence.
    pub(super) positions: Vec<usize>,
    /// Which tokens are those of each sentence.
    pub(super) sentences: Vec<Range<usize>>,
}

impl Batch {
    pub(super) fn new(
        tokenizer: &Tokenizer,
        sentences: &[&str],
        batching: Batching,
    ) -> Result<Self> {
        let encodings = tokenizer.encode_batch(sentences.to_vec(), true)?;
        let lens: Vec<usize> = encodings.iter().map(|encoding| encoding.len()).collect();
        let longest = lens.iter().copied().max().unwrap_or(0);
        let (mut ids, mut sentences) = (Vec::new(), Vec::new());
        let mut positions = Vec::new();
        for encoding in &encodings {
            let start = ids.len();
            ids.extend_from_slice(encoding.get_ids());
            sentences.push(start..ids.len());
            if matches!(batching, Batching::Padded) {
                ids.resize(start + longest, PADDING);
            }
            positions.extend(0..ids.len() - start);
        }
        let shape = match batching {
            Batching::Padded => MultiHeadShape {
                kv_lens: Some(lens),
                ..MultiHeadShape::new(sentences.len(), longest)
            },
            Batching::Packed => {
                let ends = sentences.iter().map(|tokens| tokens.end);
                let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
                MultiHeadShape {
                    cu_seqlens: Some(CuSeqlens { query: starts.clone(), key: starts }),
                    ..MultiHeadShape::new(1, ids.len())
                }
            }
        };
        Ok(Self { shape, ids, positions, sentences })
    }
}
