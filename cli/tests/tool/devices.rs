//! `run` on a device: the CPU where there is no adapter, exit code 3, and a GPU that agrees.

use crate::run::keys;
use crate::support::{Folder, Tensor, assert_close};
use safetensors::Dtype;

#[test]
fn without_the_adapter_asked_for_the_cpu_takes_over_and_says_so_in_one_line() {
    let folder = Folder::with(&keys());
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
    let folder = Folder::with(&keys());
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
    folder.run_on_both(&flags, 1e-5);
}

/// Everything there is, but small: half a word of each vector is left over, and rows of the cache stand
/// before packed ones.
#[test]
fn the_gpu_agrees_with_the_cpu_on_16_bits_packed_cached_and_padded() {
    for (dtype, tolerance) in [(Dtype::F16, 2e-3), (Dtype::BF16, 1.6e-2)] {
        let tensors = [
            Tensor::wave("q", &[2, 5, 12]),
            Tensor::wave("k", &[2, 5, 6]),
            Tensor::wave("v", &[1, 5, 10]),
            Tensor::wave("past_k", &[1, 2, 4, 3]),
            Tensor::wave("past_v", &[1, 2, 4, 5]),
            Tensor::wave("bias", &[5, 8]),
        ];
        let folder = Folder::with(&tensors.map(|tensor| tensor.rounded(dtype)));
        let flags = ["--layout=packed", "--heads=4", "--kv-heads=2", "--causal", "--pad-mask"];
        let outputs =
            folder.run_on_both(&[&flags[..], &["--emit=lse,present_v"]].concat(), tolerance);
        assert_eq!((outputs["out"].dtype, outputs["lse"].dtype), (dtype, Dtype::F32));
        assert_eq!(outputs["out"].sizes, [2, 5, 20]);
        assert_eq!(outputs["present_v"].sizes, [1, 2, 9, 5]);
    }
}
