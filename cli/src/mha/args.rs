//! The flags of `mha`.

use crate::adapter::DeviceArgs;
use crate::values::heads;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention mha in.safetensors --weights layer.safetensors --heads 8 --batch-first --out out.safetensors
  wgpu-attention mha in.safetensors --weights layer.safetensors --heads 8 --emit weights --per-head-weights --out out.safetensors")]
pub(crate) struct MhaArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Tensors query, key, value, and optionally attn_mask, key_padding_mask
    #[arg(value_name = "IN.safetensors")]
    pub(crate) input: PathBuf,
    /// The state_dict of an nn.MultiheadAttention
    #[arg(long, value_name = "W.safetensors")]
    pub(crate) weights: PathBuf,
    /// Number of heads
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    pub(crate) heads: usize,
    /// Where the outputs go
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) out: PathBuf,
    /// query, key, value and out are [B,S,E], not [S,B,E]
    #[arg(long)]
    pub(crate) batch_first: bool,
    /// One more key and value of zeros
    #[arg(long)]
    pub(crate) add_zero_attn: bool,
    /// More outputs
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    pub(crate) emit: Vec<LayerEmit>,
    /// Weights of each head, not their mean
    #[arg(long)]
    pub(crate) per_head_weights: bool,
}

/// An output of a layer besides `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum LayerEmit {
    Weights,
}
