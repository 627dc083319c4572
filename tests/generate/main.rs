//! A decoder on a real adapter: what it has learned, and that it says the same however its past is kept.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../examples/generate/mod.rs"]
mod sorter;

use serde_json::Value;
use sorter::{Answer, Memory, Sorter};
use std::sync::OnceLock;
use wgpu_attention::{Gpu, GpuOptions};

/// Of the largest logit in size.
const BOUND: f32 = 1e-5;

fn model() -> &'static Sorter {
    static MODEL: OnceLock<Sorter> = OnceLock::new();
    let load = || Sorter::load(&Gpu::open_blocking(&GpuOptions::default()).unwrap()).unwrap();
    MODEL.get_or_init(load)
}

struct Reference {
    words: Vec<String>,
    answers: Vec<Answer>,
}

fn reference() -> Reference {
    let file: Value = serde_json::from_str(include_str!("reference.json")).unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let answer = |entry: &Value| Answer {
        text: text(entry, "text"),
        logits: serde_json::from_value(entry["logits"].clone()).unwrap(),
    };
    let entries = file["answers"].as_array().unwrap();
    Reference {
        words: entries.iter().map(|entry| text(entry, "word")).collect(),
        answers: entries.iter().map(answer).collect(),
    }
}

fn check(name: &str, found: &[Answer], expected: &[Answer]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.text, expected.text, "{name}");
        let [found, expected] = [found, expected].map(|answer| answer.logits.concat());
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / largest;
            assert!(
                error <= BOUND,
                "{name}, logit {at}: expected {expected}, found {found}, {error} apart"
            );
        }
    }
}

#[test]
fn logits_are_those_of_the_reference_however_the_past_is_kept() {
    let Reference { words, answers } = reference();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for memory in [
        Memory::None,
        Memory::Cache { chunk: 1 },
        Memory::Cache { chunk: 8 },
        Memory::Pages { chunk: 1 },
        Memory::Pages { chunk: 8 },
    ] {
        check(&format!("{memory:?}"), &model().generate(&words, memory).unwrap(), &answers);
    }
    // Whole prompts, each alone.
    for (word, answer) in words.iter().zip(answers) {
        check(word, &model().generate(&[word], Memory::Cache { chunk: 64 }).unwrap(), &[answer]);
    }
}

/// The words of the file were drawn before training and left out of it.
#[test]
fn of_unseen_words_99_in_100_are_sorted_to_the_letter() {
    let words: Vec<&str> = include_str!("../../examples/generate/unseen.txt").lines().collect();
    assert!(words.len() >= 190, "{} words", words.len());
    let answers = model().generate(&words, Memory::Cache { chunk: 8 }).unwrap();
    let right = words.iter().zip(&answers).filter(|(word, answer)| {
        let mut sorted: Vec<u8> = word.bytes().collect();
        sorted.sort_unstable();
        sorted.push(b'.');
        answer.text.as_bytes() == sorted
    });
    let right = right.count();
    assert!(right * 100 >= words.len() * 99, "{right} of {} are right", words.len());
}

#[test]
fn what_is_no_word_is_refused() {
    for word in ["Attention", "a b", "abcdefghijklmnopqrstuvwxy", "ä"] {
        let error = model().generate(&["fine", word], Memory::None).err().unwrap().to_string();
        assert!(error.contains(&format!("{word:?}")), "{error}");
    }
}
