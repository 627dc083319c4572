//! `check`: every kernel on this adapter against the CPU reference.

use crate::adapter;
use crate::args::{CheckArgs, DeviceChoice};
use crate::failure::Failure;
use crate::stderr;
use indicatif::{ProgressBar, ProgressStyle};
use pending::{CheckOptions, Progress, Report};
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::Gpu;

/// Runs the library's check and prints the worst error of each kernel.
pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    if args.device.device == DeviceChoice::Cpu {
        let expected = "auto or gpu: check compares a GPU with the CPU reference";
        return Err(Failure::input("--device", expected, "cpu"));
    }
    // There is no falling back here: without an adapter nothing is checked.
    let gpu = Gpu::open_blocking(&adapter::options(&args.device))?;
    let bar = ProgressBar::with_draw_target(None, stderr::progress_target());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}") {
        bar.set_style(style);
    }
    let mut progress = |progress: Progress<'_>| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.name.to_owned());
    };
    let report = pending::run(&gpu, &CheckOptions { quick: args.quick }, &mut progress);
    bar.finish_and_clear();
    let report = report?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", to_json(&report))?;
    } else {
        print(&mut out, &report)?;
    }
    if report.passed() { Ok(()) } else { Err(Failure::Wrong) }
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let width = report.rows.iter().map(|row| row.kernel.chars().count()).max().unwrap_or(0).max(6);
    writeln!(out, "{}\n", report.adapter)?;
    writeln!(out, "{:width$}  cases  max relative  Frobenius      bound", "kernel")?;
    for row in &report.rows {
        let verdict = row.failure.as_deref().map_or("ok".to_owned(), |why| format!("WRONG: {why}"));
        writeln!(
            out,
            "{:width$}  {:5}  {:12.1e}  {:9.1e}  {:9.1e}  {verdict}",
            row.kernel, row.cases, row.max_relative, row.frobenius, row.bound
        )?;
    }
    let wrong = report.rows.iter().filter(|row| row.failure.is_some()).count();
    match wrong {
        0 => writeln!(out, "\nAll {} kernels agree with the reference.", report.rows.len()),
        _ => writeln!(out, "\n{wrong} of {} kernels are WRONG.", report.rows.len()),
    }
}

fn to_json(report: &Report) -> Value {
    let rows: Vec<Value> = report
        .rows
        .iter()
        .map(|row| {
            json!({
                "kernel": row.kernel,
                "cases": row.cases,
                "max_relative": row.max_relative,
                "frobenius": row.frobenius,
                "bound": row.bound,
                "failure": row.failure,
            })
        })
        .collect();
    json!({ "adapter": report.adapter, "passed": report.passed(), "kernels": rows })
}

/// What the library's `check` module will offer, until it does.
mod pending {
    use wgpu_attention::{Error, Gpu};

    pub(super) struct CheckOptions {
        pub(super) quick: bool,
    }

    pub(super) struct Progress<'a> {
        pub(super) done: usize,
        pub(super) total: usize,
        pub(super) name: &'a str,
    }

    pub(super) struct Report {
        pub(super) adapter: String,
        pub(super) rows: Vec<Row>,
    }

    pub(super) struct Row {
        pub(super) kernel: String,
        pub(super) cases: usize,
        pub(super) max_relative: f64,
        pub(super) frobenius: f64,
        pub(super) bound: f64,
        pub(super) failure: Option<String>,
    }

    impl Report {
        pub(super) fn passed(&self) -> bool {
            self.rows.iter().all(|row| row.failure.is_none())
        }
    }

    pub(super) fn run(
        gpu: &Gpu,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Report, Error> {
        let name = if options.quick { "quick" } else { "all" };
        progress(Progress { done: 0, total: 0, name });
        let _ = gpu;
        Err(Error::Device { action: "check", message: "not built yet".to_owned() })
    }
}
