//! Subcommands, flags and their values.

use super::{Refused, refuse_flags, tensors};
use crate::support::Folder;

#[test]
fn what_is_no_command_line() {
    let cases: &[Refused<'_>] = &[
        (&["nonsense"], &["subcommand", "rope, posenc, additive, completions or man", "nonsense"]),
        (&["nonsense", "--help"], &["subcommand", "nonsense"]),
        (&["Run"], &["subcommand", "Run"]),
        (&["line\nbreak\u{2028}and\x1b[31mcolour"], &["subcommand", "line break and [31mcolour"]),
        (&[""], &["subcommand", "\"\""]),
        (&["help", "nonsense"], &["subcommand", "nonsense"]),
        (&["--json"], &["--json"]),
        (&["--device", "cpu"], &["--device"]),
        (&["demo", "--json"], &["--json", "expected", "--help"]),
        (&["demo", "more"], &["more"]),
        (&["demo", "--out"], &["--out", "value"]),
        (&["demo", "--out="], &["--out", "value"]),
        (&["demo", "--out", "missing/attention.png"], &["--out missing/attention.png"]),
        (&["demo", "--device", "tpu"], &["--device", "tpu", "auto, gpu, cpu"]),
        (&["demo", "--device", "GPU"], &["--device", "GPU"]),
        (&["info", "--quick"], &["--quick"]),
        (&["info", "--json", "--json"], &["--json", "multiple"]),
        (&["info", "--json=yes"], &["--json", "yes"]),
        (&["info", "--backend", "nonsense"], &["--backend", "nonsense", "vulkan, metal, dx12, gl"]),
        (&["info", "--backend"], &["--backend", "value"]),
        (&["info", "--adapter"], &["--adapter", "value"]),
        (&["check", "--device", "cpu"], &["--device", "expected auto or gpu", "found cpu"]),
        (&["check", "--quick", "--device=cpu", "--json"], &["--device"]),
        (&["check", "--quickly"], &["--quickly"]),
        (&["check", "--quick", "--quick"], &["--quick", "multiple"]),
        (&["check", "in.safetensors"], &["in.safetensors"]),
        (&["completions"], &["SHELL"]),
        (&["completions", "csh"], &["'csh'", "bash, elvish, fish"]),
        (&["man", "nonsense"], &["subcommand", "nonsense"]),
        (&["run"], &["--out", "IN.safetensors"]),
        (&["run", "in.safetensors"], &["--out"]),
        (&["run", "--out", "out.safetensors"], &["IN.safetensors"]),
        (&["run", "in.safetensors", "--out"], &["--out", "value"]),
        (&["run", "in.safetensors", "--out", ""], &["--out", "value"]),
        (&["run", "in.safetensors", "more", "--out", "out.safetensors"], &["more"]),
    ];
    let folder = Folder::with(&tensors());
    for (args, says) in cases {
        folder.refuses(args, says);
    }
}

#[test]
fn values_that_no_flag_of_run_takes() {
    refuse_flags(&[
        (&["--nonsense"], &["--nonsense", "expected", "--help"]),
        (&["--caus"], &["--caus"]),
        (&["-c"], &["-c"]),
        (&["--causal", "--causal"], &["--causal", "multiple"]),
        (&["--causal=true"], &["--causal", "true"]),
        (&["--scale", "1", "--scale=1"], &["--scale", "multiple"]),
        (&["--device", "gpu"], &["--device", "multiple"]),
        (&["--out", "other.safetensors"], &["--out", "multiple"]),
        (&["--scale"], &["--scale", "value"]),
        (&["--scale="], &["--scale", "expected a finite number"]),
        (&["--scale", "one"], &["--scale", "'one'", "expected a finite number"]),
        (&["--scale", "1,5"], &["--scale", "'1,5'"]),
        (&["--scale", "0x1"], &["--scale", "'0x1'"]),
        (&["--scale", " 1"], &["--scale", "' 1'"]),
        (&["--scale", "--causal"], &["--scale", "'--causal'"]),
        (&["--scale", "nan"], &["--scale", "'nan'", "expected a finite number"]),
        (&["--scale", "-NaN"], &["--scale", "'-NaN'"]),
        (&["--scale", "inf"], &["--scale", "'inf'", "expected a finite number"]),
        (&["--scale=-infinity"], &["--scale", "'-infinity'"]),
        (&["--scale", "1e999"], &["--scale", "'1e999'"]),
        (&["--softcap", "-1"], &["--softcap", "'-1'", "at least 0"]),
        (&["--softcap=-1e-30"], &["--softcap", "'-1e-30'"]),
        (&["--softcap", "nan"], &["--softcap", "'nan'"]),
        (&["--softcap", "inf"], &["--softcap", "'inf'"]),
        (&["--softcap", "off"], &["--softcap", "'off'"]),
        (&["--window-left", "-2"], &["--window-left", "'-2'", "at least -1"]),
        (&["--window-right=-2"], &["--window-right", "'-2'"]),
        (&["--window-left", "1.5"], &["--window-left", "'1.5'", "integer"]),
        (&["--window-left", "1e3"], &["--window-left", "'1e3'"]),
        (&["--window-right", "open"], &["--window-right", "'open'"]),
        (&["--window-right"], &["--window-right", "value"]),
        (&["--window", "3"], &["--window"]),
        (&["--align", "bottom_right"], &["--align", "bottom_right", "top-left, bottom-right"]),
        (&["--layout", "bsd"], &["--layout", "'bsd'", "bhsd, bshd"]),
        (&["--layout", "BHSD"], &["--layout", "'BHSD'"]),
        (&["--emit"], &["--emit", "value"]),
        (&["--emit", ""], &["--emit"]),
        (&["--emit", "out"], &["--emit", "'out'", "lse, weights"]),
        (&["--emit", "lse,"], &["--emit"]),
        (&["--emit", "lse, weights"], &["--emit", "' weights'"]),
        (&["--emit", "lse,Weights"], &["--emit", "'Weights'"]),
        (&["--emit=qk-softcap"], &["--emit", "'qk-softcap'"]),
        (&["--emit", "lse,dq"], &["--emit", "'dq'"]),
        (&["--backend", "cuda"], &["--backend", "'cuda'"]),
        (&["--json"], &["--json"]),
        (&["--heads", "4"], &["--heads: expected --layout packed"]),
        (&["--kv-heads", "4", "--layout", "bshd"], &["--kv-heads: expected --layout packed"]),
        (&["--layout=packed"], &["--layout packed: expected --heads", "found none"]),
        (&["--layout=packed", "--kv-heads=1"], &["--layout packed: expected --heads"]),
        (&["--heads", "0"], &["--heads", "'0'", "expected an integer, at least 1"]),
        (&["--kv-heads", "-1"], &["--kv-heads", "'-1'", "at least 1"]),
        (&["--heads", "4.0"], &["--heads", "'4.0'"]),
        (&["--pad-mask=yes"], &["--pad-mask", "yes"]),
        (&["--emit", "present_k"], &["--emit present_k: expected tensors past_k and past_v"]),
        (&["--emit", "lse,present_v"], &["--emit present_v: expected tensors past_k and past_v"]),
    ]);
}

#[test]
fn values_that_no_flag_of_bench_takes() {
    let cases: &[Refused<'_>] = &[
        (&["--device", "cpu"], &["--device", "expected auto or gpu", "found cpu"]),
        (&["--passes", "bwd"], &["--passes", "'bwd'", "fwd"]),
        (&["--shapes", ""], &["--shapes"]),
        (&["--shapes", "1,2,2,8,8"], &["--shapes", "'1,2,2,8,8'", "expected B,Hq,Hkv,Sq,Skv,D"]),
        (&["--shapes", "1,2,2,8,8,8,8"], &["--shapes"]),
        (&["--shapes", "1,2,2,8,8,8;"], &["--shapes"]),
        (&["--shapes", "1,2,2,8, 8,8"], &["--shapes"]),
        (&["--shapes", "1,2,2,8,8,0"], &["--shapes", "at least 1"]),
        (&["--shapes", "-1,2,2,8,8,8"], &["--shapes", "at least 1"]),
        (&["--shapes", "1,2,2,8,8,99999999999999999999"], &["--shapes", "integers"]),
        (&["--shapes", "1,2,2,8,8,8;1,3,2,8,8,8"], &["--shapes 1,3,2,8,8,8: num_kv_heads", "3"]),
        (&["--shapes", "1,1,1,1073741825,1,1"], &["--shapes", "4 GiB"]),
        (
            &["--shapes", "18446744073709551615,2,2,8,8,18446744073709551615"],
            &["--shapes", "4 GiB"],
        ),
        (&["--shapes", "1,1,1,536870912,1,1"], &["--shapes", "4 GiB"]),
        (
            &["--shapes", "1,2,2,8,8,256", "--kernel", "forward"],
            &["--shapes 1,2,2,8,8,256: kernel"],
        ),
        (&["--kernel", "fastest"], &["--kernel", "'fastest'", "expected auto, forward"]),
        (&["--kernel", "Forward"], &["--kernel", "'Forward'"]),
        (&["--dtypes", "f64"], &["--dtypes", "'f64'", "f32, f16, bf16"]),
        (&["--dtypes", "f32,"], &["--dtypes"]),
        (&["--causal"], &["--causal", "value"]),
        (&["--causal", "maybe"], &["--causal", "'maybe'", "no, yes, both"]),
        (&["--seconds", "0"], &["--seconds", "'0'", "above 0"]),
        (&["--seconds", "-1"], &["--seconds", "'-1'"]),
        (&["--seconds", "nan"], &["--seconds", "'nan'"]),
        (&["--seconds", "inf"], &["--seconds", "'inf'"]),
        (&["--plot", "speed.jpg"], &["--plot: expected a name that ends in .png or .svg"]),
        (&["--plot", "missing/speed.png"], &["--plot missing/speed.png: expected a writable file"]),
        (
            &["--plot", "a.png", "--shapes", "1,2,2,1,8,8"],
            &["--plot: expected a shape of 16 queries"],
        ),
        (&["--json", "--csv"], &["--json", "--csv"]),
        (&["--markdown", "--csv"], &["--markdown", "--csv"]),
        (&["more"], &["more"]),
        (&["--out", "out.json"], &["--out"]),
    ];
    let folder = Folder::new();
    for (flags, says) in cases {
        let args = [&["bench", "--adapter", "no such adapter"], *flags].concat();
        folder.refuses(&args, says);
    }
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf8_are_shown_as_far_as_they_are() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = Folder::with(&tensors());
    let cases: &[(&[&[u8]], &[&str])] = &[
        (&[b"run\xff"], &["expected UTF-8", "run\u{fffd}"]),
        (&[b"info", b"--js\xff"], &["--js\u{fffd}"]),
        (&[b"info", b"--backend", b"\xffgl"], &["--backend", "\u{fffd}gl"]),
        (&[b"info", b"--adapter=nv\xff"], &["UTF-8", "nv\u{fffd}"]),
        (&[b"run", b"in\xff", b"--out", b"out"], &["in\u{fffd}: expected a readable"]),
        (&[b"run", b"in.safetensors", b"--out", b"missing/\xff"], &["--out missing/\u{fffd}"]),
        (
            &[b"run", b"in.safetensors", b"--out", b"o", b"--scale", b"1\xff"],
            &["UTF-8", "1\u{fffd}"],
        ),
        (&[b"run", b"in.safetensors", b"--out", b"o", b"--rope", b"\xff"], &["--rope"]),
    ];
    for (args, says) in cases {
        folder.refuses(&args.iter().map(|arg| OsStr::from_bytes(arg)).collect::<Vec<_>>(), says);
    }
}

#[test]
fn help_and_version_are_answers() {
    let folder = Folder::new();
    let asked: &[&[&str]] = &[
        &["--help"],
        &["-h"],
        &["help"],
        &["help", "run"],
        &["--version"],
        &["-V"],
        &["demo", "--help"],
        &["info", "-h"],
        &["check", "--help"],
        &["bench", "--help"],
        &["run", "--help"],
        &["run", "in.safetensors", "--scale", "1", "-h"],
    ];
    for args in asked {
        let ended = folder.tool(args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
        assert!(!ended.stdout.is_empty(), "{args:?}");
    }
    let help = folder.tool(&["--help"]).stdout;
    assert!(["demo", "info", "check", "run"].iter().all(|name| help.contains(name)), "{help}");
    let version = folder.tool(&["--version"]).stdout;
    assert_eq!(version, concat!("wgpu-attention ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(folder.names(), [""; 0]);
}
