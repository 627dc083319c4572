//! `check`: a table or JSON of every kernel, on whatever adapter there is.

use crate::support::Folder;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use wgpu_attention::check;

/// Of all cases a check takes minutes: `.ci/run` does that, and looks for every kernel.
#[test]
fn this_adapter_passes_and_json_says_what_was_tried() {
    let folder = Folder::new();
    let flags = ["check", "--quick", "--json", "--only", "causal"];
    let ended = folder.tool_with_adapter(&flags);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(report["passed"], true, "{report:#}");
    assert!(report["adapter"].as_str().is_some_and(|name| !name.is_empty()));
    let rows = report["rows"].as_array().expect("rows");
    // Whatever limits it was held to.
    let kernel = |row: &Value| {
        row["kernel"].as_str().and_then(|name| name.split(", ").next()).map(str::to_owned)
    };
    let tried: Vec<_> = rows.iter().filter_map(kernel).collect();
    for kernel in ["forward", "three-stage"] {
        assert!(tried.iter().any(|name| name == kernel), "{kernel}: {report:#}");
    }
    assert_eq!(report["left_out"], 0);
    // What --only and --kernel take is what the rows are called.
    let names = check::names(true, None);
    for row in rows {
        assert!(names.cases.iter().any(|name| row["case"] == *name), "{row}");
        assert!(names.kernels.iter().any(|name| row["kernel"] == name.as_str()), "{row}");
        assert_eq!(row["failure"], Value::Null);
        for error in ["max_relative", "frobenius"] {
            let [found, bound] = [&row[error], &row["bound"][error]].map(Value::as_f64);
            assert!(found.is_some() && found <= bound, "{error}: {row}");
        }
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn only_what_is_asked_for_is_checked() {
    let flags = ["check", "--quick", "--only", "lengths", "--kernel", "three-stage"];
    let ended = Folder::new().tool_with_adapter(&flags);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.ends_with("\nAll agree with the reference.\n"), "{ended:?}");
    let rows: Vec<&str> = ended.stdout.lines().filter(|line| line.ends_with("  ok")).collect();
    assert!(rows.iter().any(|row| row.starts_with("three-stage  ")), "{rows:?}");
    assert!(rows.iter().all(|row| row.starts_with("three-stage")), "{rows:?}");
    assert!(rows.iter().all(|row| row.contains("  lengths  ")), "{rows:?}");
    // No case of this name is for that kernel.
    let flags = ["check", "--quick", "--only", "halves", "--kernel", "decode"];
    let ended = Folder::new().tool_with_adapter(&flags);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    let says = "check: expected cases of these flags on this adapter, found none\n";
    assert_eq!(ended.stderr, says);
}

#[test]
fn a_check_that_runs_out_of_time_says_what_it_left_out() {
    // Time for some cases anywhere, and for all of them nowhere.
    let ended = Folder::new().tool_with_adapter(&["check", "--seconds=2"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let verdict = ended.stdout.lines().last().unwrap_or_default();
    let numbers: Vec<usize> =
        verdict.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [ran, left, total] = numbers[..] else { panic!("{ended:?}") };
    assert!(ran > 0 && left > 0 && ran + left == total, "{verdict}");
    assert!(verdict.contains("Incomplete") && !ended.stdout.contains("All agree"), "{ended:?}");
    assert!(ended.stdout.lines().any(|line| line.ends_with("  ok")), "{ended:?}");
}

#[test]
fn rows_come_while_others_are_checked() {
    let folder = Folder::new();
    let mut tool = folder.command_with_adapter();
    tool.args(["check", "--quick"]).stdout(Stdio::piped());
    let mut tool = tool.spawn().expect("the tool starts");
    let mut lines = BufReader::new(tool.stdout.take().expect("its stdout")).lines();
    let row = lines.find(|line| line.as_ref().is_ok_and(|line| line.ends_with("  ok")));
    assert!(row.is_some() && tool.try_wait().expect("its state").is_none(), "{row:?}");
    // As Ctrl-C would.
    tool.kill().expect("stopped");
    tool.wait().expect("its end");
    assert!(lines.all(|line| !line.expect("UTF-8").contains("agree")));
}

#[test]
fn names_that_no_row_has_are_refused_with_those_that_there_are() {
    let folder = Folder::new();
    let check = ["check", "--adapter", "no such adapter"];
    for (flags, says) in [
        (["--only", "length"], "--only: expected one of \"head_dim 1\", "),
        (["--kernel", "forwards"], "--kernel: expected one of \"forward\", "),
        (["--kernel", ""], "--kernel: expected one of "),
        (["--kernel", "forw"], "--kernel: expected one of "),
        (["--kernel", "forward,"], "--kernel: expected one of "),
        (["--kernel", "Forward"], "--kernel: expected one of "),
        (["--seconds", "0"], "expected a number above 0"),
        (["--seconds", "soon"], "expected a number above 0"),
    ] {
        folder.refuses(&[&check[..], &flags].concat(), &[says]);
    }
    // One of those that a quick check leaves out.
    folder.refuses(&[&check[..], &["--quick", "--only=head_dim 72"]].concat(), &["--only"]);
    let ended = folder.tool(&[&check[..], &["--only=head_dim 72"]].concat());
    assert_eq!(ended.code, Some(3), "{ended:?}");
    // A kernel under all limits, and under some.
    for kernel in ["--kernel=forward", "--kernel=forward-wide, cut"] {
        let ended = folder.tool(&[&check[..], &[kernel]].concat());
        assert_eq!(ended.code, Some(3), "{kernel}: {ended:?}");
    }
}

#[test]
fn without_an_adapter_nothing_is_checked() {
    let folder = Folder::new();
    for more in [&[][..], &["--device", "gpu"]] {
        let args = ["check", "--json", "--adapter", "no such adapter"];
        let ended = folder.tool(&[&args[..], more].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("no such adapter"), "{ended:?}");
    }
}
