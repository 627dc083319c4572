//! `bench`: numbers that fit together, for people and for programs.

use crate::support::Folder;
use serde_json::Value;

const TINY: [&str; 5] = ["bench", "--seconds", "0.02", "--shapes", "1,4,2,24,40,16;2,2,1,1,50,8"];

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"))
}

#[test]
fn lines_of_json_say_what_was_timed_and_how_fast_it_was() {
    let folder = Folder::new();
    let flags = ["--dtypes", "f32,bf16", "--json", "--plot", "speed.svg"];
    let ended = folder.tool_with_adapter(&[&TINY[..], &flags].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let lines = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<Value> = lines.collect();
    let (ceilings, cases) = lines.split_first().expect("lines");
    let most = [&ceilings["ceilings"]["f32_gflops"], &ceilings["ceilings"]["copy_gbps"]];
    let [multiply_add, copy] = most.map(|rate| rate.as_f64().expect("a ceiling"));
    assert!(multiply_add > 0.0 && copy > 0.0, "{ceilings}");
    // The only query of a sequence sees all keys, causal or not.
    let asked: Vec<(&str, bool, &Value)> = cases
        .iter()
        .map(|line| (line["dtype"].as_str().unwrap_or(""), line["causal"] == true, &line["shape"]))
        .collect();
    let [prompt, step] =
        [[1, 4, 2, 24, 40, 16], [2, 2, 1, 1, 50, 8]].map(|sizes| Value::from(sizes.to_vec()));
    let expected = [
        ("f32", false, &prompt),
        ("f32", true, &prompt),
        ("bf16", false, &prompt),
        ("bf16", true, &prompt),
        ("f32", false, &step),
        ("bf16", false, &step),
    ];
    assert_eq!(asked, expected);
    for line in cases {
        assert_eq!((&line["peer"], &line["pass"]), (&"ours".into(), &"fwd".into()));
        assert_eq!(line["adapter"], ceilings["adapter"]);
        assert_eq!(line["kernel"], "forward");
        assert_eq!(line["rows_compared"], line["rows"]);
        let is_prompt = line["shape"] == prompt;
        // Causal, the last query beside the last key: the first sees 17 keys, the last all 40.
        let pairs = match (is_prompt, line["causal"] == true) {
            (true, false) => 4 * 24 * 40,
            (true, true) => 4 * (17..=40).sum::<u32>(),
            (false, _) => 2 * 2 * 50,
        };
        let flops = 4.0 * f64::from(pairs) * if is_prompt { 16.0 } else { 8.0 };
        let elements = if is_prompt { 2 * 16 * (4 * 24 + 2 * 40) } else { 2 * 2 * 8 * (2 + 50) };
        let bytes = f64::from(elements) * if line["dtype"] == "f32" { 4.0 } else { 2.0 };
        assert_eq!((number(line, "flops"), number(line, "bytes")), (flops, bytes));
        let [least, median, p90] = ["min_ms", "median_ms", "p90_ms"].map(|name| number(line, name));
        assert!(0.0 < least && least <= median && median <= p90, "{line}");
        assert!(number(line, "first_ms") > 0.0, "{line}");
        let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
        assert!(close(number(line, "gflops"), flops / median / 1e6), "{line}");
        let best = match &line["gpu_ms"] {
            Value::Null => median,
            gpu => gpu.as_f64().expect("a time"),
        };
        assert_eq!(line["clock"], if line["gpu_ms"].is_null() { "host" } else { "gpu" });
        assert!(close(number(line, "tflops"), flops / best / 1e9), "{line}");
        assert!(close(number(line, "gbps"), bytes / best / 1e6), "{line}");
        let percent = match is_prompt {
            true => number(line, "tflops") * 1e5 / multiply_add,
            false => number(line, "gbps") * 100.0 / copy,
        };
        assert!(close(number(line, "percent"), percent), "{line}");
    }
    let picture = std::fs::read_to_string(folder.path("speed.svg")).expect("a picture");
    let picture = roxmltree::Document::parse(&picture).expect("SVG");
    let texts: Vec<&str> = picture.descendants().filter_map(|node| node.text()).collect();
    for words in
        ["f32, dim 16, groups of 2", "bf16, dim 16, groups of 2, causal", "TFLOP/s", "keys", "40"]
    {
        assert!(texts.iter().any(|text| text.trim() == words), "{words}: {texts:?}");
    }
    assert_eq!(folder.names(), ["speed.svg"]);
}

#[test]
fn a_table_has_a_row_of_each_case() {
    let folder = Folder::new();
    let flags = ["--kernel", "three-stage", "--causal=yes", "--dtypes=f16"];
    let ended = folder.tool_with_adapter(&[&TINY[..], &flags].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    for words in ["f32 multiply-add", "copying", "p90", "100 of 100 rows were compared"] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    let rows = ended.stdout.lines().filter(|line| line.contains("three-stage"));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
    let beginnings: Vec<&[&str]> = rows.iter().map(|row| &row[..4]).collect();
    assert_eq!(
        beginnings,
        [
            ["1,4,2,24,40,16", "f16", "causal", "three-stage"],
            ["2,2,1,1,50,8", "f16", "causal", "three-stage"]
        ]
    );
    for row in &rows {
        let numbers: Vec<f64> = row[4..].iter().filter_map(|word| word.parse().ok()).collect();
        let [least, median, p90, host, rate, percent] = numbers[..] else { panic!("{row:?}") };
        assert!(0.0 < least && least <= median && median <= p90, "{row:?}");
        assert!(host > 0.0 && rate > 0.0 && percent >= 0.0, "{row:?}");
    }
    // On a software adapter such a call does some million operations a second, which are no TFLOP/s.
    assert!(rows[0].contains(&"M") || rows[0].contains(&"G"), "{rows:?}");
}

#[test]
fn without_an_adapter_nothing_is_timed() {
    let folder = Folder::new();
    for more in [&["--plot", "speed.png"][..], &["--device", "gpu", "--json"]] {
        let args = [&TINY[..], &["--adapter", "no such adapter"], more].concat();
        let ended = folder.tool(&args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("no such adapter"), "{ended:?}");
    }
    assert_eq!(folder.names(), [""; 0]);
}
