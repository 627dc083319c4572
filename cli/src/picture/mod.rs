//! Attention weights as a picture: heatmaps of queries by keys, and what the colours mean.

mod draw;
mod sizes;
mod terminal;

use crate::failure::Failure;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use sizes::Sizes;
use std::fmt;

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

/// Draws into the bytes of a PNG file.
pub(crate) fn png(picture: &Picture<'_>) -> Result<Vec<u8>, Failure> {
    let sizes = prepare(picture)?;
    to_png(sizes.picture(), |root| draw::draw(root, picture, &sizes))
}

/// Draws into the text of an SVG file.
pub(crate) fn svg(picture: &Picture<'_>) -> Result<Vec<u8>, Failure> {
    // Each may become an element of its own, of 90 bytes.
    let cells = picture.panels.iter().map(|panel| panel.weights.len()).sum::<usize>();
    if cells > SVG_CELLS {
        let expected = format_args!("at most {SVG_CELLS} cells in an .svg (a .png takes more)");
        return Err(Failure::input("picture", expected, cells));
    }
    let sizes = prepare(picture)?;
    to_svg(sizes.picture(), |root| draw::draw(root, picture, &sizes))
}

fn prepare(picture: &Picture<'_>) -> Result<Sizes, Failure> {
    register_fonts()?;
    Sizes::new(picture)
}

/// What any text is drawn with.
pub(crate) fn register_fonts() -> Result<(), Failure> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| failed(&"the font"))
}

/// The bytes of a PNG file of whatever `draw` draws.
pub(crate) fn to_png<F>(size: (u32, u32), draw: F) -> Result<Vec<u8>, Failure>
where
    F: for<'b> FnOnce(&DrawingArea<BitMapBackend<'b>, Shift>) -> Drawn<BitMapBackend<'b>>,
{
    let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        draw(&root).map_err(|error| failed(&error))?;
        root.present().map_err(|error| failed(&error))?;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels))
        .map_err(|error| failed(&error))?;
    Ok(bytes)
}

/// The text of an SVG file of whatever `draw` draws.
pub(crate) fn to_svg<F>(size: (u32, u32), draw: F) -> Result<Vec<u8>, Failure>
where
    F: for<'b> FnOnce(&DrawingArea<SVGBackend<'b>, Shift>) -> Drawn<SVGBackend<'b>>,
{
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root).map_err(|error| failed(&error))?;
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(text.into_bytes())
}

fn failed(why: &dyn fmt::Display) -> Failure {
    Failure::Input(format!("picture: expected to draw it, found {why}"))
}
