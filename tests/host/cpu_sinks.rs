//! Attention sinks in the reference, against numbers made by hand.

use crate::common::data::{Tensors, attend};
use wgpu_attention::cpu::stages::{ScoreStage, scores, softmax, weighted_sum};
use wgpu_attention::layers::{MergeInputs, MergeShape};
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Inputs, Layout, Outputs, Problem, cpu,
};

const LN_2: f32 = std::f32::consts::LN_2;

/// Two heads, each with one query and two keys, whose scores are 0 and the log of 2.
fn small(sinks: &[f32; 2], options: &AttentionOptions) -> Outputs<f64> {
    let shape = AttentionShape {
        kv_len: 2,
        sinks: true,
        lse: Some(Layout::Bhsd),
        weights: Some(Layout::Bhsd),
        masked_scores: Some(Layout::Bhsd),
        ..AttentionShape::new(1, 2, 1, 1)
    };
    let inputs = Inputs {
        query: &[1.0; 2],
        key: &[0.0, LN_2, 0.0, LN_2],
        value: &[4.0, 8.0, 4.0, 8.0],
        sinks: Some(sinks),
        ..Inputs::default()
    };
    attend(&shape, options, &inputs)
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        // The log of 2 in f32.
        assert!((found - expected).abs() < 1e-7, "expected {expected}, found {found}");
    }
}

#[test]
fn a_sink_joins_the_sum_of_its_head_only() {
    // Sums of exponentials: 1 + 2 + 1 and 1 + 2 + 5.
    let found = small(&[0.0, 5_f32.ln()], &AttentionOptions::default());
    assert_close(&found.weights.unwrap(), &[0.25, 0.5, 0.125, 0.25]);
    assert_close(&found.out, &[5.0, 2.5]);
    assert_close(&found.lse.unwrap(), &[4_f64.ln(), 8_f64.ln()]);
    assert_close(&found.masked_scores.unwrap(), &[0.0, f64::from(LN_2), 0.0, f64::from(LN_2)]);
}

#[test]
fn a_sink_is_neither_scaled_nor_capped() {
    // All scores are 0, so that the sums are 2 and the sink's exponential.
    let options =
        AttentionOptions { scale: Some(0.0), softcap: Some(0.5), ..AttentionOptions::default() };
    let found = small(&[6_f32.ln(), 2_f32.ln()], &options);
    assert_close(&found.weights.unwrap(), &[0.125, 0.125, 0.25, 0.25]);
    assert_close(&found.out, &[1.5, 3.0]);
}

#[test]
fn a_row_that_sees_no_key_is_zero_and_its_lse_the_sink() {
    let options = AttentionOptions { causal: true, align: Align::Offset(-1), ..Default::default() };
    for sinks in [[0.5, -1e4], [1e4, f32::NEG_INFINITY]] {
        let found = small(&sinks, &options);
        assert_eq!(found.out, [0.0; 2]);
        assert_eq!(found.weights.unwrap(), [0.0; 4]);
        assert_eq!(found.lse.unwrap(), sinks.map(f64::from));
    }
}

#[test]
fn a_sink_of_minus_infinity_is_none_and_one_far_below_vanishes() {
    let found = small(&[f32::NEG_INFINITY, -1e4], &AttentionOptions::default());
    assert_close(&found.weights.unwrap(), &[1.0 / 3.0, 2.0 / 3.0, 1.0 / 3.0, 2.0 / 3.0]);
    assert_close(&found.lse.unwrap(), &[3_f64.ln(); 2]);
}

#[test]
fn a_sink_far_above_takes_all() {
    let found = small(&[1e4, f32::MAX], &AttentionOptions::default());
    assert_eq!(found.out, [0.0; 2]);
    assert_eq!(found.weights.unwrap(), [0.0; 4]);
    assert_eq!(found.lse.unwrap(), [1e4, f64::from(f32::MAX)]);
}

#[test]
fn a_sink_that_is_no_number_shows_in_rows_that_see_a_key() {
    for poison in [f32::NAN, f32::INFINITY] {
        let found = small(&[poison, 0.0], &AttentionOptions::default());
        let nan = |xs: &[f64]| xs.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
        assert_eq!(nan(&found.out), [true, false]);
        assert_eq!(nan(&found.weights.unwrap()), [true, true, false, false]);
        assert_eq!(nan(&found.lse.unwrap()), [true, false]);
        let options =
            AttentionOptions { causal: true, align: Align::Offset(-1), ..Default::default() };
        let empty = small(&[poison, 0.0], &options);
        assert_eq!(empty.out, [0.0; 2]);
        // Its lse is the sink.
        let lse = empty.lse.unwrap()[0];
        assert!(lse == f64::from(poison) || (lse.is_nan() && poison.is_nan()), "{lse}");
    }
}

/// Four heads that share two key/value heads, a mask that hides all of the first row, every output.
fn masked() -> (AttentionShape, Tensors, Vec<bool>) {
    let bhsd = Some(Layout::Bhsd);
    let shape = AttentionShape {
        num_kv_heads: 2,
        kv_len: 7,
        mask: Some(BroadcastLayout::Sizes([1, 1, 3, 7])),
        sinks: true,
        lse: bhsd,
        weights: bhsd,
        masked_scores: bhsd,
        ..AttentionShape::new(2, 4, 3, 5)
    };
    let tensors = Tensors::random(&shape, 3);
    let mask = (0..21).map(|at| at >= 7 && at % 3 != 0).collect();
    (shape, tensors, mask)
}

#[test]
fn stages_with_sinks_are_the_definition() {
    let (shape, tensors, mask) = masked();
    let sinks = [0.3, f32::NEG_INFINITY, -2.0, 1e4];
    let inputs = Inputs { mask: Some(&mask), sinks: Some(&sinks), ..tensors.inputs() };
    let options = AttentionOptions::default();
    let problem = Problem::new(&shape, &options).unwrap();
    let expected = attend(&shape, &options, &inputs);
    let masked_scores = scores(&problem, &inputs, ScoreStage::Masked).unwrap();
    let rows = softmax(&problem, &masked_scores, &inputs).unwrap();
    let out = weighted_sum(&problem, &rows.weights, inputs.value).unwrap();
    for (found, expected) in [(rows.weights, expected.weights.unwrap()), (out, expected.out)].iter()
    {
        for (&found, expected) in found.iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found}, {expected}");
        }
    }
    for (found, expected) in rows.lse.into_iter().zip(expected.lse.unwrap()) {
        let found = f64::from(found);
        assert!(found == expected || (found - expected).abs() < 1e-6, "{found}, {expected}");
    }
    let refused = softmax(&problem, &masked_scores, &Inputs::default()).unwrap_err().to_string();
    assert_eq!(refused, "sinks: expected a slice, as the shape has one, found none");
}

#[test]
fn sinks_given_to_one_part_of_the_keys_merge_into_the_whole() {
    let (shape, tensors, whole_mask) = masked();
    let sinks = [0.3, f32::NEG_INFINITY, -2.0, 4.0];
    let options = AttentionOptions::default();
    let part = |sees: &dyn Fn(usize) -> bool, sinks: Option<&[f32]>| {
        let mask: Vec<bool> =
            whole_mask.iter().enumerate().map(|(at, &seen)| seen && sees(at % 7)).collect();
        let shape = AttentionShape { sinks: sinks.is_some(), ..shape.clone() };
        attend(&shape, &options, &Inputs { mask: Some(&mask), sinks, ..tensors.inputs() })
    };
    let whole = part(&|_| true, Some(&sinks));
    // The part with the sinks has keys, or none at all.
    for first in [3, 0] {
        let parts = [part(&|j| j < first, Some(&sinks)), part(&|j| j >= first, None)];
        let narrow = |xs: &[f64]| xs.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let out: Vec<f32> = parts.iter().flat_map(|part| narrow(&part.out)).collect();
        let lse: Vec<f32> =
            parts.iter().flat_map(|part| narrow(part.lse.as_ref().unwrap())).collect();
        let merged = cpu::merge(
            &MergeShape::new(2, [2, 4, 3], 5),
            &MergeInputs { partial_out: &out, partial_lse: &lse },
        );
        let merged = merged.unwrap();
        for (found, expected) in merged.out.iter().zip(&whole.out) {
            assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
        }
        for (found, expected) in merged.lse.unwrap().iter().zip(whole.lse.as_ref().unwrap()) {
            assert!(found == expected || (found - expected).abs() < 1e-6, "{found}, {expected}");
        }
    }
}
