//! `plot`: attention weights from a safetensors file as a picture. It computes nothing and opens no device.

mod args;
mod labels;
mod select;

pub(crate) use args::PlotArgs;

use crate::failure::Failure;
use crate::output::OutputFile;
use crate::picture::{self, Panel, Picture};
use crate::tensors::{self, Tensors};
use crate::terminal::Paint;
use labels::labels;
use safetensors::Dtype;
use select::{Selection, Sizes};
use std::io::{self, Write as _};
use std::path::Path;

const NOTE: &str =
    "Each row is a query; its cells say how much of its attention goes to each key, in percent.";

type Drawer = fn(&Picture<'_>) -> Result<Vec<u8>, Failure>;

/// A picture, and what the terminal shows of it.
#[derive(Debug)]
pub(crate) struct Drawn {
    file: Vec<u8>,
    text: String,
}

/// Draws, shows in the terminal what was drawn, and writes it.
pub(crate) fn plot(args: &PlotArgs) -> Result<(), Failure> {
    let drawn = draw(args)?;
    let file = OutputFile::create(&args.out)?;
    match io::stdout().lock().write_all(drawn.text.as_bytes()).map_err(Failure::from) {
        // The picture is for someone else.
        Ok(()) | Err(Failure::ReaderGone) => file.write(&drawn.file),
        Err(failure) => Err(failure),
    }
}

/// Reads, checks everything and draws.
pub(crate) fn draw(args: &PlotArgs) -> Result<Drawn, Failure> {
    let drawer = drawer(&args.out)?;
    let bytes = tensors::read(&args.input)?;
    let tensors = Tensors::parse(&args.input, &bytes)?;
    let tensor = tensors.require("weights")?;
    tensor.require_dtype(&[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
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
    Ok(Drawn { file: drawer(&picture)?, text: texts.join("\n") })
}

/// What becomes of a picture in a file of this name.
fn drawer(path: &Path) -> Result<Drawer, Failure> {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("png") => Ok(picture::png),
        Some("svg") => Ok(picture::svg),
        _ => Err(Failure::input("--out", "a name that ends in .png or .svg", path.display())),
    }
}
