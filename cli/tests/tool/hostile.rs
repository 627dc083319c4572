//! Files made to break their reader: taken or refused by the tool itself, as a process. Thousands more are
//! tried inside it, in `tests/fuzz`.

use crate::support::Folder;
use std::path::Path;

/// Command lines of which each file meets all.
const CALLS: [&[&str]; 6] = [
    &["run", "in.safetensors", "--emit", "lse,weights,qk,qk_softcap,qk_bias"],
    &["run", "in.safetensors", "--emit", "present_k,present_v", "--causal"],
    &["run", "in.safetensors", "--layout", "packed", "--heads", "1", "--softcap", "5"],
    &["run", "in.safetensors", "--layout", "thd", "--window-left", "0"],
    &["run", "in.safetensors", "--pad-mask", "--align", "bottom-right"],
    &["plot", "in.safetensors"],
];

/// Whether any of the command lines does something with the file; the others have to refuse it.
fn taken(file: &Path) -> bool {
    let mut taken = false;
    for call in CALLS {
        let folder = Folder::new();
        folder.write("in.safetensors", &std::fs::read(file).expect("a file"));
        let out = if call[0] == "plot" { "out.svg" } else { "out.safetensors" };
        let args = [call, &["--device", "cpu", "--out", out]].concat();
        let ended = folder.tool(&args);
        if ended.code == Some(0) {
            assert_eq!(ended.stderr, "", "{args:?} of {}", file.display());
            assert_eq!(folder.names(), ["in.safetensors", out], "{args:?} of {}", file.display());
            taken = true;
        } else {
            folder.refuses(&args, &["expected", "found"]);
        }
    }
    taken
}

#[test]
fn every_file_made_to_break_the_reader_is_taken_or_refused() {
    for (folder, expected) in [("taken", true), ("refused", false)] {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
        let entries: Vec<_> = std::fs::read_dir(&corpus).expect("a corpus").collect();
        assert!(entries.len() > 10, "{}", corpus.display());
        for entry in entries {
            let path = entry.expect("an entry").path();
            assert_eq!(taken(&path), expected, "{}", path.display());
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn outputs_larger_than_memory_are_refused() {
    // Four queries without keys, whose values would have 2^29 elements each.
    let sizes = [("q", [4, 1]), ("k", [0, 1]), ("v", [0, 1 << 29])];
    let folder =
        Folder::with(&sizes.map(|(name, sizes)| crate::support::Tensor::wave(name, &sizes)));
    let run =
        "ulimit -v 4000000 && exec \"$0\" run in.safetensors --out out.safetensors --device cpu";
    let ended = folder.command("sh", &["-c", run, env!("CARGO_BIN_EXE_wgpu-attention")]);
    assert_eq!((ended.code, folder.names()), (Some(2), vec!["in.safetensors".to_owned()]));
    let says = "memory: expected 17179869184 bytes for the outputs, found ";
    assert!(ended.stderr.starts_with(says), "{ended:?}");
}
