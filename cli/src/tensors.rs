//! The tensors of a safetensors file.

use crate::failure::Failure;
use half::{bf16, f16};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use wgpu_attention::{Element, ElementType};

/// The types of floats.
pub(crate) const FLOATS: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
/// The types of lengths, positions and ids.
pub(crate) const INTEGERS: [Dtype; 2] = [Dtype::I32, Dtype::I64];

/// Names in the metadata of a file with `weights`: of their axes, as a JSON array of strings, and
/// of what was done with the heads.
pub(crate) const AXES: &str = "weights_axes";
pub(crate) const HEADS: &str = "weights_heads";
/// The axes of weights that have none of heads, and what is said of the mean over all heads.
pub(crate) const PER_BATCH: &str = r#"["batch","queries","keys"]"#;
pub(crate) const MEAN: &str = "mean";

/// The tensors of a file, by name, and the texts beside them.
#[derive(Debug)]
pub(crate) struct Tensors {
    header: Metadata,
    bytes: Vec<u8>,
    /// Where the elements begin.
    start: usize,
}

impl Tensors {
    /// Reads a file whole.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let unreadable = |found: &dyn Display| {
            Failure::input(path.display(), "a readable safetensors file", found)
        };
        // Not whatever else opens: a device may never end.
        let bytes = match fs::metadata(path) {
            Ok(found) if found.is_file() => fs::read(path).map_err(|error| unreadable(&error))?,
            Ok(found) if found.is_dir() => return Err(unreadable(&"a directory")),
            Ok(_) => return Err(unreadable(&"something else")),
            Err(error) => return Err(unreadable(&error)),
        };
        let malformed =
            |found: &dyn Display| Failure::input(path.display(), "a safetensors file", found);
        // Of two tensors of one name, the reader would take the last.
        if let Some(header) = header(&bytes) {
            serde_json::from_slice::<DistinctNames>(header).map_err(|error| malformed(&error))?;
        }
        let (len, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| malformed(&error))?;
        Ok(Self { header, start: size_of::<u64>() + len, bytes })
    }

    /// A tensor, if the file has it.
    pub(crate) fn get(&self, name: &'static str) -> Option<Tensor<'_>> {
        let info = self.header.info(name)?;
        let (start, end) = info.data_offsets;
        let bytes = &self.bytes[self.start..][start..end];
        Some(Tensor { name, dtype: info.dtype, sizes: &info.shape, bytes })
    }

    /// A tensor that has to be there.
    pub(crate) fn require(&self, name: &'static str) -> Result<Tensor<'_>, Failure> {
        self.get(name).ok_or_else(|| {
            let found = format_args!("none ({})", self.names());
            Failure::input(name, "a tensor of this name", found)
        })
    }

    /// A tensor of one of these types and one of these sizes, if the file has it.
    pub(crate) fn find(
        &self,
        name: &'static str,
        dtypes: &[Dtype],
        sizes: &[&[usize]],
    ) -> Result<Option<Tensor<'_>>, Failure> {
        let tensor = self.get(name);
        if let Some(tensor) = &tensor {
            tensor.require_dtype(dtypes)?;
            tensor.require_sizes(sizes)?;
        }
        Ok(tensor)
    }

    /// Two tensors of which the file has both or none.
    pub(crate) fn pair(
        &self,
        [one, other]: [&'static str; 2],
    ) -> Result<Option<[Tensor<'_>; 2]>, Failure> {
        let (missing, there) = match (self.get(one), self.get(other)) {
            (None, None) => return Ok(None),
            (Some(first), Some(second)) => return Ok(Some([first, second])),
            (None, Some(_)) => (one, other),
            (Some(_), None) => (other, one),
        };
        let expected = format_args!("a tensor of this name beside {there}");
        Err(Failure::input(missing, expected, "none"))
    }

    /// A text that stands in the file's `__metadata__`, if it does.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(name).map(String::as_str)
    }

    /// A list of strings that stands as JSON in the file's `__metadata__`, if it does.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let what = format_args!("{name} in __metadata__");
            Failure::input(what, "a JSON array of strings", error)
        })
    }

    /// Which tensors there are, in a line of limited length.
    fn names(&self) -> String {
        const MOST: usize = 12;
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort_unstable();
        let more = names.len().saturating_sub(MOST);
        let mut words: Vec<String> = names.iter().take(MOST).map(|name| quoted(name)).collect();
        if more > 0 {
            words.push(format!("{more} more"));
        }
        let words = if words.is_empty() { "no tensors".to_owned() } else { words.join(", ") };
        format!("the file has {words}")
    }
}

/// The start of a name, in quotes.
fn quoted(name: &str) -> String {
    const LONGEST: usize = 32;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}…\"", &name[..end]),
        None => format!("\"{name}\""),
    }
}

/// The JSON at the start of a file, if the file is as long as it says.
fn header(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

/// One tensor of a file, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) sizes: &'a [usize],
    bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Why these sizes cannot be used.
    pub(crate) fn refuse(&self, expected: impl Display) -> Failure {
        Failure::input(self.name, expected, format_args!("{:?}", self.sizes))
    }

    /// Refuses any element type but these.
    pub(crate) fn require_dtype(&self, expected: &[Dtype]) -> Result<(), Failure> {
        if expected.contains(&self.dtype) {
            return Ok(());
        }
        let names: Vec<String> = expected.iter().map(Dtype::to_string).collect();
        Err(Failure::input(self.name, names.join(" or "), self.dtype))
    }

    /// Refuses any sizes but these.
    pub(crate) fn require_sizes(&self, expected: &[&[usize]]) -> Result<(), Failure> {
        if expected.contains(&self.sizes) {
            return Ok(());
        }
        let expected: Vec<String> = expected.iter().map(|sizes| format!("{sizes:?}")).collect();
        Err(self.refuse(expected.join(" or ")))
    }

    /// The sizes, which are as many as they have names.
    pub(crate) fn dims<const N: usize>(&self, names: [&str; N]) -> Result<[usize; N], Failure> {
        let expected = || self.refuse(format_args!("{N} sizes, [{}]", names.join(", ")));
        self.sizes.try_into().map_err(|_| expected())
    }

    /// The elements of a tensor of floats, each the nearest `T`.
    pub(crate) fn floats<T: Element>(&self) -> Result<Vec<T>, Failure> {
        match self.dtype {
            own if own == dtype::<T>() => Ok(self.map(|number: T| number)),
            Dtype::F32 => Ok(self.map(|number: f32| T::from_f64(number.into()))),
            Dtype::F16 => Ok(self.map(|number: f16| T::from_f64(number.into()))),
            Dtype::BF16 => Ok(self.map(|number: bf16| T::from_f64(number.into()))),
            Dtype::F64 => Ok(self.map(|number| T::from_f64(within_f32(number)))),
            found => Err(Failure::input(self.name, "a tensor of floats", found)),
        }
    }

    /// The elements of an I32 or I64 tensor, each of which has to fit `N` and be as it says.
    pub(crate) fn integers<N: TryFrom<i64>>(
        &self,
        expected: &str,
        is_allowed: impl Fn(&N) -> bool,
    ) -> Result<Vec<N>, Failure> {
        self.require_dtype(&INTEGERS)?;
        let wide: Vec<i64> =
            if self.dtype == Dtype::I32 { self.map(|x: i32| x.into()) } else { self.map(|x| x) };
        let narrow = |found: i64| {
            let number = N::try_from(found).ok().filter(&is_allowed);
            number.ok_or_else(|| Failure::input(self.name, expected, found))
        };
        wide.into_iter().map(narrow).collect()
    }

    /// Of each element, whatever its type, whether it is not 0.
    pub(crate) fn nonzero(&self) -> Result<Vec<bool>, Failure> {
        use Dtype::{BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        let integers = [BOOL, U8, I8, U16, I16, U32, I32, U64, I64];
        self.require_dtype(&[&integers[..], &[F16, BF16, F32, F64]].concat())?;
        // -0.0 is 0.
        let last = if integers.contains(&self.dtype) { 0xff } else { 0x7f };
        let elements = self.bytes.chunks_exact(self.dtype.bitsize() / 8);
        let is_nonzero = |element: &[u8]| match element {
            [rest @ .., end] => end & last != 0 || rest.iter().any(|&byte| byte != 0),
            [] => false,
        };
        Ok(elements.map(is_nonzero).collect())
    }

    /// The elements of a BOOL tensor; any byte but 0 is true.
    pub(crate) fn bools(&self) -> Result<Vec<bool>, Failure> {
        self.require_dtype(&[Dtype::BOOL])?;
        self.nonzero()
    }

    /// What `convert` makes of each element.
    fn map<T: bytemuck::AnyBitPattern, U>(&self, convert: impl Fn(T) -> U) -> Vec<U> {
        let words = self.bytes.chunks_exact(size_of::<T>());
        words.map(|word| convert(bytemuck::pod_read_unaligned(word))).collect()
    }
}

/// Refuses tensors that are not of floats, all of the first one's type.
pub(crate) fn require_alike(tensors: &[Tensor<'_>]) -> Result<(), Failure> {
    let Some((first, others)) = tensors.split_first() else { return Ok(()) };
    first.require_dtype(&FLOATS)?;
    others.iter().try_for_each(|other| other.require_dtype(&[first.dtype]))
}

/// Refuses the first of these sizes that is not as another tensor makes it: name, expected, found.
pub(crate) fn require_equal(sizes: &[(&str, usize, usize)]) -> Result<(), Failure> {
    match sizes.iter().find(|(_, expected, found)| expected != found) {
        Some((what, expected, found)) => Err(Failure::input(what, expected, found)),
        None => Ok(()),
    }
}

/// Never from a finite number to an infinity: the lowest f64 is a common way to write "very
/// negative" in a bias, where only `-inf` may hide a key.
fn within_f32(number: f64) -> f64 {
    if number.is_finite() { number.clamp(f32::MIN.into(), f32::MAX.into()) } else { number }
}

/// The type of `T` in a file.
pub(crate) fn dtype<T: Element>() -> Dtype {
    match T::TYPE {
        ElementType::F16 => Dtype::F16,
        ElementType::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// Calls a function of element types with the one that a file's type is computed in.
macro_rules! with_element {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            safetensors::Dtype::F16 => $function::<half::f16>($($argument),*),
            safetensors::Dtype::BF16 => $function::<half::bf16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}
pub(crate) use with_element;

/// A JSON object, of which only this is wanted: that no name stands in it twice.
struct DistinctNames;

impl<'de> Deserialize<'de> for DistinctNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for DistinctNames {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self, M::Error> {
        let mut seen = HashSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(name) = seen.replace(name) {
                let message = format_args!("two tensors named \"{name}\"");
                return Err(serde::de::Error::custom(message));
            }
        }
        Ok(self)
    }
}
