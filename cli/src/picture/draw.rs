//! Drawing a picture on whatever plotters draws on.

use super::sizes::{Axis, MARGIN, Sizes, pixels};
use super::{Drawing, Drawn, FAINT, FEW_KEYS, HIDDEN, INK, NOT_FINITE, Panel, Picture};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A picture, and where things stand in it.
pub(super) struct Page<'a> {
    pub(super) picture: &'a Picture<'a>,
    pub(super) sizes: Sizes,
}

impl Drawing for Page<'_> {
    fn size(&self) -> (u32, u32) {
        self.sizes.picture()
    }

    fn draw<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Drawn<B> {
        root.fill(&WHITE)?;
        let Self { picture, sizes } = self;
        let pen = Pen { root, picture, sizes };
        for (place, panel) in picture.panels.iter().enumerate() {
            let cells = sizes.cells(place);
            pen.titles(panel, cells)?;
            pen.labels(cells)?;
            pen.cells(panel, cells)?;
        }
        pen.text(picture.note, (MARGIN, sizes.note_top()), 18, &FAINT, (HPos::Left, VPos::Top))?;
        pen.legend()
    }
}

struct Pen<'a, B: DrawingBackend> {
    root: &'a DrawingArea<B, Shift>,
    picture: &'a Picture<'a>,
    sizes: &'a Sizes,
}

impl<B: DrawingBackend> Pen<'_, B> {
    fn titles(&self, panel: &Panel<'_>, (left, top): (i32, i32)) -> Drawn<B> {
        let top = top - self.sizes.heading;
        let anchor = (HPos::Left, VPos::Top);
        self.text(&panel.title, (left, top + 24), 30, &INK, anchor)?;
        self.text(panel.subtitle, (left, top + 60), 18, &FAINT, anchor)
    }

    /// The words above and beside the cells; with a tick where not every cell has its own.
    fn labels(&self, (left, top): (i32, i32)) -> Drawn<B> {
        let Sizes { queries, keys, .. } = self.sizes;
        for (x, label) in labelled(self.picture.keys, keys, left) {
            if keys.stride > 1 {
                self.bar((x, top - 5), (x + 1, top - 1), FAINT)?;
            }
            if keys.labels_fit() {
                let middle = (HPos::Center, VPos::Center);
                self.text(label, (x, top - 18), keys.font, &INK, middle)?;
            } else {
                let turned = ("sans-serif", keys.font).into_font().color(&INK);
                let turned = turned.transform(FontTransform::Rotate270);
                let style = turned.pos(Pos::new(HPos::Left, VPos::Center));
                self.root.draw(&Text::new(label.to_owned(), (x, top - 10), style))?;
            }
        }
        for (y, label) in labelled(self.picture.queries, queries, top) {
            if queries.stride > 1 {
                self.bar((left - 5, y), (left - 1, y + 1), FAINT)?;
            }
            let beside = (HPos::Right, VPos::Center);
            self.text(label, (left - 12, y), queries.font, &INK, beside)?;
        }
        Ok(())
    }

    fn cells(&self, panel: &Panel<'_>, (left, top): (i32, i32)) -> Drawn<B> {
        let (width, height) = (self.sizes.keys.cell, self.sizes.queries.cell);
        // Between cells that are large enough the page shows.
        let gap = i32::from(width.min(height) >= 12);
        let number_font = (width * 19 / 52).min(height - 4);
        let numbers = self.picture.keys.len() <= FEW_KEYS && number_font >= 11;
        for (row, (_, weights)) in self.picture.rows(panel).enumerate() {
            let y = top + pixels(row) * height;
            let mut column = 0;
            while let Some(&weight) = weights.get(column) {
                let (paper, ink) = self.picture.colors(weight);
                let same = |&&other: &&f32| gap == 0 && self.picture.colors(other).0 == paper;
                // Cells of one colour that touch are one bar: it is what keeps an SVG small.
                let count = 1 + weights[column + 1..].iter().take_while(same).count();
                let (x, right) =
                    (left + pixels(column) * width, left + pixels(column + count) * width);
                self.bar((x + gap, y + gap), (right - gap, y + height - gap), paper)?;
                if let Some(number) = number(weight).filter(|_| numbers) {
                    let middle = (x + width / 2, y + height / 2);
                    self.text(&number, middle, number_font, &ink, (HPos::Center, VPos::Center))?;
                }
                column += count;
            }
        }
        Ok(())
    }

    /// What the colours mean.
    fn legend(&self) -> Drawn<B> {
        let Sizes { heading: top, legend: height, .. } = *self.sizes;
        let left = self.sizes.legend_left();
        let few = self.picture.keys.len() <= FEW_KEYS;
        for y in 0..height {
            let strength = (height - y) as f32 / height as f32;
            let weight = if few { strength } else { strength.powi(3) };
            self.bar((left, top + y), (left + 20, top + y + 1), self.picture.colors(weight).0)?;
        }
        let beside = (HPos::Left, VPos::Center);
        for percent in if few { [0, 25, 50, 75, 100] } else { [0, 1, 10, 40, 100] } {
            let strength = self.picture.strength(percent as f32 / 100.0);
            let y = top + height - pixels_of(strength * height as f32);
            self.text(&format!("{percent} %"), (left + 28, y), 18, &FAINT, beside)?;
        }
        self.bar((left, top - 44), (left + 20, top - 24), HIDDEN)?;
        self.text("hidden", (left + 28, top - 34), 18, &FAINT, beside)?;
        if !self.picture.all_finite() {
            self.bar((left, top - 72), (left + 20, top - 52), NOT_FINITE)?;
            self.text("not finite", (left + 28, top - 62), 18, &FAINT, beside)?;
        }
        Ok(())
    }

    fn bar(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn<B> {
        self.root.draw(&Rectangle::new([from, to], color.filled()))
    }

    fn text(
        &self,
        text: &str,
        place: (i32, i32),
        size: i32,
        color: &RGBColor,
        (horizontal, vertical): (HPos, VPos),
    ) -> Drawn<B> {
        if text.is_empty() {
            return Ok(());
        }
        let style =
            ("sans-serif", size).into_font().color(color).pos(Pos::new(horizontal, vertical));
        self.root.draw(&Text::new(text.to_owned(), place, style))
    }
}

/// The labels of an axis that are drawn, and the middle of their cells.
fn labelled<'a>(
    labels: &'a [String],
    axis: &Axis,
    start: i32,
) -> impl Iterator<Item = (i32, &'a str)> {
    let (cell, stride) = (axis.cell, axis.stride);
    let places = labels.iter().enumerate().step_by(stride);
    places.map(move |(place, label)| (start + pixels(place) * cell + cell / 2, label.as_str()))
}

/// What stands in a cell: the weight in percent, if that says something and has room.
fn number(weight: f32) -> Option<String> {
    let number = format!("{:.0}", 100.0 * f64::from(weight));
    let next_to_nothing = weight.abs() < 0.005;
    (!next_to_nothing && number.len() <= 4).then_some(number)
}

#[expect(clippy::cast_possible_truncation, reason = "no legend is longer than a picture")]
fn pixels_of(length: f32) -> i32 {
    length.round() as i32
}
