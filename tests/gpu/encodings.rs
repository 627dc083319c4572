//! Rotary and added encodings on the GPU agree with their definition, whatever the layout, storage and device.
#![expect(clippy::cast_possible_truncation, reason = "numbers become positions")]

use crate::app::App;
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{
    PositionalInputs, PositionalShape, RotaryBuffers, RotaryInputs, RotaryPairs, RotaryShape,
    RotaryTable, TableRows, sinusoidal,
};
use wgpu_attention::{Capabilities, Element, Error, Gpu, Layout, Strides, cpu};

const ROWS: usize = 80;

/// Elements from the start to the last one that is used.
fn extent(layout: Layout, [batch, heads, len, dim]: [usize; 4]) -> usize {
    match layout {
        _ if batch * heads * len == 0 => 0,
        Layout::Strided(s) => {
            s.offset + (batch - 1) * s.batch + (heads - 1) * s.head + (len - 1) * s.row + dim
        }
        _ => batch * heads * len * dim,
    }
}

fn round<T: Element>(numbers: Vec<f32>) -> Vec<T> {
    numbers.into_iter().map(|x| T::from_f64(x.into())).collect()
}

/// Rows of tokens, or lengths of sequences that have as many.
fn positions(rows: TableRows, seed: u64, [batch, len]: [usize; 2]) -> Option<Vec<u32>> {
    let up_to = |most: usize, x: f32| ((x + 1.0) * 0.4999 * most as f32) as u32;
    match rows {
        TableRows::Named { .. } => {
            Some(numbers(seed, batch * len).into_iter().map(|x| up_to(ROWS, x)).collect())
        }
        TableRows::Last { .. } => {
            let lens = numbers(seed, batch).into_iter();
            Some(lens.map(|x| len as u32 + up_to(ROWS - len + 1, x)).collect())
        }
        TableRows::From { .. } | TableRows::PerToken => None,
    }
}

/// Rows of `width` for every token.
fn table(rows: TableRows, shared: Vec<f32>, width: usize, tokens: usize) -> Vec<f32> {
    match rows {
        TableRows::PerToken => numbers(5, tokens * width),
        _ => shared,
    }
}

fn same<T: Element>(
    what: &str,
    found: Result<Vec<T>, Error>,
    expected: &[f64],
) -> Result<(), String> {
    let found = found.map_err(|error| format!("{what}: {error}"))?;
    let found: Vec<f32> = found.into_iter().map(T::to_f32).collect();
    let accuracy = compare(&found, expected).map_err(|error| format!("{what}: {error}"))?;
    let is_same = accuracy.within(&Bounds::of(T::TYPE)) && accuracy.compared == expected.len();
    if is_same { Ok(()) } else { Err(format!("{what}: {} {accuracy}", T::TYPE)) }
}

fn check_rotary<T: Element>(gpu: &Gpu, shape: &RotaryShape, seed: u64) -> Result<(), String> {
    let shape = &RotaryShape { element: T::TYPE, ..*shape };
    let s = shape;
    let sizes = [s.batch, s.num_heads, s.len, s.head_dim];
    let x: Vec<T> = round(numbers(seed, extent(s.x, sizes)));
    let tables = RotaryTable::new(s.rotary_dim, 100.0, 0..ROWS as u64).unwrap();
    let (width, tokens) = (s.rotary_dim / 2, s.batch * s.len);
    let [cos, sin] = [tables.cos, tables.sin].map(|shared| table(s.rows, shared, width, tokens));
    let positions = positions(s.rows, seed + 1, [s.batch, s.len]);
    let inputs = RotaryInputs { x: &x, cos: &cos, sin: &sin, positions: positions.as_deref() };
    let what = format!("seed {seed}, {s:?}");
    let expected = cpu::rotary(s, &inputs).map_err(|error| format!("{what}: {error}"))?;
    same(&what, gpu.rotary_blocking(s, &inputs), &expected)
}

fn check_positional<T: Element>(
    gpu: &Gpu,
    shape: &PositionalShape,
    seed: u64,
) -> Result<(), String> {
    let shape = &PositionalShape { element: T::TYPE, ..*shape };
    let s = shape;
    let x: Option<Vec<T>> =
        s.x.map(|x| round(numbers(seed, extent(x, [s.batch, 1, s.len, s.dim]))));
    let shared = sinusoidal(ROWS, s.dim, 100.0, 0).unwrap();
    let table = table(s.rows, shared, s.dim, s.batch * s.len);
    let positions = positions(s.rows, seed + 1, [s.batch, s.len]);
    let inputs =
        PositionalInputs { x: x.as_deref(), table: &table, positions: positions.as_deref() };
    let what = format!("seed {seed}, {s:?}");
    let expected = cpu::positional(s, &inputs).map_err(|error| format!("{what}: {error}"))?;
    same(&what, gpu.positional_blocking(s, &inputs), &expected)
}

/// Contiguous either way, or with gaps; elements of different rows stay apart.
fn layout(heads: usize, len: usize, dim: usize) -> impl Strategy<Value = Layout> {
    let gaps = (0..9_usize, 0..4_usize, 1..3_usize).prop_map(move |(offset, gap, even)| {
        let row = (dim + gap).next_multiple_of(even * even);
        let (head, batch) = (len * row, heads * len * row);
        Layout::Strided(Strides { offset: offset * even, row, head, batch })
    });
    prop_oneof![Just(Layout::Bhsd), Just(Layout::Bshd), gaps]
}

fn rows() -> impl Strategy<Value = TableRows> {
    prop_oneof![
        (0..40_usize).prop_map(|start| TableRows::From { start, rows: ROWS }),
        Just(TableRows::Named { rows: ROWS }),
        Just(TableRows::Last { rows: ROWS }),
        Just(TableRows::PerToken),
    ]
}

fn rotary() -> impl Strategy<Value = RotaryShape> {
    let sizes = (0..3_usize, 1..4_usize, 0..40_usize, 2..21_usize);
    let free = (sizes, any::<bool>(), rows(), any::<proptest::sample::Index>());
    free.prop_flat_map(|((batch, num_heads, len, head_dim), halves, rows, rotary)| {
        let pairs = if halves { RotaryPairs::Half } else { RotaryPairs::Interleaved };
        let rotary_dim = 2 * (1 + rotary.index(head_dim / 2));
        let layouts = (
            layout(num_heads, len, head_dim),
            proptest::option::of(layout(num_heads, len, head_dim)),
        );
        layouts.prop_map(move |(x, out)| RotaryShape {
            rotary_dim,
            pairs,
            rows,
            x,
            out,
            ..RotaryShape::new(batch, num_heads, len, head_dim)
        })
    })
}

fn positional() -> impl Strategy<Value = PositionalShape> {
    let free = (0..3_usize, 0..40_usize, 1..21_usize, rows(), 0..3);
    free.prop_flat_map(|(batch, len, dim, rows, kind)| {
        (layout(1, len, dim), layout(1, len, dim)).prop_map(move |(x, out)| PositionalShape {
            rows,
            x: (kind < 2).then_some(x),
            out: (kind > 0).then_some(out),
            ..PositionalShape::new(batch, len, dim)
        })
    })
}

/// The same cases each time; a failure shrinks to a small one.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(23),
        max_shrink_iters: 200,
        ..Config::default()
    })
}

#[test]
fn any_rotary_encoding_agrees_with_its_definition() {
    let run = |(shape, seed): (RotaryShape, u64)| {
        check_rotary::<f32>(gpu(), &shape, seed)?;
        check_rotary::<f16>(gpu(), &shape, seed)?;
        check_rotary::<f16>(portable(), &shape, seed)?;
        check_rotary::<bf16>(gpu(), &shape, seed)
    };
    runner(64)
        .run(&(rotary(), 0..1000_u64), |case| run(case).map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_added_encoding_agrees_with_its_definition() {
    let run = |(shape, seed): (PositionalShape, u64)| {
        check_positional::<f32>(gpu(), &shape, seed)?;
        check_positional::<f16>(gpu(), &shape, seed)?;
        check_positional::<f16>(portable(), &shape, seed)?;
        check_positional::<bf16>(gpu(), &shape, seed)
    };
    runner(48)
        .run(&(positional(), 0..1000_u64), |case| run(case).map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_is_too_large_for_a_device_is_cut() {
    let small =
        Capabilities { binding_size: 4 << 10, workgroups_per_axis: 3, ..Capabilities::PORTABLE };
    let small = gpu().masked(&small);
    let shape = RotaryShape { x: Layout::Bshd, ..RotaryShape::new(2, 6, 70, 16) };
    for rows in [TableRows::From { start: 1, rows: ROWS }, TableRows::Named { rows: ROWS }] {
        for out in [None, Some(Layout::Bhsd)] {
            for (head_dim, rotary_dim) in [(16, 16), (7, 4)] {
                let shape = RotaryShape { rows, out, head_dim, rotary_dim, ..shape };
                check_rotary::<f32>(&small, &shape, 1).unwrap();
                check_rotary::<bf16>(&small, &shape, 2).unwrap();
            }
        }
    }
    let long = TableRows::Named { rows: 5000 };
    let shape = RotaryShape { rows: long, ..RotaryShape::new(1, 1, 1, 2) };
    let refused = small.rotary_operator().plan(&shape).unwrap_err();
    assert!(refused.to_string().contains("bytes of one storage binding"), "{refused}");
}

/// A new key goes into a cache behind those that are there, two plans in one encoder.
#[test]
fn keys_are_rotated_on_their_way_into_a_cache() {
    let app = App::open();
    let operator = wgpu_attention::layers::Rotary::new(&app.device, &app.queue);
    let (heads, dim, room) = (2, 6, 5);
    let table = RotaryTable::new(dim, 10_000.0, 0..room as u64).unwrap();
    let [cos, sin] = [app.buffer(&table.cos), app.buffer(&table.sin)];
    let cache = app.buffer(&vec![7.0; heads * room * dim]);
    let keys: [Vec<f32>; 2] = [numbers(1, heads * 2 * dim), numbers(2, heads * dim)];
    let buffers = keys.each_ref().map(|keys| app.buffer(keys));
    let mut expected = vec![7.0; heads * room * dim];
    let mut encoder = app.device.create_command_encoder(&Default::default());
    for ((keys, x), (start, len)) in keys.iter().zip(&buffers).zip([(1, 2), (3, 1)]) {
        let strides =
            Strides { offset: start * dim, head: room * dim, row: dim, ..Strides::default() };
        let shape = RotaryShape {
            rows: TableRows::From { start, rows: room },
            out: Some(Layout::Strided(strides)),
            ..RotaryShape::new(1, heads, len, dim)
        };
        let plan = operator.plan(&shape).unwrap();
        let buffers = RotaryBuffers {
            x: x.into(),
            cos: (&cos).into(),
            sin: (&sin).into(),
            positions: None,
            out: Some((&cache).into()),
        };
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
        let inputs = RotaryInputs { x: keys, cos: &table.cos, sin: &table.sin, positions: None };
        let rotated = cpu::rotary(&shape, &inputs).unwrap();
        for head in 0..heads {
            let rows = head * room * dim + start * dim..head * room * dim + (start + len) * dim;
            expected[rows.clone()].copy_from_slice(&rotated[rows]);
        }
    }
    app.queue.submit([encoder.finish()]);
    check_tensor("cache", &app.read(&cache), &expected, &Bounds::F32);
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let app = App::open();
    let operator = wgpu_attention::layers::Rotary::new(&app.device, &app.queue);
    let [x, out, cos, sin] = [24, 24, 6, 6].map(|len| app.buffer(&vec![0.0; len]));
    let shape = RotaryShape::new(1, 2, 3, 4);
    let good = RotaryBuffers {
        x: (&x).into(),
        cos: (&cos).into(),
        sin: (&sin).into(),
        positions: None,
        out: Some((&out).into()),
    };
    let in_place = RotaryShape { out: None, ..shape };
    let named = RotaryShape { rows: TableRows::Named { rows: 3 }, ..shape };
    for (shape, buffers, says) in [
        (
            shape,
            RotaryBuffers { x: (&cos).into(), ..good },
            "x: expected a buffer of at least 96 bytes",
        ),
        (shape, RotaryBuffers { out: None, ..good }, "out: expected a buffer"),
        (
            shape,
            RotaryBuffers { out: Some((&x).into()), ..good },
            "out: expected a buffer of its own",
        ),
        (shape, RotaryBuffers { positions: Some((&x).into()), ..good }, "positions: expected none"),
        (named, good, "positions: expected a buffer"),
        (in_place, good, "out: expected none"),
        (
            in_place,
            RotaryBuffers { cos: (&x).into(), out: None, ..good },
            "x: expected a buffer of its own",
        ),
    ] {
        let plan = operator.plan(&shape).unwrap();
        let mut encoder = app.device.create_command_encoder(&Default::default());
        let refused = operator.encode(&mut encoder, &plan, &buffers).unwrap_err().to_string();
        let says = format!("rotary: {says}");
        assert!(refused.starts_with(&says), "{refused}, not {says}");
    }
    let other = gpu().masked(&Capabilities { dispatch_work: 1, ..*gpu().capabilities() });
    let plan = other.rotary_operator().plan(&shape).unwrap();
    let mut encoder = app.device.create_command_encoder(&Default::default());
    let refused = operator.encode(&mut encoder, &plan, &good).unwrap_err().to_string();
    assert!(refused.contains("found one for others"), "{refused}");
}

/// The tests above would notice.
#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_kernel_that_is_broken_is_found() {
    let named = TableRows::Named { rows: ROWS };
    let halves = RotaryShape { rotary_dim: 6, rows: named, ..RotaryShape::new(2, 2, 9, 9) };
    let neighbours = RotaryShape { pairs: RotaryPairs::Interleaved, out: None, ..halves };
    let last = RotaryShape { rows: TableRows::Last { rows: ROWS }, ..halves };
    for (shape, find, replacement) in [
        (last, "max(len + i, params.back) - params.back", "len + i"),
        (last, "batch, 0u, 0u)], params.last_row", "0u, 0u, 0u)], params.last_row"),
        (halves, "first * sines + second", "first * sines - second"),
        (halves, "half + column, left, first", "half + column, 4u, first"),
        (halves, "copy(token, params.rotary_dim + (part - params.rotating) * 4u);", ""),
        (halves, "let position = positions[at];", "let position = i;"),
        (neighbours, "vec4(first.x, second.x, first.y, second.y)", "vec4(first, second)"),
        (neighbours, "return load_out(token.out + column, left);", ""),
    ] {
        let broken = gpu().broken(find, replacement);
        assert!(check_rotary::<f32>(&broken, &shape, 1).is_err(), "{find}");
    }
    let shape = PositionalShape::new(2, 9, 6);
    let broken = gpu().broken("four += load_token", "four -= load_token");
    assert!(check_positional::<f32>(&broken, &shape, 1).is_err());
}
