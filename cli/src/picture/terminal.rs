//! Weights in the terminal.

use super::{Panel, Picture};
use plotters::style::RGBColor;
use std::fmt::Write as _;

/// Of a table with words and numbers; what is wider becomes a picture of dots.
const WIDTH: usize = 120;
/// Rows and columns of that picture: a character is about twice as high as wide.
const DOTS: (usize, usize) = (36, 72);

impl Picture<'_> {
    /// One panel, as lines of text.
    pub(crate) fn text(&self, panel: &Panel<'_>, colour: bool) -> String {
        let mut text = match panel.subtitle {
            "" => format!("{}\n", panel.title),
            subtitle => format!("{} ({subtitle})\n", panel.title),
        };
        let longest = |labels: &[String]| {
            labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(3)
        };
        let beside = longest(self.queries);
        // Longer words are cut where they stand above a column.
        let room = WIDTH.saturating_sub(beside) / self.keys.len();
        if room > 3 {
            self.table(panel, (beside, longest(self.keys).min(room - 1)), colour, &mut text);
        } else {
            self.dots(panel, colour, &mut text);
        }
        text
    }

    /// Rows of blocks, or of coloured cells with the weight in percent; a dot where it is 0, as for
    /// a hidden key. The words stand above and beside.
    fn table(
        &self,
        panel: &Panel<'_>,
        (beside, width): (usize, usize),
        colour: bool,
        text: &mut String,
    ) {
        let _ = write!(text, "{:beside$} ", "");
        for key in self.keys {
            let _ = write!(text, " {key:^width$.width$}");
        }
        for (query, row) in self.rows(panel) {
            let _ = write!(text, "\n{query:>beside$} ");
            for &weight in row {
                let cell = if weight == 0.0 {
                    format!("{:^width$}", "·")
                } else if colour {
                    let percent = format!("{:.0}", 100.0 * weight);
                    self.painted(weight, &format!("{percent:^width$.width$}"))
                } else {
                    self.shade(weight).to_string().repeat(width)
                };
                let _ = write!(text, " {cell}");
            }
        }
        text.push('\n');
    }

    /// One character a cell, or a block of cells of which it shows the largest weight.
    fn dots(&self, panel: &Panel<'_>, colour: bool, text: &mut String) {
        let keys = self.keys.len();
        let block = (self.queries.len().div_ceil(DOTS.0), keys.div_ceil(DOTS.1));
        for rows in panel.weights.chunks(keys * block.0) {
            for left in (0..keys).step_by(block.1) {
                let cells =
                    rows.chunks_exact(keys).flat_map(|row| row[left..].iter().take(block.1));
                match cells.copied().reduce(larger) {
                    Some(0.0) | None => text.push('·'),
                    Some(weight) if colour => text.push_str(&self.painted(weight, " ")),
                    Some(weight) => text.push(self.shade(weight)),
                }
            }
            text.push('\n');
        }
        if block != (1, 1) {
            let (rows, columns) = block;
            let _ = writeln!(text, "(the largest of every {rows} queries x {columns} keys)");
        }
    }

    /// The block whose ink comes closest to the weight; only what is next to nothing is left blank.
    fn shade(&self, weight: f32) -> char {
        match self.strength(weight) {
            _ if !weight.is_finite() => '!',
            ink if ink < 0.02 => ' ',
            ink if ink < 0.25 => '░',
            ink if ink < 0.5 => '▒',
            ink if ink < 0.75 => '▓',
            _ => '█',
        }
    }

    /// A text on the colour of a weight.
    fn painted(&self, weight: f32, text: &str) -> String {
        let (RGBColor(r, g, b), RGBColor(red, green, blue)) = self.colors(weight);
        format!("\x1b[48;2;{r};{g};{b};38;2;{red};{green};{blue}m{text}\x1b[0m")
    }
}

/// Of two weights the larger, and one that is no number before any other.
fn larger(one: f32, other: f32) -> f32 {
    if one.is_nan() || one > other { one } else { other }
}
