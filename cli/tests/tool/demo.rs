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
