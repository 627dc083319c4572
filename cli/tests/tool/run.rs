//! `run`: right numbers under right names in right sizes.

use crate::support::{Folder, Tensor, assert_close};
use safetensors::Dtype;

/// One query and three keys of one element, so that the scores are the keys: 0, ln 2, ln 5.
/// Their exponentials are 1, 2 and 5, their sum 8.
pub(crate) fn keys() -> Vec<Tensor> {
    vec![
        Tensor::f32("q", &[1, 1, 1, 1], &[1.0]),
        Tensor::f32("k", &[1, 1, 3, 1], &[0.0, 2.0_f32.ln(), 5.0_f32.ln()]),
        Tensor::f32("v", &[1, 1, 3, 2], &[8.0, 0.0, 0.0, 8.0, 8.0, 8.0]),
    ]
}

fn with(mut tensors: Vec<Tensor>, more: &[Tensor]) -> Folder {
    tensors.retain(|tensor| more.iter().all(|other| other.name != tensor.name));
    tensors.extend_from_slice(more);
    Folder::with(&tensors)
}

#[test]
fn out_lse_and_weights_are_softmax() {
    let outputs = with(keys(), &[]).run(&["--emit", "lse,weights"]);
    assert_eq!(outputs.keys().collect::<Vec<_>>(), ["lse", "out", "weights"]);
    assert_eq!(outputs["out"].sizes, [1, 1, 1, 2]);
    assert_close(&outputs["out"].elements, &[6.0, 7.0]);
    assert_eq!(outputs["lse"].sizes, [1, 1, 1]);
    assert_close(&outputs["lse"].elements, &[8.0_f32.ln()]);
    assert_eq!(outputs["weights"].sizes, [1, 1, 1, 3]);
    assert_close(&outputs["weights"].elements, &[0.125, 0.25, 0.625]);
}

/// Every flag against the weights it must give over the three keys.
#[test]
fn flags_do_what_they_say() {
    let (e2, e5) = (2.0_f32.ln(), 5.0_f32.ln());
    let capped = |score: f32| (2.0 * (score / 2.0).tanh()).exp();
    let capped_sum = 1.0 + capped(e2) + capped(e5);
    let cases: &[(&[&str], [f32; 3])] = &[
        (&["--scale", "0"], [1.0 / 3.0; 3]),
        (&["--scale", "-1"], [10.0 / 17.0, 5.0 / 17.0, 2.0 / 17.0]),
        (&["--scale=-1"], [10.0 / 17.0, 5.0 / 17.0, 2.0 / 17.0]),
        (&["--scale", "1e0"], [0.125, 0.25, 0.625]),
        (&["--scale=+1."], [0.125, 0.25, 0.625]),
        (&["--softcap", "2"], [1.0, capped(e2), capped(e5)].map(|e| e / capped_sum)),
        (&["--softcap", "0"], [0.125, 0.25, 0.625]),
        (&["--softcap=-0"], [0.125, 0.25, 0.625]),
        (&["--softcap", "1e-300"], [1.0 / 3.0; 3]),
        (&["--softcap", "1e300"], [0.125, 0.25, 0.625]),
        (&["--causal"], [1.0, 0.0, 0.0]),
        (&["--causal", "--align", "auto"], [1.0, 0.0, 0.0]),
        (&["--causal", "--align", "bottom-right"], [0.125, 0.25, 0.625]),
        (&["--window-right", "1"], [1.0 / 3.0, 2.0 / 3.0, 0.0]),
        (&["--window-right=1", "--align=top-left"], [1.0 / 3.0, 2.0 / 3.0, 0.0]),
        (&["--window-left", "1", "--align", "bottom-right"], [0.0, 2.0 / 7.0, 5.0 / 7.0]),
        (&["--window-left", "-1", "--window-right=-1"], [0.125, 0.25, 0.625]),
        (&["--window-left", "0", "--window-right", "0"], [1.0, 0.0, 0.0]),
        (&["--window-right", "99999999999999999999999"], [0.125, 0.25, 0.625]),
        (&["--layout", "bhsd", "--backend", "gl", "--adapter", "any"], [0.125, 0.25, 0.625]),
    ];
    let folder = with(keys(), &[]);
    for (flags, expected) in cases {
        let outputs = folder.run(&[flags, &["--emit=weights"][..]].concat());
        assert_close(&outputs["weights"].elements, expected);
    }
}

/// Every optional tensor against the weights it must give over the three keys.
#[test]
fn optional_tensors_do_what_they_say() {
    let inf = f32::NEG_INFINITY;
    let e2 = 2.0_f32.ln();
    let cases = [
        (Tensor::bools("mask", &[3], &[1, 0, 1]), [1.0 / 6.0, 0.0, 5.0 / 6.0]),
        (Tensor::bools("mask", &[1, 3], &[0, 0xff, 0]), [0.0, 1.0, 0.0]),
        (Tensor::bools("mask", &[1, 1, 1, 3], &[0, 0, 0]), [0.0; 3]),
        (Tensor::bools("mask", &[1, 1, 1], &[1]), [0.125, 0.25, 0.625]),
        (Tensor::f32("bias", &[3], &[e2, 0.0, inf]), [0.5, 0.5, 0.0]),
        (Tensor::f32("bias", &[1, 1, 1, 1], &[-7.0]), [0.125, 0.25, 0.625]),
        (Tensor::f32("bias", &[1], &[inf]), [0.0; 3]),
        // The scores drown in so low a bias, but it hides nothing.
        (Tensor::f32("bias", &[1], &[f32::MIN]), [1.0 / 3.0; 3]),
        (Tensor::f32("alibi_slopes", &[1], &[e2]), [1.0 / 3.25, 1.0 / 3.25, 1.25 / 3.25]),
        (Tensor::f32("alibi_slopes", &[1, 1], &[0.0]), [0.125, 0.25, 0.625]),
    ];
    for (tensor, expected) in cases {
        let outputs = with(keys(), &[tensor]).run(&["--emit", "weights"]);
        assert_close(&outputs["weights"].elements, &expected);
    }
}

#[test]
fn scores_come_scaled_then_capped_then_hidden() {
    let bias = Tensor::f32("bias", &[3], &[1.0, 0.0, f32::NEG_INFINITY]);
    let flags = ["--scale", "-2", "--softcap", "3", "--emit", "qk,qk_softcap,qk_bias"];
    let outputs = with(keys(), &[bias]).run(&flags);
    let raw = [0.0, -2.0 * 2.0_f32.ln(), -2.0 * 5.0_f32.ln()];
    let capped = raw.map(|score| 3.0 * (score / 3.0).tanh());
    assert_close(&outputs["qk"].elements, &raw);
    assert_close(&outputs["qk_softcap"].elements, &capped);
    assert_close(&outputs["qk_bias"].elements, &[capped[0] + 1.0, capped[1], f32::NEG_INFINITY]);
}

#[test]
fn out_has_the_type_of_q_and_all_else_is_f32() {
    let bias = Tensor::f32("bias", &[3], &[2.0_f32.ln(), 0.0, f32::NEG_INFINITY]);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let [q, k, v] = [
            Tensor::f32("q", &[1, 1], &[0.0]),
            Tensor::f32("k", &[3, 1], &[1.0; 3]),
            Tensor::f32("v", &[3, 1], &[9.0, 3.0, f32::NAN]),
        ]
        .map(|tensor| tensor.rounded(dtype));
        // 2/3 and 1/3 to what 8 bits of a bfloat16 hold of ln 2.
        for bias in [bias.clone(), bias.rounded(dtype)] {
            let folder = Folder::with(&[q.clone(), k.clone(), v.clone(), bias]);
            let outputs = folder.run(&["--emit", "lse,weights,qk,qk_softcap,qk_bias"]);
            for (name, found) in &outputs {
                let of_q = name == "out" && dtype != Dtype::F64;
                assert_eq!(found.dtype, if of_q { dtype } else { Dtype::F32 }, "{name}");
            }
            let [out] = outputs["out"].elements[..] else { panic!("{outputs:?}") };
            assert!((out - 7.0).abs() < 0.01, "{dtype}: {out}");
            assert!((outputs["weights"].elements[0] - 2.0 / 3.0).abs() < 1e-3, "{dtype}");
        }
    }
}

/// No number of q, k, v and out is rounded that their type holds.
#[test]
fn sixteen_bits_are_read_and_written_exactly() {
    let extremes = [(Dtype::F16, [65504.0, 2.0_f32.powi(-24)]), (Dtype::BF16, [3e38, 1e-40])];
    for (dtype, values) in extremes {
        let v = Tensor::f32("v", &[1, 2], &values).rounded(dtype);
        let [q, k] = ["q", "k"].map(|name| Tensor::f32(name, &[1, 1], &[1.0]).rounded(dtype));
        let folder = Folder::with(&[q, k, v.clone()]);
        folder.run(&[]);
        let bytes = std::fs::read(folder.path("out.safetensors")).expect("an output file");
        assert!(bytes.ends_with(v.bytes()), "{dtype}");
    }
}

#[test]
fn packed_heads_stand_beside_each_other() {
    // Two query heads of one element over two keys of one head: the scores are 0, ln 3 and 0, -ln 3.
    let e3 = 3.0_f32.ln();
    let tensors = [
        Tensor::f32("q", &[1, 1, 2], &[1.0, -1.0]),
        Tensor::f32("k", &[1, 2, 1], &[0.0, e3]),
        Tensor::f32("v", &[1, 2, 1], &[0.0, 4.0]),
    ];
    let flags = ["--layout", "packed", "--heads", "2", "--kv-heads", "1", "--emit", "lse,weights"];
    let outputs = Folder::with(&tensors).run(&flags);
    assert_eq!(outputs["out"].sizes, [1, 1, 2]);
    assert_close(&outputs["out"].elements, &[3.0, 1.0]);
    assert_eq!(
        (&outputs["lse"].sizes[..], &outputs["weights"].sizes[..]),
        (&[1, 2, 1][..], &[1, 2, 1, 2][..])
    );
    assert_close(&outputs["weights"].elements, &[0.25, 0.75, 0.75, 0.25]);

    // As [B,S,H,D], which lies the same way.
    let waves = |q: &[usize], k: &[usize], v: &[usize]| {
        Folder::with(&[Tensor::wave("q", q), Tensor::wave("k", k), Tensor::wave("v", v)])
    };
    let packed = waves(&[2, 3, 8], &[1, 5, 8], &[2, 5, 12]).run(&["--layout=packed", "--heads=4"]);
    let apart = waves(&[2, 3, 4, 2], &[1, 5, 4, 2], &[2, 5, 4, 3]).run(&["--layout=bshd"]);
    assert_eq!(packed["out"].sizes, [2, 3, 12]);
    assert_eq!(packed["out"].elements, apart["out"].elements);
}

/// The last query and the last of three keys, the others being cached.
fn cached() -> Vec<Tensor> {
    vec![
        Tensor::f32("q", &[1, 1, 1, 1], &[1.0]),
        Tensor::f32("k", &[1, 1, 1, 1], &[5.0_f32.ln()]),
        Tensor::f32("v", &[1, 1, 1, 2], &[8.0, 8.0]),
        Tensor::f32("past_k", &[1, 1, 2, 1], &[0.0, 2.0_f32.ln()]),
        Tensor::f32("past_v", &[1, 1, 2, 2], &[8.0, 0.0, 0.0, 8.0]),
    ]
}

#[test]
fn a_past_stands_before_the_keys_and_moves_the_queries() {
    let all = [0.125, 0.25, 0.625];
    let cases: &[(&[&str], [f32; 3])] = &[
        (&[], all),
        (&["--causal"], all),
        (&["--causal", "--align", "auto"], all),
        (&["--causal", "--align", "top-left"], [1.0, 0.0, 0.0]),
        (&["--causal", "--align", "bottom-right"], all),
        (&["--window-left", "1"], [0.0, 2.0 / 7.0, 5.0 / 7.0]),
    ];
    let folder = with(cached(), &[]);
    for (flags, expected) in cases {
        let outputs = folder.run(&[flags, &["--emit=weights,present_k,present_v"][..]].concat());
        assert_eq!(outputs["weights"].sizes, [1, 1, 1, 3]);
        assert_close(&outputs["weights"].elements, expected);
        assert_eq!(outputs["present_k"].sizes, [1, 1, 3, 1]);
        assert_eq!(outputs["present_k"].elements, [0.0, 2.0_f32.ln(), 5.0_f32.ln()]);
        assert_eq!(outputs["present_v"].sizes, [1, 1, 3, 2]);
        assert_eq!(outputs["present_v"].elements, [8.0, 0.0, 0.0, 8.0, 8.0, 8.0]);
    }
    assert_close(&folder.run(&[])["out"].elements, &[6.0, 7.0]);
    // Masks and biases count the cached keys too.
    let mask = Tensor::bools("mask", &[3], &[1, 0, 1]);
    let outputs = with(cached(), &[mask]).run(&["--emit", "weights"]);
    assert_close(&outputs["weights"].elements, &[1.0 / 6.0, 0.0, 5.0 / 6.0]);

    // Either of the two parts may be empty.
    let none =
        [Tensor::f32("past_k", &[1, 1, 0, 1], &[]), Tensor::f32("past_v", &[1, 1, 0, 2], &[])];
    let outputs = with(keys(), &none).run(&["--causal", "--emit", "weights,present_k"]);
    assert_close(&outputs["weights"].elements, &[1.0, 0.0, 0.0]);
    assert_eq!(outputs["present_k"].sizes, [1, 1, 3, 1]);
    let none = [Tensor::f32("k", &[1, 1, 0, 1], &[]), Tensor::f32("v", &[1, 1, 0, 2], &[])];
    let outputs = with(cached(), &none).run(&["--emit", "weights,present_v"]);
    assert_close(&outputs["weights"].elements, &[1.0 / 3.0, 2.0 / 3.0]);
    assert_eq!(outputs["present_v"].elements, [8.0, 0.0, 0.0, 8.0]);
}

/// A call with a past against one whose keys and values came whole.
#[test]
fn a_past_is_put_together_in_every_layout_batch_and_type() {
    let numbered = |name, sizes: &[usize], from: usize| {
        let count: usize = sizes.iter().product();
        let elements: Vec<f32> = (from..from + count).map(|n| n as f32).collect();
        Tensor::f32(name, sizes, &elements)
    };
    // Two heads of one element. Cached: 0 and 1 of the one head, 2 and 3 of the other.
    type Case<'a> = (&'a [&'a str], &'a [usize], &'a [usize], &'a [usize], &'a [f32]);
    let one: &[f32] = &[0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0];
    let mixed: &[f32] = &[0.0, 1.0, 10.0, 12.0, 2.0, 3.0, 11.0, 13.0];
    let packed: &[&str] = &["--layout=packed", "--heads=2"];
    let two = [one, &[0.0, 1.0, 14.0, 15.0, 2.0, 3.0, 16.0, 17.0]].concat();
    let shared = [one, &[4.0, 5.0, 10.0, 11.0, 6.0, 7.0, 12.0, 13.0]].concat();
    let cases: [Case<'_>; 7] = [
        (&[], &[1, 2, 2, 1], &[1, 2, 2, 1], &[1, 2, 4, 1], one),
        (&[], &[2, 2, 1], &[2, 2, 1], &[2, 4, 1], one),
        (&[], &[1, 2, 2, 1], &[2, 2, 1], &[1, 2, 4, 1], one),
        (&["--layout=bshd"], &[1, 2, 2, 1], &[1, 2, 2, 1], &[1, 2, 4, 1], mixed),
        (packed, &[1, 2, 2, 1], &[1, 2, 2], &[1, 2, 4, 1], mixed),
        (&[], &[1, 2, 2, 1], &[2, 2, 2, 1], &[2, 2, 4, 1], &two),
        (&[], &[2, 2, 2, 1], &[1, 2, 2, 1], &[2, 2, 4, 1], &shared),
    ];
    for (flags, past, new, sizes, expected) in cases {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
            let query = if sizes[0] == 2 && sizes.len() == 4 { &[2, 2, 2, 1] } else { new };
            let tensors = [
                numbered("q", query, 0),
                numbered("k", new, 10),
                numbered("v", new, 10),
                numbered("past_k", past, 0),
                numbered("past_v", past, 0),
            ];
            let folder = Folder::with(&tensors.map(|tensor| tensor.rounded(dtype)));
            let outputs = folder.run(&[flags, &["--emit", "present_k,present_v"]].concat());
            for name in ["present_k", "present_v"] {
                let found = &outputs[name];
                let of_q = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
                assert_eq!((found.dtype, &found.sizes[..]), (of_q, sizes), "{flags:?}");
                assert_eq!(found.elements, expected, "{flags:?}, past {past:?}, new {new:?}");
            }
        }
    }
}

#[test]
fn rows_too_short_for_the_keys_are_padded_with_hidden_ones() {
    let cases = [
        (Tensor::bools("mask", &[2], &[1, 1]), [1.0 / 3.0, 2.0 / 3.0, 0.0]),
        (Tensor::bools("mask", &[1, 1, 1, 2], &[0, 1]), [0.0, 1.0, 0.0]),
        (Tensor::bools("mask", &[3], &[1, 0, 1]), [1.0 / 6.0, 0.0, 5.0 / 6.0]),
        // One is below three as two is.
        (Tensor::bools("mask", &[1, 1], &[1]), [1.0, 0.0, 0.0]),
        (Tensor::bools("mask", &[1, 0], &[]), [0.0; 3]),
        (Tensor::f32("bias", &[2], &[2.0_f32.ln(), 0.0]), [0.5, 0.5, 0.0]),
        (Tensor::f32("bias", &[1, 1, 1], &[7.0]), [1.0, 0.0, 0.0]),
    ];
    for (tensor, expected) in cases {
        let outputs = with(keys(), &[tensor]).run(&["--pad-mask", "--emit", "weights"]);
        assert_close(&outputs["weights"].elements, &expected);
    }
    // Each row for itself, of several queries, heads and sequences.
    let q = Tensor::f32("q", &[2, 2, 2, 1], &[1.0; 8]);
    let mask = Tensor::bools("mask", &[2, 1, 2, 2], &[1, 0, 0, 1, 1, 1, 0, 0]);
    let outputs = with(keys(), &[q, mask]).run(&["--pad-mask", "--emit", "weights"]);
    let [first, second, both] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0 / 3.0, 2.0 / 3.0, 0.0]];
    let rows = [[first, second, first, second], [both, [0.0; 3], both, [0.0; 3]]];
    assert_close(&outputs["weights"].elements, rows.as_flattened().as_flattened());
}

#[test]
fn f64_tensors_are_taken_and_their_lowest_bias_hides_nothing() {
    let tensors = [
        Tensor::f64("q", &[1, 1], &[1.0]),
        Tensor::f64("k", &[2, 1], &[0.0, 3.0_f64.ln()]),
        Tensor::f64("v", &[2, 1], &[0.0, 4.0]),
    ];
    assert_close(&Folder::with(&tensors).run(&[])["out"].elements, &[3.0]);
    let lowest = Tensor::f64("bias", &[2], &[f64::MIN, f64::MIN]);
    assert_close(&with(tensors.to_vec(), &[lowest]).run(&[])["out"].elements, &[2.0]);
    let single = Tensor::f32("bias", &[2], &[3.0_f32.ln(), 0.0]);
    assert_close(&with(tensors.to_vec(), &[single]).run(&[])["out"].elements, &[2.0]);
}

/// Sizes of q, k and v, and of out, lse and weights.
#[test]
fn missing_leading_sizes_are_one_and_batches_broadcast() {
    type Case<'a> = ([&'a [usize]; 3], [&'a [usize]; 3]);
    let cases: &[Case<'_>] = &[
        ([&[5, 4], &[6, 4], &[6, 3]], [&[5, 3], &[5], &[5, 6]]),
        ([&[2, 5, 4], &[2, 6, 4], &[2, 6, 3]], [&[2, 5, 3], &[2, 5], &[2, 5, 6]]),
        ([&[4, 5, 4], &[2, 6, 4], &[2, 6, 3]], [&[4, 5, 3], &[4, 5], &[4, 5, 6]]),
        ([&[1, 2, 5, 4], &[3, 1, 6, 4], &[1, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[3, 2, 5, 4], &[1, 6, 4], &[1, 1, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[2, 5, 4], &[3, 2, 6, 4], &[2, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[5, 4], &[1, 6, 4], &[6, 3]], [&[1, 5, 3], &[1, 5], &[1, 5, 6]]),
        ([&[0, 2, 5, 4], &[1, 1, 6, 4], &[0, 1, 6, 3]], [&[0, 2, 5, 3], &[0, 2, 5], &[0, 2, 5, 6]]),
        ([&[0, 4], &[6, 4], &[6, 3]], [&[0, 3], &[0], &[0, 6]]),
        ([&[5, 4], &[0, 4], &[0, 3]], [&[5, 3], &[5], &[5, 0]]),
    ];
    for ([q, k, v], expected) in cases {
        let folder =
            Folder::with(&[Tensor::wave("q", q), Tensor::wave("k", k), Tensor::wave("v", v)]);
        let outputs = folder.run(&["--emit", "weights,lse,lse"]);
        let sizes = ["out", "lse", "weights"].map(|name| outputs[name].sizes.as_slice());
        assert_eq!(&sizes, expected, "q {q:?}, k {k:?}, v {v:?}");
    }
}

#[test]
fn a_batch_that_broadcasts_is_as_if_it_were_repeated() {
    let (q, k, v) =
        (Tensor::wave("q", &[2, 2, 3, 4]), Tensor::wave("k", &[5, 4]), Tensor::wave("v", &[5, 2]));
    let one = Folder::with(&[q.clone(), k, v]).run(&[]);
    let repeat = |name: &'static str, dim: usize| {
        let single = Tensor::wave(name, &[5, dim]);
        Tensor::new(name, Dtype::F32, &[2, 1, 5, dim], single.bytes().repeat(2))
    };
    let two = Folder::with(&[q, repeat("k", 4), repeat("v", 2)]).run(&[]);
    assert_eq!(one["out"], two["out"]);
}

#[test]
fn bshd_is_bhsd_with_two_sizes_swapped() {
    let tensors = |q: &[usize], k: &[usize]| {
        Folder::with(&[Tensor::wave("q", q), Tensor::wave("k", k), Tensor::wave("v", k)])
    };
    // With one head and batch 1 or one row, both orders are the same numbers.
    let bhsd = tensors(&[1, 1, 3, 4], &[1, 1, 5, 4]).run(&["--emit", "lse,weights"]);
    let bshd =
        tensors(&[1, 3, 1, 4], &[1, 5, 1, 4]).run(&["--emit", "lse,weights", "--layout", "bshd"]);
    assert_eq!(bshd["out"].sizes, [1, 3, 1, 4]);
    assert_eq!(bshd["out"].elements, bhsd["out"].elements);
    assert_eq!((&bshd["lse"], &bshd["weights"]), (&bhsd["lse"], &bhsd["weights"]));
    // With two heads and one key, each row is its head's value.
    let values = Tensor::f32("v", &[1, 1, 2, 1], &[7.0, 9.0]);
    let folder =
        Folder::with(&[Tensor::wave("q", &[1, 3, 2, 4]), Tensor::wave("k", &[1, 1, 2, 4]), values]);
    let outputs = folder.run(&["--layout=bshd"]);
    assert_eq!(outputs["out"].sizes, [1, 3, 2, 1]);
    assert_close(&outputs["out"].elements, &[7.0, 9.0, 7.0, 9.0, 7.0, 9.0]);
}

#[test]
fn tensors_that_no_flag_asks_for_are_ignored() {
    let ignored = [
        Tensor::f32("dout", &[3], &[f32::NAN; 3]),
        Tensor::wave("cos", &[9, 9]),
        Tensor::new("name\nof\x1b another", Dtype::I8, &[2], vec![1, 2]),
    ];
    assert_close(&with(keys(), &ignored).run(&[])["out"].elements, &[6.0, 7.0]);
}

#[test]
fn the_output_may_replace_the_input_and_leaves_nothing_beside_it() {
    let folder = with(keys(), &[]);
    let args = ["run", "--out=in.safetensors", "--device=cpu", "in.safetensors"];
    assert_eq!(folder.tool(&args).code, Some(0));
    assert_eq!(folder.names(), ["in.safetensors"]);
    assert_close(&folder.outputs("in.safetensors")["out"].elements, &[6.0, 7.0]);
}

#[cfg(target_os = "linux")]
#[test]
fn paths_are_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = with(keys(), &[]);
    let args: [&[u8]; 5] = [b"run", b"in.safetensors", b"--out=\xff", b"--device", b"cpu"];
    assert_eq!(folder.tool(&args.map(OsStr::from_bytes)).code, Some(0));
    let args: [&[u8]; 5] = [b"run", b"\xff", b"--out=out.safetensors", b"--device", b"cpu"];
    // What was written has no q.
    assert!(folder.tool(&args.map(OsStr::from_bytes)).stderr.starts_with("q: "));
}
