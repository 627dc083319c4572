//! Every length of vectors, every way that query heads share keys and values.

use crate::case::{Case, PLAIN, shape};
use wgpu_attention::{AttentionOptions, AttentionShape, Layout};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

#[test]
fn every_head_dim_is_right() {
    for (head_dim, value_dim) in
        [(1, 1), (3, 5), (72, 72), (80, 80), (112, 112), (192, 128), (256, 256), (300, 300)]
    {
        let shape = AttentionShape { value_dim, ..shape(1, 2, 35, 67, head_dim) };
        Case::new(shape, CAUSAL, head_dim as u64).check();
    }
}

#[test]
fn weights_of_every_head_dim_are_right() {
    for (head_dim, value_dim) in [(3, 5), (80, 80), (192, 128)] {
        let weights = Some(Layout::Bhsd);
        let shape = AttentionShape { value_dim, weights, ..shape(1, 2, 35, 67, head_dim) };
        Case::new(shape, CAUSAL, head_dim as u64).check();
    }
}

#[test]
fn query_heads_read_the_head_of_their_group() {
    for (seed, (num_heads, num_kv_heads)) in
        (0..).zip([(3, 3), (2, 1), (4, 2), (7, 1), (14, 2), (8, 1), (16, 2)])
    {
        // A group's rows share tiles: these lengths cross the tile's edge in the middle of a query.
        for q_len in [1, 5, 9, 33] {
            let shape = AttentionShape { num_kv_heads, ..shape(2, num_heads, q_len, 37, 8) };
            Case::new(shape.clone(), PLAIN, seed).check();
            Case::new(shape, CAUSAL, seed).check();
        }
    }
}
