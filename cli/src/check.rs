//! `check`: every kernel on this adapter against the CPU reference.

use crate::adapter;
use crate::args::{CheckArgs, DeviceChoice};
use crate::failure::Failure;
use crate::stderr;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::Gpu;
use wgpu_attention::check::{self, Bounds, CheckOptions, Progress, Report, Row};

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
    let report = check::run(&gpu, &CheckOptions { quick: args.quick }, &mut progress);
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
    let widest = |text: fn(&Row) -> &str| {
        report.rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
    };
    let (kernels, names) = (widest(|row| &row.kernel), widest(|row| row.name));
    let Bounds { max_relative, frobenius } = Bounds::F32;
    writeln!(out, "{}\n", report.adapter)?;
    writeln!(out, "{:kernels$}  {:names$}  cases  max relative  Frobenius", "kernel", "case")?;
    for row in &report.rows {
        let verdict = row.failure.as_deref().map_or("ok".to_owned(), |why| format!("WRONG: {why}"));
        writeln!(
            out,
            "{:kernels$}  {:names$}  {:5}  {:12.1e}  {:9.1e}  {verdict}",
            row.kernel, row.name, row.cases, row.max_relative, row.frobenius
        )?;
    }
    writeln!(
        out,
        "{:kernels$}  {:names$}         {max_relative:12.1e}  {frobenius:9.1e}",
        "bound", ""
    )?;
    let wrong = report.rows.iter().filter(|row| row.failure.is_some()).count();
    match wrong {
        0 => writeln!(out, "\nAll agree with the reference."),
        _ => writeln!(out, "\n{wrong} of {} are WRONG.", report.rows.len()),
    }
}

fn to_json(report: &Report) -> Value {
    let rows: Vec<Value> = report
        .rows
        .iter()
        .map(|row| {
            json!({
                "kernel": row.kernel,
                "case": row.name,
                "cases": row.cases,
                "max_relative": row.max_relative,
                "frobenius": row.frobenius,
                "failure": row.failure,
            })
        })
        .collect();
    let Bounds { max_relative, frobenius } = Bounds::F32;
    let bound = json!({ "max_relative": max_relative, "frobenius": frobenius });
    json!({ "adapter": report.adapter, "passed": report.passed(), "bound": bound, "rows": rows })
}
