//! Attention weights as a picture: heatmaps of queries by keys, and what the colours mean.

mod draw;
mod sizes;
mod terminal;

use crate::failure::Failure;
use draw::Page;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use sizes::Sizes;
use std::fmt;
use std::path::Path;

/// What comes of drawing.
pub(crate) type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// Heatmaps of the same queries and keys, of which there is at least one each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture<'a> {
    /// Labels of the rows.
    pub(crate) queries: &'a [String],
    /// Labels of the columns.
    pub(crate) keys: &'a [String],
    /// How to read it.
    pub(crate) note: &'a str,
    pub(crate) panels: &'a [Panel<'a>],
    /// How many panels stand side by side.
    pub(crate) columns: usize,
}

/// One heatmap: `weights` is `[q_len, kv_len]`.
#[derive(Clone, Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) title: String,
    pub(crate) subtitle: &'a str,
    pub(crate) weights: &'a [f32],
}

/// Light to dark, so that where nothing is looked at the page stays light.
const SCALE: [RGBColor; 6] = [
    RGBColor(247, 250, 252),
    RGBColor(198, 226, 233),
    RGBColor(110, 184, 206),
    RGBColor(44, 127, 176),
    RGBColor(30, 74, 138),
    RGBColor(16, 26, 72),
];
const INK: RGBColor = RGBColor(33, 37, 41);
const FAINT: RGBColor = RGBColor(110, 117, 125);
const HIDDEN: RGBColor = RGBColor(232, 234, 237);
const NOT_FINITE: RGBColor = RGBColor(217, 72, 15);

/// The most queries, keys or panels of a picture.
const COUNT: usize = 1 << 13;

/// Heatmaps of 16 heads at 128 tokens.
const SVG_CELLS: usize = 16 * 128 * 128;

/// Up to so many keys a colour is as dark as the weight is large.
const FEW_KEYS: usize = 20;

impl<'a> Picture<'a> {
    /// The colour of a weight, and the one that can be read on it.
    fn colors(&self, weight: f32) -> (RGBColor, RGBColor) {
        // Exactly 0 is a hidden key: softmax gives every other a little.
        if weight == 0.0 {
            return (HIDDEN, FAINT);
        }
        if !weight.is_finite() {
            return (NOT_FINITE, WHITE);
        }
        let strength = self.strength(weight);
        let paper = DerivedColorMap::new(&SCALE).get_color(strength);
        (paper, if strength < 0.4 { INK } else { WHITE })
    }

    /// How dark a weight is drawn, from 0 to 1.
    fn strength(&self, weight: f32) -> f32 {
        let weight = weight.clamp(0.0, 1.0);
        // An even share of many keys is next to nothing; its cube root can still be seen.
        if self.keys.len() <= FEW_KEYS { weight } else { weight.cbrt() }
    }

    /// Each query of a panel with its row of weights.
    fn rows(&self, panel: &'a Panel<'_>) -> impl Iterator<Item = (&'a String, &'a [f32])> {
        self.queries.iter().zip(panel.weights.chunks_exact(self.keys.len()))
    }

    fn all_finite(&self) -> bool {
        self.panels.iter().all(|panel| panel.weights.iter().all(|weight| weight.is_finite()))
    }
}

/// Refuses what would not fit in however it is drawn, before anything is made of it.
pub(crate) fn check_counts(queries: usize, keys: usize, panels: usize) -> Result<(), Failure> {
    for (what, found) in [("queries", queries), ("keys", keys), ("heatmaps", panels)] {
        if found > COUNT {
            let expected = format_args!("at most {COUNT} {what}");
            return Err(Failure::input("picture", expected, found));
        }
    }
    Ok(())
}

impl Picture<'_> {
    /// Draws into the bytes of a file.
    pub(crate) fn render(&self, format: Format) -> Result<Vec<u8>, Failure> {
        // Each may become an element of its own, of 90 bytes.
        let cells = self.panels.iter().map(|panel| panel.weights.len()).sum::<usize>();
        if format == Format::Svg && cells > SVG_CELLS {
            let expected = format_args!("at most {SVG_CELLS} cells in an .svg (a .png takes more)");
            return Err(Failure::input("picture", expected, cells));
        }
        register_fonts()?;
        format.render(&Page { picture: self, sizes: Sizes::new(self)? })
    }
}

/// What a picture's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Png,
    Svg,
}

/// What can be drawn into a file.
pub(crate) trait Drawing {
    /// Width and height.
    fn size(&self) -> (u32, u32);
    fn draw<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Drawn<B>;
}

impl Format {
    /// Of a file of this name, the value of a flag.
    pub(crate) fn of(flag: &str, path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Self::Png),
            Some("svg") => Ok(Self::Svg),
            _ => Err(Failure::input(flag, "a name that ends in .png or .svg", path.display())),
        }
    }

    /// The bytes of a file.
    pub(crate) fn render(self, drawing: &impl Drawing) -> Result<Vec<u8>, Failure> {
        let (width, height) = drawing.size();
        if self == Self::Svg {
            let mut text = String::new();
            on(SVGBackend::with_string(&mut text, (width, height)), drawing)?;
            return Ok(text.into_bytes());
        }
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        on(BitMapBackend::with_buffer(&mut pixels, (width, height)), drawing)?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().map_err(|error| failed(&error))?;
        writer.write_image_data(&pixels).map_err(|error| failed(&error))?;
        drop(writer);
        Ok(bytes)
    }
}

fn on<B: DrawingBackend>(backend: B, drawing: &impl Drawing) -> Result<(), Failure> {
    register_fonts()?;
    let root = backend.into_drawing_area();
    let drawn = drawing.draw(&root).and_then(|()| root.present());
    drawn.map_err(|error| failed(&error))
}

/// What any text is drawn with, and measured.
fn register_fonts() -> Result<(), Failure> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| failed(&"the font"))
}

fn failed(why: &dyn fmt::Display) -> Failure {
    Failure::Input(format!("picture: expected to draw it, found {why}"))
}
