//! The f32 twins of the three GPU stages, against the definition.

use crate::common::data::{Tensors, attend, numbers};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::cpu::stages::{ScoreStage, scores, softmax, weighted_sum};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Error, Inputs, Layout,
    Problem,
};

/// Grouped heads, other lengths of queries, keys and values, every optional tensor.
fn everything() -> (AttentionShape, AttentionOptions) {
    let bhsd = Some(Layout::Bhsd);
    let shape = AttentionShape {
        num_kv_heads: 2,
        kv_len: 11,
        value_dim: 5,
        mask: Some(BroadcastLayout::Sizes([1, 1, 9, 11])),
        bias: Some(BroadcastLayout::Sizes([2, 4, 1, 11])),
        alibi: Some(AlibiLayout::PerHead),
        lse: bhsd,
        weights: bhsd,
        raw_scores: bhsd,
        capped_scores: bhsd,
        masked_scores: bhsd,
        ..AttentionShape::new(2, 4, 9, 6).with_layout(Layout::Bshd)
    };
    let options = AttentionOptions {
        scale: Some(2.0),
        softcap: Some(1.5),
        causal: true,
        window_left: Some(7),
        align: Align::BottomRight,
        ..AttentionOptions::default()
    };
    (shape, options)
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64]) {
    let accuracy = compare(found, expected).unwrap();
    assert!(accuracy.compared > 0 && accuracy.within(&Bounds::F32), "{accuracy}");
}

#[test]
fn the_stages_in_turn_are_attention() {
    let (shape, options) = everything();
    let tensors = Tensors::random(&shape, 1);
    let mask: Vec<bool> = numbers(2, 99).into_iter().map(|x| x < 0.5).collect();
    let mut bias = numbers(3, 88);
    bias[5] = f32::NEG_INFINITY;
    let inputs = Inputs {
        mask: Some(&mask),
        bias: Some(&bias),
        alibi_slopes: Some(&[0.5, 0.25, 0.125, 0.0625]),
        ..tensors.inputs()
    };
    let expected = attend(&shape, &options, &inputs);
    let problem = Problem::new(&shape, &options).unwrap();
    let stage = |stage| scores(&problem, &inputs, stage).unwrap();
    assert_close(&stage(ScoreStage::Raw), &expected.raw_scores.unwrap());
    assert_close(&stage(ScoreStage::Capped), &expected.capped_scores.unwrap());
    let masked_scores = stage(ScoreStage::Masked);
    assert_close(&masked_scores, &expected.masked_scores.unwrap());
    let rows = softmax(&problem, &masked_scores, &Inputs::default()).unwrap();
    assert_close(&rows.weights, &expected.weights.unwrap());
    assert_close(&rows.lse, &expected.lse.unwrap());
    assert_close(&weighted_sum(&problem, &rows.weights, inputs.value).unwrap(), &expected.out);
}

/// Two queries, three keys, one head.
fn small() -> Problem {
    let shape = AttentionShape { kv_len: 3, ..AttentionShape::new(1, 1, 2, 2) };
    Problem::new(&shape, &AttentionOptions::default()).unwrap()
}

#[test]
fn a_row_of_only_negative_infinity_weighs_nothing() {
    let hidden = f32::NEG_INFINITY;
    let rows =
        softmax(&small(), &[hidden, hidden, hidden, 1.0, hidden, 1.0], &Inputs::default()).unwrap();
    assert_eq!(rows.weights, [0.0, 0.0, 0.0, 0.5, 0.0, 0.5]);
    assert_eq!(rows.lse[0], f32::NEG_INFINITY);
    assert!((rows.lse[1] - (1.0 + 2.0_f32.ln())).abs() < 1e-6);
}

#[test]
fn nan_or_infinity_makes_the_visible_weights_of_its_row_nan() {
    for poison in [f32::NAN, f32::INFINITY] {
        for place in 0..3 {
            let mut masked_scores = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
            masked_scores[place] = poison;
            masked_scores[(place + 1) % 3] = f32::NEG_INFINITY;
            let rows = softmax(&small(), &masked_scores, &Inputs::default()).unwrap();
            let nan: Vec<bool> = rows.weights[..3].iter().map(|x| x.is_nan()).collect();
            assert_eq!(nan, [0, 1, 2].map(|j| j != (place + 1) % 3), "{poison} at {place}");
            assert!(rows.lse[0].is_nan());
            assert_eq!(rows.weights[3..], [1.0 / 3.0; 3]);
        }
    }
}

#[test]
fn the_lowest_score_is_a_score() {
    let rows = softmax(&small(), &[f32::MIN; 6], &Inputs::default()).unwrap();
    assert_eq!(rows.weights, [1.0 / 3.0; 6]);
    assert_eq!(rows.lse, [f32::MIN; 2]);
}

#[test]
fn a_value_of_weight_zero_adds_nothing() {
    let value = [f32::NAN, f32::INFINITY, 3.0, 4.0, 5.0, 6.0];
    let out = weighted_sum(&small(), &[0.0, 0.5, 0.5, 0.0, 0.0, 0.0], &value).unwrap();
    assert_eq!(out, [4.0, 5.0, 0.0, 0.0]);
    let out = weighted_sum(&small(), &[1.0, 0.0, 0.0, f32::NAN, 0.0, 0.0], &value).unwrap();
    assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2].is_nan() && out[3].is_nan());
}

#[test]
fn hidden_scores_are_negative_infinity_whatever_the_key_holds() {
    let (shape, options) = everything();
    let shape = AttentionShape { mask: None, bias: None, alibi: None, ..shape };
    let mut tensors = Tensors::random(&shape, 4);
    tensors.key.fill(f32::NAN);
    let problem = Problem::new(&shape, &options).unwrap();
    let masked_scores = scores(&problem, &tensors.inputs(), ScoreStage::Masked).unwrap();
    for (n, score) in masked_scores.iter().enumerate() {
        let visible = problem.band.contains(n / 11 % 9, n % 11);
        assert_eq!(visible, score.is_nan(), "{n}");
        assert_eq!(!visible, *score == f32::NEG_INFINITY, "{n}");
    }
    let raw_scores = scores(&problem, &tensors.inputs(), ScoreStage::Raw).unwrap();
    assert!(raw_scores.iter().all(|x| x.is_nan()));
}

#[test]
fn no_keys_give_empty_scores_and_zero_rows() {
    let shape = AttentionShape { kv_len: 0, ..AttentionShape::new(1, 1, 2, 2) };
    let problem = Problem::new(&shape, &AttentionOptions::default()).unwrap();
    let tensors = Tensors::random(&shape, 5);
    assert!(scores(&problem, &tensors.inputs(), ScoreStage::Masked).unwrap().is_empty());
    let rows = softmax(&problem, &[], &Inputs::default()).unwrap();
    assert!(rows.weights.is_empty());
    assert_eq!(rows.lse, [f32::NEG_INFINITY; 2]);
    assert_eq!(weighted_sum(&problem, &[], &[]).unwrap(), [0.0; 4]);
}

#[test]
fn a_matrix_of_the_wrong_length_is_refused() {
    let refused = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(
        refused(softmax(&small(), &[0.0; 5], &Inputs::default()).map(drop)),
        "masked_scores: expected 6 elements, found 5"
    );
    assert_eq!(
        refused(weighted_sum(&small(), &[0.0; 7], &[0.0; 6]).map(drop)),
        "weights: expected 6 elements, found 7"
    );
    assert_eq!(
        refused(weighted_sum(&small(), &[0.0; 6], &[0.0; 7]).map(drop)),
        "value: expected 6 elements, found 7"
    );
    let short = Inputs { query: &[0.0; 3], key: &[0.0; 6], value: &[0.0; 6], ..Inputs::default() };
    assert_eq!(
        refused(scores(&small(), &short, ScoreStage::Raw).map(drop)),
        "query: expected 4 elements, found 3"
    );
}
