//! The numbers, for people and for programs, as they come.

use super::ceilings::Ceilings;
use super::processor::Processor;
use super::subject::{Measured, Row};
use crate::stderr;
use crate::terminal::Paint;
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::ElementType;

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Columns, for a terminal.
    Table,
    Markdown,
    /// One object a line.
    Json,
    Csv,
}

pub(super) struct Report {
    /// Name, backend and driver.
    pub(super) adapter: String,
    pub(super) ceilings: Ceilings,
    pub(super) form: Form,
    pub(super) paint: Paint,
}

/// The columns of a table, and how wide they are; numbers stand right.
const COLUMNS: &str = "B,Hq,Hkv,Sq,Skv,D|dtype||kernel|min ms|median|p90|host ms|FLOP/s|GB/s|%";
const WIDTHS: [usize; 11] = [28, 5, 18, 13, 7, 7, 7, 7, 7, 6, 5];
/// The columns of words.
const WORDS: usize = 4;

/// The fields of a line of JSON that stand in a line of CSV.
const FIELDS: &str = "shape,dtype,causal,pass,kernel,min_ms,median_ms,p90_ms,gpu_min_ms,gpu_ms,gpu_p90_ms,\
    cpu_ms,first_ms,runs,flops,bytes,gflops,clock,gbps,percent,percent_of,max_relative,adapter,error";

impl Report {
    /// The adapter, what it can do at most, and what the columns are.
    pub(super) fn begin(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.form {
            Form::Json => writeln!(out, "{}", self.ceilings_json())?,
            Form::Csv => writeln!(out, "{FIELDS}")?,
            Form::Table => {
                writeln!(out, "{}\n\nAt most, measured:", self.adapter)?;
                self.ceilings(out, "  ")?;
                let headings = columns(&headings());
                writeln!(out, "\n{}", self.paint.bold(&headings))?;
            }
            Form::Markdown => {
                writeln!(out, "**{}**\n\nAt most, measured:\n", self.adapter)?;
                self.ceilings(out, "- ")?;
                writeln!(out, "\n{}", markdown(&headings()))?;
                let rules = (0..WIDTHS.len()).map(|at| if at < WORDS { "---" } else { "---:" });
                writeln!(out, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
            }
        }
        out.flush()
    }

    fn ceilings(&self, out: &mut dyn Write, bullet: &str) -> io::Result<()> {
        let Ceilings { f32, f16, matrix, copy, processor } = &self.ceilings;
        for (name, flops, how) in [
            ("f32 multiply-add", Some(*f32), ""),
            ("f16 multiply-add", *f16, ""),
            ("matrices", *matrix, ", cooperative, f16 in and f32 out"),
        ] {
            if let Some(flops) = flops {
                writeln!(out, "{bullet}{name:<16}  {:>7}FLOP/s{how}", rate(flops))?;
            }
        }
        writeln!(out, "{bullet}copying           {:>5} GB/s read and written", digits(copy / 1e9))?;
        let Some(Processor { f32: most, threads, with }) = processor else { return Ok(()) };
        let debug =
            if cfg!(debug_assertions) { " (a debug build: it can do far more)" } else { "" };
        let (rate, percent) = (rate(*most), digits(100.0 * f32 / most));
        writeln!(
            out,
            "{bullet}The processor itself does {rate}FLOP/s in f32 on {threads} threads with {with}{debug}; \
             this adapter reaches {percent} % of it."
        )
    }

    /// One case.
    pub(super) fn row(&self, out: &mut dyn Write, row: &Row) -> io::Result<()> {
        match self.form {
            Form::Json => writeln!(out, "{}", self.to_json(row))?,
            Form::Csv => writeln!(out, "{}", csv(&self.to_json(row)))?,
            Form::Table => {
                writeln!(out, "{}", columns(&self.cells(row)))?;
                if let Some((tile, gain)) = row.outcome.as_ref().ok().and_then(|m| m.tuned) {
                    let words = "the planned tile took";
                    writeln!(out, "  tuned: {tile}; {words} {gain:.2} times as long")?;
                }
            }
            Form::Markdown => writeln!(out, "{}", markdown(&self.cells(row)))?,
        }
        out.flush()
    }

    /// The cells of a row; what has no times has the reason for it as its last.
    fn cells(&self, row: &Row) -> Vec<String> {
        let label = &row.label;
        let mut cells = vec![label.name(), label.element.to_string(), label.words.clone()];
        match &row.outcome {
            Ok(measured) => {
                let rates = self.rates(row, measured);
                let [best, host] = [measured.times.best(), measured.times.host];
                cells.push(measured.kernel.to_owned());
                cells.extend([best.least, best.median, best.p90].map(|time| digits(1e3 * time)));
                cells.push(digits(1e3 * host.median));
                cells.extend(match label.moves {
                    true => ["-".to_owned(), digits(rates.bytes / 1e9)],
                    false => [rate(rates.flops), "-".to_owned()],
                });
                cells.push(digits(rates.percent));
            }
            // A compiler's message has lines of its own.
            Err(why) => {
                cells.push(format!("{}: {}", self.paint.bad("WRONG"), stderr::one_line(why)));
            }
        }
        cells
    }

    /// How to read it, and how much was checked.
    pub(super) fn end(&self, out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
        if matches!(self.form, Form::Json | Form::Csv) {
            return Ok(());
        }
        let checked = rows.iter().filter_map(|row| row.outcome.as_ref().ok());
        let (compared, of) = checked.fold((0, 0), |(compared, of), measured| {
            (compared + measured.compared.rows, of + measured.compared.of)
        });
        writeln!(
            out,
            "\nmin, median and p90 of one call are by the GPU's timestamps, or from the host where it has none; host ms is a median with \
             submitting and waiting. % is of multiply-adds, of which only those of visible pairs count: in f32, or for f16 of matrices \
             where those are faster. With fewer than 16 queries, and of encodings, it is of copying: each tensor once.\n\
             Before a case was timed its result agreed with the f64 reference: {compared} of {of} rows were compared."
        )?;
        let wrong = rows.iter().filter(|row| row.outcome.is_err()).count();
        if wrong > 0 {
            let verdict = format!("{wrong} of {} are WRONG.", rows.len());
            writeln!(out, "{}", self.paint.bad(&verdict))?;
        }
        Ok(())
    }

    fn ceilings_json(&self) -> Value {
        let Ceilings { f32, f16, matrix, copy, processor } = &self.ceilings;
        let giga = |rate: Option<f64>| rate.map(|rate| rate / 1e9);
        json!({
            "peer": "ours",
            "adapter": self.adapter,
            "ceilings": {
                "f32_gflops": f32 / 1e9,
                "f16_gflops": giga(*f16),
                "matrix_gflops": giga(*matrix),
                "copy_gbps": copy / 1e9,
                "processor_f32_gflops": giga(processor.map(|processor| processor.f32)),
                "processor_threads": processor.map(|processor| processor.threads),
            },
        })
    }

    fn to_json(&self, row: &Row) -> Value {
        let label = &row.label;
        let mut value = json!({
            "peer": "ours",
            "shape": label.sizes,
            "dtype": label.element.to_string(),
            "causal": label.causal,
            "pass": label.pass,
            "adapter": self.adapter,
        });
        let more = match &row.outcome {
            Ok(measured) => {
                let (rates, times) = (self.rates(row, measured), &measured.times);
                json!({
                    "kernel": measured.kernel,
                    "median_ms": 1e3 * times.host.median,
                    "min_ms": 1e3 * times.host.least,
                    "p90_ms": 1e3 * times.host.p90,
                    "gpu_ms": times.gpu.map(|gpu| 1e3 * gpu.median),
                    "gpu_min_ms": times.gpu.map(|gpu| 1e3 * gpu.least),
                    "gpu_p90_ms": times.gpu.map(|gpu| 1e3 * gpu.p90),
                    "cpu_ms": measured.cpu.map(|cpu| 1e3 * cpu),
                    "first_ms": 1e3 * measured.first,
                    "runs": times.runs,
                    "per_run": times.per_run,
                    "flops": label.flops,
                    "bytes": label.bytes,
                    "gflops": label.flops / times.host.median / 1e9,
                    "clock": if times.gpu.is_some() { "gpu" } else { "host" },
                    "tflops": rates.flops / 1e12,
                    "gbps": rates.bytes / 1e9,
                    "percent": rates.percent,
                    "percent_of": rates.percent_of,
                    "rows_compared": measured.compared.rows,
                    "rows": measured.compared.of,
                    "max_relative": measured.compared.max_relative,
                    "tile": measured.tuned.map(|(tile, _)| tile.to_string()),
                    "tile_gain": measured.tuned.map(|(_, gain)| gain),
                })
            }
            Err(why) => json!({ "kernel": label.kernel, "error": why }),
        };
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    }

    fn rates(&self, row: &Row, measured: &Measured) -> Rates {
        let seconds = measured.times.best().median;
        let (flops, bytes) = (row.label.flops / seconds, row.label.bytes as f64 / seconds);
        // Kernels add in f32 whatever a tensor is stored as; matrices alone multiply in f16.
        let Ceilings { f32, matrix, copy, .. } = self.ceilings;
        let (reached, most, percent_of) = match (row.label.moves, row.label.element, matrix) {
            (true, ..) => (bytes, copy, "copy"),
            (_, ElementType::F16, Some(matrix)) if matrix > f32 => {
                (flops, matrix, "matrix multiply-add")
            }
            _ => (flops, f32, "f32 multiply-add"),
        };
        Rates { flops, bytes, percent: 100.0 * reached / most, percent_of }
    }
}

/// A second, by the best clock there is.
struct Rates {
    flops: f64,
    bytes: f64,
    percent: f64,
    percent_of: &'static str,
}

fn headings() -> Vec<String> {
    COLUMNS.split('|').map(str::to_owned).collect()
}

/// Cells as wide as their columns.
fn columns(cells: &[String]) -> String {
    let cells = cells.iter().zip(WIDTHS).enumerate();
    let padded = cells.map(|(at, (cell, width))| match at {
        0..WORDS => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn markdown(cells: &[String]) -> String {
    let empty = std::iter::repeat_n(String::new(), WIDTHS.len().saturating_sub(cells.len()));
    let cells = cells.iter().map(|cell| cell.replace('|', "\\|")).chain(empty);
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// A line of the fields that a line of JSON has; a shape is one of them, its sizes between commas.
fn csv(line: &Value) -> String {
    let field = |name: &str| match &line[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(sizes) => sizes.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    let quoted = |text: String| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    };
    FIELDS.split(',').map(|name| quoted(field(name))).collect::<Vec<_>>().join(",")
}

/// Operations a second, in the unit that leaves digits before the point.
fn rate(flops: f64) -> String {
    match flops {
        x if x < 1e9 => format!("{} M", digits(x / 1e6)),
        x if x < 1e12 => format!("{} G", digits(x / 1e9)),
        x => format!("{} T", digits(x / 1e12)),
    }
}

/// Three digits of it.
fn digits(number: f64) -> String {
    let before = match number {
        x if x < 0.1 => 4,
        x if x < 1.0 => 3,
        x if x < 10.0 => 2,
        x if x < 100.0 => 1,
        _ => 0,
    };
    format!("{number:.before$}")
}

#[cfg(test)]
mod tests {
    use super::{WIDTHS, csv, digits, markdown, rate};
    use serde_json::json;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.001_234, 0.012_34, 0.1234, 1.234, 12.34, 123.4, 12_345.6];
        let expected = ["0.0012", "0.0123", "0.123", "1.23", "12.3", "123", "12346"];
        assert_eq!(numbers.map(digits), expected);
    }

    #[test]
    fn rates_have_a_unit_that_leaves_digits_before_the_point() {
        let expected = ["0.123 M", "7.70 G", "123 G", "1.23 T", "989 T"];
        assert_eq!([1.23e5, 7.7e9, 1.234e11, 1.23e12, 9.89e14].map(rate), expected);
    }

    #[test]
    fn what_a_cell_holds_does_not_end_it() {
        let line = json!({ "shape": [1, 2], "causal": true, "error": "say \"no\", thrice" });
        let expected = format!("\"1,2\",,true{}\"say \"\"no\"\", thrice\"", ",".repeat(21));
        assert_eq!(csv(&line), expected);
        let row = markdown(&["a|b".to_owned()]);
        assert_eq!(row.replace("\\|", "").matches('|').count(), WIDTHS.len() + 1);
    }
}
