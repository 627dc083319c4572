//! `posenc`: a sinusoidal positional encoding.

use crate::adapter::Machine;
use crate::args::PosencArgs;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::tensors::{self, Named};
use wgpu_attention::{Layout, PositionalInputs, PositionalShape, TableRows, cpu, sinusoidal};

/// Makes the table, and writes it from the device.
pub(crate) fn posenc(args: &PosencArgs) -> Result<(), Failure> {
    let len = usize::try_from(args.seq).unwrap_or(usize::MAX);
    let table = sinusoidal(len, args.dim, args.base, args.offset)?;
    let file = OutputFile::create(&args.out)?;

    let shape = PositionalShape {
        x: None,
        out: Some(Layout::Bhsd),
        rows: TableRows::From { start: 0, rows: len },
        ..PositionalShape::new(1, len, args.dim)
    };
    let inputs = PositionalInputs::<f32> { x: None, table: &table, positions: None };
    #[expect(clippy::cast_possible_truncation, reason = "the table is f32")]
    let narrow = |exact: Vec<f64>| exact.into_iter().map(|x| x as f32).collect();
    let out: Vec<f32> = Machine::open(&args.device)?.compute(
        |gpu| gpu.positional_blocking(&shape, &inputs),
        || cpu::positional(&shape, &inputs).map(narrow),
    )?;
    file.write(&tensors::serialize(vec![Named::new("out", &[len, args.dim], &out)])?)
}
