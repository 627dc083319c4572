//! The fastest tiles for a shape on this adapter: measured once, kept as text, and planned with from then on.
//! `cargo run --release --example tune`.

use std::error::Error;
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{AttentionBuffers, AttentionOptions, AttentionShape, Gpu, GpuOptions};

const NUM_HEADS: usize = 8;
const LEN: usize = 512;
const HEAD_DIM: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    let attention = gpu.attention_operator(&AttentionOptions::default())?;
    let shape = AttentionShape::new(1, NUM_HEADS, LEN, HEAD_DIM);
    let wave = |step: f32| {
        let elements = NUM_HEADS * LEN * HEAD_DIM;
        let numbers: Vec<f32> = (0..elements).map(|n| (n as f32 * step).sin()).collect();
        gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&numbers),
            usage: wgpu::BufferUsages::STORAGE,
        })
    };
    let [query, key, value, out] = [0.37, 0.71, 1.3, 0.0].map(wave);
    let buffers = AttentionBuffers::new(&query, &key, &value, &out);

    println!("{}\n\nThe model picks:\n{}\n", gpu.adapter_info().name, attention.plan(&shape)?);
    println!("Measured by turns, medians:");
    for (tile, time) in attention.tune_blocking(&shape, &buffers)? {
        println!("{:8.2} ms  {tile}", time.as_secs_f64() * 1e3);
    }
    println!("\nWhat another run may learn at once:\n{}", attention.tuning());

    // As such a run does.
    let later = gpu.attention_operator(&AttentionOptions::default())?;
    later.learn(&attention.tuning().to_string().parse()?);
    println!("{}", later.plan(&shape)?);
    let is_kept = later.plan(&shape)?.tuned;
    if is_kept { Ok(()) } else { Err("what was measured is not planned with".into()) }
}
