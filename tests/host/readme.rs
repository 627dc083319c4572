//! The README's table of what each kernel does says what the planner does.

use crate::plan::{PORTABLE, ordinary};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, CuSeqlens, ElementType,
    Kernel, Layout, PagedKeys, Plan, Problem, SegmentLayout, Strides,
};

type Call = (AttentionShape, AttentionOptions);

const ASKED: Option<Layout> = Some(Layout::Bhsd);

/// How each row of the table begins, and calls of what it speaks of.
fn rows() -> Vec<(&'static str, Vec<Call>)> {
    let o = ordinary;
    vec![
        ("stores the", shapes([o()])),
        ("out, lse", shapes([o(), AttentionShape { lse: ASKED, ..o() }])),
        ("attention weights", shapes([AttentionShape { weights: ASKED, ..o() }])),
        (
            "scores before and after",
            shapes([
                AttentionShape { raw_scores: ASKED, ..o() },
                AttentionShape { capped_scores: ASKED, ..o() },
                AttentionShape { masked_scores: ASKED, ..o() },
            ]),
        ),
        ("any batch", any_size()),
        ("scale, softcap", any_option()),
        ("sliding windows", any_window()),
        ("boolean mask", any_addend()),
        ("any strides", any_layout()),
        (
            "f32, f16, bf16",
            shapes(
                [ElementType::F32, ElementType::F16, ElementType::Bf16]
                    .map(|element| AttentionShape { element, ..o() }),
            ),
        ),
        (
            "key lengths per sequence",
            shapes([
                AttentionShape { kv_lens: Some(vec![70, 0]), ..o() },
                AttentionShape { lens: true, ..o() },
            ]),
        ),
        (
            "segment ids",
            shapes(
                [SegmentLayout::PerSide, SegmentLayout::Shared].map(|segments| AttentionShape {
                    kv_len: 100,
                    segments: Some(segments),
                    ..o()
                }),
            ),
        ),
        ("attention sinks", shapes([AttentionShape { sinks: true, ..o() }])),
        ("packed (varlen) batches", {
            let starts = CuSeqlens { query: vec![0, 60, 60, 100], key: vec![0, 1, 40, 70] };
            shapes([AttentionShape { batch: 1, cu_seqlens: Some(starts), lse: ASKED, ..o() }])
        }),
        ("paged keys and values", {
            let pages = Some(PagedKeys::new(16, 9, 5));
            shapes([AttentionShape { pages, lse: ASKED, ..o() }])
        }),
    ]
}

fn shapes<const N: usize>(shapes: [AttentionShape; N]) -> Vec<Call> {
    shapes.map(|shape| (shape, AttentionOptions::default())).to_vec()
}

fn any_size() -> Vec<Call> {
    let o = ordinary;
    let batch = |batch| AttentionShape { batch, ..o() };
    let heads = |num_heads, num_kv_heads| AttentionShape { num_heads, num_kv_heads, ..o() };
    let lens = |q_len, kv_len| AttentionShape { q_len, kv_len, ..o() };
    let dims = |head_dim, value_dim| AttentionShape { head_dim, value_dim, ..o() };
    [
        shapes([batch(0), batch(1), batch(70_000), heads(1, 1), heads(7, 7), heads(56, 8)]),
        shapes([lens(0, 9), lens(9, 0), lens(1, 65_536), lens(4097, 1)]),
        shapes([dims(1, 3), dims(128, 128), dims(192, 128), dims(1000, 1)]),
    ]
    .concat()
}

fn any_option() -> Vec<Call> {
    let plain = AttentionOptions::default;
    let causal = |align| AttentionOptions { causal: true, align, ..plain() };
    let options = [
        AttentionOptions { scale: Some(-2.0), ..plain() },
        AttentionOptions { softcap: Some(30.0), ..plain() },
        causal(Align::TopLeft),
        causal(Align::BottomRight),
        causal(Align::Offset(-7)),
    ];
    options.map(|options| (ordinary(), options)).to_vec()
}

fn any_window() -> Vec<Call> {
    let window = AttentionOptions {
        window_left: Some(3),
        window_right: Some(0),
        ..AttentionOptions::default()
    };
    let keeps = AttentionOptions { window_keeps: 4, ..window };
    [window, keeps].map(|options| (ordinary(), options)).to_vec()
}

fn any_addend() -> Vec<Call> {
    let sizes = Some(BroadcastLayout::Sizes([1, 4, 1, 70]));
    shapes([
        AttentionShape { mask: sizes, ..ordinary() },
        AttentionShape { bias: sizes, ..ordinary() },
        AttentionShape { alibi: Some(AlibiLayout::PerBatchAndHead), ..ordinary() },
    ])
}

fn any_layout() -> Vec<Call> {
    let repeated = Layout::Strided(Strides { offset: 5, batch: 0, head: 64, row: 128 });
    let apart = Layout::Strided(Strides { offset: 3, batch: 40_001, head: 10_000, row: 99 });
    shapes([
        AttentionShape { query: apart, key: repeated, value: repeated, ..ordinary() },
        AttentionShape { query: Layout::Bshd, out: apart, ..ordinary() },
    ])
}

fn plan((shape, options): &Call, kernel: Kernel) -> Option<Plan> {
    // As the text below the table says.
    let is_wide = shape.head_dim.max(shape.value_dim) > 128;
    let kernel = if kernel == Kernel::Forward && is_wide { Kernel::ForwardWide } else { kernel };
    Plan::new(Problem::new(shape, options).ok()?, &PORTABLE, Some(kernel)).ok()
}

/// Whether no kernel gives the weights of a call.
fn lacks_weights((shape, options): &Call) -> bool {
    Problem::new(&AttentionShape { weights: ASKED, ..shape.clone() }, options).is_err()
}

/// What the table has to say of these calls.
fn cell(row: &str, calls: &[Call], kernel: Kernel) -> &'static str {
    let plans: Vec<Plan> = calls.iter().filter_map(|call| plan(call, kernel)).collect();
    let weights = |(shape, options): &Call| {
        let call = (AttentionShape { weights: ASKED, ..shape.clone() }, *options);
        plan(&call, kernel)
    };
    match plans.as_slice() {
        [plan] if row.starts_with("stores") => match weights(&calls[0]) {
            Some(_) if plan.workspace() == 0 => "only if weights are requested",
            Some(whole) if whole.workspace() < plan.workspace() => "in chunks",
            _ => "always",
        },
        [] => "no",
        plans if plans.len() < calls.len() => "in part",
        _ if calls.iter().any(lacks_weights) => "out and lse",
        _ => "yes",
    }
}

#[test]
fn the_table_of_what_each_kernel_does_is_what_the_planner_does() {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## ").find(|part| part.starts_with("Features")).unwrap();
    let table: Vec<Vec<&str>> = section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let [head, _, table @ ..] = table.as_slice() else { panic!("no table: {section}") };
    assert_eq!(head[1..], ["`forward` (fused)", "`three-stage`"]);
    let rows = rows();
    for row in table {
        let known = rows.iter().find(|(start, _)| row[0].starts_with(start));
        let Some((_, calls)) = known else {
            panic!("no calls here show that it is so: {}", row[0])
        };
        let expected = [Kernel::Forward, Kernel::ThreeStage].map(|k| cell(row[0], calls, k));
        assert_eq!(row[1..], expected, "{}", row[0]);
    }
    assert_eq!(table.len(), rows.len(), "rows that the table does not have");
}

#[test]
fn the_readme_names_the_oldest_rust_of_the_manifest() {
    let readme = include_str!("../../README.md");
    let rust = env!("CARGO_PKG_RUST_VERSION");
    for text in [format!("badge/rust-{rust}+-"), format!("needs Rust {rust} and")] {
        assert!(readme.contains(&text), "{text}");
    }
}
