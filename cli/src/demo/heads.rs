//! Three attention heads whose meaning is built, not learnt, so that one can see whether they work.
//!
//! A word's embedding is its one-hot code beside the one-hot code of its position. Query and key of each
//! head are linear in it, as in any transformer; here their matrices are written down instead of trained.

use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, Layout};

/// What a head looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The word before; the first word looks at itself.
    Previous,
    /// Earlier copies of the same word, evenly; a word without one looks at itself.
    Copies,
    /// All words so far, evenly.
    Even,
}

/// The heads, in the order of the tensors.
pub(super) const HEADS: [Head; 3] = [Head::Previous, Head::Copies, Head::Even];

/// A score that beats 0: its weight is e^24 times the other's.
const STRONG: f32 = 24.0;

impl Head {
    /// A heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Previous => "The word before",
            Self::Copies => "The same word, earlier",
            Self::Even => "Everything so far",
        }
    }

    /// How the head does it.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Previous => "query: the position, less one; key: the position",
            Self::Copies => "query and key: the word; its own position counts half against it",
            Self::Even => "query: zero, so that all scores are equal",
        }
    }
}

/// A sentence as embeddings, and its queries, keys and values in every head.
#[derive(Debug)]
pub(super) struct Sentence {
    pub(super) words: Vec<String>,
    /// Number of distinct words.
    vocabulary: usize,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Sentence {
    /// Splits at spaces and builds query, key and value, `[head, word, element]`.
    pub(super) fn new(text: &str) -> Self {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let mut distinct: Vec<&String> = Vec::new();
        let codes: Vec<usize> = words
            .iter()
            .map(|word| {
                distinct.iter().position(|known| *known == word).unwrap_or_else(|| {
                    distinct.push(word);
                    distinct.len() - 1
                })
            })
            .collect();
        let vocabulary = distinct.len();
        let (mut query, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
        for head in HEADS {
            for (position, &code) in codes.iter().enumerate() {
                let embed = |tensor: &mut Vec<f32>, word: f32, place: f32, at: usize| {
                    let start = tensor.len();
                    tensor.resize(start + vocabulary + words.len(), 0.0);
                    tensor[start + code] = word;
                    tensor[start + vocabulary + at] = place;
                };
                let before = position.saturating_sub(1);
                match head {
                    Head::Previous => {
                        embed(&mut query, 0.0, STRONG, before);
                        embed(&mut key, 0.0, 1.0, position);
                    }
                    Head::Copies => {
                        embed(&mut query, STRONG, STRONG, position);
                        embed(&mut key, 1.0, -0.5, position);
                    }
                    Head::Even => {
                        embed(&mut query, 0.0, 0.0, position);
                        embed(&mut key, 1.0, 1.0, position);
                    }
                }
                embed(&mut value, 1.0, 1.0, position);
            }
        }
        drop(distinct);
        Self { words, vocabulary, query, key, value }
    }

    /// One sequence, all heads, with the weights.
    pub(super) fn shape(&self) -> AttentionShape {
        let len = self.words.len();
        AttentionShape {
            weights: Some(Layout::Bhsd),
            ..AttentionShape::new(1, HEADS.len(), len, self.vocabulary + len)
        }
    }

    /// Words look back only, as in a language model. The scale is 1: the codes say how strong a score is.
    pub(super) fn options(&self) -> AttentionOptions {
        AttentionOptions { causal: true, scale: Some(1.0), ..AttentionOptions::default() }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, ..Inputs::default() }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{HEADS, Head, Sentence};
    use wgpu_attention::cpu;

    /// The weights of one head, row by row.
    fn weights(sentence: &Sentence, head: Head) -> Vec<Vec<f32>> {
        let outputs = cpu::attention_rounded::<f32>(
            &sentence.shape(),
            &sentence.options(),
            &sentence.inputs(),
        )
        .unwrap();
        let len = sentence.words.len();
        let place = HEADS.iter().position(|h| *h == head).unwrap();
        let weights = outputs.weights.unwrap();
        let rows = weights.chunks_exact(len).skip(place * len).take(len);
        rows.map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn one_head_looks_at_the_word_before() {
        let rows = weights(&Sentence::new(super::super::WORDS), Head::Previous);
        assert!(rows[0][0] > 0.9);
        for (i, row) in rows.iter().enumerate().skip(1) {
            assert!(row[i - 1] > 0.9, "word {i}: {row:?}");
        }
    }

    #[test]
    fn one_head_looks_at_earlier_copies_and_else_at_the_word_itself() {
        let sentence = Sentence::new(super::super::WORDS);
        let mut copied = 0;
        for (i, row) in weights(&sentence, Head::Copies).iter().enumerate() {
            let copies: Vec<usize> =
                (0..i).filter(|&j| sentence.words[j] == sentence.words[i]).collect();
            copied += usize::from(!copies.is_empty());
            let targets = if copies.is_empty() { vec![i] } else { copies };
            let share = 1.0 / targets.len() as f32;
            for j in targets {
                assert!((row[j] - share).abs() < 0.1 * share, "word {i} at {j}: {row:?}");
            }
        }
        assert!(copied > 3, "a sentence with repeated words");
    }

    #[test]
    fn one_head_spreads_evenly_over_what_it_may_see() {
        for (i, row) in weights(&Sentence::new(super::super::WORDS), Head::Even).iter().enumerate()
        {
            let share = 1.0 / (i + 1) as f32;
            for (j, &weight) in row.iter().enumerate() {
                let expected = if j <= i { share } else { 0.0 };
                assert!((weight - expected).abs() < 1e-6, "word {i} at {j}: {row:?}");
            }
        }
    }
}
