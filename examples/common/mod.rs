//! What an application brings of its own around the library's operators: files, buffers, shaders, linear layers.

mod checkpoint;
mod dense;
mod passes;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use dense::Dense;
pub(crate) use passes::{Pass, input, output, read_back};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// GELU in place, a row for each workgroup.
pub(crate) const GELU: &str = include_str!("gelu.wgsl");

/// `total`, the sum over a workgroup of `THREADS`: a part of other shaders.
pub(crate) const TOTAL: &str = include_str!("total.wgsl");
