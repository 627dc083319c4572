//! Numbers that are not, rows that see nothing, tensors of length 0.

use crate::common::data::{Tensors, attend};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Inputs, Layout, Outputs,
};

/// One head, two queries, three keys, all outputs.
fn small() -> AttentionShape {
    let bhsd = Some(Layout::Bhsd);
    AttentionShape {
        kv_len: 3,
        lse: bhsd,
        weights: bhsd,
        raw_scores: bhsd,
        capped_scores: bhsd,
        masked_scores: bhsd,
        ..AttentionShape::new(1, 1, 2, 2)
    }
}

const FULL: Option<BroadcastLayout> = Some(BroadcastLayout::Sizes([1, 1, 2, 3]));

fn all_nan(row: &[f64]) -> bool {
    row.iter().all(|x| x.is_nan())
}

/// With key 1 hidden by each means in turn, whatever key 1 and value 1 hold must change nothing.
#[test]
fn nothing_leaks_from_behind_a_mask() {
    let mask = [true, false, true, true, false, true];
    let hiding_bias = [0.5, f32::NEG_INFINITY, 0.25, 0.0, f32::NEG_INFINITY, 1.0];
    let by_mask = AttentionShape { mask: FULL, ..small() };
    let by_bias = AttentionShape { bias: FULL, ..small() };
    let plain = AttentionOptions::default();
    let capped = AttentionOptions { softcap: Some(2.0), ..plain };
    for (seed, poison) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let clean = Tensors::random(&small(), seed as u64);
        let mut poisoned = clean.clone();
        poisoned.key[2..4].fill(poison);
        poisoned.value[2..4].fill(poison);
        for options in [plain, capped] {
            for (shape, mask, bias) in
                [(&by_mask, Some(&mask[..]), None), (&by_bias, None, Some(&hiding_bias[..]))]
            {
                let run = |tensors: &Tensors| {
                    attend(shape, &options, &Inputs { mask, bias, ..tensors.inputs() })
                };
                let (expected, found) = (run(&clean), run(&poisoned));
                assert!(expected.out.iter().all(|x| x.is_finite()));
                assert_eq!(found.out, expected.out);
                assert_eq!(found.lse, expected.lse);
                assert_eq!(found.masked_scores, expected.masked_scores);
                let weights = found.weights.unwrap();
                assert_eq!([weights[1], weights[4]], [0.0, 0.0]);
                assert_eq!(Some(weights), expected.weights);
            }
        }
    }
}

#[test]
fn nothing_leaks_from_outside_the_band() {
    let shape = AttentionShape::new(1, 1, 2, 2);
    let mut tensors = Tensors::random(&shape, 5);
    tensors.key[2..].fill(f32::NAN);
    tensors.value[2..].fill(f32::NAN);
    let causal = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let window = AttentionOptions { window_right: Some(0), ..AttentionOptions::default() };
    for options in [causal, window] {
        let out = attend(&shape, &options, &tensors.inputs()).out;
        assert_eq!(out[..2], [f64::from(tensors.value[0]), f64::from(tensors.value[1])]);
        assert!(all_nan(&out[2..]));
    }
}

#[test]
fn a_nan_in_a_hidden_raw_score_stays_there() {
    let shape = AttentionShape { mask: FULL, ..small() };
    let mut tensors = Tensors::random(&shape, 6);
    tensors.key[2] = f32::NAN;
    let mask = [true, false, true, true, false, true];
    let found = attend(
        &shape,
        &AttentionOptions::default(),
        &Inputs { mask: Some(&mask), ..tensors.inputs() },
    );
    for before_masks in [found.raw_scores.unwrap(), found.capped_scores.unwrap()] {
        let nan: Vec<bool> = before_masks.iter().map(|x| x.is_nan()).collect();
        assert_eq!(nan, mask.map(|seen| !seen));
    }
    assert_eq!(found.masked_scores.unwrap()[1], f64::NEG_INFINITY);
    assert!(found.out.iter().all(|x| x.is_finite()));
}

#[test]
fn a_visible_nan_or_infinite_score_makes_its_row_nan() {
    for poison in [f32::NAN, f32::INFINITY] {
        // Query 1 does not see key 1.
        let bias = [0.0, poison, 0.0, 0.0, f32::NEG_INFINITY, 0.0];
        let shape = AttentionShape { bias: FULL, ..small() };
        let tensors = Tensors::random(&shape, 7);
        let inputs = Inputs { bias: Some(&bias), ..tensors.inputs() };
        let Outputs { out, lse, weights, .. } =
            attend(&shape, &AttentionOptions::default(), &inputs);
        let (lse, weights) = (lse.unwrap(), weights.unwrap());
        assert!(all_nan(&out[..2]) && all_nan(&weights[..3]) && lse[0].is_nan(), "{poison}");
        let finite = |row: &[f64]| row.iter().all(|x| x.is_finite());
        assert!(finite(&out[2..]) && finite(&weights[3..]) && lse[1].is_finite(), "{poison}");
    }
}

#[test]
fn a_row_of_only_visible_nan_is_not_an_empty_row() {
    let mut tensors = Tensors::random(&small(), 8);
    tensors.query[..2].fill(f32::NAN);
    let found = attend(&small(), &AttentionOptions::default(), &tensors.inputs());
    assert!(all_nan(&found.out[..2]) && found.lse.unwrap()[0].is_nan());
}

#[test]
fn a_visible_nan_value_shows_in_its_own_column() {
    let mut tensors = Tensors::random(&small(), 9);
    tensors.value[3] = f32::NAN;
    let found = attend(&small(), &AttentionOptions::default(), &tensors.inputs());
    assert_eq!(
        found.out.iter().map(|x| x.is_nan()).collect::<Vec<_>>(),
        [false, true, false, true]
    );
    assert!(found.weights.unwrap().iter().all(|x| x.is_finite()));
}

#[test]
fn a_visible_score_of_negative_infinity_weighs_nothing() {
    let mut tensors = Tensors::random(&small(), 10);
    tensors.query.copy_from_slice(&[1.0, 0.5, 0.0, 0.5]);
    tensors.key[2] = f32::NEG_INFINITY;
    let found = attend(&small(), &AttentionOptions::default(), &tensors.inputs());
    let weights = found.weights.unwrap();
    assert_eq!(weights[1], 0.0);
    assert!((weights[0] + weights[2] - 1.0).abs() < 1e-15);
    assert!(all_nan(&weights[3..]), "0 times infinity is NaN");
}

#[test]
fn the_lowest_bias_does_not_hide() {
    let shape = AttentionShape { bias: FULL, ..small() };
    let tensors = Tensors::random(&shape, 11);
    let bias = [f32::MIN; 6];
    let inputs = Inputs { bias: Some(&bias), ..tensors.inputs() };
    let found = attend(&shape, &AttentionOptions::default(), &inputs);
    assert_eq!(found.weights.unwrap(), [1.0 / 3.0; 6]);
    assert!(found.lse.unwrap().iter().all(|&lse| lse == f64::from(f32::MIN)));
}

#[test]
fn huge_scores_do_not_overflow() {
    let shape = small();
    let tensors = Tensors {
        query: vec![1e4, 0.0, -1e4, 0.0],
        key: vec![1.0, 0.0, -1.0, 0.0, 1.0, 0.0],
        value: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    };
    let options = AttentionOptions { scale: Some(1.0), ..AttentionOptions::default() };
    let found = attend(&shape, &options, &tensors.inputs());
    assert_eq!(found.out, [3.0, 4.0, 3.0, 4.0]);
    assert_eq!(found.lse.unwrap(), [1e4 + 2.0_f64.ln(), 1e4]);
}

#[test]
fn an_infinite_score_under_a_softcap_is_the_softcap() {
    let mut tensors = Tensors::random(&small(), 12);
    tensors.query.copy_from_slice(&[1.0, 0.5, -1.0, 0.5]);
    tensors.key[2] = f32::INFINITY;
    let options = AttentionOptions { softcap: Some(3.0), ..AttentionOptions::default() };
    let found = attend(&small(), &options, &tensors.inputs());
    let masked_scores = found.masked_scores.unwrap();
    assert_eq!([masked_scores[1], masked_scores[4]], [3.0, -3.0]);
    assert!(found.out.iter().all(|x| x.is_finite()));
}

#[test]
fn a_softcap_far_above_the_scores_changes_nothing() {
    let tensors = Tensors::random(&small(), 13);
    let capped = AttentionOptions { softcap: Some(1e6), ..AttentionOptions::default() };
    let found = attend(&small(), &capped, &tensors.inputs()).out;
    let expected = attend(&small(), &AttentionOptions::default(), &tensors.inputs()).out;
    assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-11));
}

#[test]
fn rows_without_keys_are_zero() {
    let no_keys = AttentionShape { kv_len: 0, ..small() };
    let tensors = Tensors::random(&no_keys, 14);
    assert_eq!((tensors.key.len(), tensors.value.len()), (0, 0));
    let found = attend(&no_keys, &AttentionOptions::default(), &tensors.inputs());
    assert_eq!(found.out, [0.0; 4]);
    assert_eq!(found.lse.unwrap(), [f64::NEG_INFINITY; 2]);
    assert_eq!(found.weights, Some(vec![]));

    let tensors = Tensors::random(&small(), 14);
    let past =
        AttentionOptions { causal: true, align: Align::Offset(-2), ..AttentionOptions::default() };
    let found = attend(&small(), &past, &tensors.inputs());
    assert_eq!(found.out, [0.0; 4]);
    assert_eq!(found.weights.unwrap(), [0.0; 6]);
    assert_eq!(found.lse.unwrap(), [f64::NEG_INFINITY; 2]);
    assert_eq!(found.masked_scores.unwrap(), [f64::NEG_INFINITY; 6]);
}

#[test]
fn no_queries_or_no_sequences_give_empty_outputs() {
    let no_queries = AttentionShape { q_len: 0, ..small() };
    let no_sequences = AttentionShape { batch: 0, ..small() };
    for shape in [no_queries, no_sequences] {
        let tensors = Tensors::random(&shape, 15);
        let found = attend(&shape, &AttentionOptions::default(), &tensors.inputs());
        assert!(found.out.is_empty());
        assert_eq!(found.lse, Some(vec![]));
        assert_eq!(found.weights, Some(vec![]));
        assert_eq!(found.raw_scores, Some(vec![]));
    }
}

#[test]
fn optional_inputs_of_no_sequences_are_empty_too() {
    let shape = AttentionShape {
        batch: 0,
        mask: Some(BroadcastLayout::Sizes([0, 1, 2, 3])),
        bias: Some(BroadcastLayout::Sizes([1, 1, 1, 3])),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        ..small()
    };
    let inputs = Inputs {
        mask: Some(&[]),
        bias: Some(&[0.0; 3]),
        alibi_slopes: Some(&[]),
        ..Inputs::default()
    };
    assert!(attend(&shape, &AttentionOptions::default(), &inputs).out.is_empty());
}
