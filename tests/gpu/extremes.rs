//! Numbers at the edge of f32: what is large stays accurate, what is hidden does not leak, what is
//! visible shows.

use crate::case::{Case, PLAIN, full, shape};
use crate::device::gpu;
use wgpu_attention::check::Bounds;
use wgpu_attention::{AlibiLayout, AttentionOptions, AttentionShape, Kernel};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };
/// One NaN has the bits by which the three stages mark what is hidden.
const POISONS: [f32; 4] = [f32::NAN, f32::from_bits(u32::MAX), f32::INFINITY, f32::NEG_INFINITY];

/// Makes key and value `j` of every head hold `poison`.
fn poison_key(case: &mut Case, j: usize, poison: f32) {
    let (len, dim) = (case.shape.kv_len, case.shape.head_dim);
    for tensor in [&mut case.tensors.key, &mut case.tensors.value] {
        tensor.chunks_mut(len * dim).for_each(|head| head[j * dim..][..dim].fill(poison));
    }
}

#[test]
fn large_logits_are_as_accurate_as_f32_allows() {
    for (seed, len) in (0..).zip([9, 64, 100]) {
        for options in [PLAIN, CAUSAL] {
            let mut case = Case::new(shape(1, 2, len, len, 8), options, seed);
            // Logits up to about 1e4 either way.
            case.tensors.query.iter_mut().for_each(|x| *x *= 4e3);
            case.check_as_naive();
        }
    }
}

#[test]
fn logits_all_large_and_alike_are_as_accurate_as_f32_allows() {
    for logit in [1e4_f32, -1e4] {
        let mut case = Case::new(shape(1, 1, 40, 70, 8), PLAIN, 1);
        case.tensors.query.fill(logit.abs().sqrt());
        let key = logit / logit.abs().sqrt() / 8_f32.sqrt();
        case.tensors.key.iter_mut().for_each(|x| *x = key + *x * 1e-3);
        case.check_as_naive();
    }
}

#[test]
fn equal_logits_give_the_mean() {
    for query in [0.0, 3.0] {
        for (seed, kv_len) in (0..).zip([1, 31, 33, 128]) {
            let mut case = Case::new(shape(1, 2, 40, kv_len, 8), CAUSAL, seed);
            case.tensors.query.fill(query);
            case.tensors.key.fill(0.25);
            case.check();
        }
    }
}

#[test]
fn one_dominant_logit_takes_all() {
    for at in [0, 31, 32, 50, 69] {
        let mut case = Case::new(shape(1, 1, 40, 70, 8), PLAIN, 1);
        case.tensors.query.fill(5.0);
        case.tensors.key[at * 8..][..8].fill(30.0);
        case.check();
        // And none, where all but one fall behind step by step: each tile has a new maximum.
        for (j, key) in case.tensors.key.chunks_mut(8).enumerate() {
            key.fill(j as f32 * 0.3);
        }
        case.check();
    }
}

/// A device may take a subnormal number for 0.
#[test]
fn a_subnormal_softcap_makes_all_scores_alike() {
    for softcap in [1e-45, 1e-39, f32::MIN_POSITIVE] {
        let options = AttentionOptions { softcap: Some(softcap), ..CAUSAL };
        Case::new(shape(1, 2, 9, 40, 8), options, 1).check();
    }
}

#[test]
fn a_subnormal_scale_counts() {
    for scale in [1e-45, 1e-39, -9e-39] {
        let options = AttentionOptions { scale: Some(scale), ..CAUSAL };
        let mut case = Case::new(shape(1, 2, 9, 40, 8), options, 1);
        // Products to about 1e38.
        let factor = (2.0 / scale.abs()).min(1e37).sqrt();
        case.tensors.query.iter_mut().for_each(|x| *x *= factor);
        case.tensors.key.iter_mut().for_each(|x| *x *= factor);
        case.check();
        let raw_scores = Some(wgpu_attention::Layout::Bhsd);
        Case { shape: AttentionShape { raw_scores, ..case.shape.clone() }, ..case }.check();
    }
}

#[test]
fn a_huge_softcap_changes_nothing() {
    for softcap in [1e5, 1e20, 1e38, f32::MAX] {
        let options = AttentionOptions { softcap: Some(softcap), ..CAUSAL };
        let capped = Case::new(shape(1, 2, 40, 70, 8), options, 1);
        let plain = Case { options: CAUSAL, ..capped.clone() };
        let expected = plain.expected();
        for kernel in Kernel::PORTABLE {
            let found = capped.run(gpu(), Some(kernel));
            capped.compare(kernel.name(), &found, &expected, &Bounds::F32);
        }
    }
}

#[test]
fn a_softcap_bounds_scores_of_any_size() {
    for (softcap, size) in [(0.01, 1.0), (1.0, 1.0), (5.0, 100.0), (30.0, 1e30)] {
        let options = AttentionOptions { softcap: Some(softcap), ..PLAIN };
        let mut case = Case::new(shape(1, 2, 40, 70, 8), options, 1);
        case.tensors.query.iter_mut().for_each(|x| *x *= size);
        case.check();
    }
}

/// Behind each way of hiding, with and without a softcap, which comes before the masks.
#[test]
fn hidden_poison_does_not_leak() {
    for softcap in [None, Some(5.0)] {
        for poison in POISONS {
            for hidden in [0, 20, 32, 69] {
                let plain = shape(1, 2, 40, 70, 8);
                let options = AttentionOptions { softcap, ..PLAIN };

                let masked = AttentionShape { mask: Some(full(&plain)), ..plain.clone() };
                let mut by_mask = Case::new(masked, options, 1);
                let mask = by_mask.mask.as_mut().unwrap();
                mask.iter_mut().skip(hidden).step_by(70).for_each(|seen| *seen = false);

                let biased = AttentionShape { bias: Some(full(&plain)), ..plain.clone() };
                let mut by_bias = Case::new(biased, options, 2);
                let bias = by_bias.bias.as_mut().unwrap();
                bias.iter_mut().skip(hidden).step_by(70).for_each(|b| *b = f32::NEG_INFINITY);

                // Causal rows before the poison do not see it, those after it do.
                let by_causality =
                    Case::new(plain.clone(), AttentionOptions { causal: true, ..options }, 3);
                let window = AttentionOptions { window_left: Some(9), ..options };
                let by_window = Case::new(plain, window, 4);

                for mut case in [by_mask, by_bias, by_causality, by_window] {
                    poison_key(&mut case, hidden, poison);
                    case.check();
                }
            }
        }
    }
}

/// A bias of NaN behind a mask, and a mask over a bias that hides.
#[test]
fn a_hidden_bias_does_not_leak() {
    let plain = shape(1, 1, 40, 70, 8);
    for poison in POISONS {
        let both =
            AttentionShape { mask: Some(full(&plain)), bias: Some(full(&plain)), ..plain.clone() };
        let mut case = Case::new(both, PLAIN, 1);
        for (bias, seen) in case.bias.as_mut().unwrap().iter_mut().zip(case.mask.iter().flatten()) {
            if !seen {
                *bias = poison;
            }
        }
        case.check();
        let biased = AttentionShape { bias: Some(full(&plain)), ..plain.clone() };
        let mut case = Case::new(biased, CAUSAL, 2);
        for (n, bias) in case.bias.as_mut().unwrap().iter_mut().enumerate() {
            if n % 70 > n / 70 {
                *bias = poison;
            }
        }
        case.check();
    }
}

/// The last key is repeated to fill up a tile.
#[test]
fn a_poisoned_last_key_shows_only_where_it_is_seen() {
    for kv_len in [1, 31, 33, 63] {
        for poison in POISONS {
            let mut case = Case::new(shape(1, 1, kv_len + 3, kv_len, 8), CAUSAL, 1);
            poison_key(&mut case, kv_len - 1, poison);
            case.check();
        }
    }
}

#[test]
fn visible_poison_shows_in_its_row_column_or_head() {
    let plain = shape(1, 2, 40, 70, 8);
    let biased = AttentionShape { bias: Some(full(&plain)), ..plain.clone() };
    let sloped = AttentionShape { alibi: Some(AlibiLayout::PerHead), ..plain.clone() };
    for poison in POISONS {
        for at in [17, 100, 639] {
            let mut in_query = Case::new(plain.clone(), CAUSAL, 1);
            in_query.tensors.query[at] = poison;
            let mut in_key = Case::new(plain.clone(), CAUSAL, 2);
            in_key.tensors.key[at] = poison;
            let mut in_value = Case::new(plain.clone(), CAUSAL, 3);
            in_value.tensors.value[at] = poison;
            let mut in_bias = Case::new(biased.clone(), PLAIN, 4);
            in_bias.bias.as_mut().unwrap()[at] = poison;
            let mut in_slopes = Case::new(sloped.clone(), PLAIN, 5);
            in_slopes.slopes.as_mut().unwrap()[1] = poison;
            for case in [in_query, in_key, in_value, in_bias, in_slopes] {
                case.check();
            }
        }
    }
}

/// Its sum of exponentials is 0, but it is not a row that sees nothing.
#[test]
fn a_row_that_sees_only_minus_infinity_is_nan() {
    let mut case = Case::new(shape(1, 2, 40, 70, 8), CAUSAL, 1);
    case.shape.lse = None;
    case.tensors.query.fill(1.0);
    for head in case.tensors.key.chunks_mut(70 * 8) {
        head[..3 * 8].fill(f32::NEG_INFINITY);
    }
    case.check();
    let nans = case.expected().out.iter().filter(|x| x.is_nan()).count();
    assert_eq!(nans, 2 * 3 * 8);
}
