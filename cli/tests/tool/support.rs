//! Folders with tensor files in them, and the tool run on them.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// One tensor of an input file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    dtype: Dtype,
    sizes: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(name: &'static str, dtype: Dtype, sizes: &[usize], bytes: Vec<u8>) -> Self {
        Self { name, dtype, sizes: sizes.to_vec(), bytes }
    }

    pub(crate) fn f32(name: &'static str, sizes: &[usize], elements: &[f32]) -> Self {
        let bytes = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(name, Dtype::F32, sizes, bytes)
    }

    pub(crate) fn f64(name: &'static str, sizes: &[usize], elements: &[f64]) -> Self {
        let bytes = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(name, Dtype::F64, sizes, bytes)
    }

    pub(crate) fn bools(name: &'static str, sizes: &[usize], elements: &[u8]) -> Self {
        Self::new(name, Dtype::BOOL, sizes, elements.to_vec())
    }

    /// A tensor of the same name and sizes, of another element type.
    pub(crate) fn zeros(&self, dtype: Dtype) -> Self {
        let bytes = self.sizes.iter().product::<usize>() * dtype.bitsize() / 8;
        Self::new(self.name, dtype, &self.sizes, vec![0; bytes])
    }

    /// An F32 tensor's elements rounded to another type.
    pub(crate) fn rounded(&self, dtype: Dtype) -> Self {
        assert_eq!(self.dtype, Dtype::F32, "{}", self.name);
        let elements = self.bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word));
        let bytes = match dtype {
            Dtype::F32 => self.bytes.clone(),
            Dtype::F16 => elements.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => elements.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F64 => elements.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
            _ => panic!("{dtype} is no type of floats"),
        };
        Self::new(self.name, dtype, &self.sizes, bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// F32 elements that differ from each other, for tests of sizes.
    pub(crate) fn wave(name: &'static str, sizes: &[usize]) -> Self {
        let count: usize = sizes.iter().product();
        let shift = f32::from(name.as_bytes()[0]);
        let elements: Vec<f32> = (0..count).map(|i| (shift + 1.7 * i as f32).sin()).collect();
        Self::f32(name, sizes, &elements)
    }
}

/// A tensor of I32 or I64.
pub(crate) fn integers(
    name: &'static str,
    dtype: Dtype,
    sizes: &[usize],
    elements: &[i64],
) -> Tensor {
    let bytes = match dtype {
        Dtype::I32 => elements.iter().flat_map(|x| x.to_le_bytes().into_iter().take(4)).collect(),
        _ => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    Tensor::new(name, dtype, sizes, bytes)
}

/// The bytes of a file that holds these tensors.
pub(crate) fn file(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.sizes.clone(), &tensor.bytes);
        (tensor.name, view.expect("sizes that fit the elements"))
    });
    safetensors::serialize(views, None).expect("tensors that can be written")
}

/// A folder of its own for one test, in which the tool runs.
pub(crate) struct Folder(TempDir);

/// How a run of the tool ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A tensor of an output file.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) dtype: Dtype,
    pub(crate) sizes: Vec<usize>,
    pub(crate) elements: Vec<f32>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A folder with `in.safetensors` in it.
    pub(crate) fn with(tensors: &[Tensor]) -> Self {
        let folder = Self::new();
        folder.write("in.safetensors", &file(tensors));
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a file written");
    }

    /// The names in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder that can be listed");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs the tool in this folder.
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        ended(Command::new(env!("CARGO_BIN_EXE_wgpu-attention")), self.0.path(), args)
    }

    /// Runs another program in this folder.
    #[cfg(target_os = "linux")]
    pub(crate) fn command<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Ended {
        ended(Command::new(program), self.0.path(), args)
    }

    /// As [`Folder::tool`], where it finds an adapter: tests run under a script that brings one, and which
    /// the tool, being a child of the test, has to be started through again.
    pub(crate) fn tool_with_adapter<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        ended(self.command_with_adapter(), self.0.path(), args)
    }

    /// The tool where it finds an adapter, not started yet.
    pub(crate) fn command_with_adapter(&self) -> Command {
        let tool = env!("CARGO_BIN_EXE_wgpu-attention");
        let mut command = match std::env::var_os("WITH_ADAPTER") {
            Some(script) => {
                let mut command = Command::new(script);
                command.arg(tool);
                command
            }
            None => Command::new(tool),
        };
        command.current_dir(self.0.path());
        command
    }

    /// Runs the tool, which has to refuse: exit code 2, one line on stderr that says all of `says`, and no
    /// file made or left behind.
    #[track_caller]
    pub(crate) fn refuses<S: AsRef<OsStr> + Debug>(&self, args: &[S], says: &[&str]) {
        let before = self.names();
        let ended = self.tool(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
        let line = ended.stderr.strip_suffix('\n').unwrap_or_default();
        let printable = !line.is_empty() && !line.contains(char::is_control);
        assert!(printable, "{args:?}: not one line: {ended:?}");
        for words in says {
            assert!(line.contains(words), "{args:?}: says nothing of {words:?}: {line}");
        }
        assert_eq!(self.names(), before, "{args:?}");
    }

    /// `run in.safetensors --out out.safetensors --device cpu` and more flags, which has to succeed
    /// without a word.
    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str]) -> BTreeMap<String, Found> {
        self.compute(&["run", "in.safetensors"], flags)
    }

    /// As [`Folder::run`], of any command and its input.
    #[track_caller]
    pub(crate) fn compute(&self, command: &[&str], flags: &[&str]) -> BTreeMap<String, Found> {
        let args = ["--out", "out.safetensors", "--device", "cpu"];
        let ended = self.tool(&[command, &args, flags].concat());
        assert_eq!(ended.code, Some(0), "{flags:?}: {ended:?}");
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""), "{flags:?}");
        self.outputs("out.safetensors")
    }

    /// As [`Folder::run`] on the CPU and on the adapter there is, which have to agree to `tolerance`
    /// where `out` is concerned, and to what F32 gives elsewhere.
    #[track_caller]
    pub(crate) fn run_on_both(&self, flags: &[&str], tolerance: f32) -> BTreeMap<String, Found> {
        self.compute_on_both(&["run", "in.safetensors"], flags, tolerance)
    }

    /// As [`Folder::run_on_both`], of any command and its input.
    #[track_caller]
    pub(crate) fn compute_on_both(
        &self,
        command: &[&str],
        flags: &[&str],
        tolerance: f32,
    ) -> BTreeMap<String, Found> {
        let expected = self.compute(command, flags);
        let args = ["--out", "gpu.safetensors", "--device", "gpu"];
        let ended = self.tool_with_adapter(&[command, &args, flags].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{flags:?}: {ended:?}");
        let found = self.outputs("gpu.safetensors");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, expected) in &expected {
            let found = &found[name];
            assert_eq!((found.dtype, &found.sizes), (expected.dtype, &expected.sizes), "{name}");
            let tolerance = if name == "out" { tolerance } else { 1e-5 };
            assert_within(&found.elements, &expected.elements, tolerance);
        }
        expected
    }

    /// The tensors of a file, their elements as F32.
    pub(crate) fn outputs(&self, name: &str) -> BTreeMap<String, Found> {
        let bytes = std::fs::read(self.path(name)).expect("an output file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let found = tensors.iter().map(|(name, view)| {
            let (words, halves) = (view.data().as_chunks().0, view.data().as_chunks().0);
            let elements = match view.dtype() {
                Dtype::F32 => words.iter().map(|&word| f32::from_le_bytes(word)).collect(),
                Dtype::F16 => halves.iter().map(|&h| f16::from_le_bytes(h).to_f32()).collect(),
                Dtype::BF16 => halves.iter().map(|&h| bf16::from_le_bytes(h).to_f32()).collect(),
                other => panic!("{name}: {other}"),
            };
            let (dtype, sizes) = (view.dtype(), view.shape().to_vec());
            (name.to_owned(), Found { dtype, sizes, elements })
        });
        found.collect()
    }
}

fn ended<S: AsRef<OsStr>>(mut command: Command, folder: &Path, args: &[S]) -> Ended {
    let output = command.args(args).current_dir(folder).output().expect("the tool starts");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Compares element by element; `expected` is what one works out by hand.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32]) {
    assert_within(found, expected, 1e-5);
}

#[track_caller]
fn assert_within(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "found {found:?}, expected {expected:?}");
    for (index, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let close = f == e || (f - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(close, "element {index}: found {found:?}, expected {expected:?}");
    }
}
