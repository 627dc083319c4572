//! Three attention heads whose meaning is built, not learnt, so that one can see whether they work.
//!
//! A word's embedding is its one-hot code beside that of its position. Query and key of each head
//! are linear in it, as in any transformer, by matrices that are written down, not trained.

use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, Layout};

/// What a head looks at.
pub(super) struct Head {
    /// A heading.
    pub(super) title: &'static str,
    /// How the head does it.
    pub(super) rule: &'static str,
    /// What a query has of its word and of its position, or of the position before.
    query: [f32; 2],
    from_before: bool,
    /// What a key has of its word and of its position.
    key: [f32; 2],
}

/// A score that beats 0: its weight is e^24 times the other's.
const STRONG: f32 = 24.0;

/// The heads, in the order of the tensors. Where nothing else is looked at, a word looks at itself.
pub(super) const HEADS: [Head; 3] = [
    Head {
        title: "The word before",
        rule: "query: the position, less one; key: the position",
        query: [0.0, STRONG],
        from_before: true,
        key: [0.0, 1.0],
    },
    Head {
        title: "The same word, earlier",
        rule: "query and key: the word; its own position counts half against it",
        query: [STRONG, STRONG],
        from_before: false,
        key: [1.0, -0.5],
    },
    Head {
        title: "Everything so far",
        rule: "query: zero, so that all scores are equal",
        query: [0.0, 0.0],
        from_before: false,
        key: [1.0, 1.0],
    },
];

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
        let mut distinct = words.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let embedding = |word: &String, place: usize, [of_word, of_place]: [f32; 2]| {
            let codes = distinct.iter().map(|known| if known == word { of_word } else { 0.0 });
            let places = (0..words.len()).map(|at| if at == place { of_place } else { 0.0 });
            codes.chain(places).collect::<Vec<f32>>()
        };
        let (mut query, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
        for head in HEADS {
            for (place, word) in words.iter().enumerate() {
                let asked = place.saturating_sub(usize::from(head.from_before));
                query.extend(embedding(word, asked, head.query));
                key.extend(embedding(word, place, head.key));
                value.extend(embedding(word, place, [1.0, 1.0]));
            }
        }
        let vocabulary = distinct.len();
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

    /// Words look back only, as in a language model. The codes say how strong a score is.
    pub(super) fn options(&self) -> AttentionOptions {
        AttentionOptions { causal: true, scale: Some(1.0), ..AttentionOptions::default() }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, ..Inputs::default() }
    }
}
