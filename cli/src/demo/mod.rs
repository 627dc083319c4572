//! `demo`: self-attention one can see, and one large enough to time.

mod heads;
mod large;

use crate::adapter::{DeviceArgs, Machine};
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::picture::{Format, Panel, Picture};
use crate::terminal::Paint;
use clap::Args;
use heads::Sentence;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention demo --out heads.png
  wgpu-attention demo --backend gl")]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Where the picture of the weights goes
    #[arg(long, value_name = "FILE.png", default_value = "attention.png")]
    out: PathBuf,
}

/// The words under attention; some of them come again.
const WORDS: &str = "the cat saw the dog and the dog saw the cat";

/// How to read the picture.
const NOTE: &str = "Each row is a word that asks; its cells say how much of its attention goes to each word, in percent.";

/// Computes, shows and draws the heads' weights, then times a large shape.
pub(crate) fn demo(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let file = OutputFile::create("--out", &args.out)?;
    let machine = Machine::open(&args.device)?;
    let sentence = Sentence::new(WORDS);
    let (shape, options) = (sentence.shape(), sentence.options());
    let outputs = machine.attention(&shape, &options, &sentence.inputs())?;
    let weights = outputs.weights.unwrap_or_default();
    let len = sentence.words.len();
    let panels: Vec<Panel<'_>> = heads::HEADS
        .iter()
        .zip(weights.chunks_exact(len * len))
        .map(|(head, weights)| Panel { title: head.title.to_owned(), subtitle: head.rule, weights })
        .collect();
    let picture = Picture {
        queries: &sentence.words,
        keys: &sentence.words,
        note: NOTE,
        panels: &panels,
        columns: panels.len(),
    };

    writeln!(out, "wgpu-attention {} on {}\n", env!("CARGO_PKG_VERSION"), machine.describe())?;
    writeln!(out, "Causal self-attention over \"{WORDS}\".")?;
    writeln!(out, "Each row is a word that asks; the row says which words it looks at.")?;
    for panel in &panels {
        writeln!(out, "\n{}", picture.text(panel, Paint::stdout().is_on()))?;
    }
    file.write(&picture.render(Format::Png)?)?;
    writeln!(out, "Picture: {}\n", args.out.display())?;
    large::run(&machine, out)
}
