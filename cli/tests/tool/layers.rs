//! `mha` and `selfattn`: layers with parameters of their own.

use crate::support::{Ended, Folder, Found, Tensor, assert_close, file};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// A folder with a call and the parameters of a layer.
fn folder(tensors: &[Tensor], weights: &[Tensor]) -> Folder {
    let folder = Folder::with(tensors);
    folder.write("w.safetensors", &file(weights));
    folder
}

fn args<'a>(layer: &'a str, heads: &'a str) -> Vec<&'a str> {
    let weights = ["--weights", "w.safetensors"];
    let out = ["--out", "out.safetensors", "--heads", heads];
    [&[layer, "in.safetensors"][..], &weights, &out].concat()
}

fn succeed(folder: &Folder, args: &[&str]) -> BTreeMap<String, Found> {
    let ended = folder.tool(&[args, &["--device", "cpu"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
    folder.outputs("out.safetensors")
}

/// On the CPU, and on the adapter there is, which has to give the same to 1e-5.
fn succeed_on_both(folder: &Folder, args: &[&str]) -> BTreeMap<String, Found> {
    let expected = succeed(folder, args);
    let ended = folder.tool_with_adapter(&[args, &["--device", "gpu"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
    let found = folder.outputs("out.safetensors");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        let found = &found[name];
        assert_eq!((found.dtype, &found.sizes), (expected.dtype, &expected.sizes), "{name}");
        assert_close(&found.elements, &expected.elements);
    }
    expected
}

const ONE: &[f32] = &[1.0];

/// A layer of one head of one column that projects nothing: scores are the keys.
fn identity() -> Vec<Tensor> {
    vec![
        Tensor::f32("in_proj_weight", &[3, 1], &[1.0; 3]),
        Tensor::f32("out_proj.weight", &[1, 1], ONE),
    ]
}

/// One query of 1; keys whose exponentials are 1, 2 and 5.
fn call(sizes: fn(usize) -> Vec<usize>) -> Vec<Tensor> {
    let key = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
    vec![
        Tensor::f32("query", &sizes(1), ONE),
        Tensor::f32("key", &sizes(3), &key),
        Tensor::f32("value", &sizes(3), &[8.0, 4.0, 16.0]),
    ]
}

fn with(tensors: Vec<Tensor>, others: &[Tensor]) -> Vec<Tensor> {
    let kept = tensors.into_iter().filter(|t| others.iter().all(|other| other.name != t.name));
    kept.chain(others.iter().cloned()).collect()
}

#[test]
fn a_row_is_projected_attends_and_is_projected_again() {
    let biases = [
        Tensor::f32("in_proj_bias", &[3], &[0.0, 0.0, 8.0]),
        Tensor::f32("out_proj.bias", &[1], &[0.5]),
        Tensor::f32("out_proj.weight", &[1, 1], &[2.0]),
    ];
    let folder = folder(&call(|len| vec![len, 1, 1]), &with(identity(), &biases));
    let outputs = succeed_on_both(&folder, &[&args("mha", "1")[..], &["--emit=weights"]].concat());
    assert_eq!(outputs["out"].sizes, [1, 1, 1]);
    assert_close(&outputs["out"].elements, &[2.0 * (1.0 + 1.0 + 10.0 + 8.0) + 0.5]);
    assert_eq!(outputs["weights"].sizes, [1, 1, 3]);
    assert_close(&outputs["weights"].elements, &[0.125, 0.25, 0.625]);
}

/// PyTorch's convention, which is the reverse of that of `run`; added rows are seen in any case.
#[test]
fn true_hides_and_floats_are_added() {
    let flags = ["--emit", "weights", "--add-zero-attn", "--batch-first"];
    let hides = Tensor::bools("attn_mask", &[1, 3], &[0, 1, 0]);
    let adds = |dtype| {
        Tensor::f32("key_padding_mask", &[1, 3], &[f32::NEG_INFINITY, 0.0, 0.0]).rounded(dtype)
    };
    let extra = [
        Tensor::f32("bias_k", &[1, 1, 1], &[4.0_f32.ln()]),
        Tensor::f32("bias_v", &[1, 1, 1], &[30.0]),
    ];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let masks = [hides.clone(), adds(dtype)];
        let call = with(call(|len| vec![1, len, 1]), &masks);
        let folder = folder(&call, &with(identity(), &extra));
        let outputs = succeed(&folder, &[&args("mha", "1")[..], &flags].concat());
        assert_close(&outputs["weights"].elements, &[0.0, 0.0, 0.5, 0.4, 0.1]);
        assert_close(&outputs["out"].elements, &[8.0 + 12.0]);
    }
}

#[test]
fn a_row_that_sees_nothing_is_the_last_bias() {
    let hides = Tensor::bools("key_padding_mask", &[3], &[1, 1, 1]);
    let bias =
        [Tensor::f32("in_proj_bias", &[3], &[1.0; 3]), Tensor::f32("out_proj.bias", &[1], &[0.5])];
    let folder = folder(&with(call(|len| vec![len, 1]), &[hides]), &with(identity(), &bias));
    let outputs = succeed_on_both(&folder, &[&args("mha", "1")[..], &["--emit=weights"]].concat());
    assert_eq!(outputs["out"].elements, [0.5]);
    assert_eq!(
        (&outputs["weights"].sizes, &outputs["weights"].elements),
        (&vec![1, 3], &vec![0.0; 3])
    );
}

/// Widths of key and value of their own, weights per head, in each order of sizes.
#[test]
fn sizes_come_back_as_they_went_in() {
    let weights = [
        Tensor::wave("q_proj_weight", &[6, 6]),
        Tensor::wave("k_proj_weight", &[6, 5]),
        Tensor::wave("v_proj_weight", &[6, 2]),
        Tensor::wave("out_proj.weight", &[6, 6]),
        Tensor::wave("in_proj_bias", &[18]),
        Tensor::wave("out_proj.bias", &[6]),
    ];
    let flags = ["--emit", "weights", "--per-head-weights"];
    let run = |query: &[usize], key: &[usize], value: &[usize], more: &[&str]| {
        let call =
            [Tensor::wave("query", query), Tensor::wave("key", key), Tensor::wave("value", value)];
        let folder = folder(&call, &weights);
        succeed_on_both(&folder, &[&args("mha", "3")[..], &flags, more].concat())
    };
    let first = run(&[2, 4, 6], &[2, 7, 5], &[2, 7, 2], &["--batch-first"]);
    assert_eq!((&first["out"].sizes, &first["weights"].sizes), (&vec![2, 4, 6], &vec![2, 3, 4, 7]));
    let second = run(&[4, 2, 6], &[7, 2, 5], &[7, 2, 2], &[]);
    assert_eq!(
        (&second["out"].sizes, &second["weights"].sizes),
        (&vec![4, 2, 6], &vec![2, 3, 4, 7])
    );
    let alone = run(&[4, 6], &[7, 5], &[7, 2], &[]);
    assert_eq!((&alone["out"].sizes, &alone["weights"].sizes), (&vec![4, 6], &vec![3, 4, 7]));
    let mean = run(&[4, 6], &[7, 5], &[7, 2], &["--batch-first"]);
    assert_eq!(mean["out"], alone["out"]);
}

#[test]
fn out_has_the_type_of_query_and_weights_are_f32() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let call: Vec<Tensor> =
            call(|len| vec![len, 1]).iter().map(|tensor| tensor.rounded(dtype)).collect();
        let folder = folder(&call, &identity());
        let outputs = succeed(&folder, &[&args("mha", "1")[..], &["--emit=weights"]].concat());
        let expected = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
        assert_eq!(outputs["out"].dtype, expected);
        assert_eq!(outputs["weights"].dtype, Dtype::F32);
    }
}

/// Two heads of one column that share their matrices.
fn module() -> (Vec<Tensor>, Vec<Tensor>) {
    let key = [0.0, 1.0_f32, 2.0_f32.ln(), 2.0, 5.0_f32.ln(), 3.0];
    let call = vec![
        Tensor::f32("query", &[1, 1, 2], &[1.0, 0.0]),
        Tensor::f32("keys", &[1, 3, 2], &key),
        Tensor::f32("values", &[1, 3, 2], &[8.0, 3.0, 4.0, 6.0, 16.0, 9.0]),
    ];
    let weights = vec![
        Tensor::f32("values.weight", &[1, 1], ONE),
        Tensor::f32("keys.weight", &[1, 1], ONE),
        Tensor::f32("queries.weight", &[1, 1], ONE),
        Tensor::f32("fc_out.weight", &[2, 2], &[1.0, 0.0, 0.0, 2.0]),
        Tensor::f32("fc_out.bias", &[2], &[0.5, -1.0]),
    ];
    (call, weights)
}

#[test]
fn heads_share_their_matrices_and_fc_out_mixes_them() {
    let (call, weights) = module();
    let folder = folder(&call, &weights);
    let outputs =
        succeed_on_both(&folder, &[&args("selfattn", "2")[..], &["--emit=weights"]].concat());
    assert_close(&outputs["out"].elements, &[12.5, 11.0]);
    assert_eq!(outputs["weights"].sizes, [1, 2, 1, 3]);
    let third = 1.0 / 3.0;
    assert_close(&outputs["weights"].elements, &[0.125, 0.25, 0.625, third, third, third]);
}

/// By type of mask: 0 is masked, be it -0.0, and a row of nothing else weighs all keys alike.
#[test]
fn a_wholly_masked_row_is_uniform() {
    let (call, weights) = module();
    let mask = [1.0, 0.0, 0.5, -0.0, 0.0, 0.0];
    let masks = [
        Tensor::f32("mask", &[1, 2, 1, 3], &mask),
        Tensor::f32("mask", &[2, 1, 3], &mask).rounded(Dtype::F16),
        Tensor::bools("mask", &[2, 1, 3], &[1, 0, 255, 0, 0, 0]),
        Tensor::new("mask", Dtype::I16, &[2, 1, 3], vec![0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for mask in masks {
        let folder = folder(&with(call.clone(), &[mask]), &weights);
        let flags = ["--emit", "weights", "--scale-by", "head"];
        let outputs = succeed_on_both(&folder, &[&args("selfattn", "2")[..], &flags].concat());
        let third = 1.0 / 3.0;
        let expected = [1.0 / 6.0, 0.0, 5.0 / 6.0, third, third, third];
        assert_close(&outputs["weights"].elements, &expected);
    }
}

#[test]
fn scores_are_divided_by_the_root_of_a_width() {
    let (call, weights) = module();
    let folder = folder(&call, &weights);
    let flags = ["--emit", "weights", "--scale-by=embed"];
    let outputs = succeed(&folder, &[&args("selfattn", "2")[..], &flags].concat());
    let powers = [1.0, 2.0, 5.0].map(|x: f32| x.powf(1.0 / 2.0_f32.sqrt()));
    let sum: f32 = powers.iter().sum();
    assert_close(&outputs["weights"].elements[..3], &powers.map(|power| power / sum));
}

/// Each call would stop with exit code 3 if it came as far as opening a device.
fn refuses(folder: &Folder, args: &[&str], says: &[&str]) {
    folder.refuses(&[args, &["--device", "gpu", "--adapter", "no such adapter"]].concat(), says);
}

#[test]
fn what_is_no_multi_head_layer_is_refused() {
    let call = call(|len| vec![len, 1, 1]);
    let refuse = |call: &[Tensor], weights: &[Tensor], heads, says: &str| {
        refuses(&folder(call, weights), &args("mha", heads), &[says]);
    };
    let wave = Tensor::wave;
    refuse(&call, &identity(), "2", "num_heads: expected a divisor of embed_dim = 1, found 2");
    for others in [
        (&[wave("in_proj_bias", &[3])][..], "out_proj.bias: expected a tensor of this name beside"),
        (&[wave("bias_k", &[1, 1, 1])], "bias_v: expected a tensor of this name beside bias_k"),
        (&[wave("in_proj_weight", &[1, 3])], "in_proj_weight: expected [3, 1], found [1, 3]"),
        (&[wave("out_proj.weight", &[2, 1])], "out_proj.weight: expected [2, 2], found [2, 1]"),
        (&[wave("q_proj_weight", &[1, 1])], "q_proj_weight: expected none beside in_proj_weight"),
        (
            &[wave("in_proj_weight", &[3, 1]).zeros(Dtype::I64)],
            "in_proj_weight: expected a tensor of floats, found I64",
        ),
    ] {
        refuse(&call, &with(identity(), others.0), "1", others.1);
    }
    refuse(
        &call,
        &identity()[..1],
        "1",
        "out_proj.weight: expected a tensor of this name, found none",
    );
    refuse(
        &call,
        &identity()[1..],
        "1",
        "in_proj_weight: expected a tensor of this name, found none",
    );
    for (tensor, says) in [
        (wave("query", &[1, 1, 2]), "width of query (as of the layer): expected 1, found 2"),
        (wave("key", &[3, 1, 2]), "width of key (as of the layer): expected 1, found 2"),
        (wave("value", &[3, 2, 1]), "batch of value (as of query): expected 1, found 2"),
        (wave("value", &[2, 1, 1]), "len of value (as of key): expected 3, found 2"),
        (wave("key", &[3, 1]), "key: expected 3 sizes, as query, found [3, 1]"),
        (wave("query", &[1]), "key: expected 1 sizes, as query, found [3, 1, 1]"),
        (wave("key", &[3, 1, 1]).zeros(Dtype::F16), "key: expected F32, found F16"),
        (wave("query", &[1, 1, 1]).zeros(Dtype::I32), "query: expected F32 or F16 or BF16 or F64"),
        (wave("attn_mask", &[3, 1]), "attn_mask: expected [1, 3] or [1, 1, 3], found [3, 1]"),
        (wave("attn_mask", &[1, 3]).zeros(Dtype::U8), "attn_mask: expected BOOL or F32"),
        (wave("key_padding_mask", &[3]), "key_padding_mask: expected [1, 3], found [3]"),
    ] {
        refuse(&with(call.clone(), &[tensor]), &identity(), "1", says);
    }
    refuse(&call[1..], &identity(), "1", "query: expected a tensor of this name, found none");
    let four: Vec<Tensor> = ["query", "key", "value"].map(|name| wave(name, &[1, 1, 1, 1])).into();
    refuse(&four, &identity(), "1", "query: expected 2 or 3 sizes, [len, batch, width]");
}

#[test]
fn what_is_no_self_attention_is_refused() {
    let (call, weights) = module();
    let refuse = |call: &[Tensor], weights: &[Tensor], heads, says: &str| {
        refuses(&folder(call, weights), &args("selfattn", heads), &[says]);
    };
    let wave = Tensor::wave;
    refuse(&call, &weights, "3", "heads: expected a divisor of embed_size = 2, found 3");
    refuse(&call, &weights, "1", "values.weight: expected [2, 2], found [1, 1]");
    refuse(&call, &weights[..4], "2", "fc_out.bias: expected a tensor of this name, found none");
    for (tensor, says) in [
        (wave("query", &[1, 1, 3]), "width of query (as of fc_out): expected 2, found 3"),
        (wave("keys", &[2, 3, 2]), "batch of keys (as of query): expected 1, found 2"),
        (wave("values", &[1, 2, 2]), "len of values (as of keys): expected 3, found 2"),
        (wave("query", &[1, 2]), "query: expected 3 sizes, [batch, len, width], found [1, 2]"),
        (wave("values", &[1, 3, 2]).zeros(Dtype::F64), "values: expected F32, found F64"),
        (wave("mask", &[2]), "mask: expected a shape that broadcasts to [1, 2, 1, 3]"),
        (wave("mask", &[1, 1, 1, 1, 3]), "mask: expected 1 to 4 dimensions"),
    ] {
        refuse(&with(call.clone(), &[tensor]), &weights, "2", says);
    }
    refuse(&call[1..], &weights, "2", "query: expected a tensor of this name, found none");
}

#[test]
fn flags_that_no_layer_takes_are_refused() {
    let (call, weights) = module();
    let folder = folder(&call, &weights);
    let call = args("selfattn", "2");
    for (more, says) in [
        (&["--heads=2"][..], "--heads"),
        (&["--scale-by", "root"], "--scale-by"),
        (&["--emit", "lse"], "--emit"),
        (&["--batch-first"], "--batch-first"),
    ] {
        refuses(&folder, &[&call[..], more].concat(), &[says]);
    }
    refuses(&folder, &args("mha", "0"), &["--heads", "at least 1"]);
    refuses(&folder, &args("mha", "-1"), &["--heads", "'-1'"]);
    refuses(&folder, &["mha", "in.safetensors", "--heads=1", "--out=o"], &["--weights"]);
    refuses(
        &folder,
        &["mha", "in.safetensors", "--weights=w.safetensors", "--out=o"],
        &["--heads"],
    );
    let missing = ["mha", "in.safetensors", "--weights=none", "--heads=1", "--out=o"];
    let mha = Tensor::wave("query", &[1, 1]);
    folder.write("in.safetensors", &file(&[mha]));
    refuses(&folder, &missing, &["none: expected a readable safetensors file"]);
    let Ended { code, stdout, .. } = folder.tool(&["mha", "--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("--per-head-weights"), "{stdout}");
}
