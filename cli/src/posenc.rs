//! `posenc`: a sinusoidal positional encoding.

use crate::adapter::DeviceArgs;
use crate::failure::Failure;
use crate::job::{Job, require_memory};
use crate::values::{base, heads, place, position};
use clap::Args;
use safetensors::Dtype;
use std::path::PathBuf;
use std::time::Instant;
use wgpu_attention::layers::{PositionalInputs, PositionalShape, TableRows, sinusoidal};
use wgpu_attention::{Layout, cpu};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention posenc --seq 128 --dim 64 --out table.safetensors")]
pub(crate) struct PosencArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Where the output goes
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) out: PathBuf,
    /// Number of positions
    #[arg(long, value_name = "N", value_parser = place, allow_hyphen_values = true)]
    pub(crate) seq: usize,
    /// Columns of a position
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    pub(crate) dim: usize,
    /// The angles are position / base^(2i/dim)
    #[arg(long, value_name = "F", value_parser = base, default_value = "10000", allow_hyphen_values = true)]
    pub(crate) base: f64,
    /// The first position
    #[arg(long, value_name = "N", value_parser = position, default_value = "0", allow_hyphen_values = true)]
    pub(crate) offset: u64,
}

/// Makes the table, and writes it from the device.
pub(crate) fn posenc(args: &PosencArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let sizes = [args.seq, args.dim];
    require_memory::<f32>(&[&sizes[..]; 2])?;
    let table = sinusoidal(args.seq, args.dim, args.base, args.offset)?;
    let shape = PositionalShape {
        x: None,
        out: Some(Layout::Bhsd),
        rows: TableRows::From { start: 0, rows: args.seq },
        ..PositionalShape::new(1, args.seq, args.dim)
    };
    let inputs = PositionalInputs::<f32> { x: None, table: &table, positions: None };

    let job = Job::open("posenc", start, &args.out, &args.device)?;
    let outputs = job.layer(
        |gpu| Ok((gpu.positional_blocking(&shape, &inputs)?, None)),
        || Ok((cpu::positional(&shape, &inputs)?, None)),
        Dtype::F32,
        [&sizes, &[]],
    )?;

    job.finish(&[], &outputs, &[], |_| Some("positional"))
}
