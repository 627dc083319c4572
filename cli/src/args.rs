//! The command line: subcommands, flags, and one-line refusals.

use crate::failure::Failure;
use crate::terminal::Paint;
use crate::{additive, bench, check, demo, info, mha, plot, posenc, rope, run, selfattn, shell};
use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

#[derive(Debug, Parser)]
#[command(
    name = "wgpu-attention",
    version,
    about = "FlashAttention-class attention on any GPU",
    styles = STYLES,
    after_help = "\
Examples:
  wgpu-attention                                            a picture of three heads, and a timing
  wgpu-attention check --quick                              is every kernel right on this adapter?
  wgpu-attention run in.safetensors --out out.safetensors   attention on tensors q, k, v
  wgpu-attention help run                                   the flags of a subcommand, with examples"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A small self-attention on this machine: result, timing, and pictures of the weights
    /// (default)
    Demo(demo::DemoArgs),
    /// Adapters, features and limits
    Info(info::InfoArgs),
    /// Every kernel on this adapter against the CPU reference
    Check(check::CheckArgs),
    /// Times on this adapter, against what it can do at most
    Bench(bench::BenchArgs),
    /// Attention on the tensors of a safetensors file
    Run(run::RunArgs),
    /// A multi-head layer with the parameters of an nn.MultiheadAttention
    Mha(mha::MhaArgs),
    /// The self-attention module of many tutorials, with its parameters
    Selfattn(selfattn::SelfAttnArgs),
    /// Heatmaps of attention weights
    Plot(plot::PlotArgs),
    /// Rotary positional encoding of the tensors of a safetensors file
    Rope(rope::RopeArgs),
    /// A sinusoidal positional encoding
    Posenc(posenc::PosencArgs),
    /// Additive attention on the tensors of a safetensors file
    Additive(additive::AdditiveArgs),
    /// A shell's completions of this command line, on stdout
    Completions(shell::CompletionsArgs),
    /// The manual page of the tool or of a subcommand, on stdout
    Man(shell::ManArgs),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The whole command line, for what is made from it.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Reads a process's arguments, the first of which is its name.
pub(crate) fn parse(words: &[OsString], out: &mut dyn Write) -> Result<Command, Failure> {
    match Arguments::try_parse_from(words) {
        Ok(Arguments { command: Some(command) }) => Ok(command),
        Ok(Arguments { command: None }) => parse(&["wgpu-attention", "demo"].map(Into::into), out),
        Err(error) => Err(refusal(&error, words, out)),
    }
}

/// clap's refusal in one line, or its answer on stdout.
fn refusal(error: &clap::Error, words: &[OsString], out: &mut dyn Write) -> Failure {
    let found = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let written = match Paint::stdout().is_on() {
                true => write!(out, "{}", text.ansi()),
                false => write!(out, "{text}"),
            };
            match written {
                Ok(()) => Failure::Answered,
                Err(error) => error.into(),
            }
        }
        ErrorKind::UnknownArgument => {
            Failure::input("argument", "one that --help lists", found(ContextKind::InvalidArg))
        }
        ErrorKind::InvalidSubcommand => {
            Failure::no_subcommand(&found(ContextKind::InvalidSubcommand))
        }
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
    Failure::no_subcommand(&words.first().map(|word| word.to_string_lossy()).unwrap_or_default())
}
