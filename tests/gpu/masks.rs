//! Boolean masks, biases and ALiBi: what they hide, what they add, how they broadcast.

use crate::case::{Case, PLAIN, full, shape};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, BroadcastStrides,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

fn masked(shape: AttentionShape) -> AttentionShape {
    AttentionShape { mask: Some(full(&shape)), ..shape }
}

fn biased(shape: AttentionShape) -> AttentionShape {
    AttentionShape { bias: Some(full(&shape)), ..shape }
}

#[test]
fn random_masks_hide_what_they_say() {
    // Rows of bits that start anywhere in a word, and end anywhere.
    for (seed, (q_len, kv_len)) in
        (0..).zip([(1, 1), (3, 31), (5, 32), (33, 33), (65, 63), (9, 64), (40, 97)])
    {
        Case::new(masked(shape(2, 2, q_len, kv_len, 8)), PLAIN, seed).check();
        Case::new(masked(shape(2, 2, q_len, kv_len, 8)), CAUSAL, seed).check();
    }
}

/// Three tiles of keys and a bit; `hide(i, j)` says which are hidden.
fn hiding(hide: impl Fn(usize, usize) -> bool) -> Case {
    let mut case = Case::new(masked(shape(1, 2, 70, 100, 8)), PLAIN, 3);
    let mask = case.mask.as_mut().unwrap();
    for (element, seen) in mask.iter_mut().enumerate() {
        *seen = !hide(element / 100 % 70, element % 100);
    }
    case
}

#[test]
fn wholly_masked_tiles_are_passed_over() {
    for tile in 0..4 {
        hiding(|_, j| j / 32 == tile).check();
        hiding(|_, j| j / 32 != tile).check();
        hiding(|i, j| j / 32 == tile && i >= 32).check();
    }
}

#[test]
fn wholly_masked_rows_are_empty() {
    for rows in [0..1, 31..33, 0..32, 32..64, 69..70, 0..70] {
        let case = hiding(|i, _| rows.contains(&i));
        case.check();
        let expected = case.expected();
        for i in rows {
            assert_eq!(expected.out[i * 8..][..8], [0.0; 8]);
        }
    }
}

#[test]
fn one_visible_key_is_the_answer() {
    for seen in [0, 31, 32, 99] {
        hiding(|_, j| j != seen).check();
        hiding(|i, j| j != (i + seen) % 100).check();
    }
}

/// The sixteen ways that each of the four axes can be full or broadcast, as sizes and as strides with
/// an offset.
#[test]
fn masks_and_biases_broadcast_along_every_axis() {
    let (q_len, kv_len) = (35, 37);
    let sizes = [2, 2, q_len, kv_len];
    for pattern in 0..16 {
        let own: [usize; 4] =
            std::array::from_fn(|axis| if pattern >> axis & 1 == 1 { 1 } else { sizes[axis] });
        let opposite: [usize; 4] =
            std::array::from_fn(|axis| if pattern >> axis & 1 == 0 { 1 } else { sizes[axis] });
        let stride = |sizes: [usize; 4], axis: usize| {
            if sizes[axis] == 1 { 0 } else { sizes[axis + 1..].iter().product() }
        };
        let strided = |offset, sizes| {
            BroadcastLayout::Strided(BroadcastStrides {
                offset,
                batch: stride(sizes, 0),
                head: stride(sizes, 1),
                query: stride(sizes, 2),
                key: stride(sizes, 3),
            })
        };
        let plain = shape(2, 2, q_len, kv_len, 8);
        for (mask, bias) in [
            (BroadcastLayout::Sizes(own), BroadcastLayout::Sizes(opposite)),
            (strided(45, own), strided(3, opposite)),
        ] {
            let shape = AttentionShape { mask: Some(mask), bias: Some(bias), ..plain.clone() };
            Case::new(shape, PLAIN, pattern).check();
        }
    }
}

#[test]
fn a_bias_may_have_a_stride_between_keys() {
    let strides = BroadcastStrides { offset: 1, batch: 9, head: 4000, query: 111, key: 3 };
    let shape =
        AttentionShape { bias: Some(BroadcastLayout::Strided(strides)), ..shape(2, 2, 33, 37, 8) };
    Case::new(shape, PLAIN, 1).check();
}

#[test]
fn a_bias_of_minus_infinity_hides() {
    for (seed, kv_len) in (0..).zip([1, 31, 33, 64, 97]) {
        let mut case = Case::new(biased(shape(1, 2, 40, kv_len, 8)), PLAIN, seed);
        for (n, bias) in case.bias.as_mut().unwrap().iter_mut().enumerate() {
            // Every third key, all of row 7, and the first tile of the others.
            if n % 3 == 0 || n / kv_len % 40 == 7 || n % kv_len < 32 && n / kv_len % 2 == 0 {
                *bias = f32::NEG_INFINITY;
            }
        }
        case.check();
    }
}

/// A row of nothing but very low biases is a uniform one, not an empty one.
#[test]
fn only_minus_infinity_hides() {
    for low in [-1e9, f32::MIN] {
        let mut case = Case::new(biased(shape(1, 1, 40, 70, 8)), PLAIN, 1);
        case.bias.as_mut().unwrap().fill(low);
        // Beside -1e9 an f32 score has no digits left; the reference's would.
        case.tensors.query.fill(0.0);
        case.check();
        let weights = case.expected().lse.unwrap();
        assert!(weights.iter().all(|lse| lse.is_finite()));
        // Beside ordinary biases they weigh nothing.
        let mut case = Case::new(biased(shape(1, 1, 40, 70, 8)), CAUSAL, 2);
        for bias in case.bias.as_mut().unwrap().chunks_mut(70) {
            bias[0] = 0.5;
            bias[1..].iter_mut().step_by(2).for_each(|bias| *bias = low);
        }
        case.check();
    }
}

#[test]
fn alibi_counts_from_where_the_query_stands() {
    for layout in [AlibiLayout::PerHead, AlibiLayout::PerBatchAndHead] {
        for align in [Align::TopLeft, Align::BottomRight, Align::Offset(-20), Align::Offset(1000)] {
            for causal in [false, true] {
                let shape = AttentionShape { alibi: Some(layout), ..shape(2, 3, 35, 67, 8) };
                let options = AttentionOptions { align, causal, ..PLAIN };
                Case::new(shape, options, 5).check();
            }
        }
    }
}

#[test]
fn all_ways_of_hiding_apply_together() {
    for (seed, (q_len, kv_len)) in (0..).zip([(9, 67), (67, 40), (33, 33)]) {
        let shape = biased(masked(shape(2, 4, q_len, kv_len, 8)));
        let shape = AttentionShape { num_kv_heads: 2, alibi: Some(AlibiLayout::PerHead), ..shape };
        let options = AttentionOptions {
            scale: Some(-0.4),
            softcap: Some(2.0),
            causal: true,
            window_left: Some(20),
            window_keeps: 3,
            window_right: Some(3),
            align: Align::BottomRight,
        };
        let mut case = Case::new(shape, options, seed);
        let bias = case.bias.as_mut().unwrap();
        bias.iter_mut().step_by(5).for_each(|bias| *bias = f32::NEG_INFINITY);
        case.check();
    }
}
