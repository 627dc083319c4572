//! Sequences that have fewer keys than the batch has room for.

use crate::common::data::{Tensors, attend};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, CuSeqlens,
    Inputs, Layout, Plan, Problem,
};

fn shape(kv_lens: Option<Vec<usize>>) -> AttentionShape {
    AttentionShape {
        kv_len: 7,
        kv_lens,
        weights: Some(Layout::Bhsd),
        lse: Some(Layout::Bhsd),
        masked_scores: Some(Layout::Bhsd),
        ..AttentionShape::new(4, 2, 3, 2)
    }
}

const CAUSAL: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: true,
    window_left: Some(2),
    window_keeps: 0,
    window_right: None,
    align: Align::BottomRight,
};

/// Against the same keys hidden by a mask and a band written out key by key.
#[test]
fn keys_past_a_sequences_length_are_hidden_and_its_own_end_is_its_alignment() {
    let lens = [7, 0, 2, 5];
    let tensors = Tensors::random(&shape(None), 1);
    let found = attend(&shape(Some(lens.to_vec())), &CAUSAL, &tensors.inputs());
    let mut mask = Vec::new();
    for len in lens {
        for i in 0..3_i64 {
            let at = i + len as i64 - 3;
            mask.extend((0..7).map(|j| j < len as i64 && j <= at && j >= at - 2));
        }
    }
    let masked = AttentionShape { mask: Some(BroadcastLayout::Sizes([4, 1, 3, 7])), ..shape(None) };
    let inputs = Inputs { mask: Some(&mask), ..tensors.inputs() };
    assert_eq!(found, attend(&masked, &AttentionOptions::default(), &inputs));
}

#[test]
fn sequences_share_a_dispatch_whatever_their_lengths() {
    let lens = vec![7, 7, 2, 0];
    let plain = AttentionShape { kv_lens: Some(lens), ..AttentionShape::new(4, 2, 3, 2) };
    let problem = Problem::new(&AttentionShape { kv_len: 7, ..plain }, &CAUSAL).unwrap();
    let plan = Plan::new(problem, &Capabilities::PORTABLE, None).unwrap();
    let [dispatch] = plan.dispatches() else { panic!("{:?}", plan.dispatches()) };
    assert_eq!(dispatch.grid, [4, 2, 1]);
    let seen: Vec<_> = dispatch.table.iter().map(|line| (line.first_tile, line.seen_len)).collect();
    assert_eq!(seen, [(0, 7), (1, 7), (2, 2), (3, 0)]);
}

/// Three sequences of queries 2, 0, 3 and keys 3, 2, 0, and one of 1 and 4.
fn packed() -> AttentionShape {
    let cu_seqlens = CuSeqlens { query: vec![0, 2, 2, 5, 6], key: vec![0, 3, 5, 5, 9] };
    AttentionShape {
        kv_len: 9,
        cu_seqlens: Some(cu_seqlens),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        lse: Some(Layout::Bhsd),
        num_kv_heads: 1,
        ..AttentionShape::new(1, 2, 6, 2)
    }
    .with_layout(Layout::Bshd)
}

#[test]
fn sequences_without_padding_attend_within_themselves() {
    let slopes: Vec<f32> = (0..8).map(|slope| slope as f32 / 8.0).collect();
    for align in [Align::TopLeft, Align::BottomRight, Align::Offset(1)] {
        let options = AttentionOptions { align, ..CAUSAL };
        let shape = packed();
        let tensors = Tensors::random(&shape, 2);
        let inputs = Inputs { alibi_slopes: Some(&slopes), ..tensors.inputs() };
        let found = attend(&shape, &options, &inputs);
        let lse = found.lse.unwrap();
        let CuSeqlens { query, key } = shape.cu_seqlens.unwrap();
        for b in 0..4 {
            let (queries, keys) = (query[b]..query[b + 1], key[b]..key[b + 1]);
            let alone = AttentionShape {
                q_len: queries.len(),
                kv_len: keys.len(),
                alibi: Some(AlibiLayout::PerHead),
                cu_seqlens: None,
                ..packed()
            };
            // [total, heads, dim]: two query heads and one key head of two elements.
            let inputs = Inputs {
                query: &tensors.query[queries.start * 4..queries.end * 4],
                key: &tensors.key[keys.start * 2..keys.end * 2],
                value: &tensors.value[keys.start * 2..keys.end * 2],
                alibi_slopes: Some(&slopes[b * 2..][..2]),
                ..Inputs::default()
            };
            let expected = attend(&alone, &options, &inputs);
            assert_eq!(
                found.out[queries.start * 4..queries.end * 4],
                expected.out,
                "{align:?} {b}"
            );
            let heads: Vec<f64> =
                (0..2).flat_map(|h| &lse[h * 6..][queries.clone()]).copied().collect();
            assert_eq!(heads, expected.lse.unwrap(), "{align:?} {b}");
        }
    }
}

#[test]
fn sequences_without_padding_are_not_padded() {
    let problem = Problem::new(&packed(), &CAUSAL).unwrap();
    let plan = Plan::new(problem, &Capabilities::PORTABLE, None).unwrap();
    let [dispatch] = plan.dispatches() else { panic!("{:?}", plan.dispatches()) };
    assert_eq!(dispatch.grid, [3, 1, 1], "an empty sequence has no workgroup");
    let lines: Vec<_> = dispatch
        .table
        .iter()
        .map(|line| [line.first_tile, line.first_query, line.q_len, line.first_key, line.seen_len])
        .collect();
    assert_eq!(lines, [[0, 0, 2, 0, 3], [1, 2, 0, 3, 2], [1, 2, 3, 5, 0], [2, 5, 1, 5, 4]]);
}

#[test]
fn cu_seqlens_that_cannot_be_are_refused() {
    let with = |query: &[usize], key: &[usize]| AttentionShape {
        cu_seqlens: Some(CuSeqlens { query: query.to_vec(), key: key.to_vec() }),
        ..packed()
    };
    let good = [0, 2, 2, 5, 6];
    let keys = [0, 3, 5, 5, 9];
    let must = |name: &str, total, found: &str| {
        format!("{name}: expected numbers from 0 to {total} that never fall, found {found}")
    };
    for (shape, says) in [
        (with(&[], &keys), must("cu_seqlens.query", 6, "no numbers")),
        (with(&[0, 6, 5, 6, 6], &keys), must("cu_seqlens.query", 6, "5 after 6")),
        (with(&[1, 2, 2, 5, 6], &keys), must("cu_seqlens.query", 6, "1 as the first")),
        (with(&good, &[0, 3, 5, 5, 8]), must("cu_seqlens.key", 9, "8 as the last")),
        (
            with(&good, &[0, 9]),
            "cu_seqlens.key: expected 5 elements, as cu_seqlens.query, found 2".to_owned(),
        ),
        (
            AttentionShape { weights: Some(Layout::Bhsd), ..packed() },
            "weights: expected none beside cu_seqlens, found one".to_owned(),
        ),
        (
            AttentionShape { mask: Some(BroadcastLayout::Sizes([1; 4])), ..packed() },
            "mask: expected none beside cu_seqlens, found one".to_owned(),
        ),
        (
            AttentionShape { batch: 2, ..packed() },
            "batch: expected 1 beside cu_seqlens, found 2".to_owned(),
        ),
    ] {
        assert_eq!(Problem::new(&shape, &CAUSAL).unwrap_err().to_string(), says);
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    for (lens, says) in [
        (vec![7, 7, 7], "kv_lens: expected one length for each of 4 sequences, found 3"),
        (vec![7, 8, 7, 7], "kv_lens: expected at most kv_len = 7, found 8"),
    ] {
        let error = Problem::new(&shape(Some(lens)), &CAUSAL).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}
