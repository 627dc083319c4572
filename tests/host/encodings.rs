//! Encodings: their plans, their tables, and what the CPU reference says of them.

use crate::plan::PORTABLE;
use wgpu_attention::internal::{Constant, Entry, Storage, Variant};
use wgpu_attention::layers::{
    AdditivePlan, AdditiveShape, MergePlan, MergeShape, PositionalInputs, PositionalPlan,
    PositionalShape, RotaryInputs, RotaryPairs, RotaryPlan, RotaryShape, RotaryTable, TableRows,
    rotary_frequencies, sinusoidal,
};
use wgpu_attention::{Capabilities, ElementType, Layout, Strides, alibi_slopes, cpu};

/// Every variant of these shaders that a plan can ask for.
pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for (element, shader_f16) in [
        (ElementType::F32, false),
        (ElementType::F16, false),
        (ElementType::F16, true),
        (ElementType::Bf16, false),
    ] {
        let device = Capabilities { shader_f16, ..PORTABLE };
        for dim in [6, 7, 16] {
            for rows in [
                TableRows::From { start: 0, rows: 9 },
                TableRows::Named { rows: 9 },
                TableRows::Last { rows: 9 },
            ] {
                for out in [None, Some(Layout::Bhsd)] {
                    for pairs in [RotaryPairs::Half, RotaryPairs::Interleaved] {
                        let rotary_dim = dim / 2 * 2;
                        let shape = RotaryShape::new(1, 1, 5, dim);
                        let shape = RotaryShape { element, rotary_dim, pairs, rows, out, ..shape };
                        variants.extend(RotaryPlan::new(&shape, &device).unwrap().variants());
                    }
                    for x in [None, Some(Layout::Bhsd)] {
                        let shape = PositionalShape::new(1, 5, dim);
                        let shape = PositionalShape { element, rows, x, out, ..shape };
                        if x.is_some() || out.is_some() {
                            let plan = PositionalPlan::new(&shape, &device).unwrap();
                            variants.extend(plan.variants());
                        }
                    }
                }
            }
        }
        for (hidden, value_dim) in [(8, 8), (6, 6), (5, 7), (70, 300)] {
            for (bias, mask, weights) in [(false, None, true), (true, Some([1, 1, 9]), false)] {
                let shape = AdditiveShape::new(1, [5, 9], [4, 6, value_dim], hidden);
                let shape = AdditiveShape { element, bias, mask, weights, ..shape };
                variants.extend(AdditivePlan::new(&shape, &device).unwrap().variants());
            }
        }
        for value_dim in [5, 6, 8] {
            let shape = MergeShape { element, ..MergeShape::new(2, [1, 2, 3], value_dim) };
            variants.extend(MergePlan::new(&shape, &device).unwrap().variants());
        }
    }
    // Tokens that a cache appends where lengths on the GPU or a table say, and these lengths.
    let is_placed = |variant: &&Variant| {
        let on = Some(&Constant::Flag(true));
        let names = ["FROM_LENS", "HAS_POSITIONS"];
        variant.entry == Entry::Rotary
            && names.iter().any(|name| variant.constants.get(name) == on)
            && variant.constants.get("IN_PLACE") != on
            && variant.storage["out"] != Storage::Unpacked
    };
    let to_place = |variant: &Variant| {
        let mut constants = variant.constants.clone();
        constants.insert("TO_PLACE", Constant::Flag(true));
        Variant { constants, ..variant.clone() }
    };
    let appending: Vec<Variant> = variants.iter().filter(is_placed).map(to_place).collect();
    assert!(!appending.is_empty());
    variants.extend(appending);
    variants.push(Variant::new(Entry::CacheLens, [Storage::F32; 2], []));
    variants
}

fn close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let bound = 1e-7 * expected.abs().max(1e-3);
        assert!((f64::from(found) - expected).abs() <= bound, "[{index}]: {found} {expected}");
    }
}

#[test]
fn slopes_are_those_of_the_paper_and_its_code() {
    let eighths: Vec<f64> = (1..=8).map(|h| 2_f64.powi(-h)).collect();
    close(&alibi_slopes(8), &eighths);
    let root = |h: i32| 2_f64.powf(-0.5 * f64::from(h));
    close(&alibi_slopes(16), &(1..=16).map(root).collect::<Vec<_>>());
    // Twelve heads: the eight of eight, then every other one of sixteen.
    let twelve: Vec<f64> = eighths.into_iter().chain([1, 3, 5, 7].map(root)).collect();
    close(&alibi_slopes(12), &twelve);
    close(&alibi_slopes(1), &[1.0 / 256.0]);
    close(&alibi_slopes(0), &[]);
    assert!((0..70).all(|heads| alibi_slopes(heads).len() == heads));
}

#[test]
fn an_odd_dim_ends_with_a_sine_and_offsets_go_on_where_they_begin() {
    let rows = sinusoidal(7, 5, 100.0, 0).unwrap();
    let expected: Vec<f64> = (0..7)
        .flat_map(|position| {
            let angle = move |i: i32| f64::from(position) / 100_f64.powf(f64::from(2 * i) / 5.0);
            [angle(0).sin(), angle(0).cos(), angle(1).sin(), angle(1).cos(), angle(2).sin()]
        })
        .collect();
    close(&rows, &expected);
    assert_eq!(sinusoidal(4, 5, 100.0, 3).unwrap(), rows[15..]);
    assert_eq!(sinusoidal(0, 5, 100.0, 3).unwrap(), [0.0; 0]);
    assert_eq!(sinusoidal(usize::MAX, 0, 100.0, u64::MAX).unwrap(), [0.0; 0]);
}

/// An f32 holds no neighbouring numbers that are this large one apart.
#[test]
fn angles_are_exact_at_large_positions() {
    let position = 1_000_000_007_u64;
    let expected = [(position as f64).sin(), (position as f64).cos()];
    close(&sinusoidal(1, 2, 10_000.0, position).unwrap(), &expected);
    let table = RotaryTable::new(2, 10_000.0, [position]).unwrap();
    close(&[table.sin, table.cos].concat(), &expected);
}

#[test]
fn tables_that_cannot_be_are_refused() {
    for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let refused = sinusoidal(1, 1, base, 0).unwrap_err().to_string();
        assert!(refused.starts_with("base: expected a finite number above 0"), "{refused}");
        assert_eq!(rotary_frequencies(2, base).unwrap_err().to_string(), refused);
    }
    for dim in [0, 3] {
        let refused = RotaryTable::new(dim, 1e4, [0]).unwrap_err().to_string();
        assert!(refused.starts_with("rotary_dim: expected an even number"), "{refused}");
    }
    for (len, dim) in [(usize::MAX, 2), (1 << 31, 2)] {
        let refused = sinusoidal(len, dim, 1e4, 0).unwrap_err().to_string();
        assert!(refused.starts_with("table: expected fewer than 2^32 elements"), "{refused}");
    }
}

#[test]
fn a_rotation_keeps_lengths_and_adds_angles() {
    let x: Vec<f32> = crate::common::data::numbers(1, 8);
    let table = RotaryTable::new(8, 10_000.0, 0..10).unwrap();
    for pairs in [RotaryPairs::Half, RotaryPairs::Interleaved] {
        let turn = |x: &[f32], start| -> Vec<f32> {
            let rows = TableRows::From { start, rows: 10 };
            let shape = RotaryShape { pairs, rows, ..RotaryShape::new(1, 1, 1, 8) };
            let inputs = RotaryInputs { x, cos: &table.cos, sin: &table.sin, positions: None };
            cpu::rotary(&shape, &inputs).unwrap().into_iter().map(|x| x as f32).collect()
        };
        assert_eq!(turn(&x, 0), x);
        let (twice, once) = (turn(&turn(&x, 4), 5), turn(&x, 9));
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        assert!((norm(&once) - norm(&x)).abs() < 1e-5);
        assert!(twice.iter().zip(&once).all(|(a, b)| (a - b).abs() < 1e-6), "{twice:?} {once:?}");
    }
}

#[test]
fn pairs_are_halves_or_neighbours_and_the_tail_stays() {
    // A quarter turn of the first pair, none of the second.
    let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
    let inputs =
        RotaryInputs { x: &[1_f32, 2.0, 3.0, 4.0, 5.0], cos: &cos, sin: &sin, positions: None };
    let shape = RotaryShape { rotary_dim: 4, ..RotaryShape::new(1, 1, 1, 5) };
    assert_eq!(cpu::rotary(&shape, &inputs).unwrap(), [-3.0, 2.0, 1.0, 4.0, 5.0]);
    let shape = RotaryShape { pairs: RotaryPairs::Interleaved, ..shape };
    assert_eq!(cpu::rotary(&shape, &inputs).unwrap(), [-2.0, 1.0, 3.0, 4.0, 5.0]);
}

#[test]
fn tokens_name_their_rows_or_have_their_own() {
    let table = [1.0, 2.0, 3.0];
    let x = [10_f32, 20.0, 30.0, 40.0];
    let shape = PositionalShape { len: 2, ..PositionalShape::new(2, 2, 1) };
    let call = |rows, table: &[f32], positions: Option<&[u32]>| {
        let inputs = PositionalInputs { x: Some(&x[..]), table, positions };
        cpu::positional(&PositionalShape { rows, ..shape }, &inputs)
    };
    let rows = TableRows::From { start: 1, rows: 3 };
    assert_eq!(call(rows, &table, None).unwrap(), [12.0, 23.0, 32.0, 43.0]);
    let named = TableRows::Named { rows: 3 };
    assert_eq!(call(named, &table, Some(&[2, 0, 0, 1])).unwrap(), [13.0, 21.0, 31.0, 42.0]);
    let own = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(call(TableRows::PerToken, &own, None).unwrap(), [11.0, 22.0, 33.0, 44.0]);
    for (rows, table, positions, says) in [
        (
            named,
            &table[..],
            Some(&[2, 0, 3, 1][..]),
            "positions: expected rows of the table, 0 to 2",
        ),
        (named, &table, Some(&[0; 3]), "positions: expected 4 elements, found 3"),
        (named, &table, None, "positions: expected a slice"),
        (rows, &table, Some(&[0; 4]), "positions: expected none"),
        (rows, &own, None, "table: expected 3 elements, found 4"),
        (
            TableRows::From { start: 2, rows: 3 },
            &table,
            None,
            "rows: expected at least start + len",
        ),
        (TableRows::From { start: usize::MAX, rows: 3 }, &table, None, "rows: expected at least"),
        (TableRows::Named { rows: 0 }, &[], Some(&[0; 4]), "rows: expected at least 1"),
    ] {
        let refused = call(rows, table, positions).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}, not {says}");
    }
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let good = RotaryShape::new(2, 2, 3, 8);
    let overlapping = Layout::Strided(Strides { row: 4, ..Strides::default() });
    for (shape, says) in [
        (RotaryShape { rotary_dim: 0, ..good }, "rotary_dim: expected an even number from 2 to"),
        (RotaryShape { rotary_dim: 3, ..good }, "rotary_dim"),
        (RotaryShape { rotary_dim: 10, ..good }, "rotary_dim"),
        (RotaryShape { num_heads: 0, ..good }, "num_heads: expected at least 1"),
        (RotaryShape { head_dim: 0, ..good }, "head_dim: expected at least 1"),
        (RotaryShape { batch: 1 << 31, ..good }, "x: expected fewer than 2^32"),
        (RotaryShape { out: Some(overlapping), ..good }, "out: expected strides"),
        (RotaryShape { x: overlapping, out: None, ..good }, "x: expected strides"),
    ] {
        let refused = RotaryPlan::new(&shape, &PORTABLE).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}, not {says}");
    }
    let nothing = PositionalShape { x: None, out: None, ..PositionalShape::new(1, 1, 1) };
    let refused = PositionalPlan::new(&nothing, &PORTABLE).unwrap_err().to_string();
    assert!(refused.starts_with("out: expected a layout, as there is no x"), "{refused}");
}
