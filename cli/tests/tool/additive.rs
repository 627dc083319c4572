//! `additive`: right numbers under right names, whatever may be left out.

use crate::support::{Folder, Tensor, assert_close};
use safetensors::Dtype;

const ADDITIVE: [&str; 2] = ["additive", "in.safetensors"];

/// Two keys whose scores are 0 and ln 3 for the query 0; the values weigh 1/4 and 3/4.
fn tensors() -> Vec<Tensor> {
    vec![
        Tensor::f32("query", &[1, 1, 1], &[0.0]),
        Tensor::f32("keys", &[1, 2, 2], &[0.0, 5.0, 1.0, 5.0]),
        Tensor::f32("values", &[1, 2, 1], &[4.0, 8.0]),
        Tensor::f32("w_q", &[1, 1], &[1.0]),
        Tensor::f32("w_k", &[1, 2], &[1.0, 0.0]),
        Tensor::f32("w_v", &[1], &[3_f32.ln() / 1_f32.tanh()]),
    ]
}

fn with(more: &[Tensor]) -> Folder {
    let mut tensors = tensors();
    tensors.retain(|tensor| more.iter().all(|other| other.name != tensor.name));
    tensors.extend_from_slice(more);
    Folder::with(&tensors)
}

#[test]
fn scores_are_of_sums_and_weights_on_request() {
    let outputs = with(&[]).compute_on_both(&ADDITIVE, &["--emit=weights"], 1e-5);
    assert_eq!(
        (&outputs["out"].sizes[..], &outputs["weights"].sizes[..]),
        (&[1, 1, 1][..], &[1, 1, 2][..])
    );
    assert_close(&outputs["out"].elements, &[7.0]);
    assert_close(&outputs["weights"].elements, &[0.25, 0.75]);
    let outputs = with(&[]).compute(&ADDITIVE, &[]);
    assert_eq!(outputs.keys().collect::<Vec<_>>(), ["out"]);
    // Far from 0, both have the tanh 1.
    let b = Tensor::f32("b", &[1], &[50.0]);
    assert_close(&with(&[b]).compute_on_both(&ADDITIVE, &[], 1e-5)["out"].elements, &[6.0]);
}

#[test]
fn values_are_the_keys_if_there_are_none() {
    let tensors: Vec<Tensor> = tensors().into_iter().filter(|t| t.name != "values").collect();
    let outputs = Folder::with(&tensors).compute_on_both(&ADDITIVE, &[], 1e-5);
    assert_eq!(outputs["out"].sizes, [1, 1, 2]);
    assert_close(&outputs["out"].elements, &[0.75, 5.0]);
}

#[test]
fn a_mask_says_what_may_be_seen() {
    for (mask, expected) in [
        (Tensor::bools("mask", &[2], &[1, 0]), 4.0),
        (Tensor::bools("mask", &[1, 2], &[0, 1]), 8.0),
        (Tensor::bools("mask", &[1, 1, 2], &[1, 1]), 7.0),
        (Tensor::bools("mask", &[1, 1, 1], &[1]), 7.0),
        (Tensor::bools("mask", &[1], &[0]), 0.0),
    ] {
        let outputs = with(&[mask]).compute_on_both(&ADDITIVE, &["--emit=weights"], 1e-5);
        assert_close(&outputs["out"].elements, &[expected]);
        let sum: f32 = outputs["weights"].elements.iter().sum();
        assert_close(&[sum], &[if expected == 0.0 { 0.0 } else { 1.0 }]);
    }
}

#[test]
fn out_has_the_type_of_query_and_parameters_any() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let states = ["query", "keys", "values"];
        let round = |tensor: &Tensor| match states.contains(&tensor.name) {
            true => tensor.rounded(dtype),
            false => tensor.clone(),
        };
        let rounded: Vec<Tensor> = tensors().iter().map(round).collect();
        let outputs = Folder::with(&rounded).compute_on_both(&ADDITIVE, &["--emit=weights"], 1e-5);
        let kept = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
        assert_eq!((outputs["out"].dtype, outputs["weights"].dtype), (kept, Dtype::F32));
        assert_close(&outputs["weights"].elements, &[0.25, 0.75]);
        let all: Vec<Tensor> = tensors().iter().map(|tensor| tensor.rounded(dtype)).collect();
        let found = Folder::with(&all).compute(&ADDITIVE, &[])["out"].elements[0];
        assert!((found - 7.0).abs() < 0.05, "{dtype}: {found}");
    }
}

#[test]
fn nothing_may_be_empty_but_lengths() {
    let none = [Tensor::f32("keys", &[1, 0, 2], &[]), Tensor::f32("values", &[1, 0, 3], &[])];
    let outputs = with(&none).compute_on_both(&ADDITIVE, &["--emit=weights"], 0.0);
    assert_eq!(outputs["out"].elements, [0.0; 3]);
    assert_eq!(outputs["weights"].sizes, [1, 1, 0]);
    let none = [Tensor::f32("query", &[1, 0, 1], &[])];
    assert_eq!(with(&none).compute_on_both(&ADDITIVE, &[], 0.0)["out"].sizes, [1, 0, 1]);
}

#[test]
fn what_additive_cannot_use_is_refused() {
    let args = ["additive", "in.safetensors", "--out", "out.safetensors", "--adapter", "none such"];
    let wave = Tensor::wave;
    for (tensor, says) in [
        (wave("query", &[1, 1]), "query: expected 3 sizes"),
        (wave("query", &[2, 1, 1]), "keys: expected [2, 2, 2], found [1, 2, 2]"),
        (wave("query", &[1, 1, 2]), "w_q: expected [1, 2], found [1, 1]"),
        (wave("keys", &[2, 2]), "keys: expected 3 sizes"),
        (wave("keys", &[1, 2, 3]), "w_k: expected [1, 3], found [1, 2]"),
        (wave("values", &[1, 3, 1]), "values: expected [1, 2, 1], found [1, 3, 1]"),
        (wave("w_v", &[2]), "w_q: expected [2, 1], found [1, 1]"),
        (wave("w_v", &[1, 1]), "w_v: expected 1 size"),
        (wave("b", &[2]), "b: expected [1], found [2]"),
        (wave("mask", &[2]), "mask: expected BOOL, found F32"),
        (
            Tensor::bools("mask", &[3], &[1; 3]),
            "mask: expected 1 to 3 sizes that broadcast to [1, 1, 2]",
        ),
        (Tensor::bools("mask", &[1, 1, 1, 2], &[1; 2]), "mask: expected 1 to 3 sizes"),
        (Tensor::bools("mask", &[], &[1]), "mask: expected 1 to 3 sizes"),
        (wave("keys", &[1, 2, 2]).rounded(Dtype::F16), "keys: expected F32, found F16"),
        (wave("query", &[1, 1, 1]).zeros(Dtype::I32), "query: expected F32 or F16"),
        (wave("w_v", &[1]).zeros(Dtype::I32), "w_v: expected F32 or F16"),
        (Tensor::f32("values", &[1, 2, 0], &[]), "value_dim: expected at least 1"),
    ] {
        with(&[tensor]).refuses(&args, &[says]);
    }
    for name in ["query", "keys", "w_q", "w_k", "w_v"] {
        let others: Vec<Tensor> = tensors().into_iter().filter(|t| t.name != name).collect();
        Folder::with(&others).refuses(&args, &[&format!("{name}: expected a tensor")]);
    }
    with(&[]).refuses(&[&args[..], &["--emit=lse"]].concat(), &["--emit", "'lse'"]);
    with(&[]).refuses(&[&args[..], &["--causal"]].concat(), &["--causal"]);
}
