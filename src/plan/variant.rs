//! Which shader, with which constants: the key of a pipeline.

use super::storage::Storage;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

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
    AttentionTiled "attention_tiled" "Fused attention for GPUs.";
    AttentionDecode "attention_decode" "Fused attention for few rows of many keys.";
    AttentionForwardMatrix "attention_forward_matrix" "Fused attention on cooperative matrices.";
    AttentionCombine "attention_combine" "Results over parts of the keys into those over all.";
    AttentionWeights "attention_weights" "The weights, beside the results.";
    Scores "scores" "Three stages, first: scores.";
    ScoresTiled "scores_tiled" "Scores, or weights beside the results, for GPUs.";
    Softmax "softmax" "Three stages, second: weights.";
    WeightedSum "weighted_sum" "Three stages, third: out.";
    WeightedSumTiled "weighted_sum_tiled" "Three stages, third, for GPUs.";
    Pack "pack" "Outputs of 16 bits into words that rows share.";
    Linear "linear" "A linear layer.";
    LinearTiled "linear_tiled" "A linear layer for GPUs.";
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

/// A storage buffer that a shader binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub number: u32,
    /// What the shader calls it.
    pub name: &'static str,
    /// What the shader does with it.
    pub access: Access,
}

/// A storage buffer, and the alias of its elements if they may be stored in several ways.
type Declared = (Binding, Option<&'static str>);

/// What a line such as `@group(0) @binding(2) var<storage, read> key: array<Key>;` declares.
fn declared(line: &'static str) -> Option<Declared> {
    let (number, rest) = line.strip_prefix("@group(0) @binding(")?.split_once(") var<storage, ")?;
    let (access, rest) = rest.split_once("> ")?;
    let (name, elements) = rest.split_once(": array<")?;
    let access = if access == "read" { Access::Read } else { Access::ReadWrite };
    let alias = elements.strip_suffix(">;").filter(|of| of.starts_with(char::is_uppercase));
    Some((Binding { number: number.parse().ok()?, name, access }, alias))
}

/// The storage buffers that a shader binds, as its file says; binding 0 is always the uniform
/// block.
pub fn bindings(entry: Entry) -> impl Iterator<Item = &'static Binding> {
    entry.declared().iter().map(|(binding, _)| binding)
}

impl Entry {
    fn declared(self) -> &'static [Declared] {
        static ALL: OnceLock<Vec<Vec<Declared>>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let of_file = |entry: Self| entry.text().lines().filter_map(declared).collect();
            Self::ALL.into_iter().map(of_file).collect()
        });
        &all[self as usize]
    }

    /// The tensors that may be stored in several ways, each with the alias of its elements.
    pub(crate) fn stored(self) -> impl Iterator<Item = (&'static Binding, &'static str)> {
        self.declared().iter().filter_map(|(binding, alias)| Some((binding, (*alias)?)))
    }

    /// The default of one of its counts, read from its text as the library is compiled, so that it
    /// stands nowhere else.
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
    /// How tensors are stored, by the shader's names.
    pub storage: BTreeMap<&'static str, Storage>,
    /// The constants that the host sets; others keep their default.
    pub constants: BTreeMap<&'static str, Constant>,
}

impl Variant {
    /// A shader that reads tensors stored in one way and writes them in another.
    pub fn new(
        entry: Entry,
        [read, written]: [Storage; 2],
        constants: impl IntoIterator<Item = (&'static str, Constant)>,
    ) -> Self {
        let storage = entry.stored().map(|(binding, _)| match binding.access {
            Access::Read => (binding.name, read),
            Access::ReadWrite => (binding.name, written),
        });
        Self { entry, storage: storage.collect(), constants: constants.into_iter().collect() }
    }

    /// Whether invocations of a subgroup give each other what they have.
    #[must_use]
    pub fn needs_subgroups(&self) -> bool {
        self.entry.needs_matrices() || self.constants.get("SUBGROUP") == Some(&Constant::Flag(true))
    }

    /// Whether it reads a table of sequences that differ.
    #[must_use]
    pub fn is_ragged(&self) -> bool {
        self.constants.get("RAGGED") == Some(&Constant::Flag(true))
    }
}

impl fmt::Display for Variant {
    /// A name that spells the variant: how its first tensor is stored, and those that differ from
    /// it; the counts, then the flags that are on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.entry.name())?;
        let mut first = None;
        for (Binding { name, .. }, _) in self.entry.stored() {
            let storage = self.storage[name];
            match first {
                None => write!(f, "/{}", storage.name())?,
                Some(first) if first != storage => write!(f, "/{name}={}", storage.name())?,
                Some(_) => {}
            }
            first = first.or(Some(storage));
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
