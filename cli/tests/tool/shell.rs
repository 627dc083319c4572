//! `completions`, `man` and `--help`: all from the one command line.

use crate::support::Folder;

const SUBCOMMANDS: [&str; 13] = [
    "demo",
    "info",
    "check",
    "bench",
    "run",
    "mha",
    "selfattn",
    "plot",
    "rope",
    "posenc",
    "additive",
    "completions",
    "man",
];

#[track_caller]
fn answer(args: &[&str]) -> String {
    let ended = Folder::new().tool(args);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
    ended.stdout
}

#[test]
fn shells_learn_every_subcommand() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = answer(&["completions", shell]);
        for word in SUBCOMMANDS.iter().chain(&["--pad-mask"]) {
            let word = if shell == "fish" { word.trim_start_matches("--") } else { word };
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn every_subcommand_has_examples_and_a_page_of_the_manual() {
    assert!(answer(&["man"]).contains(".TH wgpu-attention 1"));
    for name in SUBCOMMANDS {
        let page = answer(&["man", name]);
        assert!(page.contains(&format!(".TH wgpu-attention-{name} 1")), "{page}");
        let help = answer(&[name, "--help"]);
        let (_, examples) = help.split_once("\nExamples:\n").expect("examples");
        let begins = format!("  wgpu-attention {name}");
        assert!(examples.lines().count() >= 1, "{help}");
        assert!(examples.lines().all(|line| line.starts_with(&begins)), "{help}");
    }
}
