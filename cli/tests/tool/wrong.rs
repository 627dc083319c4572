//! On devices of its own: a wrong kernel has no speed, and a lost device is no wrong kernel.

use std::ffi::OsString;
use wgpu_attention::{Capabilities, Gpu, GpuOptions};
use wgpu_attention_cli::{Failure, run};

/// What is printed by a command on this device, and how it ends.
fn ended(gpu: &Gpu, words: &[&str]) -> (String, Result<(), Failure>) {
    let words: Vec<OsString> = ["wgpu-attention"].iter().chain(words).map(OsString::from).collect();
    let mut out = Vec::new();
    let ended = run(&words, Some(gpu), &mut out);
    (String::from_utf8(out).expect("UTF-8"), ended)
}

/// What `bench` prints of two small calls, and the exit code.
fn ran(gpu: &Gpu, flags: &[&str]) -> (String, u8) {
    let shapes = "1,2,1,16,40,8;1,2,1,1,40,8";
    let few = ["bench", "--seconds=0.01", "--shapes", shapes, "--causal=no"];
    let (out, ended) = ended(gpu, &[&few, flags].concat());
    (out, ended.err().map_or(0, |failure| failure.exit_code()))
}

#[test]
fn a_kernel_that_the_adapter_cannot_run_is_refused_with_those_that_it_can() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let gpu = gpu.masked(&Capabilities::PORTABLE);
    let (_, refused) = ended(&gpu, &["check", "--quick", "--kernel=forward-matrix"]);
    let refused = refused.expect_err("a refusal");
    let message = refused.message().expect("a message");
    assert_eq!(refused.exit_code(), 2, "{message}");
    assert!(message.starts_with("--kernel: expected one of \"forward\", "), "{message}");
    assert!(message.ends_with(", found \"forward-matrix\""), "{message}");
}

#[test]
fn a_device_lost_meanwhile_is_no_wrong_result() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    gpu.device().destroy();
    let (_, lost) = ended(&gpu, &["check", "--quick", "--json", "--only=parts"]);
    assert_eq!(lost.expect_err("a failure").exit_code(), 3);
}

#[test]
fn a_wrong_kernel_is_a_wrong_row_with_the_reason_in_one_line() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let check = ["check", "--quick", "--only=equal scores", "--kernel=forward"];
    let (table, right) = ended(&gpu, &check);
    assert!(right.is_ok() && table.ends_with("\nAll agree with the reference.\n"), "{table}");
    let headings = "cases  max relative   (bound)  Frobenius   (bound)";
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].is_empty() && lines[2].ends_with(headings), "{table}");
    assert!(lines[3].starts_with("forward ") && lines[3].ends_with(" (1.0e-5)  ok"), "{table}");

    let broken = gpu.broken("sums * finish.factor", "0.9999 * sums * finish.factor");
    let (table, wrong) = ended(&broken, &check);
    assert_eq!(wrong.expect_err("a failure").exit_code(), 1, "{table}");
    let row = table.lines().nth(3).unwrap_or_default();
    assert!(
        row.contains("  WRONG: out: relative error ") && row.contains("; worst at ["),
        "{table}"
    );
    assert!(table.ends_with(" are WRONG.\n"), "{table}");
    let (json, _) = ended(&broken, &[&check[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["passed"], false);
    let why = json["rows"][0]["failure"].as_str().unwrap_or_default();
    assert!(why.contains("relative error"), "{json:#}");
}

#[test]
fn a_wrong_kernel_prints_an_error_in_place_of_its_numbers() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let (table, code) = ran(&gpu, &[]);
    assert!(code == 0 && !table.contains("WRONG"), "{table}");

    let broken = gpu.broken("sums * finish.factor", "0.9999 * sums * finish.factor");
    let (lines, code) = ran(&broken, &["--json"]);
    assert_eq!(code, 1, "{lines}");
    let cases: Vec<&str> = lines.lines().filter(|line| line.contains("\"shape\"")).collect();
    assert_eq!(cases.len(), 2, "{lines}");
    for line in cases {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(
            value["error"].as_str().is_some_and(|why| why.contains("relative error")),
            "{line}"
        );
        assert!(
            ["_ms", "flops", "gbps", "percent"].iter().all(|word| !line.contains(word)),
            "{line}"
        );
    }

    let plot = tempfile::tempdir().expect("a folder");
    let path = plot.path().join("nothing.svg");
    let (table, code) = ran(&broken, &["--plot", path.to_str().expect("UTF-8")]);
    assert_eq!((code, table.matches("WRONG: out: relative error").count()), (1, 2), "{table}");
    assert!(table.ends_with("\n2 of 2 are WRONG.\n"), "{table}");
    assert!(!path.exists(), "there is nothing to draw");
}

#[test]
fn the_same_cases_come_as_markdown_and_as_comma_separated_values() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let (text, code) = ran(&gpu, &["--markdown"]);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    let columns = |row: &str| row.matches('|').count();
    assert_eq!((code, rows.len()), (0, 4), "{text}");
    assert!(rows.iter().all(|row| columns(row) == columns(rows[0])), "{text}");
    assert!(rows[1].chars().all(|c| "|-:".contains(c)), "{text}");
    assert!(rows[2].starts_with("| 1,2,1,16,40,8 | f32 |  | forward | "), "{text}");

    let (text, code) = ran(&gpu, &["--csv"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{text}");
    assert!(lines[0].starts_with("shape,dtype,causal,pass,kernel,min_ms,median_ms,p90_ms,"));
    assert!(lines[1].starts_with("\"1,2,1,16,40,8\",f32,false,fwd,forward,"), "{text}");
    assert!(lines[2].starts_with("\"1,2,1,1,40,8\",f32,false,fwd,forward,"), "{text}");
    // It is the shape alone, and perhaps the adapter's name, that has commas.
    let fields = lines[1].split_once("\",").expect("a shape").1.split(',').take(8);
    let times: Vec<f64> = fields.skip(4).take(3).map(|x| x.parse().expect("ms")).collect();
    assert!(0.0 < times[0] && times.is_sorted(), "{text}");
}

#[test]
fn tiles_are_measured_if_asked_and_what_they_gave_is_compared() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let (table, code) = ran(&gpu, &["--tune"]);
    let lines: Vec<&str> = table.lines().filter(|line| line.starts_with("  tuned: ")).collect();
    assert_eq!((code, lines.len()), (0, 2), "{table}");
    let gain = |line: &str| {
        let words = line.split_once("the planned tile took ").expect("a gain").1;
        words.split(' ').next().and_then(|gain| gain.parse::<f64>().ok()).expect("a number")
    };
    // The planned tile is one of those that are measured.
    assert!(lines.iter().all(|line| gain(line) >= 1.0), "{table}");
    assert!(!ran(&gpu, &[]).0.contains("tuned"));
    // Nothing is tuned for a kernel that has no such tiles.
    let (table, code) = ran(&gpu, &["--tune", "--kernel=three-stage"]);
    assert!(code == 0 && !table.contains("tuned"), "{table}");
}

#[test]
fn what_is_never_written_is_wrong() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let broken = gpu.broken("d * 4u), live)", "d * 4u), live && d > 0u)");
    let (table, code) = ran(&broken, &[]);
    assert_eq!((code, table.matches("found NaN").count()), (1, 2), "{table}");
}

#[test]
fn a_lost_device_is_no_wrong_kernel() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    gpu.device().destroy();
    let (printed, code) = ran(&gpu, &["--json"]);
    assert_eq!((code, printed.as_str()), (3, ""));
}
