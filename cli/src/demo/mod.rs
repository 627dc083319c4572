//! `demo`: self-attention one can see, and one large enough to time.

mod heads;
mod heatmap;
mod large;

use crate::adapter::Machine;
use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::picture::{self, Panel};
use heads::Sentence;
use std::io::{self, IsTerminal as _, Write as _};

/// The words under attention; some of them come again.
const WORDS: &str = "the cat saw the dog and the dog saw the cat";

/// Computes, shows and draws the heads' weights, then times a large shape.
pub(crate) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let file = OutputFile::create(&args.out)?;
    let machine = Machine::open(&args.device)?;
    let sentence = Sentence::new(WORDS);
    let (shape, options) = (sentence.shape(), sentence.options());
    let outputs = machine.attention(&shape, &options, &sentence.inputs())?;
    let weights = outputs.weights.unwrap_or_default();
    let len = sentence.words.len();
    let heads: Vec<Panel<'_>> = heads::HEADS
        .iter()
        .zip(weights.chunks_exact(len * len))
        .map(|(head, weights)| Panel {
            title: head.title(),
            subtitle: head.rule(),
            words: &sentence.words,
            weights,
        })
        .collect();

    let mut out = io::stdout().lock();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    writeln!(out, "wgpu-attention {} on {}\n", env!("CARGO_PKG_VERSION"), machine.describe())?;
    writeln!(out, "Causal self-attention over \"{WORDS}\".")?;
    writeln!(out, "Each row is a word that asks; the row says which words it looks at.")?;
    for head in &heads {
        writeln!(out, "\n{}", heatmap::text(head, colour))?;
    }
    file.write(&picture::png(&heads)?)?;
    writeln!(out, "Picture: {}\n", args.out.display())?;
    large::run(&machine, &mut out)
}
