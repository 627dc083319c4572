//! Writing tensors and files, whole or not at all.

use crate::failure::Failure;
use crate::tensors::dtype;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::borrow::Cow;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use wgpu_attention::Element;

/// A file that does not appear under its own name until it is complete.
///
/// Created before anything is computed, so that an unwritable place is found out at once.
#[derive(Debug)]
pub(crate) struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
    /// The flag that names it.
    flag: &'static str,
}

impl OutputFile {
    /// Opens a temporary file beside `path`, the value of `flag`; it is removed unless
    /// [`write`](Self::write) succeeds.
    pub(crate) fn create(flag: &'static str, path: &Path) -> Result<Self, Failure> {
        let refuse = |found: &dyn std::fmt::Display| {
            Failure::input(format_args!("{flag} {}", path.display()), "a writable file", found)
        };
        // Through a symbolic link: the link stays, the file it points to is replaced.
        let path = match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(refuse(&"a directory")),
            // Renaming over /dev/null would replace the device itself.
            Ok(found) if !found.is_file() => return Err(refuse(&"something else")),
            Ok(found) if found.permissions().readonly() => {
                return Err(refuse(&"a read-only file"));
            }
            Ok(_) => fs::canonicalize(path).map_err(|error| refuse(&error))?,
            // "new/" and "new/." can only be directories.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !ends_with_name(path) => {
                return Err(refuse(&"a directory"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(refuse(&error)),
        };
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => return Err(refuse(&"a directory")),
        };
        fs::metadata(folder).map_err(|error| refuse(&error))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".wgpu-attention-");
        #[cfg(unix)]
        {
            // As for any new file: everyone may, less what the umask takes away.
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder).map_err(|error| refuse(&error))?;
        Ok(Self { temporary, path, flag })
    }

    /// Writes the whole file and gives it its name.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let (path, flag) = (self.path, self.flag);
        self.temporary
            .write_all(bytes)
            .and_then(|()| Ok(self.temporary.persist(&path)?))
            .map(|_file| ())
            .map_err(|error| {
                Failure::input(format_args!("{flag} {}", path.display()), "a writable file", error)
            })
    }
}

/// Whether the path as it is spelt ends with the name of a file.
fn ends_with_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    !name.is_empty() && path.as_os_str().as_encoded_bytes().ends_with(name)
}

/// A tensor to be written.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) name: &'static str,
    pub(crate) sizes: &'a [usize],
    dtype: Dtype,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Output<'a> {
    pub(crate) fn new<T: Element>(
        name: &'static str,
        sizes: &'a [usize],
        elements: &'a [T],
    ) -> Self {
        // wgpu runs on little-endian machines only, and so is the file.
        let bytes = bytemuck::cast_slice(elements).into();
        Self { name, sizes, dtype: dtype::<T>(), bytes }
    }

    /// Numbers in the type of an input, doubles as F32.
    pub(crate) fn rounded(
        name: &'static str,
        sizes: &'a [usize],
        input: Dtype,
        numbers: &[f64],
    ) -> Self {
        fn bytes<T: Element>(numbers: &[f64]) -> Vec<u8> {
            let elements: Vec<T> = numbers.iter().map(|&number| T::from_f64(number)).collect();
            bytemuck::cast_slice(&elements).to_vec()
        }
        let (dtype, bytes) = match input {
            Dtype::F16 => (Dtype::F16, bytes::<f16>(numbers)),
            Dtype::BF16 => (Dtype::BF16, bytes::<bf16>(numbers)),
            _ => (Dtype::F32, bytes::<f32>(numbers)),
        };
        Self { name, sizes, dtype, bytes: bytes.into() }
    }
}

/// The bytes of a file of tensors, and of texts beside them, by name.
pub(crate) fn serialize(
    tensors: &[Output<'_>],
    texts: &[(&str, &str)],
) -> Result<Vec<u8>, Failure> {
    let refuse = |error| Failure::Input(format!("output: {error}"));
    let views = tensors.iter().map(|Output { name, dtype, sizes, bytes }| {
        Ok((*name, TensorView::new(*dtype, sizes.to_vec(), bytes).map_err(refuse)?))
    });
    let views: Vec<_> = views.collect::<Result<_, Failure>>()?;
    let texts = texts.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
    let texts = (texts.len() > 0).then(|| texts.collect());
    safetensors::serialize(views, texts).map_err(refuse)
}
