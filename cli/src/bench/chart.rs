//! TFLOP/s over length, as lines.

use super::Row;
use crate::failure::Failure;
use crate::picture::{self, Drawn};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;
use wgpu_attention::ElementType;

/// What a picture's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Svg,
}

impl Format {
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Self::Png),
            Some("svg") => Ok(Self::Svg),
            _ => Err(Failure::input("--plot", "a name that ends in .png or .svg", path.display())),
        }
    }
}

const WIDTH: i32 = 1040;
const HEIGHT: i32 = 600;
/// Where the lines are named, right of them.
const LEGEND: i32 = 250;

/// One line: what its points share, and number of keys with TFLOP/s of each.
struct Line {
    element: ElementType,
    head_dim: usize,
    /// Heads that share keys and values.
    group: usize,
    causal: bool,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn name(&self) -> String {
        let group = match self.group {
            1 => String::new(),
            group => format!(", groups of {group}"),
        };
        let causal = if self.causal { ", causal" } else { "" };
        format!("{}, dim {}{group}{causal}", self.element, self.head_dim)
    }
}

/// The bytes of a picture; none if there is nothing to draw.
pub(super) fn draw(format: Format, title: &str, rows: &[Row]) -> Result<Option<Vec<u8>>, Failure> {
    let lines = lines(rows);
    if lines.is_empty() {
        return Ok(None);
    }
    picture::register_fonts()?;
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let bytes = match format {
        Format::Png => picture::to_png(size, |root| draw_on(root, title, &lines))?,
        Format::Svg => picture::to_svg(size, |root| draw_on(root, title, &lines))?,
    };
    Ok(Some(bytes))
}

/// Decoding, layers and what has a window or bias are other things, and have no lengths to compare.
fn lines(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let (label, Ok(measured)) = (&row.label, &row.outcome) else { continue };
        let &[_, heads, kv_heads, _, kv_len, head_dim] = &label.sizes[..] else { continue };
        if label.moves || label.pass != "fwd" {
            continue;
        }
        let key = (label.element, head_dim, heads / kv_heads, label.causal);
        let point = (kv_len as f64, label.flops / measured.times.best().median / 1e12);
        let same = |line: &&mut Line| (line.element, line.head_dim, line.group, line.causal) == key;
        match lines.iter_mut().find(same) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                element: label.element,
                head_dim,
                group: heads / kv_heads,
                causal: label.causal,
                points: vec![point],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

fn draw_on<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    lines: &[Line],
) -> Drawn<B> {
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = points().fold(0.0, |most: f64, point| most.max(point.1));
    let mut lengths: Vec<f64> = points().map(|point| point.0).collect();
    lengths.sort_by(f64::total_cmp);
    lengths.dedup();
    // Twice as long is as far to the right everywhere.
    let (left, right) = (lengths[0].log2(), lengths[lengths.len() - 1].log2());
    let room = 0.1 * (right - left).max(1.0);
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .margin_right(LEGEND)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(left - room..right + room, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("keys")
        .y_desc("TFLOP/s")
        .x_labels(0)
        .label_style(("sans-serif", 16))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for length in ticks(&lengths, |length| chart.backend_coord(&(length.log2(), 0.0)).0) {
        let (x, y) = chart.backend_coord(&(length.log2(), 0.0));
        let centered = Pos::new(HPos::Center, VPos::Top);
        let style = ("sans-serif", 16).into_font().color(&BLACK).pos(centered);
        root.draw(&PathElement::new([(x, y), (x, y + 5)], BLACK))?;
        root.draw(&Text::new(format!("{length}"), (x, y + 8), style))?;
    }
    for (place, (line, entry)) in lines.iter().zip(1..).enumerate() {
        // Lines that differ in causality alone share a colour.
        let same = |other: &&Line| {
            (other.element, other.head_dim, other.group)
                == (line.element, line.head_dim, line.group)
        };
        let color = Palette99::pick(lines.iter().position(|other| same(&other)).unwrap_or(place));
        let style = color.stroke_width(if line.causal { 1 } else { 3 });
        let places: Vec<_> = line.points.iter().map(|point| (point.0.log2(), point.1)).collect();
        let dots = places.iter().map(|&place| Circle::new(place, 4, color.filled()));
        chart.draw_series(dots)?;
        chart.draw_series(std::iter::once(PathElement::new(places.clone(), style)))?;
        let (x, y) = (WIDTH - LEGEND + 16, 40 + 22 * entry);
        root.draw(&PathElement::new([(x, y + 8), (x + 24, y + 8)], style))?;
        let font = ("sans-serif", 16).into_font();
        root.draw(&Text::new(line.name(), (x + 32, y), font))?;
    }
    Ok(())
}

/// The lengths whose labels do not run into each other.
fn ticks(lengths: &[f64], place: impl Fn(f64) -> i32) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    for &length in lengths {
        if kept.last().is_none_or(|&last| place(length) - place(last) >= 56) {
            kept.push(length);
        }
    }
    kept
}
