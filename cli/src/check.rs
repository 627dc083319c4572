//! `check`: every kernel on this adapter against the CPU reference.

use crate::adapter;
use crate::args::{CheckArgs, DeviceChoice};
use crate::failure::Failure;
use crate::stderr;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::Gpu;
use wgpu_attention::check::{self, CheckOptions, Progress, Report, Row};

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
    let options = CheckOptions { quick: args.quick, ..CheckOptions::default() };
    let report = check::run(&gpu, &options, &mut progress);
    bar.finish_and_clear();
    answer(&mut io::stdout().lock(), &report?, args.json)
}

fn answer(out: &mut impl Write, report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        writeln!(out, "{:#}", to_json(report))?;
    } else {
        print(out, report)?;
    }
    if report.passed() { Ok(()) } else { Err(Failure::Wrong) }
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let widest = |text: fn(&Row) -> &str| {
        report.rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
    };
    let (kernels, names) = (widest(|row| &row.kernel), widest(|row| row.name));
    writeln!(out, "{}\n", report.adapter)?;
    writeln!(
        out,
        "{:kernels$}  {:names$}  cases  max relative   (bound)  Frobenius   (bound)",
        "kernel", "case"
    )?;
    for row in &report.rows {
        let verdict = row.failure.as_deref().map_or("ok".to_owned(), |why| {
            // A compiler's message has lines of its own.
            format!("WRONG: {}", stderr::one_line(why))
        });
        writeln!(
            out,
            "{:kernels$}  {:names$}  {:5}  {:12.1e} ({:.1e})  {:9.1e} ({:.1e})  {verdict}",
            row.kernel,
            row.name,
            row.cases,
            row.max_relative,
            row.bounds.max_relative,
            row.frobenius,
            row.bounds.frobenius
        )?;
    }
    let wrong = report.rows.iter().filter(|row| row.failure.is_some()).count();
    match wrong {
        0 if report.rows.is_empty() => writeln!(out, "\nNothing was checked."),
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
                "bound": {
                    "max_relative": row.bounds.max_relative,
                    "frobenius": row.bounds.frobenius,
                },
                "failure": row.failure,
            })
        })
        .collect();
    json!({ "adapter": report.adapter, "passed": report.passed(), "rows": rows })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::answer;
    use serde_json::Value;
    use wgpu_attention::check::{Bounds, Report, Row};

    fn report(failure: Option<&str>) -> Report {
        let row = |kernel: &str, failure: Option<&str>| Row {
            kernel: kernel.to_owned(),
            name: "causal",
            cases: 12,
            max_relative: if failure.is_some() { f64::INFINITY } else { 2.5e-7 },
            frobenius: 1.25e-7,
            bounds: Bounds::F32,
            failure: failure.map(str::to_owned),
        };
        let rows = vec![row("forward", None), row("forward-wide", failure)];
        Report { adapter: "adapter (vulkan, driver)".to_owned(), rows }
    }

    /// What is printed, and the exit code.
    fn answered(report: &Report, json: bool) -> (String, u8) {
        let mut out = Vec::new();
        let code = answer(&mut out, report, json).err().map_or(0, |failure| failure.exit_code());
        (String::from_utf8(out).unwrap(), code)
    }

    #[test]
    fn a_table_has_a_row_of_each_kernel_and_its_bounds() {
        let table = "\
adapter (vulkan, driver)

kernel        case    cases  max relative   (bound)  Frobenius   (bound)
forward       causal     12        2.5e-7 (1.0e-5)     1.2e-7 (1.0e-5)  ok
forward-wide  causal     12        2.5e-7 (1.0e-5)     1.2e-7 (1.0e-5)  ok

All agree with the reference.
";
        assert_eq!(answered(&report(None), false), (table.to_owned(), 0));
    }

    #[test]
    fn a_wrong_kernel_is_exit_1_and_says_what_is_wrong() {
        let report = report(Some("out: worst\nat [7]"));
        let (table, code) = answered(&report, false);
        assert_eq!(code, 1);
        let wrong = table.lines().find(|line| line.starts_with("forward-wide")).unwrap();
        assert!(wrong.contains("inf") && wrong.ends_with("WRONG: out: worst at [7]"), "{table}");
        assert!(table.ends_with("\n1 of 2 are WRONG.\n"), "{table}");

        let (json, code) = answered(&report, true);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((code, &json["passed"]), (1, &Value::Bool(false)));
        assert_eq!(json["rows"][0]["failure"], Value::Null);
        assert_eq!(json["rows"][1]["failure"], "out: worst\nat [7]");
    }

    #[test]
    fn a_report_of_nothing_is_no_pass() {
        let nothing = Report { adapter: String::new(), rows: Vec::new() };
        let (table, code) = answered(&nothing, false);
        assert!(code == 1 && table.ends_with("\nNothing was checked.\n"), "{table}");
        assert_eq!(answered(&nothing, true).1, 1);
    }
}
