//! Where things stand in a picture, in pixels.

use super::Picture;
use crate::failure::Failure;
use plotters::style::IntoFont as _;

pub(super) const MARGIN: i32 = 32;
const LEGEND: i32 = 110;
const FOOT: i32 = 64;
/// The width or height that the cells share, each of them at least 1 and at most [`CELL`] wide.
const GRID: usize = 640;
const CELL: i32 = 52;
/// What a picture may have at most: as pixels they are 200 MB.
const PIXELS: u64 = 1 << 26;
/// The rows or the columns of each panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// Side of a cell.
    pub(super) cell: i32,
    /// Size of the labels.
    pub(super) font: i32,
    /// Every how many cells one has a label.
    pub(super) stride: usize,
    /// Side of all cells together.
    pub(super) extent: i32,
    /// Length of the longest label.
    longest: i32,
}

impl Axis {
    fn new(labels: &[String]) -> Self {
        let len = pixels(labels.len());
        let cell = pixels(GRID / labels.len().max(1)).clamp(1, CELL);
        let font = (cell * 22 / CELL).clamp(13, 22);
        let steps = (0..).map(|exponent| 10_usize.pow(exponent));
        let stride = steps
            .flat_map(|step| [step, 2 * step, 5 * step])
            .find(|&stride| cell * pixels(stride) > font)
            .unwrap_or(1);
        let longest = labels.iter().step_by(stride).map(|label| label_width(label, font)).max();
        Self { cell, font, stride, extent: len * cell, longest: longest.unwrap_or(0) }
    }

    /// Whether labels fit side by side without being turned.
    pub(super) fn labels_fit(&self) -> bool {
        self.longest < self.cell * pixels(self.stride)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) queries: Axis,
    pub(super) keys: Axis,
    /// What stands above the cells of a panel: its title and the labels of its columns.
    pub(super) heading: i32,
    /// From one panel to the next.
    pub(super) panel: (i32, i32),
    /// Of the bar that shows the colours.
    pub(super) legend: i32,
    /// How many panels stand side by side, and below each other.
    grid: (i32, i32),
    /// Room for whatever the panels leave too little for.
    at_least: i32,
}

impl Sizes {
    pub(super) fn new(picture: &Picture<'_>) -> Result<Self, Failure> {
        let (queries, keys) = (Axis::new(picture.queries), Axis::new(picture.keys));
        let subtitles = picture.panels.iter().any(|panel| !panel.subtitle.is_empty());
        let labels = if keys.labels_fit() { 36 } else { keys.longest + 26 };
        let heading = if subtitles { 88 } else { 60 } + labels;
        let text = |panel: &super::Panel<'_>| {
            text_width(&panel.title, 30).max(text_width(panel.subtitle, 18))
        };
        let widest = picture.panels.iter().map(text).max().unwrap_or(0);
        // A picture of a few cells still has room for all that the colours mean.
        let legend = queries.extent.max(200);
        let columns = picture.columns.clamp(1, picture.panels.len().max(1));
        let sizes = Self {
            queries,
            keys,
            heading,
            panel: (
                queries.longest + 20 + keys.extent.max(widest) + MARGIN,
                heading + queries.extent + MARGIN,
            ),
            legend,
            grid: (pixels(columns), pixels(picture.panels.len().div_ceil(columns))),
            at_least: 2 * MARGIN + text_width(picture.note, 18),
        };
        let (width, height) = sizes.picture();
        if u64::from(width) * u64::from(height) > PIXELS {
            let expected = format_args!("at most 2^26 pixels (--head and --batch draw fewer)");
            return Err(Failure::input("picture", expected, format_args!("{width} x {height}")));
        }
        Ok(sizes)
    }

    /// Width and height of all.
    pub(super) fn picture(&self) -> (u32, u32) {
        let width = self.legend_left() + LEGEND;
        let height = self.note_top() - 24 + FOOT;
        (width.max(self.at_least).unsigned_abs(), height.unsigned_abs())
    }

    /// Left and upper end of a panel's cells.
    pub(super) fn cells(&self, panel: usize) -> (i32, i32) {
        let (column, row) = (pixels(panel) % self.grid.0, pixels(panel) / self.grid.0);
        let left = MARGIN + column * self.panel.0 + 20 + self.queries.longest;
        (left, row * self.panel.1 + self.heading)
    }

    pub(super) fn legend_left(&self) -> i32 {
        MARGIN + self.grid.0 * self.panel.0
    }

    pub(super) fn note_top(&self) -> i32 {
        let panels = self.grid.1 * self.panel.1 - MARGIN;
        panels.max(self.heading + self.legend) + 24
    }
}

/// Room for a label: an estimate, so that similar pictures have the same size, or what it needs.
fn label_width(label: &str, font: i32) -> i32 {
    let estimate = pixels(label.chars().count()).saturating_mul(font) / 2;
    // The gap beside it takes the odd pixel.
    estimate.max(text_width(label, font) - 4)
}

fn text_width(text: &str, font: i32) -> i32 {
    let measured = ("sans-serif", font).into_font().box_size(text).map_or(0, |(width, _)| width);
    i32::try_from(measured).unwrap_or(0)
}

/// [`check_counts`](super::check_counts) has refused what i32 cannot count.
pub(super) fn pixels(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
