//! A small language model on this library, whose language is sorting: it reads letters, and says them in alphabetical order.
//! `cargo run --example generate [WORD ...]`, of at most 24 letters each. `examples/generate/train.py` made its weights.

#[path = "generate/mod.rs"]
mod sorter;

use sorter::{Answer, Memory, Result, Sorter};
use std::time::Instant;
use wgpu_attention::{Gpu, GpuOptions};

const WORDS: [&str; 5] = [
    "attention",
    "mississippi",
    "thequickbrownfox",
    "incomprehensibilities",
    "zzzyyyxxxwwwvvvuuuttt",
];

/// The longer prompts are read in two or three steps.
const CACHE: Memory = Memory::Cache { chunk: 8 };

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> =
        if given.is_empty() { WORDS.to_vec() } else { given.iter().map(String::as_str).collect() };
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}\n", gpu.adapter_info().name);
    let model = Sorter::load(&gpu)?;
    for (word, answer) in words.iter().zip(model.generate(&words, CACHE)?) {
        let verdict = if answer.text == sorted(word) { "right" } else { "wrong" };
        let sure = 100.0 * least_sure(&answer);
        println!("{word}> {}   {verdict}, each sign at least {sure:.1} % sure", answer.text);
    }

    println!("\nTokens a second, read or said:");
    for (name, memory, together) in [
        ("without a cache", Memory::None, 1),
        ("with a cache", CACHE, 1),
        ("with a cache, all words together", CACHE, words.len()),
        ("the same in pages", Memory::Pages { chunk: 8 }, words.len()),
    ] {
        let run = || -> Result<usize> {
            let mut tokens = 0;
            for words in words.chunks(together) {
                let answers = model.generate(words, memory)?;
                tokens += words.iter().map(|word| word.len() + 1).sum::<usize>();
                tokens += answers.iter().map(|answer| answer.text.len()).sum::<usize>();
            }
            Ok(tokens)
        };
        // Once for what has to be compiled, once for the clock.
        run()?;
        let start = Instant::now();
        println!("{:6.0}  {name}", run()? as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn sorted(word: &str) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    letters.into_iter().chain(['.']).collect()
}

/// The lowest probability that the model gave to a sign it chose.
fn least_sure(answer: &Answer) -> f32 {
    let probability = |logits: &Vec<f32>| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        1.0 / logits.iter().map(|logit| (logit - largest).exp()).sum::<f32>()
    };
    answer.logits.iter().map(probability).fold(1.0, f32::min)
}
