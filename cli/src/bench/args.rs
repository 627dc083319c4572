//! The flags of `bench`.

use crate::adapter::DeviceArgs;
use crate::values::{choice, one_of, seconds};
use clap::Args;
use std::path::PathBuf;
use wgpu_attention::{ElementType, Kernel};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention bench --plot speed.png
  wgpu-attention bench --shapes \"1,8,8,1024,1024,64;1,32,8,1,4096,128\" --dtypes f32,f16
  wgpu-attention bench --kernel three-stage --causal no --markdown
  wgpu-attention bench --csv > bench.csv")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Batch, heads of q, heads of k and v, queries, keys, head_dim; a set that suits the adapter
    /// if not given
    #[arg(long, value_name = "B,Hq,Hkv,Sq,Skv,D;...", value_parser = shapes, allow_hyphen_values = true)]
    pub(super) shapes: Option<Shapes>,
    /// Element types; those that the adapter does well if not given
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', value_parser = choice(ELEMENTS))]
    pub(super) dtypes: Vec<ElementType>,
    /// Whether a query sees only the keys up to its place, the last query standing beside the last
    /// key
    #[arg(long, value_parser = choice(CAUSAL), default_value = "both")]
    pub(super) causal: &'static [bool],
    /// `fwd` is the forward pass
    #[arg(
        long = "passes",
        value_parser = one_of(["fwd"]),
        value_name = "PASS,...",
        value_delimiter = ',',
        default_value = "fwd"
    )]
    _passes: Vec<&'static str>,
    /// A kernel that info lists, or `auto`
    #[arg(long, value_name = "NAME", value_parser = kernel, default_value = "auto", allow_hyphen_values = true)]
    pub(super) kernel: KernelChoice,
    /// Measure tiles first where a case takes forward or decode, and time the fastest
    #[arg(long)]
    pub(super) tune: bool,
    /// How long each case is repeated
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "1", allow_hyphen_values = true)]
    pub(super) seconds: f64,
    /// Print one JSON object a line
    #[arg(long, group = "form")]
    pub(super) json: bool,
    /// Print a table in Markdown
    #[arg(long, group = "form")]
    pub(super) markdown: bool,
    /// Print comma-separated values, the first line their names
    #[arg(long, group = "form")]
    pub(super) csv: bool,
    /// Draw TFLOP/s over the number of keys
    #[arg(long, value_name = "FILE.png|.svg")]
    pub(super) plot: Option<PathBuf>,
}

const ELEMENTS: [(&str, ElementType); 3] =
    [("f32", ElementType::F32), ("f16", ElementType::F16), ("bf16", ElementType::Bf16)];

/// Batch, heads of the queries, heads of the keys, queries, keys, head_dim.
pub(super) type Sizes = [usize; 6];

pub(super) type Shapes = Vec<Sizes>;

const CAUSAL: [(&str, &[bool]); 3] = [("no", &[false]), ("yes", &[true]), ("both", &[false, true])];

/// `None` leaves it to the planner. (clap reads a bare `Option` as an optional flag.)
type KernelChoice = Option<Kernel>;

fn shapes(text: &str) -> Result<Shapes, String> {
    let expected = || "expected B,Hq,Hkv,Sq,Skv,D;... of integers, at least 1".to_owned();
    let shape = |text: &str| {
        let sizes = text.split(',').map(|size| size.parse().ok().filter(|&size| size > 0));
        Sizes::try_from(sizes.collect::<Option<Vec<usize>>>()?).ok()
    };
    text.split(';').map(shape).collect::<Option<_>>().ok_or_else(expected)
}

fn kernel(text: &str) -> Result<KernelChoice, String> {
    if text == "auto" {
        return Ok(None);
    }
    let found = Kernel::ALL.into_iter().find(|kernel| kernel.name() == text);
    found.map(Some).ok_or_else(|| {
        let names: Vec<&str> = Kernel::ALL.iter().map(|kernel| kernel.name()).collect();
        format!("expected auto, {}", names.join(", "))
    })
}
