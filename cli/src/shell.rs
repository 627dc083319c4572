//! `completions` and `man`, made from the command line itself.

use crate::failure::Failure;
use clap::{Args, Command};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use std::io::Write;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention completions bash > ~/.local/share/bash-completion/completions/wgpu-attention
  wgpu-attention completions fish > ~/.config/fish/completions/wgpu-attention.fish")]
pub(crate) struct CompletionsArgs {
    /// Whose completions
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention man > wgpu-attention.1
  wgpu-attention man run | man -l -")]
pub(crate) struct ManArgs {
    /// A subcommand; the tool itself if not given
    #[arg(value_name = "SUBCOMMAND")]
    subcommand: Option<String>,
}

/// `whole`: the command line.
pub(crate) fn completions(
    args: &CompletionsArgs,
    mut whole: Command,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut whole, "wgpu-attention", &mut script);
    Ok(out.write_all(&script)?)
}

pub(crate) fn man(args: &ManArgs, mut whole: Command, out: &mut dyn Write) -> Result<(), Failure> {
    // What a page says of its subcommands and names is settled only then.
    whole.build();
    let title = args
        .subcommand
        .iter()
        .fold("wgpu-attention".to_owned(), |title, name| format!("{title}-{name}"));
    let page = match &args.subcommand {
        None => whole,
        Some(name) => match whole.find_subcommand(name) {
            Some(command) => command.clone(),
            None => return Err(Failure::no_subcommand(name)),
        },
    };
    let mut text = Vec::new();
    Man::new(page).title(title).render(&mut text)?;
    Ok(out.write_all(&text)?)
}
