//! The model's files.

use super::Result;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder into which `fetch.py` brings the model, after it did so.
pub(crate) fn fetch() -> Result<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = repository.join("examples/minilm/fetch.py");
    let python = if cfg!(windows) { "python" } else { "python3" };
    match Command::new(python).arg(&script).status() {
        Ok(status) if status.success() => Ok(repository.join("target/minilm")),
        Ok(_) => Err(format!("no model, as {python} {} failed", script.display()).into()),
        Err(error) => Err(format!("no model, as there is no {python} to fetch it: {error}").into()),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The tensors of a safetensors file.
pub(super) struct Checkpoint<'a>(SafeTensors<'a>);

impl<'a> Checkpoint<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        Ok(Self(SafeTensors::deserialize(bytes)?))
    }

    /// The elements of the f32 tensor of this name and shape.
    pub(super) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.0.tensor(name)?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = (tensor.dtype(), tensor.shape());
            return Err(format!("{name}: expected F32 {shape:?}, found {found:?}").into());
        }
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }
}
