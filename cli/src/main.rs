//! `wgpu-attention`: attention from the command line, on files any language can write.

mod adapter;
mod args;
mod check;
mod demo;
mod failure;
mod info;
mod output;
mod picture;
mod posenc;
mod rope;
mod run;
mod stderr;
mod tensors;

use args::Command;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    stderr::silence();
    match args::parse().and_then(dispatch) {
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
        Command::Run(args) => run::run(&args),
        Command::Rope(args) => rope::rope(&args),
        Command::Posenc(args) => posenc::posenc(&args),
        Command::Other(words) => Err(args::other(&words)),
    }
}
