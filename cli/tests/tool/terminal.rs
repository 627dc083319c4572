//! What a terminal gets and a pipe does not: a line of summary, colours.

use crate::support::{Folder, Tensor};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

/// Both ends of a terminal.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let theirs = File::options().read(true).write(true).open(name).expect("its other end");
    (File::from(ours), theirs)
}

/// What the tool says on a terminal as its stderr, having succeeded without a word on stdout.
fn summary(mut tool: Command, args: &[&str]) -> String {
    let (ours, theirs) = terminal();
    let output = tool.args(args).stderr(Stdio::from(theirs)).output().expect("the tool starts");
    drop(tool);
    assert!(output.status.success() && output.stdout.is_empty(), "{args:?}: {output:?}");
    read(ours)
}

/// All that was written to a terminal whose other end is closed: the last read is an error.
fn read(mut terminal: File) -> String {
    let mut text = Vec::new();
    let mut block = [0; 4096];
    while let Ok(len @ 1..) = terminal.read(&mut block) {
        text.extend_from_slice(&block[..len]);
    }
    String::from_utf8(text).expect("UTF-8")
}

fn tool(folder: &Folder) -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_wgpu-attention"));
    tool.current_dir(folder.path("."));
    tool
}

#[test]
fn success_is_one_line_with_sizes_kernel_adapter_and_time() {
    let wave = Tensor::wave;
    let folder = Folder::with(&[
        wave("q", &[2, 3, 4]),
        wave("k", &[1, 5, 4]),
        wave("v", &[1, 5, 6]),
        wave("x", &[1, 1, 3, 4]),
    ]);
    let out = ["--out", "out.safetensors"];
    let run = [&["run", "in.safetensors"][..], &out].concat();
    let cpu = [&run[..], &["--device", "cpu"]].concat();
    let line = summary(tool(&folder), &cpu);
    let begins = "run: q [2,3,4], k [1,5,4], v [1,5,6], out [2,3,6]; CPU reference; ";
    let time = line.rsplit("; ").next().unwrap_or_default();
    let (number, unit) = time.trim_end().split_once(' ').unwrap_or_default();
    assert!(line.starts_with(begins) && ["ms", "s"].contains(&unit), "{line:?}");
    assert!(number.parse::<f64>().is_ok_and(|number| number < 1000.0), "{line:?}");
    assert_eq!(line.lines().count(), 1, "{line:?}");

    let line = summary(folder.command_with_adapter(), &run);
    let begins = "run: q [2,3,4], k [1,5,4], v [1,5,6], out [2,3,6]; kernel forward, ";
    assert!(line.starts_with(begins) && line.lines().count() == 1, "{line:?}");

    for (args, begins) in [
        (&["rope", "in.safetensors"][..], "rope: x [1,1,3,4], out [1,1,3,4]; CPU reference; "),
        (&["posenc", "--seq=3", "--dim=2"], "posenc: out [3,2]; CPU reference; "),
    ] {
        let line = summary(tool(&folder), &[args, &out, &["--device=cpu"]].concat());
        assert!(line.starts_with(begins) && line.lines().count() == 1, "{line:?}");
    }
}

#[test]
fn help_has_colours_on_a_terminal_that_are_wanted() {
    let folder = Folder::new();
    let mut shown = Vec::new();
    for unwanted in ["", "1"] {
        let (ours, theirs) = terminal();
        let mut tool = tool(&folder);
        tool.args(["check", "--help"]).env("NO_COLOR", unwanted).stdout(Stdio::from(theirs));
        assert!(tool.status().expect("the tool starts").success());
        drop(tool);
        shown.push(read(ours).replace("\r\n", "\n"));
    }
    let plain = folder.tool(&["check", "--help"]).stdout;
    assert!(shown[0].contains("\x1b[") && shown[0].contains("Examples:"), "{}", shown[0]);
    assert_eq!(shown[1], plain);
    assert!(!plain.contains('\x1b'), "{plain}");
}

#[test]
fn a_heatmap_has_colours_and_numbers_on_a_terminal() {
    let folder = Folder::with(&[Tensor::f32("weights", &[2, 2], &[f32::NAN, 0.0, 0.3, 0.7])]);
    let (ours, theirs) = terminal();
    let mut tool = tool(&folder);
    tool.args(["plot", "in.safetensors", "--out=out.svg"]).stdout(Stdio::from(theirs));
    assert!(tool.status().expect("the tool starts").success());
    drop(tool);
    let shown = read(ours);
    for words in ["\x1b[48;2;", "NaN", " · ", "30", "70"] {
        assert!(shown.contains(words), "{words:?}: {shown}");
    }
}

#[test]
fn verdicts_have_colours_on_a_terminal() {
    let folder = Folder::new();
    let (ours, theirs) = terminal();
    let mut tool = folder.command_with_adapter();
    let check = ["check", "--quick", "--only=equal scores", "--kernel=three-stage"];
    tool.args(check).stdout(Stdio::from(theirs));
    assert!(tool.status().expect("the tool starts").success());
    drop(tool);
    let shown = read(ours).replace("\r\n", "\n");
    let plain = folder.tool_with_adapter(&check).stdout;
    assert_ne!(shown, plain);
    assert_eq!(console::strip_ansi_codes(&shown), plain);
}
