//! Each stage of the three-stage path alone, fed the GPU's own input, against its f32 twin.

use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::device::gpu;
use wgpu_attention::check::Bounds;
use wgpu_attention::cpu::stages::{ScoreStage, scores, softmax, weighted_sum};
use wgpu_attention::{AlibiLayout, Align, AttentionOptions, AttentionShape, Layout};

/// The same shape, asking for everything that a stage computes.
fn with_all_outputs(shape: AttentionShape) -> AttentionShape {
    let stored = Some(Layout::Bhsd);
    AttentionShape {
        weights: stored,
        raw_scores: stored,
        capped_scores: stored,
        masked_scores: stored,
        ..shape
    }
}

fn widen(xs: &[f32]) -> Vec<f64> {
    xs.iter().copied().map(f64::from).collect()
}

/// Runs the path once and compares what went into and came out of each stage.
fn check_stages(case: &Case) {
    let problem = case.problem();
    let found = case.run(gpu(), None);
    let check = |stage: &str, found: &[f32], twin: &[f32]| {
        check_tensor(&format!("{stage}, {case}"), found, &widen(twin), &Bounds::F32);
    };
    let stored = [
        ("raw_scores", found.raw_scores, ScoreStage::Raw),
        ("capped_scores", found.capped_scores, ScoreStage::Capped),
        ("masked_scores", found.masked_scores.clone(), ScoreStage::Masked),
    ];
    for (name, found, stage) in stored {
        check(name, &found.unwrap(), &scores(&problem, &case.inputs(), stage).unwrap());
    }
    let twin = softmax(&problem, &found.masked_scores.unwrap(), &case.inputs()).unwrap();
    let weights = found.weights.unwrap();
    check("weights", &weights, &twin.weights);
    check("lse", &found.lse.unwrap(), &twin.lse);
    let twin = weighted_sum(&problem, &weights, &case.tensors.value).unwrap();
    check("out", &found.out, &twin);
    // And the whole against the definition.
    case.check();
}

#[test]
fn plain_stages_equal_their_twins() {
    for (seed, (q_len, kv_len)) in (0..).zip([(1, 1), (33, 65), (65, 33), (5, 300)]) {
        let shape = with_all_outputs(shape(2, 2, q_len, kv_len, 8));
        check_stages(&Case::new(shape, PLAIN, seed));
    }
}

#[test]
fn stages_with_every_option_equal_their_twins() {
    for (seed, (q_len, kv_len)) in (0..).zip([(1, 40), (33, 65), (65, 33)]) {
        let shape = with_all_outputs(shape(2, 4, q_len, kv_len, 8));
        let shape = AttentionShape {
            num_kv_heads: 2,
            mask: Some(full(&shape)),
            bias: Some(full(&shape)),
            alibi: Some(AlibiLayout::PerHead),
            sinks: true,
            ..shape
        };
        let options = AttentionOptions {
            scale: Some(0.7),
            softcap: Some(3.0),
            causal: true,
            window_left: Some(30),
            align: Align::BottomRight,
            ..PLAIN
        };
        check_stages(&Case::new(shape, options, seed));
    }
}

/// From where a tanh is its argument to where it is 1, and over the place where the shader changes
/// from a series to exponentials.
#[test]
fn capped_scores_are_right_at_every_size() {
    let shape = with_all_outputs(shape(1, 1, 64, 64, 8));
    for softcap in [1e-3, 0.3, 1.0, 4.0, 50.0, 1e6, 1e30, f32::MAX] {
        let options = AttentionOptions { softcap: Some(softcap), ..PLAIN };
        let mut case = Case::new(shape.clone(), options, 1);
        for (row, query) in case.tensors.query.chunks_mut(8).enumerate() {
            query[0] *= 2_f32.powi(i32::try_from(row).unwrap() / 2 - 20);
            // One product a score: nothing cancels before the softcap.
            query[1..].fill(0.0);
        }
        check_stages(&case);
        // Element by element too: small scores would vanish beside large ones.
        let found = case.run(gpu(), None).capped_scores.unwrap();
        let expected = case.expected().capped_scores.unwrap();
        for (index, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let (error, bound) = ((f64::from(found) - expected).abs(), 1e-6 * expected.abs());
            assert!(
                error <= bound,
                "{case}: [{index}]: expected {expected:e}, found {found:e}, bound {bound:e}"
            );
        }
    }
}
