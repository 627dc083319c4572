//! One table of calls through every kernel. All other tests try what a plan picks.

use crate::case::{Case, PLAIN, full, shape};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, CuSeqlens, Layout, PagedKeys,
    SegmentLayout, Strides,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };
const AT_THE_END: AttentionOptions = AttentionOptions { align: Align::BottomRight, ..CAUSAL };
const WINDOW: AttentionOptions =
    AttentionOptions { window_left: Some(17), window_right: Some(3), ..PLAIN };
const KEEPS: AttentionOptions =
    AttentionOptions { window_left: Some(20), window_keeps: 5, ..AT_THE_END };

fn check(cases: impl IntoIterator<Item = (AttentionShape, AttentionOptions)>) {
    for (seed, (shape, options)) in (0..).zip(cases) {
        Case::new(shape, options, seed).check_every_kernel();
    }
}

/// Around the edges of tiles of 32 keys and of 32, 64 and 256 rows. All of them share their pipelines.
#[test]
fn every_kernel_takes_every_length_and_band() {
    check([
        (shape(1, 1, 1, 1, 8), PLAIN),
        (shape(1, 2, 1, 33, 8), CAUSAL),
        (shape(1, 2, 9, 64, 8), AT_THE_END),
        (shape(2, 1, 32, 32, 8), CAUSAL),
        (shape(1, 2, 33, 65, 8), WINDOW),
        (shape(1, 2, 65, 31, 8), AT_THE_END),
        (shape(1, 2, 70, 100, 8), KEEPS),
        (shape(1, 1, 257, 96, 8), CAUSAL),
        (shape(1, 1, 257, 97, 8), AttentionOptions { align: Align::Offset(-40), ..WINDOW }),
        (shape(1, 2, 3, 700, 8), KEEPS),
        (shape(1, 2, 1, 2000, 8), PLAIN),
        (shape(2, 2, 5, 0, 8), PLAIN),
        (shape(2, 2, 0, 5, 8), PLAIN),
        (AttentionShape { num_kv_heads: 2, ..shape(2, 6, 20, 70, 8) }, CAUSAL),
        (AttentionShape { num_kv_heads: 1, ..shape(1, 4, 1, 300, 8) }, PLAIN),
        (shape(2, 3, 20, 40, 8).with_layout(Layout::Bshd), CAUSAL),
        (AttentionShape { lse: None, ..shape(1, 2, 20, 40, 8) }, CAUSAL),
    ]);
}

#[test]
fn every_kernel_takes_sequences_that_differ() {
    let lens = AttentionShape { kv_lens: Some(vec![97, 0, 17]), ..shape(3, 2, 40, 97, 8) };
    let cu_seqlens = CuSeqlens { query: vec![0, 33, 33, 40, 105], key: vec![0, 65, 70, 70, 167] };
    let packed = AttentionShape { cu_seqlens: Some(cu_seqlens), ..shape(1, 2, 105, 167, 8) };
    let of_the_device = AttentionShape { lens: true, ..shape(3, 2, 20, 97, 8) };
    let pages = Some(PagedKeys::new(32, 9, 7));
    let paged = AttentionShape { batch: 2, num_kv_heads: 1, pages, ..shape(1, 2, 20, 101, 8) };
    check([
        (lens, AT_THE_END),
        (packed.with_layout(Layout::Bshd), AT_THE_END),
        (of_the_device, AT_THE_END),
        (paged, AT_THE_END),
    ]);
}

#[test]
fn every_kernel_takes_every_option() {
    let plain = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 40, 101, 8) };
    let all = AttentionShape {
        mask: Some(full(&plain)),
        bias: Some(full(&plain)),
        alibi: Some(AlibiLayout::PerHead),
        segments: Some(SegmentLayout::PerSide),
        sinks: true,
        ..plain.clone()
    };
    let options = AttentionOptions { softcap: Some(5.0), scale: Some(0.7), ..KEEPS };
    check([
        (AttentionShape { q_len: 1, mask: None, bias: None, ..all.clone() }, options),
        (all, options),
        (AttentionShape { mask: Some(full(&plain)), ..plain }, CAUSAL),
    ]);
}

/// Rows of a width that no vector divides, wide ones, and some that begin anywhere.
#[test]
fn every_kernel_takes_every_width() {
    let odd = AttentionShape { value_dim: 3, ..shape(1, 2, 20, 70, 5) };
    let gaps = Layout::Strided(Strides { offset: 3, batch: 20_011, head: 5_003, row: 11 });
    check([
        (odd, CAUSAL),
        (shape(2, 2, 20, 40, 8).with_layout(gaps), PLAIN),
        (shape(1, 1, 40, 70, 64), CAUSAL),
        (shape(1, 1, 20, 70, 136), CAUSAL),
    ]);
}

#[test]
fn every_kernel_stores_weights_and_scores() {
    let weights = AttentionShape { weights: Some(Layout::Bhsd), ..shape(1, 2, 20, 70, 8) };
    let scores = AttentionShape { masked_scores: Some(Layout::Bhsd), ..weights.clone() };
    check([(weights, CAUSAL), (scores, AT_THE_END)]);
}
