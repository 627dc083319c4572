//! The flags of `bench`.

use crate::adapter::DeviceArgs;
use crate::values::seconds;
use clap::{Args, ValueEnum};
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
    /// Batch, heads of q, heads of k and v, queries, keys, head_dim; a set that suits the adapter if not given
    #[arg(long, value_name = "B,Hq,Hkv,Sq,Skv,D;...", value_parser = shapes, allow_hyphen_values = true)]
    pub(super) shapes: Option<Shapes>,
    /// Element types; those that the adapter does well if not given
    #[arg(long, value_enum, value_name = "TYPE,...", value_delimiter = ',')]
    pub(super) dtypes: Vec<DtypeChoice>,
    /// Whether a query sees only the keys up to its place, the last query standing beside the last key
    #[arg(long, value_enum, default_value_t)]
    pub(super) causal: CausalChoice,
    /// `fwd` is the forward pass
    #[arg(
        long = "passes",
        value_enum,
        value_name = "PASS,...",
        value_delimiter = ',',
        default_value = "fwd"
    )]
    _passes: Vec<PassChoice>,
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

/// Batch, heads of the queries, heads of the keys, queries, keys, head_dim.
pub(super) type Sizes = [usize; 6];

#[derive(Clone, Debug)]
pub(super) struct Shapes(pub(super) Vec<Sizes>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DtypeChoice {
    F32,
    F16,
    Bf16,
}

impl DtypeChoice {
    pub(super) fn element(self) -> ElementType {
        match self {
            Self::F32 => ElementType::F32,
            Self::F16 => ElementType::F16,
            Self::Bf16 => ElementType::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CausalChoice {
    No,
    Yes,
    #[default]
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PassChoice {
    Fwd,
}

/// A kernel; `None` leaves it to the planner. (A bare `Option` would read to clap as an optional flag.)
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelChoice(pub(super) Option<Kernel>);

fn shapes(text: &str) -> Result<Shapes, String> {
    let expected = || "expected B,Hq,Hkv,Sq,Skv,D;... of integers, at least 1".to_owned();
    let shape = |text: &str| {
        let sizes: Vec<usize> = text
            .split(',')
            .map(|size| match size.parse() {
                Ok(size @ 1..) => Ok(size),
                _ => Err(expected()),
            })
            .collect::<Result<_, _>>()?;
        Sizes::try_from(sizes).map_err(|_| expected())
    };
    text.split(';').map(shape).collect::<Result<_, _>>().map(Shapes)
}

fn kernel(text: &str) -> Result<KernelChoice, String> {
    if text == "auto" {
        return Ok(KernelChoice(None));
    }
    let found = Kernel::ALL.into_iter().find(|kernel| kernel.name() == text);
    found.map(|kernel| KernelChoice(Some(kernel))).ok_or_else(|| {
        let names: Vec<&str> = Kernel::ALL.iter().map(|kernel| kernel.name()).collect();
        format!("expected auto, {}", names.join(", "))
    })
}
