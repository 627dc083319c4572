//! Whatever stands in a file and on the command line: done or refused in one line, and never a panic.
//!
//! In this process, for it takes thousands of cases; `tests/tool/hostile.rs` starts the tool itself.

mod calls;
mod files;

use proptest::test_runner::{Config, RngSeed};
use safetensors::SafeTensors;
use std::ffi::OsString;
use std::path::Path;
use tempfile::TempDir;

fn config(cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(17);
    Config {
        failure_persistence: None,
        rng_seed,
        max_shrink_iters: 2000,
        ..Config::with_cases(cases)
    }
}

/// The tool on a file of these bytes: whether it did what it was asked to.
fn run(bytes: &[u8], flags: &[String]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.safetensors");
    let words = words("run", bytes, &folder, &out, flags);
    let done = succeeds(&words);
    if done {
        let written = std::fs::read(&out).expect("an output");
        SafeTensors::deserialize(&written).expect("safetensors");
    }
    assert_eq!(names(&folder), 1 + usize::from(done), "{flags:?}: leftovers");
    done
}

/// As [`run`], of weights to be drawn.
fn plot(bytes: &[u8], flags: &[String]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let done = succeeds(&words("plot", bytes, &folder, &folder.path().join("out.svg"), flags));
    assert_eq!(names(&folder), 1 + usize::from(done), "{flags:?}: leftovers");
    done
}

/// A command line, and the file that it reads.
fn words(
    subcommand: &str,
    bytes: &[u8],
    folder: &TempDir,
    out: &Path,
    flags: &[String],
) -> Vec<OsString> {
    let input = folder.path().join("in.safetensors");
    std::fs::write(&input, bytes).expect("a file written");
    let mut words: Vec<OsString> = vec!["wgpu-attention".into(), subcommand.into(), input.into()];
    words.extend(["--out".into(), out.into(), "--device=cpu".into()]);
    words.extend(flags.iter().map(OsString::from));
    words
}

/// Whether it was done; if not, it must have been refused as bad input is.
fn succeeds(words: &[OsString]) -> bool {
    let Err(failure) = wgpu_attention_cli::run(words, None, &mut std::io::sink()) else {
        return true;
    };
    let message = failure.message().unwrap_or_default();
    assert_eq!(failure.exit_code(), 2, "{words:?}: {message}");
    assert!(!message.trim().is_empty(), "{words:?}: refused without a word");
    false
}

fn names(folder: &TempDir) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

/// The bytes of a file of this header.
fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}
