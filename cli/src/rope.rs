//! `rope`: rotary positional encoding on the tensors of a safetensors file.

use crate::adapter::DeviceArgs;
use crate::failure::Failure;
use crate::job::Job;
use crate::output::Output;
use crate::tensors::{FLOATS, INTEGERS, Tensor, Tensors, with_element};
use crate::values::{base, heads, position};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;
use wgpu_attention::layers::{RotaryInputs, RotaryPairs, RotaryShape, RotaryTable, TableRows};
use wgpu_attention::{Element, Layout};

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
    let start = Instant::now();
    let tensors = Tensors::read(&args.input)?;
    let x = tensors.require("x")?;
    x.require_dtype(&FLOATS)?;
    with_element!(x.dtype, rotate(args, &tensors, x, start))
}

/// With x and out as `T`.
fn rotate<T: Element>(
    args: &RopeArgs,
    tensors: &Tensors,
    x: Tensor<'_>,
    start: Instant,
) -> Result<(), Failure> {
    let shape = shape(args, x)?;
    let Angles { table, rows, positions } = Angles::new(args, tensors, &shape)?;
    let shape = RotaryShape { element: T::TYPE, rows, ..shape };
    let inputs = RotaryInputs {
        x: &x.floats::<T>()?,
        cos: &table.cos,
        sin: &table.sin,
        positions: positions.as_deref(),
    };
    let job = Job::open("rope", start, &args.out, &args.device)?;
    let out = job.machine.rotary(&shape, &inputs)?;
    job.finish(&[x], &[Output::new("out", x.sizes, &out)], &[], |_| Some("rotary"))
}

/// The shape of x, and which columns are rotated.
fn shape(args: &RopeArgs, x: Tensor<'_>) -> Result<RotaryShape, Failure> {
    let (batch, heads, len, dim, layout) = match (x.sizes, args.heads) {
        (&[_, heads, _, _], Some(given)) if given != heads => {
            return Err(Failure::input("--heads", format_args!("the {heads} heads of x"), given));
        }
        (&[batch, heads, len, dim], _) => (batch, heads, len, dim, Layout::Bhsd),
        (&[batch, len, width], Some(heads)) if width.is_multiple_of(heads) => {
            (batch, heads, len, width / heads, Layout::Bshd)
        }
        ([_, _, _], Some(heads)) => {
            return Err(x.refuse(format_args!("[batch, len, {heads} heads * dim]")));
        }
        ([_, _, _], None) => {
            let expected = "the heads of x [batch, len, heads * dim]";
            return Err(Failure::input("--heads", expected, "none"));
        }
        _ => return Err(x.refuse("[batch, heads, len, dim], or [batch, len, heads * dim]")),
    };
    if heads == 0 || dim == 0 {
        return Err(x.refuse("at least 1 head and 1 element per vector"));
    }
    let rotary_dim = args.rotary_dim.unwrap_or(dim);
    if rotary_dim > dim || rotary_dim % 2 == 1 {
        let expected = format_args!("an even number, at most the {dim} elements of a vector");
        return Err(Failure::input("--rotary-dim", expected, rotary_dim));
    }
    Ok(RotaryShape {
        rotary_dim,
        pairs: if args.interleaved { RotaryPairs::Interleaved } else { RotaryPairs::Half },
        x: layout,
        out: Some(layout),
        ..RotaryShape::new(batch, heads, len, dim)
    })
}

/// The angles of a call: made from `--base`, or those of the file.
struct Angles {
    table: RotaryTable,
    rows: TableRows,
    positions: Option<Vec<u32>>,
}

impl Angles {
    fn new(args: &RopeArgs, tensors: &Tensors, shape: &RotaryShape) -> Result<Self, Failure> {
        let RotaryShape { batch, len, rotary_dim, .. } = *shape;
        let ids = tensors.find("position_ids", &INTEGERS, &[&[batch, len]])?;
        let positions = ids.map(|ids| ids.integers::<u64>("0 or more", |_| true)).transpose()?;
        let Some([cos, sin]) = tensors.pair(["cos", "sin"])? else {
            let from_offset = (0..len as u64).map(|i| args.offset.saturating_add(i));
            let (table, rows) = match positions {
                Some(ids) => (RotaryTable::new(rotary_dim, args.base, ids), TableRows::PerToken),
                None => {
                    let rows = TableRows::From { start: 0, rows: len };
                    (RotaryTable::new(rotary_dim, args.base, from_offset), rows)
                }
            };
            return Ok(Self { table: table?, rows, positions: None });
        };
        let width = rotary_dim / 2;
        let rows = match (cos.sizes, ids) {
            (&[rows, found], Some(_)) if found == width => TableRows::Named { rows },
            (&[rows, found], None) if found == width => TableRows::From { start: 0, rows },
            (found, None) if found == [batch, len, width] => TableRows::PerToken,
            (_, Some(_)) => return Err(cos.refuse(format_args!("[positions, {width}]"))),
            (_, None) => {
                let expected = format_args!("[positions, {width}] or [{batch}, {len}, {width}]");
                return Err(cos.refuse(expected));
            }
        };
        let table = table(cos, sin)?;
        let positions = match (ids, rows) {
            (Some(ids), TableRows::Named { rows }) => {
                let expected = format!("less than the {rows} rows of cos and sin");
                Some(ids.integers(&expected, |&row: &u32| (row as usize) < rows)?)
            }
            (None, TableRows::From { rows, .. }) if rows < len => {
                let expected = format_args!("at least {len} rows, one for each position");
                return Err(Failure::input("cos", expected, rows));
            }
            _ => None,
        };
        Ok(Self { table, rows, positions })
    }
}

/// Cosines and sines of a file, of equal sizes.
pub(crate) fn table(cos: Tensor<'_>, sin: Tensor<'_>) -> Result<RotaryTable, Failure> {
    if cos.sizes != sin.sizes {
        return Err(sin.refuse(format_args!("{:?} as cos", cos.sizes)));
    }
    cos.require_dtype(&FLOATS)?;
    sin.require_dtype(&FLOATS)?;
    Ok(RotaryTable { cos: cos.floats()?, sin: sin.floats()? })
}
