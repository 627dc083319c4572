//! `check` passes kernels that are right, and names those that are broken on purpose.

use crate::device::{gpu, portable};
use std::time::Duration;
use wgpu_attention::check::{CheckOptions, Report, Row, names, run};
use wgpu_attention::{Gpu, GpuOptions, wgpu};

/// A change to the shaders' text, the cases that have to notice, and the kernels that are tried, each of which it breaks.
struct Break {
    find: &'static str,
    replacement: &'static str,
    cases: &'static str,
    kernels: &'static [&'static str],
}

fn check(gpu: &Gpu, cases: &'static str, kernels: &'static [&'static str]) -> Report {
    let mut last = None;
    let options = CheckOptions { quick: true, only: Some(cases), kernels, limit: None };
    let report = run(gpu, &options, &mut |progress| last = Some(progress.done)).unwrap();
    assert!(last > Some(0) && !report.rows.is_empty(), "no cases are called {cases}");
    assert!(report.rows.iter().all(|row| row.name == cases && row.cases > 0), "{report:#?}");
    report
}

fn assert_finds(broken: &[Break]) {
    for Break { find, replacement, cases, kernels } in broken {
        let report = check(&gpu().broken(find, replacement), cases, kernels);
        assert_eq!(report.rows.len(), kernels.len(), "{find:?}: {report:#?}");
        for Row { kernel, failure, .. } in &report.rows {
            let why = failure.as_deref().unwrap_or_default();
            assert!(why.contains("Shape {"), "{find:?}, {kernel}: {report:#?}");
        }
    }
}

/// A device that we opened on a software adapter has siblings there, one of the caller's has not.
#[test]
fn cases_shared_out_among_devices_make_the_same_rows_as_on_one() {
    let opened = Gpu::open_blocking(&GpuOptions::default()).unwrap();
    let own = Gpu::from_device(opened.device(), opened.queue());
    let mut at_once = 0;
    for cases in ["parts", "features"] {
        let options = CheckOptions { quick: true, only: Some(cases), ..CheckOptions::default() };
        let (mut streamed, mut started, mut done) = (Vec::new(), 0, 0);
        let shared = run(&opened, &options, &mut |progress| {
            started += usize::from(progress.done == done);
            done = progress.done;
            at_once = at_once.max(started - done);
            streamed.extend_from_slice(progress.rows);
        });
        let shared = shared.unwrap();
        assert!(shared.passed() && !shared.rows.is_empty(), "{shared:#?}");
        streamed.sort_by(|a: &Row, b: &Row| a.kernel.cmp(&b.kernel));
        assert_eq!(shared.rows, streamed);
        assert_eq!(run(&own, &options, &mut |_| {}).unwrap(), shared);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = opened.adapter_info();
    let is_shared = info.device_type == wgpu::DeviceType::Cpu && info.backend != wgpu::Backend::Gl;
    let expected = if is_shared { cores.min(2)..=cores } else { 1..=1 };
    assert!(expected.contains(&at_once), "{at_once} cases at once");
}

#[test]
fn cases_that_there_was_no_time_for_are_counted_and_pass_nothing() {
    let (mut total, only) = (None, Some("parts"));
    let options = CheckOptions { quick: true, only, ..CheckOptions::default() };
    run(gpu(), &options, &mut |progress| total = Some(progress.total)).unwrap();
    let options = CheckOptions { limit: Some(Duration::ZERO), ..options };
    let report = run(gpu(), &options, &mut |_| panic!("a case was started")).unwrap();
    assert_eq!((Some(report.left_out), report.rows.len()), (total, 0));
    assert!(!report.passed() && !report.failed());
    let cases = names(true, None).cases;
    assert!(cases.contains(&"parts") && !cases.contains(&"head_dim 72"));
}

#[test]
fn a_kernel_of_matrices_is_named_where_there_are_some() {
    const MATRIX: &str = "forward-matrix";
    let on = |gpu: &Gpu| names(true, Some(gpu)).kernels.iter().any(|kernel| kernel == MATRIX);
    assert!(!on(portable()), "core WebGPU has none");
    assert_eq!(on(gpu()), gpu().capabilities().matrices.is_some());
    let kernels = names(true, None).kernels;
    let named: Vec<&String> = kernels.iter().filter(|k| k.starts_with(MATRIX)).collect();
    assert_eq!(named, [MATRIX], "limits that leave no matrices");
    let options = CheckOptions { quick: true, kernels: &[MATRIX], ..CheckOptions::default() };
    let report = run(portable(), &options, &mut |_| panic!("a case was started")).unwrap();
    assert!(report.rows.is_empty() && !report.passed(), "{report:#?}");
}

/// The first case of many takes all the time there is.
#[test]
fn a_fault_in_what_the_limit_cuts_off_is_told_of() {
    let broken = gpu().broken("fn exponential(x: f32)", "fn exponential(x: u32)");
    let limit = Duration::from_secs(1);
    let only = Some("bias");
    let options = CheckOptions { quick: true, only, limit: Some(limit), ..Default::default() };
    let (mut told, mut started) = (Vec::new(), false);
    let report = run(&broken, &options, &mut |progress| {
        if !std::mem::replace(&mut started, true) {
            std::thread::sleep(limit);
        }
        told.extend_from_slice(progress.rows);
    });
    let report = report.unwrap();
    assert!(report.left_out > 0 && report.failed(), "{report:#?}");
    told.sort_by(|a: &Row, b: &Row| a.kernel.cmp(&b.kernel));
    assert_eq!(told, report.rows);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_change_to_text_that_no_shader_has_passes() {
    let report = check(&gpu().broken("no shader says this", "nor this"), "lengths", &[]);
    assert!(report.passed(), "{report:#?}");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_running_maximum_or_sum_that_is_wrong_is_found() {
    assert_finds(&[
        Break {
            find: "l[r] *= rescale;",
            replacement: "",
            cases: "scores to 10,000",
            kernels: &["forward"],
        },
        Break {
            find: "l *= rescale;",
            replacement: "",
            cases: "long rows",
            kernels: &["forward-wide"],
        },
        Break {
            find: "l[i] *= rescale;",
            replacement: "",
            cases: "scores to 10,000",
            kernels: &["tiled, core limits"],
        },
        Break {
            find: "* factors[r]",
            replacement: "* 1.01 * factors[r]",
            cases: "causal",
            kernels: &["forward"],
        },
        Break {
            find: "sum.rest += select(term, 0.0, bits == params.hidden_bits);",
            replacement: "sum.rest += term;",
            cases: "causal",
            kernels: &["three-stage"],
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_key_too_many_or_too_few_is_found() {
    assert_finds(&[
        Break {
            find: "clamp(min(diagonal + sequence.band_upper + 1, left)",
            replacement: "clamp(min(diagonal + sequence.band_upper, left)",
            cases: "causal",
            kernels: &["forward", "three-stage"],
        },
        Break {
            find: "let left = i32(sequence.seen_len) - i32(first_key);",
            replacement: "let left = i32(KEYS);",
            cases: "lengths",
            kernels: &["forward"],
        },
        Break {
            find: "32u - countLeadingZeros(bits)",
            replacement: "31u - countLeadingZeros(bits)",
            cases: "causal",
            kernels: &["forward", "three-stage"],
        },
        Break {
            find: "i32(first_key) - i32(last_query) <= sequence.band_upper",
            replacement: "i32(first_key) - i32(last_query) < sequence.band_upper",
            cases: "causal",
            kernels: &["forward"],
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn an_option_that_is_ignored_is_found() {
    assert_finds(&[
        Break {
            find: "score += added;",
            replacement: "score += 0.0 * added;",
            cases: "bias",
            kernels: &["forward", "three-stage"],
        },
        Break {
            find: "visible &= mask_bits(row, first_key);",
            replacement: "",
            cases: "mask",
            kernels: &["forward", "three-stage"],
        },
        Break {
            find: "visible &= segment_bits(row, first_key);",
            replacement: "",
            cases: "segments",
            kernels: &["forward", "three-stage"],
        },
        Break {
            find: "+ select(term, 0.0, absent)",
            replacement: "",
            cases: "sinks",
            kernels: &["forward", "decode", "three-stage"],
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn heads_that_read_the_wrong_key_are_found() {
    // Query head h reads key/value head h % 2, not h / group: every case here has two of those.
    assert_finds(&[Break {
        find: "kv_head * params.group + row % params.group",
        replacement: "kv_head + row % params.group * 2u",
        cases: "grouped heads",
        kernels: &["forward", "three-stage"],
    }]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_sequence_that_reads_another_ones_keys_is_found() {
    for (find, replacement) in [
        ("let place = table[low * 2u];", "let place = table[0u];"),
        ("sequence.first_key + first_key", "first_key"),
        ("sequence.first_query + query", "query"),
    ] {
        let (cases, kernels) = ("sequences without padding", &["forward"][..]);
        assert_finds(&[Break { find, replacement, cases, kernels }]);
    }
    let (cases, kernels) = ("a length per sequence", &["forward"][..]);
    assert_finds(&[Break {
        find: "table[low * 2u + 1u]",
        replacement: "table[1u]",
        cases,
        kernels,
    }]);
}

#[test]
#[ignore = "part of check, which CI runs"]
fn pages_are_read_where_the_table_says() {
    for cases in ["pages", "many keys in pages"] {
        let report = check(gpu(), cases, &[]);
        assert!(report.passed(), "{report:#?}");
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_page_that_is_not_the_tables_is_found() {
    let both = &["forward", "forward-wide"][..];
    for (find, replacement, kernels) in [
        ("min(aux[entry], params.last_page)", "sequence.batch", both),
        ("first_key / params.page_len", "0u", both),
        ("sequence.batch * params.pages_batch", "0u", &["forward"]),
        ("first_key % params.page_len", "0u", &["forward"]),
    ] {
        assert_finds(&[Break { find, replacement, cases: "pages", kernels }]);
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn hidden_nan_that_leaks_is_found() {
    assert_finds(&[
        Break {
            find: "+= select(vec4(0.0), terms[r] * columns, is_visible(visible[r], j));",
            replacement: "+= terms[r] * columns;",
            cases: "causal over NaN",
            kernels: &["forward"],
        },
        Break {
            find: "select(vec4(0.0), weight * tile[j + c][four], shown)",
            replacement: "weight * tile[j + c][four]",
            cases: "causal over NaN",
            kernels: &["three-stage"],
        },
        // Past a row's end stand the weights of another.
        Break {
            find: "select(vec4(0.0), found, four_visible(visible[r], j / 4u))",
            replacement: "found",
            cases: "lengths",
            kernels: &["three-stage"],
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_linear_layer_that_is_wrong_is_found_wherever_there_is_one() {
    for (cases, kernels) in [
        ("features", &["linear"][..]),
        ("projections", &["multi-head"]),
        ("shared projections", &["self-attention"]),
    ] {
        let (find, replacement) = ("sums[each * FOURS + four] + added", "sums[four] + added");
        assert_finds(&[Break { find, replacement, cases, kernels }]);
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn an_encoding_that_is_wrong_is_found() {
    let rotary = &["rotary"][..];
    assert_finds(&[
        Break {
            find: "first * sines + second * cosines);",
            replacement: "second * cosines - first * sines);",
            cases: "halves",
            kernels: rotary,
        },
        Break {
            find: "first.x, second.x, first.y, second.y",
            replacement: "first.x, second.x, second.y, first.y",
            cases: "neighbours",
            kernels: rotary,
        },
        Break {
            find: "table_row = min(position, params.last_row);",
            replacement: "",
            cases: "halves",
            kernels: rotary,
        },
        Break {
            find: "four += load_token(token, column, left);",
            replacement: "",
            cases: "added",
            kernels: &["positional"],
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_merger_that_is_wrong_is_found() {
    let (find, replacement) = ("let sees = bits != MINUS_INFINITY_BITS", "let sees = true");
    assert_finds(&[Break { find, replacement, cases: "parts", kernels: &["merge"] }]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn caches_that_are_wrong_are_found() {
    let paged = &["paged-kv-cache"][..];
    let cases = "appended tokens";
    assert_finds(&[
        Break {
            find: "place = positions[at + 1u];",
            replacement: "place = positions[at];",
            cases,
            kernels: paged,
        },
        Break { find: "place = behind;", replacement: "", cases, kernels: &["kv-cache"] },
        Break { find: "first_key / params.page_len", replacement: "0u", cases, kernels: paged },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn additive_attention_that_is_wrong_is_found() {
    let kernels = &["additive"][..];
    assert_finds(&[
        Break {
            find: "sum.rest += weight;",
            replacement: "sum.rest += 0.99 * weight;",
            cases: "additive dims",
            kernels,
        },
        Break {
            find: "bits &= mask_bits(row, first_key);",
            replacement: "",
            cases: "additive mask",
            kernels,
        },
        Break {
            find: "sum.rest += select(term, 0.0, bits == params.hidden_bits);",
            replacement: "sum.rest += 0.5 * term;",
            cases: "additive weights",
            kernels,
        },
    ]);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn layers_that_are_wrong_around_their_projections_are_found() {
    assert_finds(&[
        Break {
            find: "sum / f32(params.group)",
            replacement: "sum",
            cases: "layer weights",
            kernels: &["multi-head"],
        },
        Break {
            find: "score += added;",
            replacement: "score += 0.0 * added;",
            cases: "layer masks",
            kernels: &["multi-head"],
        },
        Break {
            find: "let weight = 1.0 / f32(params.kv_len);",
            replacement: "let weight = 0.0;",
            cases: "rows wholly masked",
            kernels: &["self-attention"],
        },
    ]);
}

#[test]
fn a_kernel_that_does_not_compile_is_a_failure_and_no_panic() {
    let report =
        check(&gpu().broken("fn exponential(x: f32)", "fn exponential(x: u32)"), "bias", &[]);
    for row in &report.rows {
        let why = row.failure.as_deref().unwrap_or_default();
        assert!(why.starts_with("pipeline "), "{row:#?}");
    }
}
