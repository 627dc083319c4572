//! `kv_len`: a number of keys per sequence.

use crate::support::{Folder, Tensor, assert_close, integers};
use safetensors::Dtype;

/// Two queries and three keys of one element in each of three sequences; the scores are the keys: 0, ln 2,
/// ln 5, and their exponentials 1, 2, 5.
fn tensors(lens: Tensor) -> Folder {
    let key = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
    Folder::with(&[
        Tensor::f32("q", &[3, 1, 2, 1], &[1.0; 6]),
        Tensor::f32("k", &[1, 1, 3, 1], &key),
        Tensor::f32("v", &[1, 1, 3, 1], &[8.0, 4.0, 16.0]),
        lens,
    ])
}

#[test]
fn keys_from_a_sequences_length_on_are_hidden() {
    for dtype in [Dtype::I32, Dtype::I64] {
        let folder = tensors(integers("kv_len", dtype, &[3], &[3, 2, 0]));
        let outputs = folder.run(&["--emit=weights,lse"]);
        let rows = [[0.125, 0.25, 0.625], [1.0 / 3.0, 2.0 / 3.0, 0.0], [0.0; 3]];
        let expected: Vec<f32> = rows.iter().flat_map(|row| [*row, *row]).flatten().collect();
        assert_close(&outputs["weights"].elements, &expected);
        let lse = [8.0_f32.ln(), 3.0_f32.ln(), f32::NEG_INFINITY].map(|lse| [lse, lse]);
        assert_close(&outputs["lse"].elements, &lse.concat());
    }
}

/// The last query stands beside the last key, of each sequence: its offset is 1, 0 and -2.
#[test]
fn auto_and_bottom_right_align_each_sequence_at_its_own_end() {
    let folder = tensors(integers("kv_len", Dtype::I64, &[3], &[3, 2, 0]));
    let own_end = [
        [1.0 / 3.0, 2.0 / 3.0, 0.0],
        [0.125, 0.25, 0.625],
        [1.0, 0.0, 0.0],
        [1.0 / 3.0, 2.0 / 3.0, 0.0],
        [0.0; 3],
        [0.0; 3],
    ];
    for align in ["auto", "bottom-right"] {
        let outputs = folder.run(&["--causal", "--align", align, "--emit=weights"]);
        assert_close(&outputs["weights"].elements, own_end.as_flattened());
    }
    let outputs = folder.run(&["--causal", "--align=top-left", "--emit=weights"]);
    let first = [[1.0, 0.0, 0.0], [1.0 / 3.0, 2.0 / 3.0, 0.0]];
    let expected = [first, first, [[0.0; 3]; 2]].concat();
    assert_close(&outputs["weights"].elements, expected.as_flattened());
}

#[test]
fn the_gpu_agrees_with_the_cpu_on_lengths() {
    let folder = tensors(integers("kv_len", Dtype::I32, &[3], &[3, 0, 2]));
    folder.run_on_both(&["--causal", "--emit=lse"], 1e-5);
    folder.run_on_both(&["--causal", "--emit=lse,weights,qk_bias"], 1e-5);
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let run = ["run", "in.safetensors", "--out", "out.safetensors"];
    for (lens, says) in [
        (integers("kv_len", Dtype::I64, &[3], &[3, 4, 0]), "kv_len: expected 0 to 3, found 4"),
        (integers("kv_len", Dtype::I32, &[3], &[3, -1, 0]), "kv_len: expected 0 to 3, found -1"),
        (integers("kv_len", Dtype::I64, &[2], &[3, 1]), "kv_len: expected [3], found [2]"),
        (integers("kv_len", Dtype::I64, &[3, 1], &[3, 1, 1]), "kv_len: expected [3]"),
        (Tensor::wave("kv_len", &[3]), "kv_len: expected I32 or I64, found F32"),
    ] {
        tensors(lens).refuses(&run, &[says]);
    }
    let folder = Folder::with(&[
        Tensor::wave("q", &[1, 1, 2, 1]),
        Tensor::wave("k", &[1, 1, 3, 1]),
        Tensor::wave("v", &[1, 1, 3, 1]),
        Tensor::wave("past_k", &[1, 1, 0, 1]),
        Tensor::wave("past_v", &[1, 1, 0, 1]),
        integers("kv_len", Dtype::I64, &[1], &[1]),
    ]);
    folder.refuses(&run, &["kv_len: expected none, as there is past_k"]);
}

/// Two sequences: one query and two keys, two queries and one key; a third has nothing.
fn packed(more: &[Tensor]) -> Folder {
    let mut tensors = vec![
        Tensor::f32("q", &[3, 1, 1], &[1.0; 3]),
        Tensor::f32("k", &[3, 1, 1], &[0.0, 3.0_f32.ln(), 7.0]),
        Tensor::f32("v", &[3, 1, 2], &[4.0, 0.0, 0.0, 8.0, 1.0, 2.0]),
        integers("cu_seqlens_q", Dtype::I32, &[4], &[0, 1, 3, 3]),
        integers("cu_seqlens_k", Dtype::I64, &[4], &[0, 2, 3, 3]),
    ];
    tensors.retain(|tensor| more.iter().all(|other| other.name != tensor.name));
    tensors.extend_from_slice(more);
    Folder::with(&tensors)
}

#[test]
fn sequences_without_padding_attend_within_themselves() {
    let outputs = packed(&[]).run(&["--layout", "thd", "--emit", "lse"]);
    assert_eq!(outputs["out"].sizes, [3, 1, 2]);
    assert_close(&outputs["out"].elements, &[1.0, 6.0, 1.0, 2.0, 1.0, 2.0]);
    assert_eq!(outputs["lse"].sizes, [1, 3]);
    assert_close(&outputs["lse"].elements, &[4.0_f32.ln(), 7.0, 7.0]);
    // Bottom right, the first of two queries stands before the only key.
    let outputs = packed(&[]).run(&["--layout=thd", "--causal", "--align=bottom-right"]);
    assert_close(&outputs["out"].elements, &[1.0, 6.0, 0.0, 0.0, 1.0, 2.0]);
    let outputs = packed(&[]).run(&["--layout=thd", "--causal"]);
    assert_close(&outputs["out"].elements, &[4.0, 0.0, 1.0, 2.0, 1.0, 2.0]);
    let slopes = Tensor::f32("alibi_slopes", &[3, 1], &[3.0_f32.ln(), 0.0, 0.0]);
    let outputs = packed(&[slopes]).run(&["--layout=thd"]);
    assert_close(&outputs["out"].elements, &[2.0, 4.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn the_gpu_agrees_with_the_cpu_without_padding() {
    packed(&[]).run_on_both(&["--layout=thd", "--causal", "--emit=lse"], 1e-5);
}

#[test]
fn what_does_not_go_with_sequences_without_padding_is_refused() {
    let run = ["run", "in.safetensors", "--out", "out.safetensors", "--layout", "thd"];
    let lens = |elements: &[i64]| integers("cu_seqlens_q", Dtype::I64, &[elements.len()], elements);
    for (tensor, says) in [
        (lens(&[0, 2, 1, 3]), "cu_seqlens.query: expected numbers from 0 to 3"),
        (lens(&[0, 1, 3, 4]), "cu_seqlens.query: expected numbers from 0 to 3"),
        (lens(&[0, -1, 3, 3]), "cu_seqlens_q: expected 0 or more, found -1"),
        (lens(&[0, 3]), "cu_seqlens.key: expected 2 elements"),
        (lens(&[]), "cu_seqlens.query: expected numbers from 0 to 3"),
        (Tensor::bools("mask", &[3], &[1; 3]), "mask: expected none with --layout thd"),
        (Tensor::wave("bias", &[3]), "bias: expected none with --layout thd"),
        (integers("kv_len", Dtype::I64, &[1], &[3]), "kv_len: expected none with --layout thd"),
        (Tensor::wave("q", &[1, 3, 1, 1]), "q: expected 3 sizes, [total, heads, dim]"),
    ] {
        packed(&[tensor]).refuses(&run, &[says]);
    }
    packed(&[]).refuses(&[&run[..], &["--emit=weights"]].concat(), &["weights: expected none"]);
    let padded = ["run", "in.safetensors", "--out", "out.safetensors"];
    packed(&[]).refuses(&padded, &["cu_seqlens_q: expected none without --layout thd"]);
    let alone = [
        Tensor::wave("q", &[3, 1, 1]),
        Tensor::wave("k", &[3, 1, 1]),
        Tensor::wave("v", &[3, 1, 1]),
    ];
    Folder::with(&alone).refuses(&run, &["--layout thd: expected tensors cu_seqlens_q"]);
}
