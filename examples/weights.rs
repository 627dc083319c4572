//! Looking at attention weights: `cargo run --example weights`.
//!
//! Asking for `weights` takes a second kernel, which goes over the keys once more and stores the `q_len x kv_len` matrix; without it
//! attention is one kernel that never does.

use std::error::Error;
use wgpu_attention::{AttentionOptions, AttentionShape, Gpu, GpuOptions, Inputs, Layout};

const WORDS: [&str; 6] = ["the", "cat", "saw", "the", "dog", "run"];

/// A hand-made vector a word: article, animal, verb, and a little of where it stands.
fn embed(word: &str, position: usize) -> [f32; 4] {
    let place = position as f32 * 0.2;
    match word {
        "the" => [3.0, 0.0, 0.0, place],
        "cat" | "dog" => [0.0, 3.0, 0.0, place],
        _ => [0.0, 0.0, 3.0, place],
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let embedded: Vec<f32> =
        WORDS.iter().enumerate().flat_map(|(at, word)| embed(word, at)).collect();

    // Each word looks at itself and at those before it. One head, [q_len, kv_len] weights.
    let shape =
        AttentionShape { weights: Some(Layout::Bhsd), ..AttentionShape::new(1, 1, WORDS.len(), 4) };
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let inputs = Inputs { query: &embedded, key: &embedded, value: &embedded, ..Inputs::default() };

    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    let outputs = gpu.attention_blocking(&shape, &options, &inputs)?;
    let weights = outputs.weights.ok_or("the shape asks for weights")?;

    print!("{:>8}", "");
    WORDS.iter().for_each(|word| print!("{word:>6}"));
    println!();
    for (word, row) in WORDS.iter().zip(weights.chunks(WORDS.len())) {
        print!("{word:>8}");
        row.iter().for_each(|weight| print!("{weight:>6.2}"));
        println!();
        // Each row is a share of 1.
        if (row.iter().sum::<f32>() - 1.0).abs() > 1e-5 {
            return Err(format!("the weights of {word:?} do not sum to 1").into());
        }
    }
    Ok(())
}
