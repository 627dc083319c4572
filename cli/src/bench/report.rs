//! The numbers, for people and for programs, as they come.

use super::trial::{Measured, Tuned};
use super::{Ceilings, Row};
use crate::stderr;
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::ElementType;

pub(super) struct Report {
    /// Name, backend and driver.
    pub(super) adapter: String,
    pub(super) ceilings: Ceilings,
}

impl Report {
    /// The adapter, and what it can do at most.
    pub(super) fn begin(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        let Ceilings { f32, f16, matrix, copy, processor } = &self.ceilings;
        if json {
            let value = json!({
                "peer": "ours",
                "adapter": self.adapter,
                "ceilings": {
                    "f32_gflops": f32 / 1e9,
                    "f16_gflops": f16.map(|rate| rate / 1e9),
                    "matrix_gflops": matrix.map(|rate| rate / 1e9),
                    "copy_gbps": copy / 1e9,
                    "processor_f32_gflops": processor.map(|processor| processor.f32 / 1e9),
                    "processor_threads": processor.map(|processor| processor.threads),
                },
            });
            writeln!(out, "{value}")?;
            return out.flush();
        }
        writeln!(out, "{}\n", self.adapter)?;
        writeln!(out, "At most, measured:")?;
        writeln!(out, "  f32 multiply-add  {:>6} TFLOP/s", digits(f32 / 1e12))?;
        if let Some(rate) = f16 {
            writeln!(out, "  f16 multiply-add  {:>6} TFLOP/s", digits(rate / 1e12))?;
        }
        if let Some(rate) = matrix {
            writeln!(
                out,
                "  matrices          {:>6} TFLOP/s, cooperative, f16 in and f32 out",
                digits(rate / 1e12)
            )?;
        }
        writeln!(out, "  copying           {:>6} GB/s read and written", digits(copy / 1e9))?;
        if let Some(processor) = processor {
            let debug =
                if cfg!(debug_assertions) { " (a debug build: it can do far more)" } else { "" };
            writeln!(
                out,
                "  The processor itself does {} TFLOP/s in f32 on {} threads with {}{debug}; this adapter reaches {} % of it.",
                digits(processor.f32 / 1e12),
                processor.threads,
                processor.with,
                digits(100.0 * f32 / processor.f32),
            )?;
        }
        writeln!(
            out,
            "\n{:<28} {:<5} {:<18} {:<13} {:>8} {:>8} {:>8} {:>7} {:>6}",
            "B,Hq,Hkv,Sq,Skv,D", "dtype", "", "kernel", "GPU ms", "host ms", "TFLOP/s", "GB/s", "%"
        )?;
        out.flush()
    }

    /// One case.
    pub(super) fn row(&self, out: &mut impl Write, row: &Row, json: bool) -> io::Result<()> {
        if json {
            writeln!(out, "{}", self.to_json(row))?;
            return out.flush();
        }
        let label = &row.label;
        let element = label.element.to_string();
        write!(out, "{:<28} {element:<5} {:<18} ", label.name(), label.words)?;
        match &row.outcome {
            Ok(measured) => {
                let rates = self.rates(row, measured);
                let times = &measured.times;
                let gpu = times.gpu.map_or("-".to_owned(), |gpu| digits(1e3 * gpu.median));
                let [flops, bytes] = match label.moves {
                    true => ["-".to_owned(), digits(rates.bytes / 1e9)],
                    false => [digits(rates.flops / 1e12), "-".to_owned()],
                };
                writeln!(
                    out,
                    "{:<13} {gpu:>8} {:>8} {flops:>8} {bytes:>7} {:>6}",
                    measured.kernel,
                    digits(1e3 * times.host.median),
                    digits(rates.percent)
                )?;
                if let Some(Tuned { tile, gain }) = measured.tuned {
                    writeln!(
                        out,
                        "  tuned: {tile}; the planned tile took {gain:.2} times as long"
                    )?;
                }
            }
            // A compiler's message has lines of its own.
            Err(why) => writeln!(out, "WRONG: {}", stderr::one_line(why))?,
        }
        out.flush()
    }

    /// How to read it, and how much was checked.
    pub(super) fn end(&self, out: &mut impl Write, rows: &[Row], json: bool) -> io::Result<()> {
        if json {
            return Ok(());
        }
        let checked = rows.iter().filter_map(|row| row.outcome.as_ref().ok());
        let (compared, of) = checked.fold((0, 0), |(compared, of), measured| {
            (compared + measured.checked.rows, of + measured.checked.of)
        });
        writeln!(
            out,
            "\nMedians of one call. % is of multiply-adds, of which only those of visible pairs count: in f32, or for f16 of \
             matrices where those are faster. With fewer than 16 queries, and of encodings, it is of copying: each tensor once.\n\
             Before a case was timed its result agreed with the f64 reference: {compared} of {of} rows were compared."
        )?;
        match rows.iter().filter(|row| row.outcome.is_err()).count() {
            0 => Ok(()),
            wrong => writeln!(out, "{wrong} of {} are WRONG.", rows.len()),
        }
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
                    "gpu_ms": times.gpu.map(|gpu| 1e3 * gpu.median),
                    "gpu_min_ms": times.gpu.map(|gpu| 1e3 * gpu.least),
                    "cpu_ms": times.cpu.map(|cpu| 1e3 * cpu),
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
                    "rows_compared": measured.checked.rows,
                    "rows": measured.checked.of,
                    "max_relative": measured.checked.max_relative,
                    "tile": measured.tuned.map(|tuned| tuned.tile.to_string()),
                    "tile_gain": measured.tuned.map(|tuned| tuned.gain),
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
        // Sums are f32 whatever a tensor is stored as; only matrices multiply in f16 and add in f32.
        let (most, percent_of) = match (row.label.element, self.ceilings.matrix) {
            (ElementType::F16, Some(rate)) if rate > self.ceilings.f32 => {
                (rate, "matrix multiply-add")
            }
            _ => (self.ceilings.f32, "f32 multiply-add"),
        };
        let (reached, most, percent_of) = match row.label.moves {
            true => (bytes, self.ceilings.copy, "copy"),
            false => (flops, most, percent_of),
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
    use super::digits;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.001_234, 0.012_34, 0.1234, 1.234, 12.34, 123.4, 12_345.6];
        let expected = ["0.0012", "0.0123", "0.123", "1.23", "12.3", "123", "12346"];
        assert_eq!(numbers.map(digits), expected);
    }
}
