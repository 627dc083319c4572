//! Sequences that have fewer keys than the batch has room for.

use crate::data::{Tensors, attend};
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, Inputs, Layout, Plan,
    Problem,
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
fn neighbouring_sequences_of_one_length_share_a_dispatch() {
    let lens = vec![7, 7, 2, 7];
    let plain = AttentionShape { kv_lens: Some(lens), ..AttentionShape::new(4, 2, 3, 2) };
    let problem = Problem::new(&AttentionShape { kv_len: 7, ..plain }, &CAUSAL).unwrap();
    let plan = Plan::new(problem, &Capabilities::PORTABLE, None).unwrap();
    let dispatched: Vec<_> =
        plan.dispatches.iter().map(|d| (d.grid[2], d.params.seen_len)).collect();
    assert_eq!(dispatched, [(2, 7), (1, 2), (1, 7)]);
    assert_eq!(plan.variants().len(), 1, "lengths need no new shader");
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
