//! The command line: subcommands, flags, and one-line refusals.

use crate::additive::AdditiveArgs;
use crate::bench::BenchArgs;
use crate::check::CheckArgs;
use crate::failure::Failure;
use crate::mha::MhaArgs;
use crate::posenc::PosencArgs;
use crate::rope::RopeArgs;
use crate::selfattn::SelfAttnArgs;
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "wgpu-attention", version, about = "FlashAttention-class attention on any GPU")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A small self-attention on this machine: result, timing, and pictures of the weights (default)
    Demo(DemoArgs),
    /// Adapters, features and limits
    Info(InfoArgs),
    /// Every kernel on this adapter against the CPU reference
    Check(CheckArgs),
    /// Times on this adapter, against what it can do at most
    Bench(BenchArgs),
    /// Attention on the tensors of a safetensors file
    Run(RunArgs),
    /// A multi-head layer with the parameters of an nn.MultiheadAttention
    Mha(MhaArgs),
    /// The self-attention module of many tutorials, with its parameters
    Selfattn(SelfAttnArgs),
    /// Heatmaps of attention weights
    Plot(PlotArgs),
    /// Rotary positional encoding of the tensors of a safetensors file
    Rope(RopeArgs),
    /// A sinusoidal positional encoding
    Posenc(PosencArgs),
    /// Additive attention on the tensors of a safetensors file
    Additive(AdditiveArgs),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Where to compute.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeviceArgs {
    /// `auto`: a GPU or software adapter if there is one, else the CPU reference
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: DeviceChoice,
    /// Only adapters of this backend
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendChoice>,
    /// Only adapters with this in their name
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) adapter: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    #[default]
    Auto,
    Gpu,
    Cpu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Where the picture of the weights goes
    #[arg(long, value_name = "FILE.png", default_value = "attention.png")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Tensors q, k, v, and optionally mask, bias, alibi_slopes, sinks, seg_q, seg_k, kv_len, past_k, past_v
    #[arg(value_name = "IN.safetensors")]
    pub(crate) input: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) out: PathBuf,
    /// Order of the sizes of q, k, v and out
    #[arg(long, value_enum, default_value_t)]
    pub(crate) layout: LayoutChoice,
    /// Heads of q, for the packed layout
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    pub(crate) heads: Option<usize>,
    /// Heads of k and v, for the packed layout; as many as q has if not given
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    pub(crate) kv_heads: Option<usize>,
    /// Factor of the scores; 1/sqrt(D) if not given
    #[arg(long, value_name = "F", value_parser = finite, allow_hyphen_values = true)]
    pub(crate) scale: Option<f32>,
    /// Each query sees only the keys up to its own place
    #[arg(long)]
    pub(crate) causal: bool,
    /// How many keys before its place a query sees; -1 = all
    #[arg(long, value_name = "N", value_parser = window, allow_hyphen_values = true)]
    pub(crate) window_left: Option<Window>,
    /// How many keys after its place a query sees; -1 = all
    #[arg(long, value_name = "N", value_parser = window, allow_hyphen_values = true)]
    pub(crate) window_right: Option<Window>,
    /// Which key stands beside which query
    #[arg(long, value_enum, default_value_t)]
    pub(crate) align: AlignChoice,
    /// F*tanh(score/F); 0 = off
    #[arg(long, value_name = "F", value_parser = softcap, allow_hyphen_values = true)]
    pub(crate) softcap: Option<f32>,
    /// Hide the keys that a mask or bias is too short for
    #[arg(long)]
    pub(crate) pad_mask: bool,
    /// More outputs
    #[arg(long, value_enum, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) emit: Vec<Emit>,
    /// Rotate q and the new k first, by tensors cos and sin, at positions from the length of past_k on; with `--layout thd`
    /// from 0 on in each sequence
    #[arg(long, value_enum, value_name = "PAIRS")]
    pub(crate) rope: Option<RopeChoice>,
}

/// Which columns are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RopeChoice {
    /// i and i + R/2
    Half,
    /// 2i and 2i + 1
    Interleaved,
}

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    // Taken as everywhere, though nothing is computed.
    #[command(flatten)]
    pub(crate) _device: DeviceArgs,
    /// Tensor weights, [batch, heads, queries, keys] or less
    #[arg(value_name = "WEIGHTS.safetensors")]
    pub(crate) input: PathBuf,
    /// Where the picture goes
    #[arg(long, value_name = "FILE.png|.svg")]
    pub(crate) out: PathBuf,
    /// Labels of the queries, and of the keys if they are as many, separated by spaces
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) tokens: Option<String>,
    /// Labels of the keys
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) key_tokens: Option<String>,
    /// Only these heads
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = place, allow_hyphen_values = true)]
    pub(crate) head: Vec<usize>,
    /// Only these sequences of the batch
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = place, allow_hyphen_values = true)]
    pub(crate) batch: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutChoice {
    #[default]
    Bhsd,
    Bshd,
    Packed,
    Thd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlignChoice {
    #[default]
    Auto,
    TopLeft,
    BottomRight,
}

/// An output besides `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Emit {
    Lse,
    Weights,
    Qk,
    QkSoftcap,
    QkBias,
    PresentK,
    PresentV,
    Dq,
    Dk,
    Dv,
    Dbias,
}

impl Emit {
    /// Its name on the command line and in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lse => "lse",
            Self::Weights => "weights",
            Self::Qk => "qk",
            Self::QkSoftcap => "qk_softcap",
            Self::QkBias => "qk_bias",
            Self::PresentK => "present_k",
            Self::PresentV => "present_v",
            Self::Dq => "dq",
            Self::Dk => "dk",
            Self::Dv => "dv",
            Self::Dbias => "dbias",
        }
    }
}

/// One side of a window; `None` is open. (A bare `Option` would read to clap as an optional flag.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window(pub(crate) Option<usize>);

/// Any finite number; one that f32 cannot hold becomes the nearest that it can.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => {
            Ok(number.clamp(f32::MIN.into(), f32::MAX.into()) as f32)
        }
        _ => Err("expected a finite number".to_owned()),
    }
}

fn softcap(text: &str) -> Result<f32, String> {
    match finite(text) {
        // A cap too small for f32 is still a cap: it must not turn into 0, which means none.
        Ok(0.0) if text.parse() != Ok(0.0_f64) => Ok(f32::MIN_POSITIVE),
        Ok(number) if number >= 0.0 => Ok(number),
        _ => Err("expected a finite number, at least 0".to_owned()),
    }
}

fn window(text: &str) -> Result<Window, String> {
    match text.parse::<i128>() {
        Ok(-1) => Ok(Window(None)),
        // No sequence is longer than what usize counts, so a wider window is no different.
        Ok(keys @ 0..) => Ok(Window(Some(usize::try_from(keys).unwrap_or(usize::MAX)))),
        _ => Err("expected an integer, at least -1 (= open)".to_owned()),
    }
}

pub(crate) fn heads(text: &str) -> Result<usize, String> {
    match text.parse::<u128>() {
        // More than usize counts are too many for any tensor.
        Ok(heads @ 1..) => Ok(usize::try_from(heads).unwrap_or(usize::MAX)),
        _ => Err("expected an integer, at least 1".to_owned()),
    }
}

/// More than usize counts is too many for any tensor.
pub(crate) fn place(text: &str) -> Result<usize, String> {
    position(text).map(|place| usize::try_from(place).unwrap_or(usize::MAX))
}

/// Positions beyond u64 are nobody's.
pub(crate) fn position(text: &str) -> Result<u64, String> {
    match text.parse::<u128>() {
        Ok(position) => Ok(u64::try_from(position).unwrap_or(u64::MAX)),
        _ => Err("expected an integer, at least 0".to_owned()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // A day is more than anyone waits, and what a clock counts.
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("expected a number above 0, at most 86400".to_owned()),
    }
}

pub(crate) fn base(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(base) if base.is_finite() && base > 0.0 => Ok(base),
        _ => Err("expected a finite number above 0".to_owned()),
    }
}

/// Reads a process's arguments, the first of which is its name.
pub(crate) fn parse(words: &[OsString]) -> Result<Command, Failure> {
    match Arguments::try_parse_from(words) {
        Ok(Arguments { command: Some(command) }) => Ok(command),
        Ok(Arguments { command: None }) => Ok(Command::Demo(DemoArgs {
            device: DeviceArgs::default(),
            out: "attention.png".into(),
        })),
        Err(error) => Err(refusal(&error, words)),
    }
}

/// clap's refusal in one line, or its answer on stdout.
fn refusal(error: &clap::Error, words: &[OsString]) -> Failure {
    let found = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match write!(std::io::stdout(), "{}", error.render()) {
                Ok(()) => Failure::Answered,
                Err(error) => error.into(),
            }
        }
        ErrorKind::UnknownArgument => {
            Failure::input("argument", "one that --help lists", found(ContextKind::InvalidArg))
        }
        ErrorKind::InvalidSubcommand => no_subcommand(&found(ContextKind::InvalidSubcommand)),
        // clap does not say which argument, and for paths any bytes will do.
        ErrorKind::InvalidUtf8 => {
            let found: Vec<String> = words
                .iter()
                .filter(|argument| argument.to_str().is_none())
                .map(|argument| format!("\"{}\"", argument.display()))
                .collect();
            Failure::input("arguments", "UTF-8 in all that are no paths", found.join(", "))
        }
        // What stands before the first blank line: after it come usage and tips.
        _ => {
            let text = error.render().to_string();
            let what = text.split("\n\n").next().unwrap_or_default();
            Failure::Input(what.trim_start_matches("error: ").to_owned())
        }
    }
}

/// What to say to a subcommand that is not there.
pub(crate) fn other(words: &[OsString]) -> Failure {
    no_subcommand(&words.first().map(|word| word.to_string_lossy()).unwrap_or_default())
}

fn no_subcommand(name: &str) -> Failure {
    let expected = "demo, info, check, bench, run, mha, selfattn, plot, rope, posenc or additive";
    Failure::input("subcommand", expected, format_args!("\"{name}\""))
}
