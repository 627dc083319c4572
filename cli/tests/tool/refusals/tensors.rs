//! Tensors of wrong types and sizes.

use super::{RUN, refuse_tensors, tensors};
use crate::support::{Folder, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

#[test]
fn a_tensor_that_is_not_there_is_refused_with_those_that_are() {
    let wave = Tensor::wave;
    let missing = "q: expected a tensor of this name, found none (the file has ";
    let says = format!("{missing}\"k\", \"v\")");
    Folder::with(&[wave("v", &[1, 1]), wave("k", &[1, 1])]).refuses(&RUN, &[&says]);
    Folder::with(&[]).refuses(&RUN, &["found none (the file has no tensors)"]);
    // However many there are, and whatever they are called.
    let names: Vec<String> = (10..99).map(|i| format!("{i}\n{}", "é".repeat(1000))).collect();
    let folder = Folder::new();
    folder.write("in.safetensors", &{
        let view = TensorView::new(Dtype::F32, vec![0], &[]).expect("a tensor");
        safetensors::serialize(names.iter().map(|name| (name, view.clone())), None).expect("a file")
    });
    folder.refuses(&RUN, &[missing, "\"10 ééé", "é…\", \"11 é", "é…\", 77 more)"]);
    let ended = folder.tool(&RUN);
    assert!(ended.stderr.chars().count() < 600, "{}", ended.stderr);
}

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

/// `q` [2, 3, 32], `k` [2, 5, 16] and `v` [2, 5, 12] in place of those with separate heads.
#[test]
fn packed_tensors_that_do_not_belong_together() {
    let wave = Tensor::wave;
    let packed = || vec![wave("q", &[2, 3, 32]), wave("k", &[2, 5, 16]), wave("v", &[2, 5, 12])];
    let refuses = |tensors: &[Tensor], flags: &[&str], says: &[&str]| {
        let flags = [&["--layout", "packed"], flags].concat();
        Folder::with(tensors).refuses(&[&RUN[..], &flags].concat(), says);
    };
    let right: &[&str] = &["--heads", "4", "--kv-heads", "2"];
    for name in ["q", "k", "v"] {
        for sizes in [&[2, 3, 4, 8][..], &[3, 32], &[32], &[2, 3, 31]] {
            let mut tensors = packed();
            tensors.retain(|tensor| tensor.name != name);
            tensors.push(wave(name, sizes));
            let says = format!("{name}: expected 3 sizes, [batch, len, ");
            refuses(&tensors, right, &[&says, "heads * dim]", &format!("found {sizes:?}")]);
        }
    }
    refuses(&packed(), &["--heads", "5"], &["q: expected", "5 heads * dim]", "found [2, 3, 32]"]);
    refuses(&packed(), &["--heads", "4"], &["head_dim of k", "expected 8", "found 4"]);
    refuses(&packed(), &["--heads=2"], &["head_dim of k", "expected 16", "found 8"]);
    refuses(&packed(), &["--heads=4", "--kv-heads=3"], &["k: expected", "3 heads * dim]"]);
    refuses(&packed(), &["--heads=99999999999999999999"], &["q: expected"]);
    let odd = [wave("q", &[2, 3, 24]), wave("k", &[2, 5, 16]), wave("v", &[2, 5, 12])];
    refuses(&odd, &["--heads=3", "--kv-heads=2"], &["heads of k", "divisor of the 3 heads of q"]);
    let none = [wave("q", &[2, 3, 0]), wave("k", &[2, 5, 0]), wave("v", &[2, 5, 12])];
    refuses(&none, right, &["q: expected at least 1 head and 1 element per vector"]);
    let vast = [wave("q", &[1, 0, 8]), wave("k", &[1, 0, 1]), wave("v", &[1, 0, usize::MAX])];
    refuses(&vast, &["--heads=8", "--kv-heads=1"], &["value_dim"]);
}

#[test]
fn a_past_that_cannot_stand_before_k_and_v() {
    let wave = Tensor::wave;
    let key = |sizes: &[usize]| [wave("past_k", sizes), wave("past_v", &[2, 2, 3, 6])];
    let value = |sizes: &[usize]| [wave("past_k", &[2, 2, 3, 8]), wave("past_v", sizes)];
    let [past_k, past_v] = key(&[2, 2, 3, 8]);
    let beside = |there: &str| format!("expected a tensor of this name beside {there}, found none");
    refuse_tensors(&[
        (&key(&[2, 2, 3, 8])[..1], &["past_v: ", &beside("past_k")]),
        (&key(&[2, 2, 3, 8])[1..], &["past_k: ", &beside("past_v")]),
        (&[past_k.zeros(Dtype::F16), past_v.clone()], &["past_k: expected F32, found F16"]),
        (&[past_k, past_v.zeros(Dtype::I64)], &["past_v: expected F32, found I64"]),
        (&key(&[2, 3, 3, 8]), &["heads of past_k", "expected 2", "found 3"]),
        (&key(&[3, 8]), &["heads of past_k", "expected 2", "found 1"]),
        (&key(&[2, 2, 3, 6]), &["head_dim of past_k", "expected 8", "found 6"]),
        (&key(&[2, 2, 4, 8]), &["len of past_v", "expected 4", "found 3"]),
        (&key(&[3, 2, 3, 8]), &["batch of past_k", "expected 1 or 2", "found 3"]),
        (&key(&[0, 2, 3, 8]), &["batch of past_k", "expected 1 or 2", "found 0"]),
        (&key(&[8]), &["past_k: expected 2 to 4 sizes", "found [8]"]),
        (&key(&[2, 2, 3, 0]), &["past_k: expected at least 1 head", "found [2, 2, 3, 0]"]),
        (&value(&[2, 1, 3, 6]), &["heads of past_v", "expected 2", "found 1"]),
        (&value(&[2, 2, 3, 8]), &["value_dim of past_v", "expected 6", "found 8"]),
        (&value(&[2, 2, 0, 6]), &["len of past_v", "expected 3", "found 0"]),
        (&value(&[4, 2, 3, 6]), &["batch of past_v", "expected 1 or 2", "found 4"]),
        (&value(&[1, 2, 2, 3, 6]), &["past_v: expected 2 to 4 sizes"]),
    ]);
    // A batch of none in which both parts are longer than a shader, and their sum than usize, counts.
    let vast = usize::MAX - 1;
    refuse_tensors(&[(
        &[
            wave("q", &[0, 4, 3, 8]),
            wave("k", &[0, 2, vast, 8]),
            wave("v", &[0, 2, vast, 6]),
            wave("past_k", &[0, 2, vast, 8]),
            wave("past_v", &[0, 2, vast, 6]),
        ],
        &["expected"],
    )]);
    // The new keys repeated for each sequence of an empty cache.
    let many = 1 << 29;
    refuse_tensors(&[(
        &[
            wave("q", &[many, 4, 0, 8]),
            wave("k", &[1, 2, 5, 8]),
            wave("v", &[1, 2, 5, 6]),
            wave("past_k", &[many, 2, 0, 8]),
            wave("past_v", &[many, 2, 0, 6]),
        ],
        &["key: expected fewer than 2^32 elements"],
    )]);
}

#[test]
fn masks_that_no_padding_makes_right() {
    let pads = [&RUN[..], &["--pad-mask"]].concat();
    for sizes in [&[6][..], &[2, 5], &[2, 3], &[3, 3, 4], &[2, 4, 3, 6], &[5, 4, 3, 5], &[]] {
        for name in ["mask", "bias"] {
            let mut tensors = tensors();
            let bools = Tensor::wave(name, sizes).zeros(Dtype::BOOL);
            tensors.push(if name == "mask" { bools } else { Tensor::wave(name, sizes) });
            Folder::with(&tensors).refuses(&pads, &[&format!("{name}: expected")]);
        }
    }
    let mut tensors = tensors();
    tensors.push(Tensor::bools("mask", &[1 << 60, 0], &[]));
    Folder::with(&tensors).refuses(&pads, &["mask: expected a shape that broadcasts"]);
    let i = tensors.len() - 1;
    tensors[i] = Tensor::bools("mask", &[3, 4], &[1; 12]);
    Folder::with(&tensors).refuses(&RUN, &["mask: expected a shape that broadcasts"]);
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
    // In both directions: a type of 16 bits goes with itself and F32 only.
    let halves = tensors().iter().map(|tensor| tensor.zeros(Dtype::F16)).collect::<Vec<_>>();
    for dtype in [Dtype::BF16, Dtype::F64] {
        let says = ["bias: expected F32 or F16", &format!("found {dtype}")];
        Folder::with(&[&halves[..], &[bias(&[3, 5]).zeros(dtype)]].concat()).refuses(&RUN, &says);
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
