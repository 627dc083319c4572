//! The comparer is tested first: what it must reject, and what it must not.

use crate::common::data::{Tensors, attend};
use wgpu_attention::check::{Accuracy, Bounds, compare};
use wgpu_attention::{AttentionOptions, AttentionShape};

/// What a kernel can get wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    ScaleOnePercentOff,
    MaskOffByOne,
    MissingRescale,
    WrongKvHead,
    LastTileDropped,
    OneNan,
}

const TILE: usize = 8;

fn shape() -> AttentionShape {
    AttentionShape { num_kv_heads: 2, ..AttentionShape::new(2, 4, 40, 16) }
}

const CAUSAL: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: true,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: wgpu_attention::Align::TopLeft,
};

/// A causal tile-by-tile forward pass in f32, as a kernel computes it, with one planted fault.
fn tiled(tensors: &Tensors, fault: Fault) -> Vec<f32> {
    let AttentionShape { batch, num_heads, num_kv_heads, q_len, kv_len, head_dim, .. } = shape();
    let scale = if fault == Fault::ScaleOnePercentOff { 0.25 * 1.01 } else { 0.25 };
    let reach = usize::from(fault == Fault::MaskOffByOne);
    let seen_len = if fault == Fault::LastTileDropped { kv_len - TILE } else { kv_len };
    let mut out = Vec::new();
    for n in 0..batch * num_heads * q_len {
        let (b, h, i) = (n / (num_heads * q_len), n / q_len % num_heads, n % q_len);
        let kv_head = match fault {
            Fault::WrongKvHead => h % num_kv_heads,
            _ => h / (num_heads / num_kv_heads),
        };
        let start = |j| ((b * num_kv_heads + kv_head) * kv_len + j) * head_dim;
        let query = &tensors.query[n * head_dim..][..head_dim];
        let (mut m, mut l, mut row) = (f32::NEG_INFINITY, 0.0, vec![0.0; head_dim]);
        for tile in (0..seen_len).step_by(TILE) {
            let keys = tile..(tile + TILE).min(i + 1 + reach).min(seen_len);
            let score = |j| -> f32 {
                let key = &tensors.key[start(j)..][..head_dim];
                scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>()
            };
            let scores: Vec<f32> = keys.clone().map(score).collect();
            let new_m = scores.iter().copied().fold(m, f32::max);
            let rescale = if fault == Fault::MissingRescale { 1.0 } else { (m - new_m).exp() };
            l *= rescale;
            row.iter_mut().for_each(|x| *x *= rescale);
            m = new_m;
            for (j, score) in keys.zip(scores) {
                let weight = (score - m).exp();
                l += weight;
                let value = &tensors.value[start(j)..][..head_dim];
                row.iter_mut().zip(value).for_each(|(x, v)| *x += weight * v);
            }
        }
        out.extend(row.iter().map(|x| x / l));
    }
    if fault == Fault::OneNan {
        out[1234] = f32::NAN;
    }
    out
}

fn accuracy_with(fault: Fault) -> Accuracy {
    let mut tensors = Tensors::random(&shape(), 1);
    // Scores of some size, so that the weights differ.
    tensors.query.iter_mut().for_each(|x| *x *= 4.0);
    let expected = attend(&shape(), &CAUSAL, &tensors.inputs()).out;
    compare(&tiled(&tensors, fault), &expected).unwrap()
}

#[test]
fn a_right_kernel_is_accepted_with_room_to_spare() {
    let accuracy = accuracy_with(Fault::None);
    let tight = Bounds { max_relative: 1e-6, frobenius: 1e-6 };
    assert!(accuracy.within(&tight), "{accuracy}");
    assert_eq!(accuracy.compared, 2 * 4 * 40 * 16);
}

#[test]
fn every_planted_fault_is_rejected_in_both_norms() {
    for fault in [
        Fault::ScaleOnePercentOff,
        Fault::MaskOffByOne,
        Fault::MissingRescale,
        Fault::WrongKvHead,
        Fault::LastTileDropped,
        Fault::OneNan,
    ] {
        let accuracy = accuracy_with(fault);
        let Bounds { max_relative, frobenius } = Bounds::F32;
        assert!(!accuracy.within(&Bounds::F32), "{fault:?}: {accuracy}");
        assert!(!accuracy.within(&Bounds { max_relative, frobenius: f64::MAX }), "{fault:?}");
        assert!(!accuracy.within(&Bounds { max_relative: f64::MAX, frobenius }), "{fault:?}");
        assert!(accuracy.worst.is_some(), "{fault:?}");
    }
    assert_eq!(accuracy_with(Fault::OneNan).worst.unwrap().index, 1234);
}

#[test]
fn the_exact_answer_has_no_error() {
    let accuracy = compare(&[1.5, -2.0, 0.0], &[1.5, -2.0, -0.0]).unwrap();
    assert_eq!((accuracy.max_relative, accuracy.frobenius), (0.0, 0.0));
    assert_eq!((accuracy.compared, accuracy.worst), (3, None));
}

#[test]
fn errors_are_relative_to_the_largest_and_to_the_whole() {
    let accuracy = compare(&[3.0, 4.5], &[3.0, 4.0]).unwrap();
    assert_eq!((accuracy.max_relative, accuracy.frobenius), (0.5 / 4.0, 0.5 / 5.0));
    assert_eq!(accuracy.worst.unwrap().index, 1);
}

#[test]
fn values_that_are_not_finite_must_be_of_the_same_kind() {
    let kinds = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (a, found) in kinds.into_iter().enumerate() {
        for (b, expected) in kinds.into_iter().enumerate() {
            let accuracy = compare(&[2.0, found], &[2.0, f64::from(expected)]).unwrap();
            assert_eq!(accuracy.within(&Bounds::F32), a == b, "{expected}, {found}: {accuracy}");
            // Nor does a bound that any finite error meets let another kind pass.
            let loose = Bounds { max_relative: f64::INFINITY, frobenius: f64::INFINITY };
            assert_eq!(accuracy.within(&loose), a == b, "{expected}, {found}: {accuracy}");
            assert_eq!(accuracy.worst.map(|worst| worst.index), (a != b).then_some(1));
        }
    }
}

#[test]
fn matching_infinities_do_not_dilute_the_error() {
    let accuracy = compare(&[f32::NEG_INFINITY, 1.1], &[f64::NEG_INFINITY, 1.0]).unwrap();
    assert!((accuracy.max_relative - 0.1).abs() < 1e-6);
    assert!((accuracy.frobenius - 0.1).abs() < 1e-6);
    assert_eq!(accuracy.compared, 1);
}

#[test]
fn where_only_zero_is_expected_only_zero_passes() {
    assert!(compare(&[0.0, -0.0], &[0.0, 0.0]).unwrap().within(&Bounds::F32));
    let accuracy = compare(&[0.0, 1e-45], &[0.0, 0.0]).unwrap();
    assert_eq!((accuracy.max_relative, accuracy.frobenius), (f64::INFINITY, f64::INFINITY));
    assert!(!accuracy.within(&Bounds::F32));
}

#[test]
fn squares_that_overflow_or_vanish_do_not_hide_an_error() {
    for size in [1e-200, f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX), 1e200] {
        let accuracy = compare(&[0.0, 0.0], &[size, size]).unwrap();
        assert_eq!(accuracy.max_relative, 1.0, "{size}");
        assert!((accuracy.frobenius - 1.0).abs() < 1e-15, "{size}");
    }
}

#[test]
fn bounds_that_are_nan_pass_nothing() {
    let accuracy = compare(&[1.0], &[1.0]).unwrap();
    assert!(!accuracy.within(&Bounds { max_relative: f64::NAN, frobenius: 1.0 }));
    assert!(!accuracy.within(&Bounds { max_relative: 1.0, frobenius: f64::NAN }));
}

#[test]
fn lengths_must_be_equal() {
    for (found, expected) in [(&[1.0][..], &[1.0, 2.0][..]), (&[1.0, 2.0], &[1.0]), (&[], &[1.0])] {
        let error = compare(found, expected).unwrap_err();
        let (wanted, given) = (expected.len(), found.len());
        assert_eq!(error.to_string(), format!("found: expected {wanted} elements, found {given}"));
    }
}

#[test]
fn a_comparison_of_nothing_says_so() {
    let accuracy = compare(&[], &[]).unwrap();
    assert!(accuracy.within(&Bounds::F32));
    assert_eq!(accuracy.compared, 0);
    assert_eq!(compare(&[f32::NAN], &[f64::NAN]).unwrap().compared, 0);
}

#[test]
fn the_report_names_index_expected_and_found() {
    assert_eq!(
        compare(&[1.0, 2.5], &[1.0, 2.0]).unwrap().to_string(),
        "relative error 2.50e-1 at most, 2.24e-1 in Frobenius norm, over 2 finite elements; \
         worst at [1]: expected 2e0, found 2.5e0"
    );
    assert_eq!(
        compare(&[1.0, f32::NAN], &[1.0, 2.0]).unwrap().to_string(),
        "relative error inf at most, inf in Frobenius norm, over 2 finite elements; \
         worst at [1]: expected 2e0, found NaN"
    );
}
