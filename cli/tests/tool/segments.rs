//! Documents: queries see the keys of their own segment.

use crate::support::{Folder, Tensor, assert_close, integers};
use safetensors::Dtype;

fn folder(more: &[Tensor]) -> Folder {
    let mut tensors = vec![
        Tensor::wave("q", &[2, 2, 3, 4]),
        Tensor::wave("k", &[2, 1, 4, 4]),
        Tensor::wave("v", &[2, 1, 4, 5]),
    ];
    tensors.extend_from_slice(more);
    Folder::with(&tensors)
}

/// Ids need not be small, nor in order; the third query has no key at all.
fn ids() -> [Tensor; 2] {
    [
        integers("seg_q", Dtype::I64, &[2, 3], &[7, -1, 5, 1 << 40, 7, 7]),
        integers("seg_k", Dtype::I32, &[2, 4], &[-1, 7, 7, -1, 7, 0, 7, 1]),
    ]
}

#[test]
fn a_query_sees_the_keys_of_its_segment() {
    let emit = ["--emit=lse,weights"];
    let found = folder(&ids()).run(&emit);
    let mask = [0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0];
    let expected = folder(&[Tensor::bools("mask", &[2, 1, 3, 4], &mask)]).run(&emit);
    for name in ["out", "lse", "weights"] {
        assert_eq!(found[name].sizes, expected[name].sizes);
        assert_close(&found[name].elements, &expected[name].elements);
    }
    assert_eq!(found["lse"].elements[2], f32::NEG_INFINITY);
}

#[test]
fn the_gpu_agrees_with_the_cpu_on_segments() {
    let slopes = Tensor::f32("alibi_slopes", &[2, 2], &[0.5, 0.25, 0.0, 1.0]);
    let lens = integers("kv_len", Dtype::I32, &[2], &[3, 4]);
    let [query, key] = ids();
    let all = folder(&[query, key, slopes, lens]);
    all.run_on_both(&["--causal", "--emit=lse"], 1e-5);
    all.run_on_both(&["--causal", "--emit=lse,weights,qk,qk_bias"], 1e-5);
}

#[test]
fn segments_that_cannot_be_are_refused() {
    let run = ["run", "in.safetensors", "--out", "out.safetensors"];
    let [query, key] = ids();
    folder(std::slice::from_ref(&query))
        .refuses(&run, &["seg_k: expected a tensor of this name beside seg_q"]);
    let short = integers("seg_k", Dtype::I64, &[2, 3], &[0; 6]);
    folder(&[query, short]).refuses(&run, &["seg_k: expected [2, 4], found [2, 3]"]);
    let floats = Tensor::wave("seg_q", &[2, 3]);
    folder(&[floats, key]).refuses(&run, &["seg_q: expected I32 or I64, found F32"]);
}
