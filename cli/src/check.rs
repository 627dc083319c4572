//! `check`: every kernel on this adapter against the CPU reference.

use crate::adapter;
use crate::adapter::{DeviceArgs, DeviceChoice};
use crate::failure::Failure;
use crate::stderr;
use crate::terminal::{self, Paint};
use crate::values::seconds;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;
use wgpu_attention::Gpu;
use wgpu_attention::check::{self, CheckOptions, Progress, Report, Row};

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
pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    if args.device.device == DeviceChoice::Cpu {
        let expected = "auto or gpu: check compares a GPU with the CPU reference";
        return Err(Failure::input("--device", expected, "cpu"));
    }
    // What no adapter has is refused without one.
    asked(args, &check::names(args.quick, None))?;
    // There is no falling back here: without an adapter nothing is checked.
    check_on(&Gpu::open_blocking(&adapter::options(&args.device))?, args)
}

fn check_on(gpu: &Gpu, args: &CheckArgs) -> Result<(), Failure> {
    let names = check::names(args.quick, Some(gpu));
    let kernels = asked(args, &names)?;
    let options = CheckOptions {
        quick: args.quick,
        only: args.only.as_deref(),
        kernels: &kernels,
        limit: args.seconds.map(Duration::from_secs_f64),
    };
    let table = Table {
        adapter: adapter::describe(&gpu.adapter_info()),
        kernels: match &kernels[..] {
            [] => widest(names.kernels.iter()),
            asked => widest(asked.iter()),
        },
        cases: args.only.as_ref().map_or(widest(names.cases.iter()), |only| only.chars().count()),
        paint: Paint::stdout(),
    };
    let mut out = io::stdout().lock();
    let mut total = 0;
    let mut written = Ok(());
    let bar = terminal::progress_bar(0);
    let report = check::run(gpu, &options, &mut |progress: Progress<'_>| {
        let is_first = total == 0;
        total = progress.total;
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.name.to_owned());
        if !args.json && written.is_ok() && (is_first || !progress.rows.is_empty()) {
            written = bar.suspend(|| table.rows(&mut out, is_first, progress.rows));
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
        table.verdict(&mut out, &report, total)?;
    }
    if report.failed() { Err(Failure::Wrong) } else { Ok(()) }
}

/// The kernels asked for, if there are such cases and kernels.
fn asked<'n>(args: &CheckArgs, names: &'n check::Names) -> Result<Vec<&'n str>, Failure> {
    if let Some(only) = args.only.as_deref().filter(|only| !names.cases.contains(only)) {
        return Err(unknown("--only", &names.cases, only));
    }
    args.kernel.as_deref().map_or(Ok(Vec::new()), |kernel| kernels(names, kernel))
}

fn unknown(flag: &str, names: &[impl AsRef<str>], found: &str) -> Failure {
    let names: Vec<String> = names.iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    Failure::input(flag, format_args!("one of {}", names.join(", ")), format_args!("\"{found}\""))
}

/// The kernel of this name under all limits, or under those that the name says.
fn kernels<'n>(names: &'n check::Names, asked: &str) -> Result<Vec<&'n str>, Failure> {
    let is_asked = |name: &&str| {
        name.strip_prefix(asked).is_some_and(|limits| limits.is_empty() || limits.starts_with(", "))
    };
    let all: Vec<&str> = names.kernels.iter().map(String::as_str).collect();
    let found: Vec<&str> = all.iter().copied().filter(is_asked).collect();
    if found.is_empty() { Err(unknown("--kernel", &all, asked)) } else { Ok(found) }
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

fn widest(names: impl Iterator<Item = impl AsRef<str>>) -> usize {
    names.map(|name| name.as_ref().chars().count()).max().unwrap_or(0)
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
    fn rows(&self, out: &mut impl Write, with_headings: bool, rows: &[Row]) -> io::Result<()> {
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
            writeln!(
                out,
                "{:kernels$}  {:cases$}  {:5}  {:12.1e} ({:.1e})  {:9.1e} ({:.1e})  {verdict}",
                row.kernel,
                row.name,
                row.cases,
                row.max_relative,
                row.bounds.max_relative,
                row.frobenius,
                row.bounds.frobenius
            )?;
        }
        out.flush()
    }

    /// What it all comes to; only a check that left nothing out may say that all agree.
    fn verdict(&self, out: &mut impl Write, report: &Report, total: usize) -> io::Result<()> {
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
    json!({
        "adapter": report.adapter,
        "passed": passed,
        "left_out": report.left_out,
        "rows": rows,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{CheckArgs, Table, check_on, kernels, nothing, to_json};
    use crate::terminal::Paint;
    use clap::{Args, FromArgMatches};
    use serde_json::Value;
    use wgpu_attention::check::{Bounds, Names, Report, Row};
    use wgpu_attention::{Capabilities, Gpu, GpuOptions};

    fn args(flags: &[&str]) -> CheckArgs {
        let matches = CheckArgs::augment_args(clap::Command::new("check").no_binary_name(true));
        CheckArgs::from_arg_matches(&matches.get_matches_from(flags)).unwrap()
    }

    #[test]
    fn a_kernel_that_the_adapter_cannot_run_is_refused_with_those_that_it_can() {
        let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap();
        let gpu = gpu.masked(&Capabilities::PORTABLE);
        let refused = check_on(&gpu, &args(&["--quick", "--kernel=forward-matrix"])).unwrap_err();
        let message = refused.message().unwrap();
        assert_eq!(refused.exit_code(), 2, "{message}");
        assert!(message.starts_with("--kernel: expected one of \"forward\", "), "{message}");
        assert!(message.ends_with(", found \"forward-matrix\""), "{message}");
    }

    #[test]
    fn a_device_lost_meanwhile_is_no_wrong_result() {
        let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap();
        gpu.device().destroy();
        let failure = check_on(&gpu, &args(&["--quick", "--json", "--only=parts"])).unwrap_err();
        assert_eq!(failure.exit_code(), 3, "{failure:?}");
    }

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
        Report { adapter: "adapter (vulkan, driver)".to_owned(), rows, left_out: 0 }
    }

    /// What is printed of a check of 24 cases.
    fn printed(report: &Report, paint: Paint) -> String {
        let adapter = report.adapter.clone();
        let table = Table { adapter, kernels: 12, cases: 6, paint };
        let mut out = Vec::new();
        for (at, row) in report.rows.iter().enumerate() {
            table.rows(&mut out, at == 0, std::slice::from_ref(row)).unwrap();
        }
        table.verdict(&mut out, report, 24).unwrap();
        String::from_utf8(out).unwrap()
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
        assert_eq!(printed(&report(None), Paint::PLAIN), table);
        let coloured = printed(&report(None), Paint::COLOURED);
        assert_eq!(console::strip_ansi_codes(&coloured), table);
        assert_ne!(coloured, table);
    }

    #[test]
    fn a_wrong_kernel_says_what_is_wrong() {
        let report = report(Some("out: worst\nat [7]"));
        assert!(report.failed());
        let table = printed(&report, Paint::PLAIN);
        let wrong = table.lines().find(|line| line.starts_with("forward-wide")).unwrap();
        assert!(wrong.contains("inf") && wrong.ends_with("WRONG: out: worst at [7]"), "{table}");
        assert!(table.ends_with("\n1 of 2 are WRONG.\n"), "{table}");
        let json = to_json(&report);
        assert_eq!((&json["passed"], &json["left_out"]), (&Value::Bool(false), &0.into()));
        assert_eq!(json["rows"][0]["failure"], Value::Null);
        assert_eq!(json["rows"][1]["failure"], "out: worst\nat [7]");
    }

    #[test]
    fn what_was_left_out_is_never_said_to_agree() {
        let left = Report { left_out: 17, ..report(None) };
        let table = printed(&left, Paint::PLAIN);
        let verdict = "The 7 cases that ran agree with the reference. Incomplete: 17 of 24 cases were left out.";
        assert_eq!(table.lines().last(), Some(verdict));
        assert_eq!(
            (&to_json(&left)["passed"], &to_json(&left)["left_out"]),
            (&Value::Null, &17.into())
        );
        let wrong = Report { left_out: 17, ..report(Some("worst")) };
        let table = printed(&wrong, Paint::PLAIN);
        assert!(table.ends_with("1 of 2 are WRONG. Incomplete: 17 of 24 cases were left out.\n"));
        assert_eq!(to_json(&wrong)["passed"], false);
        let nothing_ran = Report { rows: Vec::new(), ..left };
        assert_eq!(nothing(&nothing_ran).exit_code(), 2);
        assert_eq!(nothing(&Report { left_out: 0, ..nothing_ran }).exit_code(), 2);
    }

    #[test]
    fn a_kernel_is_meant_under_all_limits_or_under_those_it_is_named_with() {
        let all = ["forward", "forward-wide", "forward, cut", "forward-wide, cut"];
        let names = Names { cases: Vec::new(), kernels: all.map(str::to_owned).to_vec() };
        assert_eq!(kernels(&names, "forward").unwrap(), ["forward", "forward, cut"]);
        assert_eq!(kernels(&names, "forward-wide, cut").unwrap(), ["forward-wide, cut"]);
        for unknown in ["", "forw", "forward,", "Forward"] {
            let failure = kernels(&names, unknown).unwrap_err();
            assert!(failure.message().unwrap().contains("expected one of \"forward\", "));
        }
    }
}
