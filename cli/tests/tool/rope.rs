//! `rope`, `posenc` and `run --rope`: angles from tables, from positions, and from flags.
#![expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]

use crate::support::{Folder, Tensor, assert_close, integers};
use safetensors::Dtype;

const ROPE: [&str; 2] = ["rope", "in.safetensors"];

/// Pairs of `rotary_dim` columns of each vector of `dim`, turned by the angles of its position.
fn turned(
    x: &[f32],
    [dim, rotary_dim]: [usize; 2],
    interleaved: bool,
    position: impl Fn(usize) -> f64,
) -> Vec<f32> {
    let mut out = x.to_vec();
    for (n, (row, out)) in x.chunks(dim).zip(out.chunks_mut(dim)).enumerate() {
        for i in 0..rotary_dim / 2 {
            let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + rotary_dim / 2) };
            let angle = position(n) / 10_000_f64.powf(2.0 * i as f64 / rotary_dim as f64);
            let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
            out[a] = row[a] * cos - row[b] * sin;
            out[b] = row[a] * sin + row[b] * cos;
        }
    }
    out
}

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|i| (1.7 * i as f32 + 0.3).sin()).collect()
}

/// cos and sin of these positions.
fn tables(sizes: &[usize], positions: &[f64]) -> [Tensor; 2] {
    let width = sizes[sizes.len() - 1];
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|p| (0..width).map(move |i| p / 10_000_f64.powf(i as f64 / width as f64)))
        .collect();
    let tensor = |name, angle: fn(f64) -> f64| {
        Tensor::f32(name, sizes, &angles.iter().map(|&a| angle(a) as f32).collect::<Vec<_>>())
    };
    [tensor("cos", f64::cos), tensor("sin", f64::sin)]
}

fn folder(x: Tensor, more: &[Tensor]) -> Folder {
    Folder::with(&[&[x], more].concat())
}

#[test]
fn angles_come_from_positions_from_flags_or_from_tables() {
    let x = wave(2 * 2 * 3 * 6);
    let tensor = Tensor::f32("x", &[2, 2, 3, 6], &x);
    let ids = || integers("position_ids", Dtype::I64, &[2, 3], &[4, 0, 9, 1, 1, 2]);
    let named = [4.0, 0.0, 9.0, 4.0, 0.0, 9.0, 1.0, 1.0, 2.0, 1.0, 1.0, 2.0];
    let counted: Vec<f64> = (0..10).map(f64::from).collect();
    let whole = tables(&[10, 3], &counted);
    let own = tables(&[2, 3, 3], &[4.0, 0.0, 9.0, 1.0, 1.0, 2.0]);
    let position = |n: usize| (n % 3) as f64;
    for interleaved in [false, true] {
        let flags: &[&str] = if interleaved { &["--interleaved"] } else { &[] };
        let check = |more: &[Tensor], more_flags: &[&str], expected: Vec<f32>| {
            let flags = [flags, more_flags].concat();
            let outputs = folder(tensor.clone(), more).compute_on_both(&ROPE, &flags, 1e-5);
            assert_eq!(outputs["out"].sizes, [2, 2, 3, 6]);
            assert_close(&outputs["out"].elements, &expected);
        };
        let by_name = turned(&x, [6, 6], interleaved, |n| named[n]);
        let in_order = turned(&x, [6, 6], interleaved, position);
        check(&[], &[], in_order.clone());
        check(&[ids()], &["--offset", "7"], by_name.clone());
        check(&whole, &[], in_order);
        check(&[&whole[..], &[ids()]].concat(), &[], by_name.clone());
        check(&own, &[], by_name);
        check(&[], &["--offset=5"], turned(&x, [6, 6], interleaved, |n| position(n) + 5.0));
        let part = turned(&x, [6, 4], interleaved, position);
        check(&[], &["--rotary-dim", "4"], part.clone());
        check(&tables(&[3, 2], &counted[..3]), &["--rotary-dim=4"], part);
    }
}

#[test]
fn heads_side_by_side_are_rotated_one_by_one() {
    let x = wave(2 * 3 * 2 * 4);
    let folder = folder(Tensor::f32("x", &[2, 3, 8], &x), &[]);
    let outputs = folder.compute_on_both(&ROPE, &["--heads=2"], 1e-5);
    assert_eq!(outputs["out"].sizes, [2, 3, 8]);
    assert_close(&outputs["out"].elements, &turned(&x, [4, 4], false, |n| (n / 2 % 3) as f64));
    let outputs = folder.compute(&ROPE, &["--heads=1", "--base=100"]);
    let first = outputs["out"].elements[8 + 1];
    let angle = 100_f32.powf(-0.25);
    assert_close(&[first], &[x[9] * angle.cos() - x[13] * angle.sin()]);
}

#[test]
fn out_has_the_type_and_the_sizes_of_x() {
    let x = wave(2 * 3 * 5);
    let expected = turned(&x, [5, 2], true, |n| (n % 3) as f64);
    for (dtype, tolerance) in
        [(Dtype::F32, 1e-5), (Dtype::F16, 2e-3), (Dtype::BF16, 1.6e-2), (Dtype::F64, 1e-5)]
    {
        let tensor = Tensor::f32("x", &[1, 2, 3, 5], &x).rounded(dtype);
        let flags = ["--interleaved", "--rotary-dim=2"];
        let outputs = folder(tensor, &[]).compute_on_both(&ROPE, &flags, tolerance);
        let kept = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
        assert_eq!(outputs["out"].dtype, kept);
        let found = &outputs["out"].elements;
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < tolerance), "{found:?}");
    }
    for sizes in [[0, 2, 3, 4], [2, 2, 0, 4]] {
        let folder = folder(Tensor::f32("x", &sizes, &[]), &[]);
        assert_eq!(folder.compute_on_both(&ROPE, &[], 0.0)["out"].sizes, sizes);
    }
}

#[test]
fn what_rope_cannot_use_is_refused() {
    let x = || Tensor::wave("x", &[2, 2, 3, 6]);
    let [cos, sin] = tables(&[4, 3], &[0.0, 1.0, 2.0, 3.0]);
    let ids = |elements: &[i64]| integers("position_ids", Dtype::I64, &[2, 3], elements);
    let rope = ["rope", "in.safetensors", "--out", "out.safetensors", "--adapter", "none such"];
    let cases: &[(&[Tensor], &[&str], &str)] = &[
        (std::slice::from_ref(&cos), &[], "sin: expected a tensor of this name beside cos"),
        (std::slice::from_ref(&sin), &[], "cos: expected a tensor of this name beside sin"),
        (&[cos.clone(), Tensor::wave("sin", &[3, 3])], &[], "sin: expected [4, 3] as cos"),
        (&tables(&[4, 2], &[0.0; 4]), &[], "cos: expected [positions, 3] or [2, 3, 3]"),
        (&tables(&[2, 3], &[0.0; 2]), &[], "cos: expected at least 3 rows"),
        (&tables(&[2, 2, 3], &[0.0; 4]), &[], "cos: expected [positions, 3]"),
        (
            &[cos.clone(), sin.clone(), ids(&[0, 1, 2, 3, 4, 0])],
            &[],
            "position_ids: expected less than the 4 rows",
        ),
        (
            &[cos.clone(), sin.clone(), ids(&[0, -1, 2, 3, 3, 0])],
            &[],
            "position_ids: expected 0 or more, found -1",
        ),
        (&[ids(&[0, 1, 2, 3, i64::MIN, 0])], &[], "position_ids: expected 0 or more"),
        (
            &[integers("position_ids", Dtype::I64, &[3], &[0; 3])],
            &[],
            "position_ids: expected [2, 3], found [3]",
        ),
        (&[Tensor::wave("position_ids", &[2, 3])], &[], "position_ids: expected I32 or I64"),
        (&[cos.zeros(Dtype::I64), sin.clone()], &[], "cos: expected F32 or F16 or BF16 or F64"),
        (&[], &["--rotary-dim=8"], "--rotary-dim: expected an even number, at most the 6"),
        (
            &[],
            &["--rotary-dim=5"],
            "'5' for '--rotary-dim <R>': expected an even integer, at least 2",
        ),
        (&[], &["--rotary-dim=0"], "expected an even integer, at least 2"),
        (&[], &["--offset=-1"], "expected an integer, at least 0"),
        (&[], &["--offset=1.0"], "expected an integer, at least 0"),
        (&[], &["--base=0"], "expected a finite number above 0"),
        (&[], &["--base", "-1"], "expected a finite number above 0"),
        (&[], &["--base=nan"], "expected a finite number above 0"),
        (&[], &["--heads=3"], "--heads: expected the 2 heads of x, found 3"),
        (&[Tensor::wave("x", &[2, 3, 6])], &[], "--heads: expected the heads of x"),
        (
            &[Tensor::wave("x", &[2, 3, 7])],
            &["--heads=2"],
            "x: expected [batch, len, 2 heads * dim]",
        ),
        (&[Tensor::wave("x", &[3, 6])], &[], "x: expected [batch, heads, len, dim]"),
        (&[Tensor::wave("x", &[1, 1, 3, 5])], &[], "--rotary-dim: expected an even number"),
        (&[Tensor::wave("x", &[1, 0, 3, 4])], &[], "x: expected at least 1 head"),
        (&[x().zeros(Dtype::I32)], &[], "x: expected F32 or F16 or BF16 or F64"),
    ];
    for (more, flags, says) in cases {
        let mut tensors = vec![x()];
        tensors.retain(|tensor| more.iter().all(|other| other.name != tensor.name));
        tensors.extend_from_slice(more);
        Folder::with(&tensors).refuses(&[&rope[..], flags].concat(), &[says]);
    }
    let tables = [integers("position_ids", Dtype::I64, &[2, 3], &[0; 6])];
    let tables = [&tables[..], &self::tables(&[2, 3, 3], &[0.0; 6])].concat();
    folder(x(), &tables).refuses(&rope, &["cos: expected [positions, 3], found [2, 3, 3]"]);
    Folder::new().refuses(&rope, &["in.safetensors"]);
}

#[test]
fn posenc_writes_sines_and_cosines() {
    let posenc = |flags: &[&str]| {
        let folder = Folder::new();
        let outputs = folder.compute_on_both(&["posenc"], flags, 0.0);
        assert_eq!(outputs.keys().collect::<Vec<_>>(), ["out"]);
        (outputs["out"].sizes.clone(), outputs["out"].elements.clone())
    };
    let angle = 100_f32.powf(-2.0 / 3.0);
    let row = |p: f32| [p.sin(), p.cos(), (p * angle).sin()];
    let (sizes, elements) = posenc(&["--seq=3", "--dim", "3", "--base=1e2", "--offset=4"]);
    assert_eq!(sizes, [3, 3]);
    assert_close(&elements, &[row(4.0), row(5.0), row(6.0)].concat());
    let (sizes, elements) = posenc(&["--seq=2", "--dim=1"]);
    assert_eq!(sizes, [2, 1]);
    assert_close(&elements, &[0.0, 1_f32.sin()]);
    assert_eq!(posenc(&["--seq=0", "--dim=4"]), (vec![0, 4], vec![]));
}

#[test]
fn values_that_posenc_does_not_take_are_refused() {
    for (flags, says) in [
        (&["--dim=4"][..], "--seq"),
        (&["--seq=4"], "--dim"),
        (&["--seq=-1", "--dim=4"], "expected an integer, at least 0"),
        (&["--seq=4", "--dim=0"], "expected an integer, at least 1"),
        (&["--seq=4", "--dim=4", "--base=inf"], "expected a finite number above 0"),
        (&["--seq=4", "--dim=4", "--offset=x"], "expected an integer, at least 0"),
        (&["--seq=99999999999999999999", "--dim=4"], "memory: expected"),
        (&["--seq=4", "--dim=99999999999999999999"], "memory: expected"),
    ] {
        let args = ["posenc", "--out", "out.safetensors", "--adapter", "none such"];
        Folder::new().refuses(&[&args, flags].concat(), &[says]);
    }
}

/// Queries and keys of two sequences, two query heads on one key head.
fn tokens(past: usize) -> Vec<Tensor> {
    let mut tensors = vec![
        Tensor::f32("q", &[2, 2, 3, 4], &wave(48)),
        Tensor::f32("k", &[2, 1, 2, 4], &wave(16)),
        Tensor::f32("v", &[2, 1, 2, 3], &wave(12)),
    ];
    if past > 0 {
        tensors.push(Tensor::wave("past_k", &[2, 1, past, 4]));
        tensors.push(Tensor::wave("past_v", &[2, 1, past, 3]));
    }
    tensors
}

/// What `run` gives when q and k are rotated beforehand.
#[test]
fn run_rotates_queries_and_new_keys_behind_the_past() {
    let flags = ["--emit=lse,weights"];
    for past in [0, 2] {
        let start = past as f64;
        let positions: Vec<f64> = (0..past + 3).map(|p| p as f64).collect();
        for (pairs, interleaved) in [("half", false), ("interleaved", true)] {
            for rotary_dim in [2, 4] {
                let turn = |count, len| {
                    turned(&wave(count), [4, rotary_dim], interleaved, |n| start + (n % len) as f64)
                };
                let mut rotated = tokens(past);
                rotated[0] = Tensor::f32("q", &[2, 2, 3, 4], &turn(48, 3));
                rotated[1] = Tensor::f32("k", &[2, 1, 2, 4], &turn(16, 2));
                let present: &[&str] = if past > 0 { &["--emit=present_k"] } else { &[] };
                let expected = Folder::with(&rotated).run(&[&flags, present].concat());
                let table = tables(&[past + 3, rotary_dim / 2], &positions);
                let folder = Folder::with(&[&tokens(past)[..], &table].concat());
                let rope = [&flags, present, &["--rope", pairs]].concat();
                let found = folder.run_on_both(&rope, 1e-5);
                for (name, expected) in &expected {
                    assert_eq!(found[name].sizes, expected.sizes);
                    assert_close(&found[name].elements, &expected.elements);
                }
                // Nobody asks for them.
                let plain = folder.run(&flags);
                assert_eq!(plain["lse"], Folder::with(&tokens(past)).run(&flags)["lse"]);
            }
        }
    }
}

#[test]
fn run_rotates_in_every_layout() {
    let table = tables(&[4, 1], &[0.0, 1.0, 2.0, 3.0]);
    let with = |tensors: &[Tensor]| Folder::with(&[tensors, &table[..]].concat());
    let bhsd = with(&tokens(0)).run(&["--rope=half"]);
    // One head: its tokens lie the same way in all layouts.
    let one = |sizes: &[usize]| {
        let v = [&sizes[..sizes.len() - 1], &[2]].concat();
        with(&[
            Tensor::f32("q", sizes, &wave(12)),
            Tensor::f32("k", sizes, &wave(12)),
            Tensor::f32("v", &v, &wave(6)),
        ])
    };
    let plain = one(&[1, 1, 3, 4]).run(&["--rope=half"]);
    let bshd = one(&[1, 3, 1, 4]).run_on_both(&["--rope=half", "--layout=bshd"], 1e-5);
    let packed = one(&[1, 3, 4]).run(&["--rope=half", "--layout=packed", "--heads=1"]);
    for found in [&bshd, &packed] {
        assert_eq!(found["out"].elements, plain["out"].elements);
    }
    assert_ne!(plain["out"].elements, one(&[1, 1, 3, 4]).run(&[])["out"].elements);

    // The sequences of the batch, one after the other: each begins at position 0.
    let rows = |x: &[f32], heads: usize, len: usize, dim: usize| -> Vec<f32> {
        let vector = |b, i, h| &x[((b * heads + h) * len + i) * dim..][..dim];
        let tokens = (0..2).flat_map(|b| (0..len).map(move |i| (b, i)));
        tokens.flat_map(|(b, i)| (0..heads).flat_map(move |h| vector(b, i, h)).copied()).collect()
    };
    let thd = with(&[
        Tensor::f32("q", &[6, 2, 4], &rows(&wave(48), 2, 3, 4)),
        Tensor::f32("k", &[4, 1, 4], &rows(&wave(16), 1, 2, 4)),
        Tensor::f32("v", &[4, 1, 3], &rows(&wave(12), 1, 2, 3)),
        integers("cu_seqlens_q", Dtype::I32, &[3], &[0, 3, 6]),
        integers("cu_seqlens_k", Dtype::I32, &[3], &[0, 2, 4]),
    ]);
    let found = thd.run_on_both(&["--rope=half", "--layout=thd"], 1e-5);
    assert_close(&found["out"].elements, &rows(&bhsd["out"].elements, 2, 3, 3));
}

#[test]
fn what_run_cannot_rotate_by_is_refused() {
    let run = ["run", "in.safetensors", "--out", "out.safetensors", "--adapter", "none such"];
    let [cos, sin] = tables(&[3, 2], &[0.0, 1.0, 2.0]);
    let cases: &[(usize, &[Tensor], &[&str], &str)] = &[
        (0, &[], &["--rope=half"], "--rope: expected tensors cos and sin, found none"),
        (
            0,
            std::slice::from_ref(&cos),
            &["--rope=half"],
            "sin: expected a tensor of this name beside cos",
        ),
        (
            0,
            std::slice::from_ref(&sin),
            &["--rope=half"],
            "cos: expected a tensor of this name beside sin",
        ),
        (1, &[cos.clone(), sin.clone()], &["--rope=half"], "cos: expected at least 4 rows"),
        (
            0,
            &tables(&[3, 3], &[0.0; 3]),
            &["--rope=half"],
            "cos: expected [positions, R/2] of an R from 2 to 4",
        ),
        (0, &tables(&[1, 3, 2], &[0.0; 3]), &["--rope=half"], "cos: expected [positions, R/2]"),
        (
            0,
            &[cos.clone(), Tensor::wave("sin", &[3, 1])],
            &["--rope=half"],
            "sin: expected [3, 2] as cos",
        ),
        (0, &tables(&[3, 2], &[0.0; 3]), &["--rope=both"], "'both'"),
        (0, &tables(&[3, 2], &[0.0; 3]), &["--rope"], "--rope"),
    ];
    for (past, more, flags, says) in cases {
        let folder = Folder::with(&[&tokens(*past)[..], more].concat());
        folder.refuses(&[&run[..], flags].concat(), &[says]);
    }
}
