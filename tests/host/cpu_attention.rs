//! The definition against PyTorch's numbers.

use crate::common::data::{Tensors, attend};
use crate::reference::{Case, cases};
use wgpu_attention::{AttentionOptions, AttentionShape, Layout, cpu};

/// The file has 12 digits.
const BOUND: f64 = 1e-11;

fn check(name: &str) {
    let case = Case::named(name);
    let found = attend(&case.shape, &case.options, &case.inputs());
    for (output, found) in [
        ("out", Some(found.out)),
        ("lse", found.lse),
        ("weights", found.weights),
        ("raw_scores", found.raw_scores),
        ("capped_scores", found.capped_scores),
        ("masked_scores", found.masked_scores),
    ] {
        let expected = case.expected(output);
        assert_eq!(found.is_some(), expected.is_some(), "{name}: {output}");
        let (found, expected) = (found.unwrap_or_default(), expected.unwrap_or_default());
        assert_eq!(found.len(), expected.len(), "{name}: {output}");
        for (index, (&f, &e)) in found.iter().zip(&expected).enumerate() {
            let agrees = f == e || (f - e).abs() <= BOUND * e.abs().max(1.0);
            assert!(agrees, "{name}: {output}[{index}]: expected {e}, found {f}, bound {BOUND}");
        }
    }
}

macro_rules! agrees_with_torch {
    ($($claim:ident: $case:literal,)*) => {
        $(#[test] fn $claim() { check($case); })*

        #[test]
        fn every_reference_case_has_a_test() {
            let names = cases();
            let names: Vec<_> = names.iter().map(|case| case["name"].as_str().unwrap()).collect();
            assert_eq!(names, [$($case),*]);
        }
    };
}

agrees_with_torch! {
    weights_are_the_softmax_of_scaled_products: "plain",
    query_heads_in_a_row_share_a_kv_head: "grouped_heads",
    all_query_heads_may_share_one_kv_head: "one_kv_head",
    values_may_be_longer_than_keys: "value_dim",
    bshd_tensors_are_read_and_written_in_place: "bshd",
    a_given_scale_replaces_the_default: "scale",
    causal_rows_see_only_their_past: "causal_top_left_more_queries",
    causal_top_left_never_sees_the_last_keys_of_a_longer_sequence: "causal_top_left_more_keys",
    causal_bottom_right_leaves_the_first_of_more_queries_empty: "causal_bottom_right_more_queries",
    causal_bottom_right_shows_the_last_query_every_key: "causal_bottom_right_more_keys",
    causal_rows_see_all_cached_keys: "causal_after_cached_keys",
    a_negative_offset_leaves_the_first_rows_empty: "causal_before_the_first_key",
    window_left_counts_keys_before_the_query: "window_left",
    window_right_counts_keys_after_the_query: "window_right",
    both_windows_count_from_the_offset: "window_both",
    causal_and_windows_hide_together: "window_causal",
    softcap_comes_after_the_scale: "softcap",
    softcap_comes_before_the_bias: "softcap_bias",
    a_wholly_masked_row_is_zero: "mask_with_a_row_of_nothing",
    a_bias_is_added_and_its_negative_infinity_hides: "bias",
    a_row_of_only_minus_1e9_is_uniform: "bias_low_but_finite",
    alibi_falls_with_the_distance_from_the_offset: "alibi",
    alibi_slopes_may_differ_by_sequence: "alibi_per_batch",
    all_options_work_together: "everything",
}

#[test]
fn the_f32_answer_is_the_f64_answer_rounded() {
    let case = Case::named("everything");
    let exact = attend(&case.shape, &case.options, &case.inputs());
    let rounded =
        cpu::attention_rounded::<f32>(&case.shape, &case.options, &case.inputs()).unwrap();
    let round = |exact: &[f64]| exact.iter().map(|&x| x as f32).collect::<Vec<_>>();
    assert_eq!(rounded.out, round(&exact.out));
    assert_eq!(rounded.lse, exact.lse.as_deref().map(round));
    assert_eq!(rounded.weights, exact.weights.as_deref().map(round));
    assert_eq!(rounded.raw_scores, exact.raw_scores.as_deref().map(round));
    assert_eq!(rounded.capped_scores, exact.capped_scores.as_deref().map(round));
    assert_eq!(rounded.masked_scores, exact.masked_scores.as_deref().map(round));
}

#[test]
fn nothing_is_given_that_was_not_asked_for() {
    let shape = AttentionShape::new(1, 2, 3, 4);
    let tensors = Tensors::random(&shape, 1);
    let found = attend(&shape, &AttentionOptions::default(), &tensors.inputs());
    assert_eq!(found.out.len(), 24);
    assert!(found.lse.is_none() && found.weights.is_none() && found.raw_scores.is_none());
    assert!(found.capped_scores.is_none() && found.masked_scores.is_none());
}

#[test]
fn long_vectors_are_summed_to_the_last_element() {
    // One more than a multiple of the lanes that the dot product is summed in, and all around it.
    for head_dim in 1..=33 {
        let shape = AttentionShape {
            raw_scores: Some(Layout::Bhsd),
            ..AttentionShape::new(1, 1, 1, head_dim)
        };
        let tensors = Tensors::random(&shape, head_dim as u64);
        let options = AttentionOptions { scale: Some(1.0), ..AttentionOptions::default() };
        let found = attend(&shape, &options, &tensors.inputs()).raw_scores.unwrap()[0];
        let pairs = tensors.query.iter().zip(&tensors.key);
        let expected: f64 = pairs.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        assert!((found - expected).abs() < 1e-14, "{head_dim}: expected {expected}, found {found}");
    }
}
