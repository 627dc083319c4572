//! `run`: right numbers under right names in right sizes.

use crate::support::{Folder, Tensor, assert_close};
use safetensors::Dtype;

/// One query and three keys of one element, so that the scores are the keys: 0, ln 2, ln 5.
/// Their exponentials are 1, 2 and 5, their sum 8.
fn keys() -> Vec<Tensor> {
    vec![
        Tensor::f32("q", &[1, 1, 1, 1], &[1.0]),
        Tensor::f32("k", &[1, 1, 3, 1], &[0.0, 2.0_f32.ln(), 5.0_f32.ln()]),
        Tensor::f32("v", &[1, 1, 3, 2], &[8.0, 0.0, 0.0, 8.0, 8.0, 8.0]),
    ]
}

fn with(mut tensors: Vec<Tensor>, more: &[Tensor]) -> Folder {
    tensors.retain(|tensor| more.iter().all(|other| other.name != tensor.name));
    tensors.extend_from_slice(more);
    Folder::with(&tensors)
}

#[test]
fn out_lse_and_weights_are_softmax() {
    let outputs = with(keys(), &[]).run(&["--emit", "lse,weights"]);
    assert_eq!(outputs.keys().collect::<Vec<_>>(), ["lse", "out", "weights"]);
    assert_eq!(outputs["out"].sizes, [1, 1, 1, 2]);
    assert_close(&outputs["out"].elements, &[6.0, 7.0]);
    assert_eq!(outputs["lse"].sizes, [1, 1, 1]);
    assert_close(&outputs["lse"].elements, &[8.0_f32.ln()]);
    assert_eq!(outputs["weights"].sizes, [1, 1, 1, 3]);
    assert_close(&outputs["weights"].elements, &[0.125, 0.25, 0.625]);
}

/// Every flag against the weights it must give over the three keys.
#[test]
fn flags_do_what_they_say() {
    let (e2, e5) = (2.0_f32.ln(), 5.0_f32.ln());
    let capped = |score: f32| (2.0 * (score / 2.0).tanh()).exp();
    let capped_sum = 1.0 + capped(e2) + capped(e5);
    let cases: &[(&[&str], [f32; 3])] = &[
        (&["--scale", "0"], [1.0 / 3.0; 3]),
        (&["--scale", "-1"], [10.0 / 17.0, 5.0 / 17.0, 2.0 / 17.0]),
        (&["--scale=-1"], [10.0 / 17.0, 5.0 / 17.0, 2.0 / 17.0]),
        (&["--scale", "1e0"], [0.125, 0.25, 0.625]),
        (&["--scale=+1."], [0.125, 0.25, 0.625]),
        (&["--softcap", "2"], [1.0, capped(e2), capped(e5)].map(|e| e / capped_sum)),
        (&["--softcap", "0"], [0.125, 0.25, 0.625]),
        (&["--softcap=-0"], [0.125, 0.25, 0.625]),
        (&["--softcap", "1e-300"], [1.0 / 3.0; 3]),
        (&["--softcap", "1e300"], [0.125, 0.25, 0.625]),
        (&["--causal"], [1.0, 0.0, 0.0]),
        (&["--causal", "--align", "auto"], [1.0, 0.0, 0.0]),
        (&["--causal", "--align", "bottom-right"], [0.125, 0.25, 0.625]),
        (&["--window-right", "1"], [1.0 / 3.0, 2.0 / 3.0, 0.0]),
        (&["--window-right=1", "--align=top-left"], [1.0 / 3.0, 2.0 / 3.0, 0.0]),
        (&["--window-left", "1", "--align", "bottom-right"], [0.0, 2.0 / 7.0, 5.0 / 7.0]),
        (&["--window-left", "-1", "--window-right=-1"], [0.125, 0.25, 0.625]),
        (&["--window-left", "0", "--window-right", "0"], [1.0, 0.0, 0.0]),
        (&["--window-right", "99999999999999999999999"], [0.125, 0.25, 0.625]),
        (&["--layout", "bhsd", "--backend", "gl", "--adapter", "any"], [0.125, 0.25, 0.625]),
    ];
    let folder = with(keys(), &[]);
    for (flags, expected) in cases {
        let outputs = folder.run(&[flags, &["--emit=weights"][..]].concat());
        assert_close(&outputs["weights"].elements, expected);
    }
}

/// Every optional tensor against the weights it must give over the three keys.
#[test]
fn optional_tensors_do_what_they_say() {
    let inf = f32::NEG_INFINITY;
    let e2 = 2.0_f32.ln();
    let cases = [
        (Tensor::bools("mask", &[3], &[1, 0, 1]), [1.0 / 6.0, 0.0, 5.0 / 6.0]),
        (Tensor::bools("mask", &[1, 3], &[0, 0xff, 0]), [0.0, 1.0, 0.0]),
        (Tensor::bools("mask", &[1, 1, 1, 3], &[0, 0, 0]), [0.0; 3]),
        (Tensor::bools("mask", &[1, 1, 1], &[1]), [0.125, 0.25, 0.625]),
        (Tensor::f32("bias", &[3], &[e2, 0.0, inf]), [0.5, 0.5, 0.0]),
        (Tensor::f32("bias", &[1, 1, 1, 1], &[-7.0]), [0.125, 0.25, 0.625]),
        (Tensor::f32("bias", &[1], &[inf]), [0.0; 3]),
        // The scores drown in so low a bias, but it hides nothing.
        (Tensor::f32("bias", &[1], &[f32::MIN]), [1.0 / 3.0; 3]),
        (Tensor::f32("alibi_slopes", &[1], &[e2]), [1.0 / 3.25, 1.0 / 3.25, 1.25 / 3.25]),
        (Tensor::f32("alibi_slopes", &[1, 1], &[0.0]), [0.125, 0.25, 0.625]),
    ];
    for (tensor, expected) in cases {
        let outputs = with(keys(), &[tensor]).run(&["--emit", "weights"]);
        assert_close(&outputs["weights"].elements, &expected);
    }
}

#[test]
fn scores_come_scaled_then_capped_then_hidden() {
    let bias = Tensor::f32("bias", &[3], &[1.0, 0.0, f32::NEG_INFINITY]);
    let flags = ["--scale", "-2", "--softcap", "3", "--emit", "qk,qk_softcap,qk_bias"];
    let outputs = with(keys(), &[bias]).run(&flags);
    let raw = [0.0, -2.0 * 2.0_f32.ln(), -2.0 * 5.0_f32.ln()];
    let capped = raw.map(|score| 3.0 * (score / 3.0).tanh());
    assert_close(&outputs["qk"].elements, &raw);
    assert_close(&outputs["qk_softcap"].elements, &capped);
    assert_close(&outputs["qk_bias"].elements, &[capped[0] + 1.0, capped[1], f32::NEG_INFINITY]);
}

#[test]
fn f64_tensors_are_taken_and_their_lowest_bias_hides_nothing() {
    let tensors = [
        Tensor::f64("q", &[1, 1], &[1.0]),
        Tensor::f64("k", &[2, 1], &[0.0, 3.0_f64.ln()]),
        Tensor::f64("v", &[2, 1], &[0.0, 4.0]),
    ];
    assert_close(&Folder::with(&tensors).run(&[])["out"].elements, &[3.0]);
    let lowest = Tensor::f64("bias", &[2], &[f64::MIN, f64::MIN]);
    assert_close(&with(tensors.to_vec(), &[lowest]).run(&[])["out"].elements, &[2.0]);
    let single = Tensor::f32("bias", &[2], &[3.0_f32.ln(), 0.0]);
    assert_close(&with(tensors.to_vec(), &[single]).run(&[])["out"].elements, &[2.0]);
}

/// Sizes of q, k and v, and of out, lse and weights.
#[test]
fn missing_leading_sizes_are_one_and_batches_broadcast() {
    type Case<'a> = ([&'a [usize]; 3], [&'a [usize]; 3]);
    let cases: &[Case<'_>] = &[
        ([&[5, 4], &[6, 4], &[6, 3]], [&[5, 3], &[5], &[5, 6]]),
        ([&[2, 5, 4], &[2, 6, 4], &[2, 6, 3]], [&[2, 5, 3], &[2, 5], &[2, 5, 6]]),
        ([&[4, 5, 4], &[2, 6, 4], &[2, 6, 3]], [&[4, 5, 3], &[4, 5], &[4, 5, 6]]),
        ([&[1, 2, 5, 4], &[3, 1, 6, 4], &[1, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[3, 2, 5, 4], &[1, 6, 4], &[1, 1, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[2, 5, 4], &[3, 2, 6, 4], &[2, 6, 3]], [&[3, 2, 5, 3], &[3, 2, 5], &[3, 2, 5, 6]]),
        ([&[5, 4], &[1, 6, 4], &[6, 3]], [&[1, 5, 3], &[1, 5], &[1, 5, 6]]),
        ([&[0, 2, 5, 4], &[1, 1, 6, 4], &[0, 1, 6, 3]], [&[0, 2, 5, 3], &[0, 2, 5], &[0, 2, 5, 6]]),
        ([&[0, 4], &[6, 4], &[6, 3]], [&[0, 3], &[0], &[0, 6]]),
        ([&[5, 4], &[0, 4], &[0, 3]], [&[5, 3], &[5], &[5, 0]]),
    ];
    for ([q, k, v], expected) in cases {
        let folder =
            Folder::with(&[Tensor::wave("q", q), Tensor::wave("k", k), Tensor::wave("v", v)]);
        let outputs = folder.run(&["--emit", "weights,lse,lse"]);
        let sizes = ["out", "lse", "weights"].map(|name| outputs[name].sizes.as_slice());
        assert_eq!(&sizes, expected, "q {q:?}, k {k:?}, v {v:?}");
    }
}

#[test]
fn a_batch_that_broadcasts_is_as_if_it_were_repeated() {
    let (q, k, v) =
        (Tensor::wave("q", &[2, 2, 3, 4]), Tensor::wave("k", &[5, 4]), Tensor::wave("v", &[5, 2]));
    let one = Folder::with(&[q.clone(), k, v]).run(&[]);
    let repeat = |name: &'static str, dim: usize| {
        let single = Tensor::wave(name, &[5, dim]);
        Tensor::new(name, Dtype::F32, &[2, 1, 5, dim], single.bytes().repeat(2))
    };
    let two = Folder::with(&[q, repeat("k", 4), repeat("v", 2)]).run(&[]);
    assert_eq!(one["out"], two["out"]);
}

#[test]
fn bshd_is_bhsd_with_two_sizes_swapped() {
    let tensors = |q: &[usize], k: &[usize]| {
        Folder::with(&[Tensor::wave("q", q), Tensor::wave("k", k), Tensor::wave("v", k)])
    };
    // With one head and batch 1 or one row, both orders are the same numbers.
    let bhsd = tensors(&[1, 1, 3, 4], &[1, 1, 5, 4]).run(&["--emit", "lse,weights"]);
    let bshd =
        tensors(&[1, 3, 1, 4], &[1, 5, 1, 4]).run(&["--emit", "lse,weights", "--layout", "bshd"]);
    assert_eq!(bshd["out"].sizes, [1, 3, 1, 4]);
    assert_eq!(bshd["out"].elements, bhsd["out"].elements);
    assert_eq!((&bshd["lse"], &bshd["weights"]), (&bhsd["lse"], &bhsd["weights"]));
    // With two heads and one key, each row is its head's value.
    let values = Tensor::f32("v", &[1, 1, 2, 1], &[7.0, 9.0]);
    let folder =
        Folder::with(&[Tensor::wave("q", &[1, 3, 2, 4]), Tensor::wave("k", &[1, 1, 2, 4]), values]);
    let outputs = folder.run(&["--layout=bshd"]);
    assert_eq!(outputs["out"].sizes, [1, 3, 2, 1]);
    assert_close(&outputs["out"].elements, &[7.0, 9.0, 7.0, 9.0, 7.0, 9.0]);
}

#[test]
fn tensors_that_no_flag_asks_for_are_ignored() {
    let ignored = [
        Tensor::f32("dout", &[3], &[f32::NAN; 3]),
        Tensor::wave("cos", &[9, 9]),
        Tensor::new("name\nof\x1b another", Dtype::I8, &[2], vec![1, 2]),
    ];
    assert_close(&with(keys(), &ignored).run(&[])["out"].elements, &[6.0, 7.0]);
}

#[test]
fn the_output_may_replace_the_input_and_leaves_nothing_beside_it() {
    let folder = with(keys(), &[]);
    let args = ["run", "--out=in.safetensors", "--device=cpu", "in.safetensors"];
    assert_eq!(folder.tool(&args).code, Some(0));
    assert_eq!(folder.names(), ["in.safetensors"]);
    assert_close(&folder.outputs("in.safetensors")["out"].elements, &[6.0, 7.0]);
}

#[cfg(target_os = "linux")]
#[test]
fn paths_are_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = with(keys(), &[]);
    let args: [&[u8]; 5] = [b"run", b"in.safetensors", b"--out=\xff", b"--device", b"cpu"];
    assert_eq!(folder.tool(&args.map(OsStr::from_bytes)).code, Some(0));
    let args: [&[u8]; 5] = [b"run", b"\xff", b"--out=out.safetensors", b"--device", b"cpu"];
    // What was written has no q.
    assert!(folder.tool(&args.map(OsStr::from_bytes)).stderr.starts_with("q: "));
}

#[test]
fn without_the_adapter_asked_for_the_cpu_takes_over_and_says_so_in_one_line() {
    let folder = with(keys(), &[]);
    let args =
        ["run", "in.safetensors", "--out", "out.safetensors", "--adapter", "no such adapter"];
    let ended = folder.tool(&args);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("CPU reference") && ended.stderr.contains("no such adapter"));
    assert_close(&folder.outputs("out.safetensors")["out"].elements, &[6.0, 7.0]);
}

#[test]
fn a_gpu_that_is_not_there_is_exit_3_and_nothing_is_written() {
    let folder = with(keys(), &[]);
    let args = ["run", "in.safetensors", "--out", "out.safetensors", "--device", "gpu"];
    let ended = folder.tool(&[&args[..], &["--adapter", "no such adapter"]].concat());
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(3), 1), "{ended:?}");
    assert_eq!(folder.names(), ["in.safetensors"]);
}

#[test]
fn the_gpu_agrees_with_the_cpu_and_stderr_stays_empty() {
    let mask = Tensor::bools("mask", &[7, 9], &[1, 0, 1, 1, 0, 1, 1].repeat(9));
    let folder = Folder::with(&[
        Tensor::wave("q", &[2, 4, 7, 20]),
        Tensor::wave("k", &[1, 2, 9, 20]),
        Tensor::wave("v", &[2, 9, 6]),
        mask,
    ]);
    let flags = ["--causal", "--align", "bottom-right", "--emit", "lse,weights,qk_bias"];
    let expected = folder.run(&flags);
    let args = ["run", "in.safetensors", "--out", "gpu.safetensors", "--device", "gpu"];
    let ended = folder.tool_with_adapter(&[&args[..], &flags].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let found = folder.outputs("gpu.safetensors");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        assert_eq!(found[name].sizes, expected.sizes, "{name}");
        assert_close(&found[name].elements, &expected.elements);
    }
}
