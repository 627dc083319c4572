//! `wgpu-attention`: attention from the command line, on files any language can write.

mod adapter;
mod additive;
mod args;
mod bench;
mod check;
mod demo;
mod failure;
#[cfg(test)]
mod fuzz;
mod info;
mod mha;
mod noise;
mod output;
mod picture;
mod plot;
mod posenc;
mod rope;
mod run;
mod selfattn;
mod shell;
mod state;
mod stderr;
mod summary;
mod tensors;
mod terminal;
mod values;

use args::Command;
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    stderr::silence();
    let words: Vec<OsString> = std::env::args_os().collect();
    match args::parse(&words).and_then(dispatch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                stderr::say(message);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::demo(&args),
        Command::Info(args) => info::info(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Run(args) => run::run(&args),
        Command::Mha(args) => mha::mha(&args),
        Command::Selfattn(args) => selfattn::selfattn(&args),
        Command::Plot(args) => plot::plot(&args),
        Command::Additive(args) => additive::additive(&args),
        Command::Rope(args) => rope::rope(&args),
        Command::Posenc(args) => posenc::posenc(&args),
        Command::Completions(args) => shell::completions(&args, args::command()),
        Command::Man(args) => shell::man(&args, args::command()),
        Command::Other(words) => Err(args::other(&words)),
    }
}
