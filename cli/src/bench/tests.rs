//! A wrong kernel has no speed.

use super::request::Request;
use super::run;
use crate::args::{self, Command};
use std::ffi::OsString;
use wgpu_attention::{Gpu, GpuOptions};

const SHAPES: &str = "1,2,1,16,40,8;1,2,1,1,40,8";

/// What is printed, and the exit code.
fn ran(gpu: &Gpu, flags: &[&str]) -> (String, u8) {
    let words = ["wgpu-attention", "bench", "--seconds=0.01", "--shapes", SHAPES, "--causal=no"];
    let words: Vec<OsString> = words.iter().chain(flags).map(OsString::from).collect();
    let Ok(Command::Bench(args)) = args::parse(&words) else { panic!("{words:?}") };
    let request = Request::new(&args).expect("a request");
    let mut out = Vec::new();
    let code = run(gpu, request, &mut out).err().map_or(0, |failure| failure.exit_code());
    (String::from_utf8(out).expect("UTF-8"), code)
}

#[test]
fn a_wrong_kernel_prints_an_error_in_place_of_its_numbers() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let (table, code) = ran(&gpu, &[]);
    assert!(code == 0 && !table.contains("WRONG"), "{table}");

    let broken = gpu.broken("total.rescale / total.l", "0.9999 * total.rescale / total.l");
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
fn what_is_never_written_is_wrong() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let broken = gpu.broken("d * 4u), row.live)", "d * 4u), row.live && d > 0u)");
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
