//! The tool `wgpu-attention`, as a library only for its own tests.

mod adapter;
mod additive;
mod args;
mod bench;
mod check;
mod demo;
mod failure;
mod info;
mod job;
mod mha;
mod output;
mod picture;
mod plot;
mod posenc;
mod rope;
mod run;
mod selfattn;
mod shell;
mod stderr;
mod tensors;
mod terminal;
mod values;

pub use failure::Failure;

use args::Command;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use wgpu_attention::Gpu;

/// The process: its arguments, its output, its exit code.
#[must_use]
pub fn main() -> ExitCode {
    stderr::silence();
    let words: Vec<OsString> = std::env::args_os().collect();
    match run(&words, None, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                stderr::say(message);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs a command line, whose first word is the tool's name, and writes to `out` what stands on
/// stdout; `check` and `bench` on `gpu` if there is one.
///
/// # Errors
/// What ends the process with another exit code than 0.
pub fn run(words: &[OsString], gpu: Option<&Gpu>, out: &mut dyn Write) -> Result<(), Failure> {
    match args::parse(words, out)? {
        Command::Demo(args) => demo::demo(&args, out),
        Command::Info(args) => info::info(&args, out),
        Command::Check(args) => check::check(&args, gpu, out),
        Command::Bench(args) => bench::bench(&args, gpu, out),
        Command::Run(args) => run::run(&args),
        Command::Mha(args) => mha::mha(&args),
        Command::Selfattn(args) => selfattn::selfattn(&args),
        Command::Plot(args) => plot::plot(&args, out),
        Command::Additive(args) => additive::additive(&args),
        Command::Rope(args) => rope::rope(&args),
        Command::Posenc(args) => posenc::posenc(&args),
        Command::Completions(args) => shell::completions(&args, args::command(), out),
        Command::Man(args) => shell::man(&args, args::command(), out),
        Command::Other(words) => Err(args::other(&words)),
    }
}
