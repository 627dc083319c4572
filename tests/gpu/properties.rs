//! Whatever shape and options, every kernel agrees with the reference.
//!
//! Dims and the presence of options are part of a pipeline's key, so there are few combinations of them;
//! everything else is free.

use crate::case::{Case, PLAIN, full, shape};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Layout, SegmentLayout,
    Strides,
};

/// How each tensor lies: contiguous either way, or with gaps.
fn layout(rows: usize, heads: usize, dim: usize) -> impl Strategy<Value = Layout> {
    let gaps = (0..9_usize, 0..9_usize).prop_map(move |(offset, gap)| {
        let row = dim + gap;
        Layout::Strided(Strides { offset, row, head: rows * row, batch: heads * rows * row + gap })
    });
    prop_oneof![Just(Layout::Bhsd), Just(Layout::Bshd), gaps]
}

/// Full or broadcast along each axis.
fn broadcast(shape: &AttentionShape) -> impl Strategy<Value = BroadcastLayout> + use<> {
    let BroadcastLayout::Sizes(sizes) = full(shape) else { unreachable!() };
    let axis = |at: usize| prop_oneof![Just(sizes[at]), Just(1)];
    (axis(0), axis(1), axis(2), axis(3))
        .prop_map(|(b, h, q, k)| BroadcastLayout::Sizes([b, h, q, k]))
}

fn sizes() -> impl Strategy<Value = AttentionShape> {
    let dims = prop_oneof![Just((8, 8)), Just((5, 3))];
    let heads = (1..4_usize, 1..4_usize);
    (0..3_usize, heads, 0..80_usize, 0..100_usize, dims).prop_map(
        |(batch, (num_kv_heads, group), q_len, kv_len, (head_dim, value_dim))| AttentionShape {
            num_kv_heads,
            value_dim,
            ..shape(batch, num_kv_heads * group, q_len, kv_len, head_dim)
        },
    )
}

fn laid_out(shape: AttentionShape) -> impl Strategy<Value = AttentionShape> {
    let AttentionShape { num_heads, num_kv_heads, q_len, kv_len, head_dim, value_dim, .. } = shape;
    let layouts = (
        layout(q_len, num_heads, head_dim),
        layout(kv_len, num_kv_heads, head_dim),
        layout(kv_len, num_kv_heads, value_dim),
        layout(q_len, num_heads, value_dim),
    );
    layouts.prop_map(move |(query, key, value, out)| AttentionShape {
        query,
        key,
        value,
        out,
        ..shape.clone()
    })
}

/// What a shape has besides its tensors: nothing, a mask, or everything.
fn with_extras(shape: AttentionShape) -> impl Strategy<Value = AttentionShape> {
    let (mask, bias) = (broadcast(&shape), broadcast(&shape));
    let alibi = prop_oneof![Just(AlibiLayout::PerHead), Just(AlibiLayout::PerBatchAndHead)];
    (0..3, mask, bias, alibi).prop_map(move |(extras, mask, bias, alibi)| AttentionShape {
        mask: (extras > 0).then_some(mask),
        bias: (extras > 1).then_some(bias),
        alibi: (extras > 1).then_some(alibi),
        segments: (extras > 1).then_some(SegmentLayout::PerSide),
        sinks: extras > 1,
        ..shape.clone()
    })
}

fn options(with_softcap: bool) -> impl Strategy<Value = AttentionOptions> {
    let align = prop_oneof![
        Just(Align::TopLeft),
        Just(Align::BottomRight),
        (-90..90_i64).prop_map(Align::Offset)
    ];
    let reach = || proptest::option::of(0..60_usize);
    let keeps = prop_oneof![Just(0), 0..70_usize];
    (-1_f32..1.0, 0.5_f32..50.0, any::<bool>(), reach(), keeps, reach(), align).prop_map(
        move |(scale, softcap, causal, window_left, window_keeps, window_right, align)| {
            AttentionOptions {
                scale: (scale > -0.5).then_some(scale),
                softcap: with_softcap.then_some(softcap),
                causal,
                window_left,
                window_keeps,
                window_right,
                align,
            }
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let shape = sizes().prop_flat_map(laid_out).prop_flat_map(with_extras);
    // Like the extras, part of a pipeline's key.
    let with_options = shape.prop_flat_map(|shape| {
        let with_softcap = shape.alibi.is_some();
        (Just(shape), options(with_softcap))
    });
    (with_options, 0..1000_u64).prop_map(|((shape, options), seed)| Case::new(shape, options, seed))
}

/// The same cases each time; a failure shrinks to a small one.
pub(crate) fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(17),
        max_shrink_iters: 500,
        ..Config::default()
    })
}

#[test]
fn every_kernel_agrees_with_the_reference() {
    runner(96)
        .run(&case(), |case| case.verdict().map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Whatever else a row sees, a key more that it does not see changes nothing.
#[test]
fn keys_past_a_causal_rows_reach_change_no_bit() {
    let calls = (1..40_usize, 1..70_usize, 1..40_usize, 0..1000_u64);
    runner(24)
        .run(&calls, |(q_len, kv_len, more, seed)| {
            let options = AttentionOptions {
                window_right: Some(0),
                align: Align::Offset(kv_len as i64 - q_len as i64),
                ..PLAIN
            };
            let long = Case::new(shape(1, 1, q_len, kv_len + more, 8), options, seed);
            let mut short = long.clone();
            short.shape.kv_len = kv_len;
            short.tensors.key.truncate(kv_len * 8);
            short.tensors.value.truncate(kv_len * 8);
            for kernel in wgpu_attention::Kernel::PORTABLE.map(Some) {
                let gpu = crate::device::gpu();
                prop_assert_eq!(long.run(gpu, kernel), short.run(gpu, kernel));
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
