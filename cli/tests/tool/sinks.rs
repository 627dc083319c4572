//! `sinks`: a logit per head that joins its rows' sums.

use crate::support::{Folder, Found, Tensor, assert_close};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Two heads over one; the keys' exponentials are 1, 2 and 5, and the second query sees none of them.
fn folder(sinks: &[f32]) -> Folder {
    let key = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
    Folder::with(&[
        Tensor::f32("q", &[2, 2, 1], &[1.0; 4]),
        Tensor::f32("k", &[1, 3, 1], &key),
        Tensor::f32("v", &[1, 3, 1], &[8.0, 4.0, 16.0]),
        Tensor::bools("mask", &[2, 1], &[1, 0]),
        Tensor::f32("sinks", &[2], sinks),
    ])
}

fn same(found: &BTreeMap<String, Found>, name: &str, expected: &[f32]) {
    let found = &found[name].elements;
    let equal = |(f, e): (&f32, &f32)| f == e || (f.is_nan() && e.is_nan()) || (f - e).abs() < 1e-5;
    let all = found.len() == expected.len() && found.iter().zip(expected).all(equal);
    assert!(all, "{name}: {found:?}, expected {expected:?}");
}

#[test]
fn a_sink_takes_its_share_and_is_all_that_an_empty_row_has() {
    let (ln, inf, nan) = (f32::ln, f32::INFINITY, f32::NAN);
    let emit = ["--emit=lse,weights,qk_bias"];
    let found = folder(&[ln(8.0), -inf]).run_on_both(&emit, 1e-5);
    let none = [0.0; 3];
    let rows = [[0.0625, 0.125, 0.3125], none, [0.125, 0.25, 0.625], none];
    same(&found, "weights", rows.as_flattened());
    same(&found, "out", &[0.5 + 0.5 + 5.0, 0.0, 1.0 + 1.0 + 10.0, 0.0]);
    same(&found, "lse", &[ln(16.0), ln(8.0), ln(8.0), -inf]);
    let scores = [[0.0, ln(2.0), ln(5.0)], [-inf; 3]].concat();
    same(&found, "qk_bias", &[&scores[..], &scores].concat());
    // Neither scaled nor capped.
    let found = folder(&[ln(3.0), ln(3.0)]).run(&["--scale=0", "--softcap=0.5", "--emit=lse"]);
    same(&found, "lse", &[ln(6.0), ln(3.0), ln(6.0), ln(3.0)]);
    // No finite number makes every row that sees a key NaN.
    let found = folder(&[nan, inf]).run(&["--emit=weights"]);
    same(&found, "out", &[nan, 0.0, nan, 0.0]);
    same(&found, "weights", [[nan; 3], none, [nan; 3], none].as_flattened());
}

#[test]
fn sinks_work_in_every_layout() {
    let of = |q: &[usize], k: &[usize], more: &[Tensor]| {
        let tensors = [
            Tensor::f32("q", q, &[1.0; 2]),
            Tensor::f32("k", k, &[0.0, 2.0_f32.ln(), 5.0_f32.ln()]),
            Tensor::f32("v", k, &[8.0, 4.0, 16.0]),
            Tensor::f32("sinks", &[2], &[8.0_f32.ln(), f32::NEG_INFINITY]),
        ];
        Folder::with(&[&tensors, more].concat())
    };
    let starts =
        |name, end: u8| Tensor::new(name, Dtype::I32, &[2], vec![0, 0, 0, 0, end, 0, 0, 0]);
    let varlen = [starts("cu_seqlens_q", 1), starts("cu_seqlens_k", 3)];
    let past = [Tensor::f32("past_k", &[1, 0, 1], &[]), Tensor::f32("past_v", &[1, 0, 1], &[])];
    let thd = of(&[1, 2, 1], &[3, 1, 1], &varlen);
    let found = [
        of(&[2, 1, 1], &[1, 3, 1], &past).run(&["--emit=lse"]),
        of(&[1, 1, 2, 1], &[1, 3, 1, 1], &[]).run(&["--layout=bshd", "--emit=lse"]),
        of(&[1, 1, 2], &[1, 3, 1], &[]).run(&[
            "--layout=packed",
            "--heads=2",
            "--kv-heads=1",
            "--emit=lse",
        ]),
        thd.run_on_both(&["--layout=thd", "--emit=lse"], 1e-5),
    ];
    for found in found {
        assert_close(&found["out"].elements, &[6.0, 12.0]);
        assert_close(&found["lse"].elements, &[16.0_f32.ln(), 8.0_f32.ln()]);
    }
}

#[test]
fn sinks_that_cannot_be_are_refused() {
    let run = ["run", "in.safetensors", "--out", "out.safetensors"];
    let refuses = |sinks: Tensor, says: &str| {
        let tensors = ["q", "k", "v"].map(|name| Tensor::wave(name, &[4, 3, 2]));
        Folder::with(&[&tensors[..], &[sinks]].concat()).refuses(&run, &[says]);
    };
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64, Dtype::I32] {
        let says = format!("sinks: expected F32, found {dtype}");
        refuses(Tensor::wave("sinks", &[4]).zeros(dtype), &says);
    }
    for sizes in [&[][..], &[1], &[3], &[0], &[1, 4], &[4, 1]] {
        refuses(Tensor::wave("sinks", sizes), &format!("sinks: expected [4], found {sizes:?}"));
    }
}
