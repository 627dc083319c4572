//! TFLOP/s over length, as lines.

use super::subject::Row;
use crate::failure::Failure;
use crate::picture::{Drawing, Drawn, Format};
use plotters::coord::Shift;
use plotters::prelude::*;

const WIDTH: i32 = 1040;
const HEIGHT: i32 = 600;
/// Where the lines are named, right of them.
const LEGEND: i32 = 250;

struct Chart<'a> {
    title: &'a str,
    lines: Vec<Line>,
}

/// Number of keys with TFLOP/s of each, where all else is the same.
struct Line {
    /// Element type, head_dim and heads that share keys; all but causality.
    kind: String,
    is_causal: bool,
    points: Vec<(f64, f64)>,
}

/// The bytes of a picture; none if there is nothing to draw.
pub(super) fn draw(format: Format, title: &str, rows: &[Row]) -> Result<Option<Vec<u8>>, Failure> {
    let lines = lines(rows);
    let chart = (!lines.is_empty()).then_some(Chart { title, lines });
    chart.map(|chart| format.render(&chart)).transpose()
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
        let point = (kv_len as f64, label.flops / measured.times.best().median / 1e12);
        let group = match heads / kv_heads {
            1 => String::new(),
            group => format!(", groups of {group}"),
        };
        let kind = format!("{}, dim {head_dim}{group}", label.element);
        let is_causal = label.causal;
        match lines.iter_mut().find(|line| line.kind == kind && line.is_causal == is_causal) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { kind, is_causal, points: vec![point] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

impl Drawing for Chart<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs())
    }

    fn draw<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Drawn<B> {
        root.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = points().fold(0.0, |most: f64, point| most.max(point.1));
        let mut lengths: Vec<f64> = points().map(|point| point.0).collect();
        lengths.sort_by(f64::total_cmp);
        let (first, last) = (lengths[0], lengths[lengths.len() - 1]);
        let room = (last / first).max(2.0).powf(0.1);
        // Labels that do not run into each other.
        let apart = (last / first).powf(0.08);
        lengths.dedup_by(|length, before| *length <= *before * apart);
        // Twice as long is as far to the right everywhere.
        let axis = (first / room..last * room).log_scale().base(2.0).with_key_points(lengths);
        let mut chart = ChartBuilder::on(root)
            .caption(self.title, ("sans-serif", 20))
            .margin(16)
            .margin_right(LEGEND)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(axis, 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .x_desc("keys")
            .y_desc("TFLOP/s")
            .x_label_formatter(&|length| format!("{length}"))
            .label_style(("sans-serif", 16))
            .disable_x_mesh()
            .bold_line_style(BLACK.mix(0.15))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, entry) in self.lines.iter().zip(0..) {
            // Lines that differ in causality alone share a colour.
            let color =
                self.lines.iter().position(|other| other.kind == line.kind).unwrap_or_default();
            let color = Palette99::pick(color);
            let style = color.stroke_width(if line.is_causal { 1 } else { 3 });
            let dots = line.points.iter().map(|&point| Circle::new(point, 4, color.filled()));
            chart.draw_series(dots)?;
            chart.draw_series([PathElement::new(line.points.clone(), style)])?;
            let (x, y) = (WIDTH - LEGEND + 16, 62 + 22 * entry);
            root.draw(&PathElement::new([(x, y + 8), (x + 24, y + 8)], style))?;
            let name = format!("{}{}", line.kind, if line.is_causal { ", causal" } else { "" });
            root.draw(&Text::new(name, (x + 32, y), ("sans-serif", 16)))?;
        }
        Ok(())
    }
}
