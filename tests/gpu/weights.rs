//! Weights that a second pass over the keys stores, beside out and lse.

use crate::case::{Case, PLAIN, full, shape};
use crate::device::gpu;
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Gpu, Kernel, Layout, PagedKeys,
    SegmentLayout, Strides,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

fn weighed(shape: AttentionShape) -> AttentionShape {
    AttentionShape { weights: Some(Layout::Bhsd), ..shape }
}

#[test]
fn weights_are_right_at_every_length() {
    // Lengths that are multiples of four are stored four keys at a time; one query of many keys is shared by workgroups.
    for (seed, (q_len, kv_len)) in
        (0..).zip([(1, 1), (1, 500), (9, 130), (33, 64), (65, 33), (300, 28), (600, 40)])
    {
        for options in [PLAIN, CAUSAL] {
            let grouped = AttentionShape { num_kv_heads: 2, ..shape(2, 4, q_len, kv_len, 8) };
            Case::new(weighed(grouped), options, seed).check();
        }
    }
    let without_lse = AttentionShape { lse: None, ..shape(1, 2, 40, 70, 8) };
    Case::new(weighed(without_lse), PLAIN, 1).check();
}

#[test]
fn keys_that_no_row_of_a_tile_sees_have_weight_0() {
    // A window that passes over most tiles, past the first keys or not, and sequences that end early or hold nothing.
    let band = AttentionOptions { window_left: Some(20), align: Align::BottomRight, ..CAUSAL };
    for options in [band, AttentionOptions { window_keeps: 5, ..band }] {
        let shape = weighed(shape(3, 2, 150, 400, 8));
        Case::new(shape.clone(), options, 1).check();
        let ends = AttentionShape { kv_lens: Some(vec![400, 0, 170]), ..shape.clone() };
        Case::new(ends, options, 2).check();
        Case::new(AttentionShape { lens: true, ..shape }, options, 3).check();
    }
}

#[test]
fn weights_with_every_option_are_right() {
    let shape = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 50, 90, 12) };
    let shape = AttentionShape {
        mask: Some(full(&shape)),
        bias: Some(full(&shape)),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        segments: Some(SegmentLayout::PerSide),
        sinks: true,
        ..weighed(shape)
    };
    let options = AttentionOptions { softcap: Some(3.0), align: Align::BottomRight, ..CAUSAL };
    Case::new(shape, options, 1).check();
}

#[test]
fn weights_over_keys_in_pages_are_right() {
    for page_len in [16, 64] {
        let pages = Some(PagedKeys::new(page_len, 300 / page_len, 200_usize.div_ceil(page_len)));
        let shape = AttentionShape { pages, num_kv_heads: 2, ..shape(2, 4, 9, 200, 8) };
        Case::new(weighed(shape), CAUSAL, 1).check();
    }
}

#[test]
fn weights_lie_where_their_layout_says() {
    for (seed, offset, row) in [(1, 0, 76), (2, 3, 75), (3, 4, 73)] {
        let strides = Strides { offset, batch: 2 * 40 * row, head: 40 * row, row };
        let shape =
            AttentionShape { weights: Some(Layout::Strided(strides)), ..shape(2, 2, 40, 72, 8) };
        Case::new(shape, CAUSAL, seed).check();
    }
}

/// Of scores like these lse has no digit left for their sum.
#[test]
fn weights_of_scores_far_below_zero_are_those_of_their_differences() {
    let shape = shape(1, 2, 40, 70, 8);
    let mut case =
        Case::new(weighed(AttentionShape { bias: Some(full(&shape)), ..shape }), PLAIN, 1);
    case.bias.iter_mut().flatten().for_each(|bias| *bias = -1e9);
    for kernel in [Kernel::Forward, Kernel::Decode, Kernel::ThreeStage] {
        let found = case.run(gpu(), Some(kernel)).weights.unwrap();
        for (row, weights) in found.chunks(70).enumerate() {
            let sum: f32 = weights.iter().sum();
            assert!((sum - 1.0).abs() < 1e-5, "{kernel:?}: row {row} sums to {sum}");
        }
    }
}

#[test]
fn what_is_hidden_does_not_leak_into_weights_and_what_is_visible_shows() {
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::new(weighed(shape(1, 2, 40, 72, 8)), CAUSAL, 1);
        // Query i sees the keys up to i: those before 30 do not see this one.
        for head in case.tensors.key.chunks_mut(72 * 8) {
            head[30 * 8] = poison;
        }
        case.check();
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_second_pass_are_found() {
    let finds = |case: &Case, find: &str, replacement: &str| {
        assert_eq!(case.verdict_of(gpu()), Ok(()));
        let broken: Gpu = gpu().broken(find, replacement);
        let message = case.verdict_of(&broken).expect_err(find);
        assert!(message.contains("weights") || message.contains("lse"), "{message}");
        assert!(message.contains("relative error"), "{message}");
    };
    let case = Case::new(weighed(shape(1, 2, 40, 70, 8)), CAUSAL, 1);
    finds(&case, "(four - m[r])", "(four - 0.999 * m[r])");
    finds(&case, "* factors[r]", "* 0.9999 * factors[r]");
    finds(&case, "select(vec4(0.0), found, four_visible", "select(found, found, four_visible");
    finds(&case, "bitcast<u32>(finish.l);", "bitcast<u32>(finish.l * 1.0001);");
    let long = Case::new(weighed(shape(1, 1, 1, 500, 8)), PLAIN, 1);
    finds(
        &long,
        "tiles * (block.split + 1u) / params.splits",
        "tiles * block.split / params.splits",
    );
    finds(&long, "workgroup.y % params.splits", "0u * params.splits");
}
