//! Which shader, with which constants: the key of a pipeline.

use super::storage::Storage;
use std::collections::BTreeMap;
use std::fmt;

/// A shader file and its entry point, which share a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// Fused attention.
    AttentionForward,
    /// Fused attention for long heads.
    AttentionForwardWide,
    /// Fused attention on cooperative matrices.
    AttentionForwardMatrix,
    /// Results over parts of the keys into those over all.
    AttentionCombine,
    /// The weights, beside the results.
    AttentionWeights,
    /// Three stages, first: scores.
    Scores,
    /// Three stages, second: weights.
    Softmax,
    /// Three stages, third: out.
    WeightedSum,
    /// Outputs of 16 bits into words that rows share.
    Pack,
    /// A linear layer.
    Linear,
    /// The mean of the weights over the heads.
    HeadMean,
    /// Rows that see no key made rows that see all alike.
    UniformRows,
    /// Fused additive attention.
    AdditiveForward,
    /// Rotary encoding.
    Rotary,
    /// An encoding that is added.
    Positional,
    /// Lengths of a cache's sequences.
    CacheLens,
    /// Small tensors into one buffer.
    Join,
}

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It writes, and may read.
    ReadWrite,
}

impl Entry {
    /// Every shader.
    pub const ALL: [Self; 17] = [
        Self::AttentionForward,
        Self::AttentionForwardWide,
        Self::AttentionForwardMatrix,
        Self::AttentionCombine,
        Self::AttentionWeights,
        Self::Scores,
        Self::Softmax,
        Self::WeightedSum,
        Self::Pack,
        Self::Linear,
        Self::HeadMean,
        Self::UniformRows,
        Self::AdditiveForward,
        Self::Rotary,
        Self::Positional,
        Self::CacheLens,
        Self::Join,
    ];

    /// Name of the entry point and stem of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AttentionForward => "attention_forward",
            Self::AttentionForwardWide => "attention_forward_wide",
            Self::AttentionForwardMatrix => "attention_forward_matrix",
            Self::AttentionCombine => "attention_combine",
            Self::AttentionWeights => "attention_weights",
            Self::Scores => "scores",
            Self::Softmax => "softmax",
            Self::WeightedSum => "weighted_sum",
            Self::Pack => "pack",
            Self::Linear => "linear",
            Self::HeadMean => "head_mean",
            Self::UniformRows => "uniform_rows",
            Self::AdditiveForward => "additive_forward",
            Self::Rotary => "rotary",
            Self::Positional => "positional",
            Self::CacheLens => "cache_lens",
            Self::Join => "join",
        }
    }

    /// The text of its file.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::AttentionForward => include_str!("../../shaders/attention_forward.wgsl"),
            Self::AttentionForwardWide => include_str!("../../shaders/attention_forward_wide.wgsl"),
            Self::AttentionForwardMatrix => {
                include_str!("../../shaders/attention_forward_matrix.wgsl")
            }
            Self::AttentionCombine => include_str!("../../shaders/attention_combine.wgsl"),
            Self::AttentionWeights => include_str!("../../shaders/attention_weights.wgsl"),
            Self::Scores => include_str!("../../shaders/scores.wgsl"),
            Self::Softmax => include_str!("../../shaders/softmax.wgsl"),
            Self::WeightedSum => include_str!("../../shaders/weighted_sum.wgsl"),
            Self::Pack => include_str!("../../shaders/pack.wgsl"),
            Self::Linear => include_str!("../../shaders/linear.wgsl"),
            Self::HeadMean => include_str!("../../shaders/head_mean.wgsl"),
            Self::UniformRows => include_str!("../../shaders/uniform_rows.wgsl"),
            Self::AdditiveForward => include_str!("../../shaders/additive_forward.wgsl"),
            Self::Rotary => include_str!("../../shaders/rotary.wgsl"),
            Self::Positional => include_str!("../../shaders/positional.wgsl"),
            Self::CacheLens => include_str!("../../shaders/cache_lens.wgsl"),
            Self::Join => include_str!("../../shaders/join.wgsl"),
        }
    }

    /// The default of one of its counts, read from its text as the library is compiled, so that it stands nowhere else.
    pub(crate) const fn count(self, name: &str) -> u32 {
        let (text, name) = (self.text().as_bytes(), name.as_bytes());
        let mut at = 0;
        while !(stands(text, at, b"const ") && stands(text, at + 6, name)) {
            at += 1;
        }
        at += b"const ".len() + name.len();
        assert!(stands(text, at, b" = "), "a declaration, of this name");
        at += b" = ".len();
        let mut count = 0;
        while text[at].is_ascii_digit() {
            count = count * 10 + (text[at] - b'0') as u32;
            at += 1;
        }
        count
    }

    /// Whether its shader multiplies cooperative matrices, of f16 and by subgroups.
    #[must_use]
    pub fn needs_matrices(self) -> bool {
        self == Self::AttentionForwardMatrix
    }
}

/// Whether `word` stands in the text there.
const fn stands(text: &[u8], at: usize, word: &[u8]) -> bool {
    let mut index = 0;
    while index < word.len() && text[at + index] == word[index] {
        index += 1;
    }
    index == word.len()
}

/// The new value of a named constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constant {
    /// A u32.
    Count(u32),
    /// A bool.
    Flag(bool),
}

impl fmt::Display for Constant {
    /// As WGSL spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}u"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// A shader with its constants: the key of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// Which shader.
    pub entry: Entry,
    /// How query, key and value are stored.
    pub storage: Storage,
    /// How out is stored.
    pub out: Storage,
    /// The constants that the host sets; others keep their default.
    pub constants: BTreeMap<&'static str, Constant>,
}

impl Variant {
    /// Whether it reads a table of sequences that differ.
    #[must_use]
    pub fn is_ragged(&self) -> bool {
        self.constants.get("RAGGED") == Some(&Constant::Flag(true))
    }
}

impl fmt::Display for Variant {
    /// A name that spells the variant: the counts, then the flags that are on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.entry.name(), self.storage.name())?;
        if self.out != self.storage {
            write!(f, "/out={}", self.out.name())?;
        }
        for (name, constant) in &self.constants {
            let name = name.to_lowercase();
            match constant {
                Constant::Count(count) => write!(f, "/{name}={count}")?,
                Constant::Flag(true) => write!(f, "/{name}")?,
                Constant::Flag(false) => {}
            }
        }
        Ok(())
    }
}
