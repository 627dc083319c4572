//! Attention weights as a picture: one heatmap beside the other, and what the colours mean.

use crate::failure::Failure;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt;

/// One heatmap: `weights` has a row for each of `words`, with a column for each of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) words: &'a [String],
    pub(crate) weights: &'a [f32],
}

impl<'a> Panel<'a> {
    /// Each word with its row of weights.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'a String, &'a [f32])> {
        self.words.iter().zip(self.weights.chunks_exact(self.words.len()))
    }
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

/// The colour of a weight, and the one that can be read on it.
pub(crate) fn colors(weight: f32) -> (RGBColor, RGBColor) {
    let weight = if weight.is_nan() { 0.0 } else { weight.clamp(0.0, 1.0) };
    let paper = DerivedColorMap::new(&SCALE).get_color(weight);
    (paper, if weight < 0.4 { INK } else { WHITE })
}

// In pixels.
const CELL: i32 = 52;
const MARGIN: i32 = 32;
const HEADING: i32 = 124;
const LEGEND: i32 = 110;
const FOOT: i32 = 64;

/// How to read it.
const NOTE: &str = "Each row is a word that asks; its cells say how much of its attention goes to each word, in percent.";

/// Draws the panels side by side into the bytes of a PNG file.
pub(crate) fn png(panels: &[Panel<'_>]) -> Result<Vec<u8>, Failure> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| failed(&"the font"))?;
    let width = MARGIN + LEGEND + panels.iter().map(|panel| panel_width(panel)).sum::<i32>();
    let tallest = panels.iter().map(|panel| count(panel.words)).max().unwrap_or(0);
    let size = (width.unsigned_abs(), (HEADING + tallest * CELL + FOOT).unsigned_abs());
    let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        draw(&root, panels).map_err(|error| failed(&error))?;
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

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    panels: &[Panel<'_>],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    root.fill(&WHITE)?;
    let mut left = MARGIN;
    for panel in panels {
        draw_panel(root, panel, left)?;
        left += panel_width(panel);
    }
    let height = panels.iter().map(|panel| count(panel.words)).max().unwrap_or(0) * CELL;
    let note = ("sans-serif", 18).into_font().color(&FAINT);
    root.draw(&Text::new(NOTE, (MARGIN, HEADING + height + 24), note))?;
    draw_legend(root, left, height)
}

fn draw_panel<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    panel: &Panel<'_>,
    left: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let grid = left + label_width(panel.words);
    let text = |text: &str, place, size, color: &RGBColor, horizontal, vertical| {
        let style =
            ("sans-serif", size).into_font().color(color).pos(Pos::new(horizontal, vertical));
        root.draw(&Text::new(text.to_owned(), place, style))
    };
    text(panel.title, (grid, 24), 30, &INK, HPos::Left, VPos::Top)?;
    text(panel.subtitle, (grid, 60), 18, &FAINT, HPos::Left, VPos::Top)?;
    for (x, word) in (grid..).step_by(CELL as usize).zip(panel.words) {
        text(word, (x + CELL / 2, HEADING - 18), 22, &INK, HPos::Center, VPos::Center)?;
    }
    for (y, (word, row)) in (HEADING..).step_by(CELL as usize).zip(panel.rows()) {
        text(word, (grid - 12, y + CELL / 2), 22, &INK, HPos::Right, VPos::Center)?;
        for (x, &weight) in (grid..).step_by(CELL as usize).zip(row) {
            // Exactly 0 is a hidden word: softmax gives every other a little.
            let (paper, ink) = if weight == 0.0 { (HIDDEN, FAINT) } else { colors(weight) };
            let corners = [(x + 1, y + 1), (x + CELL - 1, y + CELL - 1)];
            root.draw(&Rectangle::new(corners, paper.filled()))?;
            if weight >= 0.005 {
                let percent = format!("{:.0}", 100.0 * weight);
                let middle = (x + CELL / 2, y + CELL / 2);
                text(&percent, middle, 19, &ink, HPos::Center, VPos::Center)?;
            }
        }
    }
    Ok(())
}

fn draw_legend<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    left: i32,
    height: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let style = ("sans-serif", 18).into_font().color(&FAINT);
    for y in 0..height {
        let color = colors((height - y) as f32 / height as f32).0;
        let corners = [(left, HEADING + y), (left + 20, HEADING + y + 1)];
        root.draw(&Rectangle::new(corners, color.filled()))?;
    }
    for quarter in 0..=4 {
        let place = (left + 28, HEADING + height * (4 - quarter) / 4);
        let anchor = Pos::new(HPos::Left, VPos::Center);
        root.draw(&Text::new(format!("{} %", 25 * quarter), place, style.pos(anchor)))?;
    }
    let corners = [(left, HEADING - 44), (left + 20, HEADING - 24)];
    root.draw(&Rectangle::new(corners, HIDDEN.filled()))?;
    let anchor = Pos::new(HPos::Left, VPos::Center);
    root.draw(&Text::new("hidden", (left + 28, HEADING - 34), style.pos(anchor)))
}

fn panel_width(panel: &Panel<'_>) -> i32 {
    label_width(panel.words) + count(panel.words) * CELL + MARGIN
}

/// Room for the longest word beside the grid.
fn label_width(words: &[String]) -> i32 {
    let longest = words.iter().map(|word| word.chars().count()).max().unwrap_or(0);
    20 + 11 * i32::try_from(longest).unwrap_or(i32::MAX / 64)
}

fn count(words: &[String]) -> i32 {
    i32::try_from(words.len()).unwrap_or(i32::MAX)
}

fn failed(why: &dyn fmt::Display) -> Failure {
    Failure::Input(format!("picture: expected to draw it, found {why}"))
}
