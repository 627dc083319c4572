//! Tensors from a safetensors file, and back.

use crate::failure::Failure;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;
use wgpu_attention::{Element, ElementType};

/// What floats come as.
pub(crate) const FLOATS: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];

/// Name in the metadata of a file with `weights`: their axes, as a JSON array of strings.
pub(crate) const AXES: &str = "weights_axes";
/// The axes of weights that have none of heads.
pub(crate) const PER_BATCH: &str = r#"["batch","queries","keys"]"#;
/// Name in the same place: what was done with the heads.
pub(crate) const HEADS: &str = "weights_heads";
/// What it says of weights that are the mean over all heads.
pub(crate) const MEAN: &str = "mean";

/// Reads a file whole.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let refuse = |found: &dyn fmt::Display| {
        Failure::input(path.display(), "a readable safetensors file", found)
    };
    // Not whatever else opens: a device may never end.
    match fs::metadata(path) {
        Ok(found) if found.is_file() => fs::read(path).map_err(|error| refuse(&error)),
        Ok(found) if found.is_dir() => Err(refuse(&"a directory")),
        Ok(_) => Err(refuse(&"something else")),
        Err(error) => Err(refuse(&error)),
    }
}

/// The tensors of a file, by name, and the texts beside them.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    tensors: SafeTensors<'a>,
    texts: HashMap<String, String>,
}

impl<'a> Tensors<'a> {
    /// Reads the header of a whole file; `path` is for the error message.
    pub(crate) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self, Failure> {
        let refuse =
            |found: &dyn fmt::Display| Failure::input(path.display(), "a safetensors file", found);
        // Of two tensors of one name, the reader would take the last.
        if let Some(header) = header(bytes) {
            serde_json::from_slice::<DistinctNames>(header).map_err(|error| refuse(&error))?;
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| refuse(&error))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| refuse(&error))?;
        Ok(Self { tensors, texts: header.metadata().clone().unwrap_or_default() })
    }

    /// A tensor, if the file has it.
    pub(crate) fn get(&self, name: &'static str) -> Option<Tensor<'a>> {
        let view = self.tensors.tensor(name).ok()?;
        Some(Tensor { name, dtype: view.dtype(), sizes: view.shape().to_vec(), bytes: view.data() })
    }

    /// A text that stands in the file's `__metadata__`, if it does.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// A list of strings that stands as JSON in the file's `__metadata__`, if it does.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let what = format_args!("{name} in __metadata__");
            Failure::input(what, "a JSON array of strings", error)
        })
    }

    /// Two tensors of which the file has both or none.
    pub(crate) fn pair(
        &self,
        names: [&'static str; 2],
    ) -> Result<Option<[Tensor<'a>; 2]>, Failure> {
        let [one, other] = names;
        let half = |missing, there| {
            let expected = format_args!("a tensor of this name beside {there}");
            Err(Failure::input(missing, expected, "none"))
        };
        match (self.get(one), self.get(other)) {
            (None, None) => Ok(None),
            (Some(first), Some(second)) => Ok(Some([first, second])),
            (None, Some(_)) => half(one, other),
            (Some(_), None) => half(other, one),
        }
    }

    /// A tensor that has to be there.
    pub(crate) fn require(&self, name: &'static str) -> Result<Tensor<'a>, Failure> {
        self.get(name).ok_or_else(|| {
            let found = format_args!("none ({})", self.others());
            Failure::input(name, "a tensor of this name", found)
        })
    }

    /// Which tensors there are, in a line of limited length.
    fn others(&self) -> String {
        let mut names = self.tensors.names();
        names.sort_unstable();
        let (shown, rest) = names.split_at(names.len().min(SHOWN));
        let mut words: Vec<String> = shown.iter().map(|name| shortened(name)).collect();
        match rest.len() {
            0 if words.is_empty() => return "the file has no tensors".to_owned(),
            0 => {}
            more => words.push(format!("{more} more")),
        }
        format!("the file has {}", words.join(", "))
    }
}

/// How many names of tensors are listed, and how many characters of each.
const SHOWN: usize = 12;
const LONGEST: usize = 32;

fn shortened(name: &str) -> String {
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
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) sizes: Vec<usize>,
    bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Refuses any element type but these.
    pub(crate) fn require_dtype(&self, expected: &[Dtype]) -> Result<(), Failure> {
        if expected.contains(&self.dtype) {
            return Ok(());
        }
        let names: Vec<String> = expected.iter().map(Dtype::to_string).collect();
        Err(Failure::input(self.name, names.join(" or "), self.dtype))
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

    /// What `convert` makes of each element.
    fn map<T: bytemuck::AnyBitPattern, U>(&self, convert: impl Fn(T) -> U) -> Vec<U> {
        let words = self.bytes.chunks_exact(size_of::<T>());
        words.map(|word| convert(bytemuck::pod_read_unaligned(word))).collect()
    }

    /// The elements of an I32 or I64 tensor.
    pub(crate) fn integers(&self) -> Result<Vec<i64>, Failure> {
        self.require_dtype(&[Dtype::I32, Dtype::I64])?;
        Ok(match self.dtype {
            Dtype::I32 => {
                self.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect()
            }
            _ => self.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        })
    }

    /// Of each element, whatever its type, whether it is not 0.
    pub(crate) fn nonzero(&self) -> Result<Vec<bool>, Failure> {
        use Dtype::{BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        let integers = [BOOL, U8, I8, U16, I16, U32, I32, U64, I64];
        let floats = [F16, BF16, F32, F64];
        self.require_dtype(&[&integers[..], &floats].concat())?;
        // -0.0 is 0.
        let sign = if floats.contains(&self.dtype) { 0x80 } else { 0 };
        let elements = self.bytes.chunks_exact(self.dtype.bitsize() / 8);
        let is_nonzero = |element: &[u8]| {
            element
                .split_last()
                .is_some_and(|(last, rest)| last & !sign != 0 || rest.iter().any(|&byte| byte != 0))
        };
        Ok(elements.map(is_nonzero).collect())
    }

    /// The elements of a BOOL tensor; any byte but 0 is true.
    pub(crate) fn bools(&self) -> Result<Vec<bool>, Failure> {
        self.require_dtype(&[Dtype::BOOL])?;
        Ok(self.bytes.iter().map(|&byte| byte != 0).collect())
    }
}

/// Never from a finite number to an infinity: the lowest f64 is a common way to write "very negative" in a
/// bias, where only `-inf` may hide a key.
fn within_f32(number: f64) -> f64 {
    if number.is_finite() { number.clamp(f32::MIN.into(), f32::MAX.into()) } else { number }
}

/// Each number as the nearest `T`.
pub(crate) fn rounded<S: Into<f64>, T: Element>(numbers: Vec<S>) -> Vec<T> {
    numbers.into_iter().map(|number| T::from_f64(number.into())).collect()
}

/// Refuses a size that is not what another tensor makes it.
pub(crate) fn require_size(what: &str, expected: usize, found: usize) -> Result<(), Failure> {
    if expected == found { Ok(()) } else { Err(Failure::input(what, expected, found)) }
}

/// The type of `T` in a file.
fn dtype<T: Element>() -> Dtype {
    match T::TYPE {
        ElementType::F32 => Dtype::F32,
        ElementType::F16 => Dtype::F16,
        ElementType::Bf16 => Dtype::BF16,
    }
}

/// A tensor to be written.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    name: &'static str,
    dtype: Dtype,
    sizes: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Named<'a> {
    pub(crate) fn new<T: Element>(name: &'static str, sizes: &[usize], elements: &'a [T]) -> Self {
        // wgpu runs on little-endian machines only, and so is the file.
        let bytes = bytemuck::cast_slice(elements);
        Self { name, dtype: dtype::<T>(), sizes: sizes.to_vec(), bytes }
    }
}

/// Puts tensors into the bytes of a file.
pub(crate) fn serialize(tensors: Vec<Named<'_>>) -> Result<Vec<u8>, Failure> {
    serialize_with(tensors, &[])
}

/// As [`serialize`], with texts beside the tensors, by name.
pub(crate) fn serialize_with(
    tensors: Vec<Named<'_>>,
    texts: &[(&str, &str)],
) -> Result<Vec<u8>, Failure> {
    let refuse = |error| Failure::Input(format!("output: {error}"));
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .into_iter()
        .map(|Named { name, dtype, sizes, bytes }| {
            Ok((name, TensorView::new(dtype, sizes, bytes).map_err(refuse)?))
        })
        .collect::<Result<_, Failure>>()?;
    let texts = texts.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
    let texts = (texts.len() > 0).then(|| texts.collect());
    safetensors::serialize(views, texts).map_err(refuse)
}

/// A JSON object, of which only this is wanted: that no name stands in it twice.
struct DistinctNames;

impl<'de> Deserialize<'de> for DistinctNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = DistinctNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<DistinctNames, M::Error> {
                let mut seen = HashSet::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if let Some(name) = seen.replace(name) {
                        let message = format_args!("two tensors named \"{name}\"");
                        return Err(serde::de::Error::custom(message));
                    }
                }
                Ok(DistinctNames)
            }
        }
        deserializer.deserialize_map(Names)
    }
}
