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

    /// Rows of blocks, or of coloured cells with the weight in percent; a dot where it is 0, as for a hidden
    /// key. The words stand above and beside.
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

#[cfg(test)]
mod tests {
    use crate::picture::{Panel, Picture};

    fn text(labels: &[&str], subtitle: &str, weights: &[f32], colour: bool) -> String {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        let panels = [Panel { title: "T".to_owned(), subtitle, weights }];
        let keys = &labels[..weights.len() / labels.len()];
        let picture = Picture { queries: &labels, keys, note: "", panels: &panels, columns: 1 };
        picture.text(&panels[0], colour)
    }

    #[test]
    fn a_heatmap_shows_words_weights_and_what_is_hidden() {
        let weights = [1.0, 0.0, 0.3, 0.7];
        let found = text(&["the", "end"], "s", &weights, false);
        assert_eq!(found, "T (s)\n     the end\nthe  ███  · \nend  ▒▒▒ ▓▓▓\n");
        let coloured = text(&["the", "end"], "s", &weights, true);
        assert!(
            coloured.contains("\x1b[48;2;") && coloured.contains("30") && coloured.contains("70")
        );
    }

    #[test]
    fn what_is_not_finite_stands_out() {
        let found = text(&["a"], "", &[f32::NAN], false);
        assert_eq!(found, "T\n      a \n  a  !!!\n");
        assert!(text(&["a"], "", &[f32::NAN], true).contains("NaN"));
        assert_eq!(super::larger(f32::NAN, 1.0).to_bits(), f32::NAN.to_bits());
        assert!(super::larger(1.0, f32::NAN).is_nan());
    }

    #[test]
    fn many_cells_are_drawn_in_blocks_by_the_largest_weight() {
        let len = 100;
        let labels = vec!["word"; len];
        let causal = |i: usize| if i % len <= i / len { 1.0 } else { 0.0 };
        let weights: Vec<f32> = (0..len * len).map(causal).collect();
        let found = text(&labels, "", &weights, false);
        let lines: Vec<&str> = found.lines().collect();
        // Blocks of 3 queries and 2 keys.
        assert_eq!(lines.len(), 1 + 34 + 1, "{found}");
        assert_eq!(lines[1], format!("{}{}", "█".repeat(2), "·".repeat(48)));
        assert_eq!(lines[34], "█".repeat(50));
        assert_eq!(lines[35], "(the largest of every 3 queries x 2 keys)");
    }
}
