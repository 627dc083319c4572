//! `rope`: rotary positional encoding on the tensors of a safetensors file.

use crate::adapter::DeviceArgs;
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::summary::Summary;
use crate::tensors::{self, Named, Tensor, Tensors};
use crate::values::{base, heads, position};
use clap::Args;
use half::{bf16, f16};
use safetensors::Dtype;
use std::path::PathBuf;
use wgpu_attention::{
    Element, Layout, RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention rope in.safetensors --out out.safetensors
  wgpu-attention rope in.safetensors --heads 8 --rotary-dim 32 --interleaved --offset 100 --out out.safetensors")]
pub(crate) struct RopeArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Tensors x, and optionally cos, sin, position_ids
    #[arg(value_name = "IN.safetensors")]
    pub(crate) input: PathBuf,
    /// Where the output goes
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) out: PathBuf,
    /// Heads of an x [B,S,H*D]
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    pub(crate) heads: Option<usize>,
    /// Columns that are rotated; all if not given
    #[arg(long, value_name = "R", value_parser = rotary_dim, allow_hyphen_values = true)]
    pub(crate) rotary_dim: Option<usize>,
    /// Pairs are columns 2i and 2i + 1, not i and i + R/2
    #[arg(long)]
    pub(crate) interleaved: bool,
    /// Without cos and sin: the angles are position / base^(2i/R)
    #[arg(long, value_name = "F", value_parser = base, default_value = "10000", allow_hyphen_values = true)]
    pub(crate) base: f64,
    /// Without cos, sin and position_ids: position of the first token
    #[arg(long, value_name = "N", value_parser = position, default_value = "0", allow_hyphen_values = true)]
    pub(crate) offset: u64,
}

/// More than usize counts are too many for any tensor.
fn rotary_dim(text: &str) -> Result<usize, String> {
    match text.parse::<u128>() {
        Ok(columns @ 2..) if columns % 2 == 0 => {
            Ok(usize::try_from(columns).unwrap_or(usize::MAX - 1))
        }
        _ => Err("expected an even integer, at least 2".to_owned()),
    }
}

/// Reads, checks everything, rotates, and writes.
pub(crate) fn rope(args: &RopeArgs) -> Result<(), Failure> {
    let summary = Summary::start("rope");
    let bytes = tensors::read(&args.input)?;
    let tensors = Tensors::parse(&args.input, &bytes)?;
    let x = tensors.require("x")?;
    x.require_dtype(&tensors::FLOATS)?;
    match x.dtype {
        Dtype::F16 => rotate::<f16>(args, &tensors, &x, summary),
        Dtype::BF16 => rotate::<bf16>(args, &tensors, &x, summary),
        _ => rotate::<f32>(args, &tensors, &x, summary),
    }
}

/// With x and out as `T`.
fn rotate<T: Element>(
    args: &RopeArgs,
    tensors: &Tensors<'_>,
    x: &Tensor<'_>,
    summary: Summary,
) -> Result<(), Failure> {
    let mut shape = RotaryShape { element: T::TYPE, ..sizes(args, x)? };
    let angles = angles(args, tensors, &shape)?;
    shape.rows = angles.rows;
    let x_elements: Vec<T> = x.floats()?;
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    let inputs = RotaryInputs {
        x: &x_elements,
        cos: &angles.table.cos,
        sin: &angles.table.sin,
        positions: angles.positions.as_deref(),
    };
    let out = machine.rotary(&shape, &inputs)?;
    file.write(&tensors::serialize(vec![Named::new("out", &x.sizes, &out)])?)?;
    summary.say(&machine, &[("x", &x.sizes), ("out", &x.sizes)], |_| Some("rotary"));
    Ok(())
}

/// The shape of x, and which columns are rotated.
fn sizes(args: &RopeArgs, x: &Tensor<'_>) -> Result<RotaryShape, Failure> {
    let refuse =
        |expected: String| Err(Failure::input("x", expected, format_args!("{:?}", x.sizes)));
    let (batch, heads, len, dim, layout) = match (x.sizes.as_slice(), args.heads) {
        (&[batch, heads, len, dim], None) => (batch, heads, len, dim, Layout::Bhsd),
        (&[batch, heads, len, dim], Some(given)) if given == heads => {
            (batch, heads, len, dim, Layout::Bhsd)
        }
        (&[_, heads, _, _], Some(given)) => {
            let found = format_args!("{given}");
            return Err(Failure::input("--heads", format_args!("the {heads} heads of x"), found));
        }
        (&[batch, len, width], Some(heads)) if width.is_multiple_of(heads) => {
            (batch, heads, len, width / heads, Layout::Bshd)
        }
        (&[_, _, _], Some(heads)) => return refuse(format!("[batch, len, {heads} heads * dim]")),
        (&[_, _, _], None) => {
            return Err(Failure::input(
                "--heads",
                "the heads of x [batch, len, heads * dim]",
                "none",
            ));
        }
        _ => return refuse("[batch, heads, len, dim], or [batch, len, heads * dim]".to_owned()),
    };
    if heads == 0 || dim == 0 {
        return refuse("at least 1 head and 1 element per vector".to_owned());
    }
    let rotary_dim = args.rotary_dim.unwrap_or(dim);
    if rotary_dim > dim || rotary_dim % 2 == 1 {
        let expected = format!("an even number, at most the {dim} elements of a vector");
        return Err(Failure::input("--rotary-dim", expected, rotary_dim));
    }
    let pairs = if args.interleaved { RotaryPairs::Interleaved } else { RotaryPairs::Half };
    Ok(RotaryShape {
        rotary_dim,
        pairs,
        x: layout,
        out: Some(layout),
        ..RotaryShape::new(batch, heads, len, dim)
    })
}

/// The angles of a call.
struct Angles {
    table: RotaryTable,
    rows: TableRows,
    positions: Option<Vec<u32>>,
}

fn angles(args: &RopeArgs, tensors: &Tensors<'_>, shape: &RotaryShape) -> Result<Angles, Failure> {
    let RotaryShape { batch, len, rotary_dim, .. } = *shape;
    let ids = tensors.get("position_ids").map(|ids| positions(&ids, batch, len)).transpose()?;
    let Some([cos, sin]) = tensors.pair(["cos", "sin"])? else {
        let offset = args.offset;
        return Ok(match ids {
            Some(ids) => Angles {
                table: RotaryTable::new(rotary_dim, args.base, ids)?,
                rows: TableRows::PerToken,
                positions: None,
            },
            None => Angles {
                table: RotaryTable::new(
                    rotary_dim,
                    args.base,
                    (0..len as u64).map(|i| offset.saturating_add(i)),
                )?,
                rows: TableRows::From { start: 0, rows: len },
                positions: None,
            },
        });
    };
    let width = rotary_dim / 2;
    let rows = match cos.sizes.as_slice() {
        &[rows, found] if found == width => match ids {
            Some(_) => TableRows::Named { rows },
            None => TableRows::From { start: 0, rows },
        },
        found if found == [batch, len, width] && ids.is_none() => TableRows::PerToken,
        found => {
            let per_token = match ids {
                Some(_) => String::new(),
                None => format!(" or [{batch}, {len}, {width}]"),
            };
            let expected = format!("[positions, {width}]{per_token}");
            return Err(Failure::input("cos", expected, format_args!("{found:?}")));
        }
    };
    let table = table(&cos, &sin)?;
    let positions = match (ids, rows) {
        (Some(ids), TableRows::Named { rows }) => Some(within(&ids, rows)?),
        (None, TableRows::From { rows, .. }) if rows < len => {
            let expected = format!("at least {len} rows, one for each position");
            return Err(Failure::input("cos", expected, rows));
        }
        _ => None,
    };
    Ok(Angles { table, rows, positions })
}

/// Cosines and sines of a file, of equal sizes.
pub(crate) fn table(cos: &Tensor<'_>, sin: &Tensor<'_>) -> Result<RotaryTable, Failure> {
    if cos.sizes != sin.sizes {
        let expected = format!("{:?} as cos", cos.sizes);
        return Err(Failure::input("sin", expected, format_args!("{:?}", sin.sizes)));
    }
    cos.require_dtype(&tensors::FLOATS)?;
    sin.require_dtype(&tensors::FLOATS)?;
    Ok(RotaryTable { cos: cos.floats()?, sin: sin.floats()? })
}

/// The positions that a file names for each token.
fn positions(ids: &Tensor<'_>, batch: usize, len: usize) -> Result<Vec<u64>, Failure> {
    let found = ids.integers()?;
    if ids.sizes != [batch, len] {
        let expected = format!("[{batch}, {len}]");
        return Err(Failure::input(ids.name, expected, format_args!("{:?}", ids.sizes)));
    }
    let position = |&position: &i64| {
        u64::try_from(position).map_err(|_| Failure::input(ids.name, "0 or more", position))
    };
    found.iter().map(position).collect()
}

/// The same as rows of a table.
fn within(positions: &[u64], rows: usize) -> Result<Vec<u32>, Failure> {
    let row = |&position: &u64| match u32::try_from(position) {
        Ok(row) if position < rows as u64 => Ok(row),
        _ => {
            let expected = format!("less than the {rows} rows of cos and sin");
            Err(Failure::input("position_ids", expected, position))
        }
    };
    positions.iter().map(row).collect()
}
