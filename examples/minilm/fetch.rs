//! The model's files.

use super::Result;
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
