//! The reference's layers agree with PyTorch's modules, and refuse what those could not be.

use crate::common::layer_cases::cases;
use wgpu_attention::layers::{
    LayerMask, MultiHeadInputs, MultiHeadShape, MultiHeadWeights, SelfAttentionInputs,
    SelfAttentionWeights,
};
use wgpu_attention::{BroadcastLayout, CuSeqlens, Error, cpu};

fn check(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= 1e-12 * expected.abs().max(1.0);
        assert!(close, "{name}[{at}]: found {found}, expected {expected}");
    }
}

#[test]
fn multi_head_layers_are_those_of_pytorch() {
    for case in cases("multi_head") {
        let (weights, shape) = (case.multi_head_weights().unwrap(), case.multi_head_shape());
        let found = cpu::multi_head_attention(&weights, &shape, &case.multi_head_inputs()).unwrap();
        check(&format!("{}: out", case.name), &found.out, &case.expected("out"));
        if let Some(found) = found.weights {
            check(&format!("{}: weights", case.name), &found, &case.expected("weights"));
        }
    }
}

#[test]
fn self_attention_modules_are_those_of_pytorch() {
    for case in cases("self_attention") {
        let (weights, shape) =
            (case.self_attention_weights().unwrap(), case.self_attention_shape());
        let found = cpu::self_attention(&weights, &shape, &case.self_attention_inputs()).unwrap();
        check(&format!("{}: out", case.name), &found.out, &case.expected("out"));
        let found = found.weights.unwrap();
        check(&format!("{}: weights", case.name), &found, &case.expected("weights"));
    }
}

const MATRIX: &[f32] = &[1.0, 0.0, 0.0, 1.0];

const IDENTITY: MultiHeadWeights<'_> = MultiHeadWeights {
    embed_dim: 2,
    num_heads: 1,
    kdim: 2,
    vdim: 2,
    query: MATRIX,
    key: MATRIX,
    value: MATRIX,
    in_bias: None,
    out: MATRIX,
    out_bias: None,
    extra: None,
    add_zero_attn: false,
};

/// Three rows of which the last is of another sequence, or padding.
#[test]
fn sequences_packed_and_padded_attend_within_themselves() {
    let rows = [1.0, 0.0, 3.0, 2.0, 9.0, 9.0];
    let inputs = MultiHeadInputs { query: &rows, key: &rows, value: &rows, ..Default::default() };
    let alone = MultiHeadInputs { query: &rows[..4], key: &rows[..4], value: &rows[..4], ..inputs };
    let run = |shape: &MultiHeadShape, inputs: &MultiHeadInputs<'_>| {
        cpu::multi_head_attention(&IDENTITY, shape, inputs).unwrap().out
    };
    let expected = run(&MultiHeadShape::new(1, 2), &alone);
    let starts = vec![0, 2, 3];
    let packed = CuSeqlens { query: starts.clone(), key: starts };
    let packed = MultiHeadShape { cu_seqlens: Some(packed), ..MultiHeadShape::new(1, 3) };
    let found = run(&packed, &inputs);
    assert_eq!(found, [&expected[..], &[9.0, 9.0]].concat());
    let padded = MultiHeadShape { kv_lens: Some(vec![2]), ..MultiHeadShape::new(1, 3) };
    assert_eq!(run(&padded, &inputs)[..4], expected);
}

#[test]
fn a_nan_that_is_hidden_does_not_show() {
    let nan = f32::NAN;
    let rows = [1.0, 2.0, nan, nan];
    let hidden = [false, true];
    let inputs = MultiHeadInputs {
        query: &rows[..2],
        key: &rows,
        value: &rows,
        key_padding_mask: Some(LayerMask::Hidden(&hidden)),
        attn_mask: None,
    };
    let shape = MultiHeadShape { kv_len: 2, ..MultiHeadShape::new(1, 1) };
    assert_eq!(cpu::multi_head_attention(&IDENTITY, &shape, &inputs).unwrap().out, [1.0, 2.0]);
}

#[test]
fn state_dicts_that_are_no_multi_head_layer_are_refused() {
    type Entry = (&'static str, &'static [usize]);
    let packed: [Entry; 4] = [
        ("in_proj_weight", &[12, 4]),
        ("in_proj_bias", &[12]),
        ("out_proj.weight", &[4, 4]),
        ("out_proj.bias", &[4]),
    ];
    let zeros = [0.0; 48];
    let load = |heads, entries: &[Entry]| {
        MultiHeadWeights::from_state_dict(heads, |name| {
            let (_, shape) = entries.iter().rev().find(|(entry, _)| *entry == name)?;
            (!shape.is_empty()).then(|| (*shape, &zeros[..shape.iter().product()]))
        })
    };
    assert!(load(2, &packed).is_ok());
    // An entry without sizes takes one away.
    let cases: [(usize, Entry, &str); 13] = [
        (3, ("", &[]), "num_heads: expected a divisor of embed_dim = 4, found 3"),
        (0, ("", &[]), "num_heads: expected at least 1, found 0"),
        (
            2,
            ("out_proj.weight", &[]),
            "out_proj.weight: expected a tensor of this name, found none",
        ),
        (
            2,
            ("out_proj.weight", &[4]),
            "out_proj.weight: expected 2 sizes, [embed_dim, embed_dim], found [4]",
        ),
        (2, ("out_proj.weight", &[4, 3]), "out_proj.weight: expected [4, 4], found [4, 3]"),
        (2, ("in_proj_weight", &[]), "in_proj_weight: expected a tensor of this name, found none"),
        (2, ("in_proj_weight", &[11, 4]), "in_proj_weight: expected [12, 4], found [11, 4]"),
        (
            2,
            ("in_proj_bias", &[]),
            "in_proj_bias: expected a tensor of this name beside out_proj.bias, found none",
        ),
        (
            2,
            ("out_proj.bias", &[]),
            "out_proj.bias: expected a tensor of this name beside in_proj_bias, found none",
        ),
        (2, ("in_proj_bias", &[3, 4]), "in_proj_bias: expected [12], found [3, 4]"),
        (
            2,
            ("bias_k", &[1, 1, 4]),
            "bias_v: expected a tensor of this name beside bias_k, found none",
        ),
        (
            2,
            ("bias_v", &[1, 1, 4]),
            "bias_k: expected a tensor of this name beside bias_v, found none",
        ),
        (
            2,
            ("q_proj_weight", &[4, 4]),
            "q_proj_weight: expected none beside in_proj_weight, found a tensor",
        ),
    ];
    for (heads, entry, says) in cases {
        let entries = [&packed[..], &[entry]].concat();
        assert_eq!(load(heads, &entries).unwrap_err().to_string(), says);
    }
    let apart: [Entry; 4] = [
        ("q_proj_weight", &[4, 4]),
        ("k_proj_weight", &[4, 3]),
        ("v_proj_weight", &[4, 5]),
        ("out_proj.weight", &[4, 4]),
    ];
    let weights = load(4, &apart).unwrap();
    assert_eq!((weights.kdim, weights.vdim), (3, 5));
    let cases: [(Entry, &str); 3] = [
        (("k_proj_weight", &[]), "k_proj_weight: expected a tensor of this name, found none"),
        (("v_proj_weight", &[5, 4]), "v_proj_weight: expected [4, 4], found [5, 4]"),
        (("q_proj_weight", &[4, 3]), "q_proj_weight: expected [4, 4], found [4, 3]"),
    ];
    for (entry, says) in cases {
        assert_eq!(load(4, &[&apart[..], &[entry]].concat()).unwrap_err().to_string(), says);
    }
}

fn refused<T>(result: Result<T, Error>, says: &str) {
    assert_eq!(result.err().map(|error| error.to_string()).as_deref(), Some(says));
}

#[test]
fn calls_that_do_not_fit_a_multi_head_layer_are_refused() {
    let (six, four, none) = ([0.0; 6], [0.0; 4], [false; 6]);
    let good = MultiHeadInputs { query: &four, key: &six, value: &six, ..Default::default() };
    let shape = MultiHeadShape { kv_len: 3, ..MultiHeadShape::new(1, 2) };
    let run = |inputs: &MultiHeadInputs<'_>| cpu::multi_head_attention(&IDENTITY, &shape, inputs);
    assert!(run(&good).is_ok());
    let says = "query: expected 1 * 2 * 2 elements, found 6";
    refused(run(&MultiHeadInputs { query: &six, ..good }), says);
    let says = "value: expected 1 * 3 * 2 elements, found 4";
    refused(run(&MultiHeadInputs { value: &four, ..good }), says);
    let attn_mask = Some(LayerMask::Hidden(&none[..5]));
    let says = "attn_mask: expected 2 * 3 elements, or 1 times as many, found 5";
    refused(run(&MultiHeadInputs { attn_mask, ..good }), says);
    let key_padding_mask = Some(LayerMask::Added(&four));
    let says = "key_padding_mask: expected 1 * 3 * 1 elements, found 4";
    refused(run(&MultiHeadInputs { key_padding_mask, ..good }), says);

    let run = |weights: &MultiHeadWeights<'_>, shape: &MultiHeadShape| {
        cpu::multi_head_attention(weights, shape, &good)
    };
    let says = "query weight: expected 2 * 2 elements, found 3";
    refused(run(&MultiHeadWeights { query: &MATRIX[1..], ..IDENTITY }, &shape), says);
    let zeros = MultiHeadWeights { add_zero_attn: true, ..IDENTITY };
    let padded = MultiHeadShape { kv_lens: Some(vec![2]), ..shape.clone() };
    refused(run(&zeros, &padded), "kv_lens: expected none, as the layer adds rows, found some");
    let mask = Some(BroadcastLayout::Sizes([1; 4]));
    let says = "mask: expected none, as masks come as inputs, found one";
    refused(run(&IDENTITY, &MultiHeadShape { mask, ..shape.clone() }), says);
}

#[test]
fn state_dicts_and_calls_that_are_no_self_attention_are_refused() {
    let cases = cases("self_attention");
    let case = cases.iter().find(|case| case.name == "masked").unwrap();
    let (weights, shape) = (case.self_attention_weights().unwrap(), case.self_attention_shape());
    let good = case.self_attention_inputs();
    let run = |weights: &SelfAttentionWeights<'_>, inputs: &SelfAttentionInputs<'_>| {
        cpu::self_attention(weights, &shape, inputs)
    };
    let says = "heads: expected a divisor of embed_size = 6, found 4";
    refused(run(&SelfAttentionWeights { heads: 4, ..weights }, &good), says);
    let says = "keys weight: expected 3 * 3 elements, found 8";
    refused(run(&SelfAttentionWeights { keys: &weights.keys[1..], ..weights }, &good), says);
    let says = "keys: expected 48 elements, found 47";
    refused(run(&weights, &SelfAttentionInputs { keys: &good.keys[1..], ..good }), says);
    let says = "mask: expected a slice, as the shape has one, found none";
    refused(run(&weights, &SelfAttentionInputs { mask: None, ..good }), says);
    let none = |_: &'static str| None;
    let says = "fc_out.weight: expected a tensor of this name, found none";
    refused(SelfAttentionWeights::from_state_dict(2, none), says);
    let (sizes, elements) = ([6, 6], [0.0; 36]);
    let one = |name: &'static str| (name == "fc_out.weight").then_some((&sizes[..], &elements[..]));
    let says = "values.weight: expected a tensor of this name, found none";
    refused(SelfAttentionWeights::from_state_dict(2, one), says);
    let says = "heads: expected a divisor of embed_size = 6, found 4";
    refused(SelfAttentionWeights::from_state_dict(4, one), says);
}
