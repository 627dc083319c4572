//! What query, key, value and out are stored as.

use std::fmt;

/// The element type of query, key, value and out; everything else is f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl ElementType {
    /// Elements in one 32-bit word.
    #[must_use]
    pub fn per_word(self) -> u32 {
        match self {
            Self::F32 => 1,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type of elements: `f32`, and with the feature `half` `half::f16` and `half::bf16`.
pub trait Element: bytemuck::Pod + Default + Send + Sync + fmt::Debug + sealed::Sealed {
    /// The element type it is.
    const TYPE: ElementType;

    /// The same number as f32.
    fn to_f32(self) -> f32;

    /// The nearest number of this type, ties to even.
    fn from_f64(number: f64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for f32 {}

impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;

    fn to_f32(self) -> f32 {
        self
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
    fn from_f64(number: f64) -> Self {
        number as f32
    }
}

macro_rules! half_elements {
    ($($name:ident: $type:ty),*) => {
        $(
            #[cfg(feature = "half")]
            impl sealed::Sealed for $type {}

            #[cfg(feature = "half")]
            impl Element for $type {
                const TYPE: ElementType = ElementType::$name;

                fn to_f32(self) -> f32 {
                    self.to_f32()
                }

                fn from_f64(number: f64) -> Self {
                    Self::from_f64(number)
                }
            }
        )*
    };
}

half_elements!(F16: half::f16, Bf16: half::bf16);
