//! `demo`: words, heads, a picture, and a comparison.

use crate::support::{Ended, Folder};
use std::io::Cursor;

/// What stands on stdout wherever it was computed, and the picture.
fn assert_shows_heads(folder: &Folder, ended: &Ended, picture: &str) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in [
        "the cat saw the dog and the dog saw the cat",
        "The word before",
        "The same word, earlier",
        "Everything so far",
        picture,
    ] {
        assert!(ended.stdout.contains(words), "{words:?}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\x1b'), "colours although this is no terminal");
    assert_eq!(folder.names(), [picture]);
    let bytes = std::fs::read(folder.path(picture)).expect("a picture");
    assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().expect("a PNG header");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let frame = reader.next_frame(&mut pixels).expect("a whole picture");
    assert!(frame.width > frame.height && frame.height > 500, "{frame:?}");
    assert!(pixels.iter().any(|&byte| byte < 64) && pixels.iter().any(|&byte| byte > 240));
}

#[test]
fn the_cpu_shows_heads_and_draws_them_without_a_word_on_stderr() {
    let folder = Folder::new();
    let ended = folder.tool(&["demo", "--device", "cpu", "--out", "heads.png"]);
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.contains("CPU reference"), "{}", ended.stdout);
    assert_shows_heads(&folder, &ended, "heads.png");
}

/// The cells of each head's rows, of three characters each.
fn heads(stdout: &str) -> Vec<Vec<Vec<String>>> {
    let cells = |line: &str| -> Vec<String> {
        let cells: Vec<char> = line.chars().skip(4).collect();
        cells.chunks(4).map(|cell| cell[1..].iter().collect()).collect()
    };
    let lines: Vec<&str> = stdout.lines().collect();
    let titles = (0..lines.len()).filter(|&at| lines[at].contains(" (query"));
    titles.map(|at| lines[at + 2..at + 13].iter().map(|line| cells(line)).collect()).collect()
}

#[test]
fn each_head_looks_at_what_it_is_built_to_look_at() {
    let ended = Folder::new().tool(&["demo", "--device=cpu"]);
    let words: Vec<&str> = "the cat saw the dog and the dog saw the cat".split(' ').collect();
    let [before, copies, even] = &heads(&ended.stdout)[..] else { panic!("{ended:?}") };
    // An even share of so many words; a half and a quarter lie between two shades.
    let shades = |count: usize| match count {
        1 => &["███"][..],
        2 => &["▓▓▓", "▒▒▒"],
        3 => &["▒▒▒"],
        4 => &["▒▒▒", "░░░"],
        _ => &["░░░"],
    };
    let mut copied = 0;
    for i in 0..words.len() {
        let earlier: Vec<usize> = (0..i).filter(|&j| words[j] == words[i]).collect();
        copied += usize::from(!earlier.is_empty());
        let looked = if earlier.is_empty() { vec![i] } else { earlier };
        for j in 0..words.len() {
            let is_hidden = j > i;
            for (head, targets) in [
                (before, vec![i.saturating_sub(1)]),
                (copies, looked.clone()),
                (even, (0..=i).collect()),
            ] {
                let cell = head[i][j].as_str();
                let expected = if is_hidden {
                    &[" · "][..]
                } else if targets.contains(&j) {
                    shades(targets.len())
                } else {
                    &["   "]
                };
                assert!(expected.contains(&cell), "{i} at {j}: {}", ended.stdout);
            }
        }
    }
    assert!(copied > 3, "a sentence with repeated words");
}

#[test]
fn without_an_adapter_one_line_says_that_the_cpu_takes_over() {
    let folder = Folder::new();
    let ended = folder.tool(&["demo", "--adapter", "no such adapter"]);
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("CPU reference") && ended.stderr.contains("no such adapter"));
    assert_shows_heads(&folder, &ended, "attention.png");
}

#[test]
fn an_adapter_is_named_and_planned_for_and_agrees_with_the_reference() {
    let folder = Folder::new();
    let ended = folder.tool_with_adapter::<&str>(&[]);
    assert_eq!(ended.stderr, "");
    assert_shows_heads(&folder, &ended, "attention.png");
    let first = ended.stdout.lines().next().unwrap_or_default();
    let title = concat!("wgpu-attention ", env!("CARGO_PKG_VERSION"), " on ");
    let adapter = first.strip_prefix(title).unwrap_or_default();
    assert!(!adapter.is_empty() && !adapter.contains("CPU reference"), "{first}");
    let compares = ended.stdout.lines().any(|line| {
        line.starts_with("  CPU ") && line.contains("by the reference") && line.contains("adapter")
    });
    assert!(compares, "{}", ended.stdout);
    let is_software = first.contains("software");
    assert_eq!(ended.stdout.contains("say nothing about one"), is_software, "{}", ended.stdout);
    for word in ["  kernel ", "  tiles ", "  dispatches ", "  time ", "  CPU "] {
        assert!(ended.stdout.contains(word), "{word:?}: {}", ended.stdout);
    }
    let difference: f64 = ended
        .stdout
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("difference")?.trim().split(' ').next()?.parse().ok()
        })
        .expect("a difference");
    assert!(difference < 1e-5, "{}", ended.stdout);
}

#[test]
fn a_gpu_that_is_not_there_is_exit_3_and_nothing_is_drawn() {
    let folder = Folder::new();
    let ended = folder.tool(&["demo", "--device", "gpu", "--adapter", "no such adapter"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert_eq!(folder.names(), [""; 0]);
}
