//! A wrong kernel has no speed.

use super::device::Device;
use super::layer::Layer;
use super::request::Request;
use super::run;
use super::subject::Subject;
use crate::args::{self, Command};
use std::ffi::OsString;
use wgpu_attention::{Capabilities, Gpu, GpuOptions};

const SHAPES: &str = "1,2,1,16,40,8;1,2,1,1,40,8";

fn request(flags: &[&str]) -> Request {
    let words = ["wgpu-attention", "bench"];
    let words: Vec<OsString> = words.iter().chain(flags).map(OsString::from).collect();
    let Ok(Command::Bench(args)) = args::parse(&words) else { panic!("{words:?}") };
    Request::new(&args).expect("a request")
}

/// What is printed, and the exit code.
fn ran(gpu: &Gpu, flags: &[&str]) -> (String, u8) {
    let few = ["--seconds=0.01", "--shapes", SHAPES, "--causal=no"];
    let request = request(&[&few, flags].concat());
    let mut out = Vec::new();
    let code = run(gpu, request, &mut out).err().map_or(0, |failure| failure.exit_code());
    (String::from_utf8(out).expect("UTF-8"), code)
}

#[test]
fn a_wrong_kernel_prints_an_error_in_place_of_its_numbers() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let (table, code) = ran(&gpu, &[]);
    assert!(code == 0 && !table.contains("WRONG"), "{table}");

    let broken = gpu.broken("total.rescale * inverse_sum", "0.9999 * total.rescale * inverse_sum");
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

/// Of several sequences, so that the last one is compared too.
const LAYERS: [Layer; 6] = [
    Layer::Linear([2, 5, 12, 7]),
    Layer::MultiHead([3, 9, 24, 3]),
    Layer::SelfAttention([2, 9, 24, 3]),
    Layer::Additive([2, 5, 9, 16]),
    Layer::Rotary([2, 3, 7, 10]),
    Layer::Positional([2, 7, 9]),
];

#[test]
fn every_layer_is_compared_with_the_reference_before_it_is_timed() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let device = Device::new(&gpu);
    for layer in LAYERS {
        let measured = layer.time(&device, 0.01).expect("times");
        let label = layer.label();
        let rows: usize = match layer {
            Layer::Rotary(sizes) => sizes[..3].iter().product(),
            _ => label.sizes[..2].iter().product(),
        };
        assert!(measured.times.best().median > 0.0 && measured.kernel == label.pass, "{layer:?}");
        let [compared, of] = [measured.checked.rows, measured.checked.of];
        assert_eq!(of, rows, "{layer:?}");
        assert_eq!(compared, rows * 2.min(label.sizes[0]) / label.sizes[0], "{layer:?}");
    }
}

#[test]
fn a_wrong_layer_has_no_times() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter");
    let sums = ("sums[each * FOURS + four] + added", "0.9999 * sums[each * FOURS + four] + added");
    let faults = [
        sums,
        sums,
        sums,
        ("scores[r * KEYS + j] * four", "0.9999 * scores[r * KEYS + j] * four"),
        ("first * cosines - second * sines", "first * cosines + second * sines"),
        ("four += load_token", "four += 0.9999 * load_token"),
    ];
    for (layer, (find, replace)) in LAYERS.into_iter().zip(faults) {
        let broken = gpu.broken(find, replace);
        let fault = layer.time(&Device::new(&broken), 0.01).expect_err("a fault").to_string();
        assert!(fault.contains("relative error"), "{layer:?}: {fault}");
    }
}

#[test]
fn work_of_a_layer_is_that_of_its_products_and_its_tensors() {
    let expected = [
        (2 * 5 * 12 * 7, 2 * 5 * (12 + 7) + 7 * 12 + 7),
        (4 * 3 * 9 * 24 * 24 + 2 * 3 * 3 * 9 * 9 * 8, 2 * 3 * 9 * 24 + 4 * (24 * 24 + 24)),
        (
            3 * 2 * 9 * 3 * 8 * 8 + 2 * 9 * 24 * 24 + 2 * 2 * 3 * 9 * 9 * 8,
            2 * 2 * 9 * 24 + 3 * 8 * 8 + 24 * 24 + 24,
        ),
        (2 * (5 + 9) * 16 * 16 + 2 * 2 * 5 * 9 * 16, 2 * (5 + 9 + 5) * 16 + 2 * 16 * 16 + 16 + 16),
        (2 * 2 * 3 * 7 * 10, 2 * 2 * 3 * 7 * 10 + 2 * 7 * 5),
        (2 * 7 * 9, 2 * 2 * 7 * 9 + 7 * 9),
    ];
    for (layer, (macs, elements)) in LAYERS.into_iter().zip(expected) {
        let label = layer.label();
        assert_eq!((label.flops, label.bytes), (2.0 * f64::from(macs), 4 * elements), "{layer:?}");
    }
}

#[test]
fn layers_are_timed_where_nobody_says_what() {
    let layers = |flags: &[&str]| {
        let subjects = request(flags).subjects(&Capabilities::PORTABLE);
        subjects.iter().filter(|subject| matches!(subject, Subject::Layer(_))).count()
    };
    assert_eq!(layers(&[]), LAYERS.len());
    assert_eq!(layers(&["--dtypes=f16,f32", "--causal=no"]), LAYERS.len());
    for flag in ["--shapes=1,2,1,16,40,8", "--kernel=forward", "--dtypes=f16", "--causal=yes"] {
        assert_eq!(layers(&[flag]), 0, "{flag}");
    }
}
