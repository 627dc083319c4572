//! Tensors of wrong types and sizes.

use super::{RUN, refuse_tensors, tensors};
use crate::support::{Folder, Tensor};
use safetensors::Dtype;

#[test]
fn q_k_and_v_that_do_not_belong_together() {
    let wave = Tensor::wave;
    for name in ["q", "k", "v"] {
        let mut others = tensors();
        others.retain(|tensor| tensor.name != name);
        let says = format!("{name}: expected a tensor of this name, found none");
        Folder::with(&others).refuses(&RUN, &[&says]);

        for dtype in [Dtype::I32, Dtype::I64, Dtype::U8, Dtype::BOOL, Dtype::F8_E4M3] {
            let wrong = tensors().into_iter().find(|tensor| tensor.name == name);
            let wrong = wrong.expect("one of the three").zeros(dtype);
            let says = [&format!("{name}: expected F32")[..], &format!("found {dtype}")];
            refuse_tensors(&[(&[wrong], &says)]);
        }
        for sizes in [&[][..], &[8], &[1, 2, 4, 3, 8]] {
            let found = format!("{name}: expected 2 to 4 sizes, [batch, heads, len, dim]");
            refuse_tensors(&[(&[wave(name, sizes)], &[&found, &format!("found {sizes:?}")])]);
        }
        for sizes in [&[2, 0, 3, 8][..], &[2, 2, 3, 0], &[0, 3, 8], &[3, 0], &[0, 0, 0, 0]] {
            let says = format!("{name}: expected at least 1 head and 1 element per vector");
            refuse_tensors(&[(&[wave(name, sizes)], &[&says, &format!("found {sizes:?}")])]);
        }
    }
    let double = |name, sizes| wave(name, sizes).zeros(Dtype::F64);
    refuse_tensors(&[
        (&[double("q", &[2, 4, 3, 8])], &["k: expected F64, found F32"]),
        (&[double("k", &[2, 2, 5, 8])], &["k: expected F32, found F64"]),
        (&[double("v", &[2, 2, 5, 6])], &["v: expected F32, found F64"]),
        (&[wave("k", &[2, 2, 5, 7])], &["head_dim of k", "expected 8", "found 7"]),
        (&[wave("q", &[2, 4, 3, 6])], &["head_dim of k", "expected 6", "found 8"]),
        (&[wave("v", &[2, 2, 4, 6])], &["len of v", "expected 5", "found 4"]),
        (&[wave("v", &[2, 2, 0, 6])], &["len of v", "expected 5", "found 0"]),
        (&[wave("v", &[2, 1, 5, 6])], &["heads of v", "expected 2", "found 1"]),
        (&[wave("v", &[5, 6])], &["heads of v", "expected 2", "found 1"]),
        (&[wave("q", &[2, 3, 3, 8])], &["heads of k", "divisor of the 3 heads of q", "found 2"]),
        (&[wave("q", &[2, 1, 3, 8])], &["heads of k", "divisor of the 1 heads of q", "found 2"]),
        (&[wave("k", &[3, 2, 5, 8])], &["batch of k", "expected 1 or 2", "found 3"]),
        (&[wave("v", &[3, 2, 5, 6])], &["batch of v", "expected 1 or 2", "found 3"]),
        (&[wave("v", &[0, 2, 5, 6])], &["batch of v", "expected 1 or 2", "found 0"]),
        (&[wave("q", &[1, 4, 3, 8]), wave("v", &[3, 2, 5, 6])], &["batch of v", "1 or 2"]),
        // More of them than a shader counts, though a batch of none holds no elements.
        (
            &[wave("q", &[0, 4, 1 << 31, 8]), wave("k", &[1, 2, 5, 8]), wave("v", &[1, 2, 5, 6])],
            &["q_len", "expected at most 2^30", "found 2147483648"],
        ),
    ]);
    for sizes in [&[4, 3, 8][..], &[3, 8], &[1, 2, 4, 3, 8]] {
        let mut tensors = tensors();
        tensors[0] = wave("q", sizes);
        let says = ["q: expected 4 sizes, [batch, len, heads, dim]", &format!("found {sizes:?}")];
        Folder::with(&tensors).refuses(&[&RUN[..], &["--layout", "bshd"]].concat(), &says);
    }
}

#[test]
fn masks_biases_and_slopes_of_wrong_types_and_sizes() {
    let bools = |sizes: &[usize]| Tensor::bools("mask", sizes, &vec![1; sizes.iter().product()]);
    let bias = |sizes: &[usize]| Tensor::wave("bias", sizes);
    let slopes = |sizes: &[usize]| Tensor::wave("alibi_slopes", sizes);
    for dtype in [Dtype::U8, Dtype::I64, Dtype::F32] {
        let says = ["mask: expected BOOL", &format!("found {dtype}")];
        refuse_tensors(&[(&[bools(&[3, 5]).zeros(dtype)], &says)]);
    }
    for dtype in [Dtype::BOOL, Dtype::I32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let found = format!("found {dtype}");
        refuse_tensors(&[
            (&[bias(&[3, 5]).zeros(dtype)], &["bias: expected F32,", &found]),
            (&[slopes(&[4]).zeros(dtype)], &["alibi_slopes: expected F32,", &found]),
        ]);
    }
    let doubles = tensors().iter().map(|tensor| tensor.zeros(Dtype::F64)).collect::<Vec<_>>();
    let with = |other: Tensor| [&doubles[..], &[other]].concat();
    Folder::with(&with(bias(&[3, 5]).zeros(Dtype::F16)))
        .refuses(&RUN, &["bias: expected F32 or F64, found F16"]);
    Folder::with(&with(slopes(&[4]).zeros(Dtype::F64)))
        .refuses(&RUN, &["alibi_slopes: expected F32, found F64"]);

    let wrong: &[&[usize]] = &[
        &[4],
        &[6],
        &[0],
        &[5, 3],
        &[2, 5],
        &[3, 1, 5],
        &[2, 3, 5],
        &[4, 4, 3, 5],
        &[2, 2, 3, 5],
        &[2, 4, 3, 6],
        &[0, 4, 3, 5],
        &[1, 2, 4, 3, 5],
        &[],
    ];
    for sizes in wrong {
        let found = format!("found {sizes:?}");
        let padded = [&vec![1; 4_usize.saturating_sub(sizes.len())], *sizes].concat();
        let found =
            if sizes.len() == 5 || sizes.is_empty() { found } else { format!("found {padded:?}") };
        refuse_tensors(&[
            (&[bools(sizes)], &["mask: expected", &found]),
            (&[bias(sizes)], &["bias: expected", &found]),
        ]);
    }
    for sizes in [&[][..], &[1], &[2], &[5], &[4, 2], &[1, 4], &[4, 1], &[0, 4], &[1, 2, 4]] {
        let says = ["alibi_slopes: expected [4] or [2, 4]", &format!("found {sizes:?}")];
        refuse_tensors(&[(&[slopes(sizes)], &says)]);
    }
}
