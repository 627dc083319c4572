//! How shaders read and write query, key, value and out.

use crate::device::Capabilities;
use crate::problem::{ElementType, Problem, View};

/// How query, key, value and out are stored and loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Storage {
    /// One f32 at a time: any dims, strides and offsets.
    F32,
    /// Four at a time: dims, strides and offsets that are multiples of four.
    F32x4,
    /// One f16 at a time, on devices that have them.
    F16,
    /// Four f16 at a time.
    F16x4,
    /// Two f16 in a u32.
    F16Words,
    /// Four f16 in two u32 at a time.
    F16WordsX4,
    /// Two bf16 in a u32.
    Bf16Words,
    /// Four bf16 in two u32 at a time.
    Bf16WordsX4,
    /// Out only: f32 that will be packed into words that rows share.
    Unpacked,
}

impl Storage {
    /// What the alias of a tensor's elements becomes.
    #[must_use]
    pub fn alias(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F32x4 => "vec4<f32>",
            Self::F16 => "f16",
            Self::F16x4 => "vec4<f16>",
            Self::F16WordsX4 | Self::Bf16WordsX4 => "vec2<u32>",
            Self::F16Words | Self::Bf16Words | Self::Unpacked => "u32",
        }
    }

    /// Its name, as in those of its load and store parts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F32x4 => "f32x4",
            Self::F16 => "f16",
            Self::F16x4 => "f16x4",
            Self::F16Words => "f16_words",
            Self::F16WordsX4 => "f16_words_x4",
            Self::Bf16Words => "bf16_words",
            Self::Bf16WordsX4 => "bf16_words_x4",
            Self::Unpacked => "unpacked",
        }
    }

    /// The same where words are taken one at a time.
    pub(super) fn by_word(self) -> Self {
        match self {
            Self::F16WordsX4 => Self::F16Words,
            Self::Bf16WordsX4 => Self::Bf16Words,
            other => other,
        }
    }

    /// Whether words are pairs of bf16.
    pub(crate) fn is_bf16(self) -> bool {
        matches!(self, Self::Bf16Words | Self::Bf16WordsX4)
    }

    /// Whether shaders need `enable f16`.
    #[must_use]
    pub fn needs_f16(self) -> bool {
        matches!(self, Self::F16 | Self::F16x4)
    }
}

/// How query, key and value are read.
pub(crate) fn input(problem: &Problem, capabilities: &Capabilities) -> Storage {
    let views = [problem.query(), problem.key(), problem.value(), problem.out()];
    let by_four = [problem.head_dim, problem.value_dim].iter().all(|dim| dim.is_multiple_of(4))
        && views.iter().all(|view| starts_on(view, 4));
    of(problem.element, by_four, capabilities)
}

/// How out is written: as the inputs are read, unless rows would write halves of one word.
pub(crate) fn output(problem: &Problem, capabilities: &Capabilities) -> Storage {
    let parts_words = !starts_on(&problem.out(), 2) || !problem.value_dim.is_multiple_of(2);
    writing(input(problem, capabilities), parts_words)
}

/// How elements are read; four at a time if all rows start on a multiple of four and are one long.
pub(crate) fn of(element: ElementType, by_four: bool, capabilities: &Capabilities) -> Storage {
    match element {
        ElementType::F32 if by_four => Storage::F32x4,
        ElementType::F32 => Storage::F32,
        ElementType::F16 if capabilities.shader_f16 && by_four => Storage::F16x4,
        ElementType::F16 if capabilities.shader_f16 => Storage::F16,
        ElementType::F16 if by_four => Storage::F16WordsX4,
        ElementType::F16 => Storage::F16Words,
        ElementType::Bf16 if by_four => Storage::Bf16WordsX4,
        ElementType::Bf16 => Storage::Bf16Words,
    }
}

/// How what is stored as `input` is written, if one invocation's share may end in the middle of a
/// word or not.
pub(crate) fn writing(input: Storage, parts_words: bool) -> Storage {
    let is_words = matches!(input, Storage::F16Words | Storage::Bf16Words);
    if is_words && parts_words { Storage::Unpacked } else { input }
}

/// Whether every row of a tensor starts on a multiple of `count`.
pub(crate) fn starts_on(view: &View, count: u32) -> bool {
    [view.offset, view.batch, view.head, view.row].iter().all(|step| step.is_multiple_of(count))
}
