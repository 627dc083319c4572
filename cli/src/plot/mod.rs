//! `plot`: attention weights from a safetensors file as a picture. It opens no device.

mod args;
mod labels;
mod select;

pub(crate) use args::PlotArgs;

use crate::failure::Failure;
use crate::output::OutputFile;
use crate::picture::{self, Format, Panel, Picture};
use crate::tensors::{FLOATS, Tensors};
use crate::terminal::Paint;
use labels::labels;
use select::{Selection, Sizes};
use std::io::Write;

const NOTE: &str =
    "Each row is a query; its cells say how much of its attention goes to each key, in percent.";

/// Reads, checks everything, draws, shows in the terminal what was drawn, and writes it.
pub(crate) fn plot(args: &PlotArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let format = Format::of("--out", &args.out)?;
    let tensors = Tensors::read(&args.input)?;
    let tensor = tensors.require("weights")?;
    tensor.require_dtype(&FLOATS)?;
    let sizes = Sizes::new(&tensor, &tensors)?;
    let selection = Selection::new(args, sizes)?;
    picture::check_counts(sizes.queries, sizes.keys, selection.panels().count())?;
    let [queries, keys] = labels(args, &tensors, sizes)?;
    let weights: Vec<f32> = tensor.floats()?;
    let panels: Vec<Panel<'_>> = selection
        .panels()
        .map(|(batch, head)| Panel {
            title: sizes.title(batch, head),
            subtitle: "",
            weights: sizes.of(&weights, batch, head),
        })
        .collect();
    let picture = Picture {
        queries: &queries,
        keys: &keys,
        note: NOTE,
        panels: &panels,
        columns: selection.columns(),
    };
    let colour = Paint::stdout().is_on();
    let texts: Vec<String> = panels.iter().map(|panel| picture.text(panel, colour)).collect();
    let drawn = picture.render(format)?;
    let file = OutputFile::create("--out", &args.out)?;
    match out.write_all(texts.join("\n").as_bytes()).map_err(Failure::from) {
        // The picture is for someone else.
        Ok(()) | Err(Failure::ReaderGone) => file.write(&drawn),
        Err(failure) => Err(failure),
    }
}
