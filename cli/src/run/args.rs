//! The flags of `run`.

use crate::adapter::DeviceArgs;
use crate::values::{choice, heads, one_of};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use wgpu_attention::Align;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention run in.safetensors --causal --emit lse,weights --out out.safetensors
  wgpu-attention run in.safetensors --layout packed --heads 8 --kv-heads 2 --out out.safetensors
  wgpu-attention run step.safetensors --causal --emit present_k,present_v --out step-out.safetensors
  wgpu-attention run in.safetensors --device cpu --softcap 30 --window-left 255 --out out.safetensors")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Tensors q, k, v, and optionally mask, bias, alibi_slopes, sinks, seg_q, seg_k, kv_len,
    /// past_k, past_v
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
    #[arg(long, value_parser = choice(ALIGNS), default_value = "auto")]
    pub(crate) align: AlignChoice,
    /// F*tanh(score/F); 0 = off
    #[arg(long, value_name = "F", value_parser = softcap, allow_hyphen_values = true)]
    pub(crate) softcap: Option<f32>,
    /// Hide the keys that a mask or bias is too short for
    #[arg(long)]
    pub(crate) pad_mask: bool,
    /// More outputs
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = one_of(EMITS))]
    pub(crate) emit: Vec<&'static str>,
    /// Rotate q and the new k first, by tensors cos and sin, at positions from the length of past_k
    /// on; with `--layout thd` from 0 on in each sequence
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutChoice {
    #[default]
    Bhsd,
    Bshd,
    Packed,
    Thd,
}

/// `auto` is none. (clap reads a bare `Option` as an optional flag.)
type AlignChoice = Option<Align>;
const ALIGNS: [(&str, AlignChoice); 3] = [
    ("auto", None),
    ("top-left", Some(Align::TopLeft)),
    ("bottom-right", Some(Align::BottomRight)),
];

/// Outputs besides `out`.
const EMITS: [&str; 7] =
    ["lse", "weights", "qk", "qk_softcap", "qk_bias", "present_k", "present_v"];

/// One side of a window; `None` is open.
type Window = Option<usize>;

/// Any finite number; one that f32 cannot hold becomes the nearest that it can.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
fn finite(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    let number = number.ok_or("expected a finite number")?;
    Ok(number.clamp(f32::MIN.into(), f32::MAX.into()) as f32)
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
        Ok(-1) => Ok(None),
        // No sequence is longer than what usize counts, so a wider window is no different.
        Ok(keys @ 0..) => Ok(Some(usize::try_from(keys).unwrap_or(usize::MAX))),
        _ => Err("expected an integer, at least -1 (= open)".to_owned()),
    }
}
