//! From words to tokens and back, and which tokens a step takes.

use super::{Answer, CONTEXT, Memory, Result, SIGNS};

/// A word, ">", and what was said after it.
pub(super) struct Sequence {
    tokens: Vec<usize>,
    logits: Vec<Vec<f32>>,
}

/// The next tokens of each sequence, the same number for all: padding stands before the tokens of those that have fewer.
pub(super) struct Step {
    /// `[batch, len]`
    pub(super) tokens: Vec<usize>,
    /// `[batch, len]`: which of its sequence each token is.
    pub(super) positions: Vec<u32>,
    /// Tokens of each sequence that are none of the padding.
    pub(super) lens: Vec<usize>,
    pub(super) len: usize,
    /// Whether a sequence goes on from here: its last token is among these.
    pub(super) is_last: Vec<bool>,
}

impl Sequence {
    pub(super) fn new(word: &str) -> Result<Self> {
        let most = CONTEXT / 2 - 1;
        if !word.bytes().all(|letter| letter.is_ascii_lowercase()) || word.len() > most {
            return Err(
                format!("expected at most {most} letters from a to z, found {word:?}").into()
            );
        }
        let tokens = word.bytes().chain([b'>']).filter_map(token).collect();
        Ok(Self { tokens, logits: Vec::new() })
    }

    /// Says the likeliest sign.
    pub(super) fn go_on(&mut self, logits: &[f32]) {
        let likeliest = (0..SIGNS.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        self.tokens.extend(likeliest);
        self.logits.push(logits.to_vec());
    }

    fn is_done(&self) -> bool {
        self.tokens.len() == CONTEXT
            || self.tokens.last().is_some_and(|&token| SIGNS[token] == b'.')
    }

    pub(super) fn answer(self) -> Answer {
        let said = &self.tokens[self.tokens.len() - self.logits.len()..];
        let text = said.iter().map(|&token| char::from(SIGNS[token])).collect();
        Answer { text, logits: self.logits }
    }
}

fn token(sign: u8) -> Option<usize> {
    SIGNS.iter().position(|&other| other == sign)
}

impl Step {
    /// What comes behind the tokens that are held of each sequence; none if all are done.
    pub(super) fn next(sequences: &[Sequence], held: &[usize], memory: Memory) -> Option<Self> {
        let both = || sequences.iter().zip(held);
        let count = |(sequence, held): (&Sequence, &usize)| match memory {
            _ if sequence.is_done() => 0,
            Memory::None => sequence.tokens.len(),
            Memory::Cache { chunk } | Memory::Pages { chunk } => {
                chunk.clamp(1, sequence.tokens.len() - held)
            }
        };
        let lens: Vec<usize> = both().map(count).collect();
        let len = lens.iter().copied().max().filter(|&len| len > 0)?;
        let (mut tokens, mut positions, mut is_last) = (Vec::new(), Vec::new(), Vec::new());
        for ((sequence, &held), &count) in both().zip(&lens) {
            tokens.extend(std::iter::repeat_n(0, len - count));
            positions.extend(std::iter::repeat_n(0, len - count));
            tokens.extend(&sequence.tokens[held..][..count]);
            positions.extend((0..).skip(held).take(count));
            is_last.push(count > 0 && held + count == sequence.tokens.len());
        }
        Some(Self { tokens, positions, lens, len, is_last })
    }
}
