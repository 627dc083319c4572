//! `check`: every kernel on this adapter against the CPU reference.

use crate::adapter::{self, DeviceArgs};
use crate::failure::Failure;
use crate::stderr;
use crate::terminal::{self, Paint};
use crate::values::seconds;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;
use wgpu_attention::Gpu;
use wgpu_attention::check::{self, Bounds, CheckOptions, Progress, Report, Row};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention check --quick
  wgpu-attention check --only \"causal over NaN\" --kernel forward
  wgpu-attention check --quick --seconds 60
  wgpu-attention check --json --adapter nvidia > check.json")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Fewer cases
    #[arg(long)]
    quick: bool,
    /// Only the cases of this name, as the table has it
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    only: Option<String>,
    /// Only this kernel, under all limits; "forward, cut" means one of them
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    kernel: Option<String>,
    /// Start no further case after so long, and say how many were left out
    #[arg(long, value_name = "S", value_parser = seconds, allow_hyphen_values = true)]
    seconds: Option<f64>,
    /// Print JSON, once all is done
    #[arg(long)]
    json: bool,
}

/// Runs the library's check and prints the worst error of each kernel, row by row.
pub(crate) fn check(
    args: &CheckArgs,
    gpu: Option<&Gpu>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    adapter::require_gpu(&args.device, "check compares a GPU with the CPU reference")?;
    // What no adapter has is refused without one.
    asked(args, &check::names(args.quick, None))?;
    let gpu = adapter::open(&args.device, gpu)?;
    let names = check::names(args.quick, Some(&gpu));
    let kernels = asked(args, &names)?;
    let options = CheckOptions {
        quick: args.quick,
        only: args.only.as_deref(),
        kernels: &kernels,
        limit: args.seconds.map(Duration::from_secs_f64),
    };
    let table = Table {
        adapter: adapter::describe(&gpu.adapter_info()),
        kernels: if kernels.is_empty() { widest(&names.kernels) } else { widest(&kernels) },
        cases: args.only.as_ref().map_or(widest(&names.cases), |only| only.chars().count()),
        paint: Paint::stdout(),
    };
    let mut total = 0;
    let mut written = Ok(());
    let bar = terminal::progress_bar(0);
    let report = check::run(&gpu, &options, &mut |progress: Progress<'_>| {
        let is_first = total == 0;
        total = progress.total;
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.name.to_owned());
        if !args.json && written.is_ok() && (is_first || !progress.rows.is_empty()) {
            written = bar.suspend(|| table.rows(out, is_first, progress.rows));
        }
    });
    bar.finish_and_clear();
    let report = report?;
    written?;
    if report.rows.is_empty() {
        return Err(nothing(&report));
    }
    if args.json {
        writeln!(out, "{:#}", to_json(&report))?;
    } else {
        table.verdict(out, &report, total)?;
    }
    if report.failed() { Err(Failure::Wrong) } else { Ok(()) }
}

/// The kernels asked for, under all limits or under those that the name says.
fn asked<'n>(args: &CheckArgs, names: &'n check::Names) -> Result<Vec<&'n str>, Failure> {
    let unknown = |flag, names: Vec<&str>, found: &str| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let expected = format_args!("one of {}", names.join(", "));
        Err(Failure::input(flag, expected, format_args!("\"{found}\"")))
    };
    if let Some(only) = args.only.as_deref().filter(|only| !names.cases.contains(only)) {
        return unknown("--only", names.cases.clone(), only);
    }
    let Some(asked) = &args.kernel else { return Ok(Vec::new()) };
    let is_asked = |name: &&str| {
        let limits = name.strip_prefix(asked.as_str());
        limits.is_some_and(|limits| limits.is_empty() || limits.starts_with(", "))
    };
    let all: Vec<&str> = names.kernels.iter().map(String::as_str).collect();
    let found: Vec<&str> = all.iter().copied().filter(is_asked).collect();
    if found.is_empty() { unknown("--kernel", all, asked) } else { Ok(found) }
}

/// Why there is no row.
fn nothing(report: &Report) -> Failure {
    match report.left_out {
        0 => Failure::input("check", "cases of these flags on this adapter", "none"),
        left => {
            let expected = "time for one case";
            Failure::input("--seconds", expected, format_args!("none: all {left} were left out"))
        }
    }
}

fn widest(names: &[impl AsRef<str>]) -> usize {
    names.iter().map(|name| name.as_ref().chars().count()).max().unwrap_or(0)
}

/// What people read: written row by row, so that columns are as wide as any row might need.
struct Table {
    adapter: String,
    kernels: usize,
    cases: usize,
    paint: Paint,
}

impl Table {
    /// Rows as they come, below the first of which stand the adapter and the headings.
    fn rows(&self, out: &mut dyn Write, with_headings: bool, rows: &[Row]) -> io::Result<()> {
        let (kernels, cases) = (self.kernels.max(6), self.cases.max(4));
        if with_headings {
            let headings = format!(
                "{:kernels$}  {:cases$}  cases  max relative   (bound)  Frobenius   (bound)",
                "kernel", "case"
            );
            writeln!(out, "{}\n\n{}", self.adapter, self.paint.bold(&headings))?;
        }
        for row in rows {
            let verdict = row.failure.as_deref().map_or(self.paint.good("ok"), |why| {
                // A compiler's message has lines of its own.
                format!("{}: {}", self.paint.bad("WRONG"), stderr::one_line(why))
            });
            let Row { kernel, name, cases: count, max_relative, frobenius, bounds, .. } = row;
            write!(out, "{kernel:kernels$}  {name:cases$}  {count:5}  ")?;
            write!(out, "{max_relative:12.1e} ({:.1e})  ", bounds.max_relative)?;
            writeln!(out, "{frobenius:9.1e} ({:.1e})  {verdict}", bounds.frobenius)?;
        }
        out.flush()
    }

    /// What it all comes to; only a check that left nothing out may say that all agree.
    fn verdict(&self, out: &mut dyn Write, report: &Report, total: usize) -> io::Result<()> {
        let left = report.left_out;
        let ran = total - left;
        let wrong = report.rows.iter().filter(|row| row.failure.is_some()).count();
        let words = match (wrong, left) {
            (0, 0) => self.paint.good("All agree with the reference."),
            (0, _) => format!("The {ran} cases that ran agree with the reference."),
            _ => self.paint.bad(&format!("{wrong} of {} are WRONG.", report.rows.len())),
        };
        let rest = match left {
            0 => String::new(),
            _ => self.paint.bad(&format!(" Incomplete: {left} of {total} cases were left out.")),
        };
        writeln!(out, "\n{words}{rest}")
    }
}

/// `passed` is null where nothing was wrong and not everything ran.
fn to_json(report: &Report) -> Value {
    let passed = (report.failed() || report.left_out == 0).then(|| report.passed());
    let row = |row: &Row| {
        let Bounds { max_relative, frobenius } = row.bounds;
        json!({
            "kernel": row.kernel,
            "case": row.name,
            "cases": row.cases,
            "max_relative": row.max_relative,
            "frobenius": row.frobenius,
            "bound": { "max_relative": max_relative, "frobenius": frobenius },
            "failure": row.failure,
        })
    };
    json!({
        "adapter": report.adapter,
        "passed": passed,
        "left_out": report.left_out,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{Table, nothing, to_json};
    use crate::terminal::Paint;
    use serde_json::Value;
    use wgpu_attention::check::{Bounds, Report, Row};

    /// Rows of two kernels, so many of them wrong, and what is said of them all.
    fn verdict(wrong: usize, left_out: usize) -> (Report, String) {
        let row = |at: usize| Row {
            kernel: "forward".to_owned(),
            name: "causal",
            cases: 12,
            max_relative: 2.5e-7,
            frobenius: 1.25e-7,
            bounds: Bounds::F32,
            failure: (at < wrong).then(|| "out: worst".to_owned()),
        };
        let report = Report { adapter: String::new(), rows: vec![row(0), row(1)], left_out };
        let table = Table { adapter: String::new(), kernels: 0, cases: 0, paint: Paint::PLAIN };
        let mut out = Vec::new();
        table.verdict(&mut out, &report, 24).unwrap();
        (report, String::from_utf8(out).unwrap().trim().to_owned())
    }

    #[test]
    fn what_was_left_out_is_never_said_to_agree() {
        let left = "Incomplete: 17 of 24 cases were left out.";
        for (wrong, left_out, passed, words) in [
            (0, 0, Value::from(true), "All agree with the reference.".to_owned()),
            (0, 17, Value::Null, format!("The 7 cases that ran agree with the reference. {left}")),
            (1, 0, Value::from(false), "1 of 2 are WRONG.".to_owned()),
            (1, 17, Value::from(false), format!("1 of 2 are WRONG. {left}")),
        ] {
            let (report, said) = verdict(wrong, left_out);
            let json = to_json(&report);
            assert_eq!(
                (said, &json["passed"], &json["left_out"]),
                (words, &passed, &left_out.into())
            );
            let nothing_ran = Report { rows: Vec::new(), ..report };
            assert_eq!(nothing(&nothing_ran).exit_code(), 2);
        }
    }
}
