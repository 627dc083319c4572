//! Which shader, with which constants: the key of a pipeline.

use super::storage::Storage;
use std::collections::BTreeMap;
use std::fmt;

/// Every shader: its entry, the name of its entry point and file, what it is for.
macro_rules! entries {
    ($($entry:ident $name:literal $what:literal;)*) => {
        /// A shader file and its entry point, which share a name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Entry {
            $(#[doc = $what] $entry,)*
        }

        impl Entry {
            /// Every shader.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$entry),*];

            /// Name of the entry point and stem of the file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$entry => $name,)*
                }
            }

            /// The text of its file.
            pub(crate) const fn text(self) -> &'static str {
                match self {
                    $(Self::$entry => include_str!(concat!("../../shaders/", $name, ".wgsl")),)*
                }
            }
        }
    };
}

entries! {
    AttentionForward "attention_forward" "Fused attention.";
    AttentionForwardWide "attention_forward_wide" "Fused attention for long heads.";
    AttentionForwardMatrix "attention_forward_matrix" "Fused attention on cooperative matrices.";
    AttentionCombine "attention_combine" "Results over parts of the keys into those over all.";
    AttentionWeights "attention_weights" "The weights, beside the results.";
    Scores "scores" "Three stages, first: scores.";
    Softmax "softmax" "Three stages, second: weights.";
    WeightedSum "weighted_sum" "Three stages, third: out.";
    Pack "pack" "Outputs of 16 bits into words that rows share.";
    Linear "linear" "A linear layer.";
    HeadMean "head_mean" "The mean of the weights over the heads.";
    UniformRows "uniform_rows" "Rows that see no key made rows that see all alike.";
    AdditiveForward "additive_forward" "Fused additive attention.";
    Rotary "rotary" "Rotary encoding.";
    Positional "positional" "An encoding that is added.";
    CacheLens "cache_lens" "Lengths of a cache's sequences.";
    Join "join" "Small tensors into one buffer.";
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
    /// The default of one of its counts, read from its text as the library is compiled, so that it stands nowhere else.
    pub(crate) const fn count(self, name: &str) -> u32 {
        count(self.text(), name)
    }

    /// Whether its shader multiplies cooperative matrices, of f16 and by subgroups.
    #[must_use]
    pub fn needs_matrices(self) -> bool {
        self == Self::AttentionForwardMatrix
    }
}

/// The value of a count that a shader declares.
pub(crate) const fn count(text: &str, name: &str) -> u32 {
    let (text, name) = (text.as_bytes(), name.as_bytes());
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
