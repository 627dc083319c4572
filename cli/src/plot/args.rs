//! The flags of `plot`.

use crate::adapter::DeviceArgs;
use crate::values::place;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention plot out.safetensors --out weights.png
  wgpu-attention plot out.safetensors --tokens \"the cat sat\" --head 0,3 --out weights.svg")]
pub(crate) struct PlotArgs {
    // Taken as everywhere, though nothing is computed.
    #[command(flatten)]
    pub(super) _device: DeviceArgs,
    /// Tensor weights, [batch, heads, queries, keys] or less
    #[arg(value_name = "WEIGHTS.safetensors")]
    pub(super) input: PathBuf,
    /// Where the picture goes
    #[arg(long, value_name = "FILE.png|.svg")]
    pub(super) out: PathBuf,
    /// Labels of the queries, and of the keys if they are as many, separated by spaces
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(super) tokens: Option<String>,
    /// Labels of the keys
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(super) key_tokens: Option<String>,
    /// Only these heads
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = place, allow_hyphen_values = true)]
    pub(super) head: Vec<usize>,
    /// Only these sequences of the batch
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = place, allow_hyphen_values = true)]
    pub(super) batch: Vec<usize>,
}
