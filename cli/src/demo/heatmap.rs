//! A head's weights in the terminal.

use crate::picture::{Panel, colors};
use plotters::style::RGBColor;
use std::fmt::Write as _;

/// Rows of blocks, or of coloured cells with the weight in percent; a dot where it is 0, as for a hidden
/// word. The words stand above and beside.
pub(super) fn text(panel: &Panel<'_>, colour: bool) -> String {
    let width = panel.words.iter().map(|word| word.chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!("{} ({})\n{:width$} ", panel.title, panel.subtitle, "");
    for word in panel.words {
        let _ = write!(text, " {word:^width$}");
    }
    for (word, row) in panel.rows() {
        let _ = write!(text, "\n{word:>width$} ");
        for &weight in row {
            if weight == 0.0 {
                let _ = write!(text, " {:^width$}", "·");
            } else if colour {
                let (RGBColor(r, g, b), ink) = colors(weight);
                let RGBColor(red, green, blue) = ink;
                let percent = format!("{:.0}", 100.0 * weight);
                let _ = write!(
                    text,
                    " \x1b[48;2;{r};{g};{b};38;2;{red};{green};{blue}m{percent:^width$}\x1b[0m"
                );
            } else {
                let _ = write!(text, " {}", shade(weight).to_string().repeat(width));
            }
        }
    }
    text.push('\n');
    text
}

/// The block whose ink comes closest to the weight; only what is next to nothing is left blank.
fn shade(weight: f32) -> char {
    match weight {
        w if w < 0.02 => ' ',
        w if w < 0.25 => '░',
        w if w < 0.5 => '▒',
        w if w < 0.75 => '▓',
        _ => '█',
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::picture::Panel;

    #[test]
    fn a_heatmap_shows_words_weights_and_what_is_hidden() {
        let words = ["the".to_owned(), "end".to_owned()];
        let panel =
            Panel { title: "T", subtitle: "s", words: &words, weights: &[1.0, 0.0, 0.3, 0.7] };
        assert_eq!(text(&panel, false), "T (s)\n     the end\nthe  ███  · \nend  ▒▒▒ ▓▓▓\n");
        let coloured = text(&panel, true);
        assert!(
            coloured.contains("\x1b[48;2;") && coloured.contains("30") && coloured.contains("70")
        );
    }
}
