//! A decoder state looks at encoder states through a hidden layer: `cargo run --example additive`.

use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{AdditiveInputs, AdditiveShape};
use wgpu_attention::{Gpu, GpuOptions, cpu};

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);

    // 2 sequences, 1 query of 32 numbers on 50 keys of 48, which are the values too; a hidden layer of 64.
    let shape = AdditiveShape {
        mask: Some([2, 1, 50]),
        weights: true,
        ..AdditiveShape::new(2, [1, 50], [32, 48, 48], 64)
    };
    let wave = |count: usize, step: f32| -> Vec<f32> {
        (0..count).map(|n| (n as f32 * step).sin()).collect()
    };
    let (query, states) = (wave(2 * 32, 0.7), wave(2 * 50 * 48, 1.3));
    let [w_q, w_k, w_v, b] = [wave(64 * 32, 2.1), wave(64 * 48, 0.9), wave(64, 1.1), wave(64, 0.3)];
    // The second sequence has only 30 states.
    let mask: Vec<bool> = (0..2 * 50).map(|n| n < 50 + 30).collect();
    let inputs = AdditiveInputs {
        query: &query,
        key: &states,
        value: &states,
        w_q: &w_q,
        w_k: &w_k,
        w_v: &w_v,
        b: Some(&b),
        mask: Some(&mask),
    };

    let found = gpu.additive_blocking(&shape, &inputs)?;
    let expected = cpu::additive(&shape, &inputs)?;
    println!("weights  {:?}", found.weights.as_deref().map(|weights| &weights[..4]));
    let accuracy = compare(&found.out, &expected.out)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}
