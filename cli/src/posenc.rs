//! `posenc`: a sinusoidal positional encoding.

use crate::adapter::DeviceArgs;
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::run::require_memory;
use crate::summary::Summary;
use crate::tensors::{self, Named};
use crate::values::{base, heads, place, position};
use clap::Args;
use std::path::PathBuf;
use wgpu_attention::{Layout, PositionalInputs, PositionalShape, TableRows, cpu, sinusoidal};

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
    let summary = Summary::start("posenc");
    let len = args.seq;
    require_memory::<f32>([&vec![len, args.dim]; 2].into_iter())?;
    let table = sinusoidal(len, args.dim, args.base, args.offset)?;
    let file = OutputFile::create(&args.out)?;

    let shape = PositionalShape {
        x: None,
        out: Some(Layout::Bhsd),
        rows: TableRows::From { start: 0, rows: len },
        ..PositionalShape::new(1, len, args.dim)
    };
    let inputs = PositionalInputs::<f32> { x: None, table: &table, positions: None };
    let machine = Machine::open(&args.device)?;
    let out: Vec<f32> = machine.compute(
        |gpu| gpu.positional_blocking(&shape, &inputs),
        || cpu::positional(&shape, &inputs).map(tensors::rounded),
    )?;
    let sizes = [len, args.dim];
    file.write(&tensors::serialize(vec![Named::new("out", &sizes, &out)])?)?;
    summary.say(&machine, &[("out", &sizes)], |_| Some("positional"));
    Ok(())
}
