//! One call from slices to a vector: `cargo run --example from_slices`.

use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::{AttentionOptions, AttentionShape, Gpu, GpuOptions, Inputs, cpu};

fn main() -> Result<(), Box<dyn Error>> {
    // The best adapter of this machine; its pipelines are compiled at first use and kept.
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);

    // 1 sequence, 8 heads, 100 tokens, vectors of 64: tensors lie as [batch, num_heads, len, head_dim].
    let shape = AttentionShape::new(1, 8, 100, 64);
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let wave = |step: f32| (0..8 * 100 * 64).map(|n| (n as f32 * step).sin()).collect::<Vec<_>>();
    let (query, key, value) = (wave(0.7), wave(1.3), wave(2.1));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };

    // Uploads, computes, reads back.
    let found = gpu.attention_blocking(&shape, &options, &inputs)?;
    // The same call without a GPU, in f64: what is right.
    let expected = cpu::attention(&shape, &options, &inputs)?;

    println!("GPU  {:?}", &found.out[64..68]);
    println!("CPU  {:?}", &expected.out[64..68]);
    let accuracy = compare(&found.out, &expected.out)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}
