//! The self-attention module of many tutorials, recorded into one's own encoder:
//! `cargo run --example self_attention`.

use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{
    SelfAttentionBuffers, SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights,
};
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{Gpu, GpuOptions, cpu};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const LEN: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let wave = |step: f32, n: usize| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let head = WIDTH / HEADS;
    let [values, keys, queries] = [0.7, 0.9, 1.1].map(|step| wave(step, head * head));
    let (fc_out, fc_out_bias) = (wave(1.3, WIDTH * WIDTH), wave(1.7, WIDTH));
    let weights = SelfAttentionWeights {
        embed_size: WIDTH,
        heads: HEADS,
        values: &values,
        keys: &keys,
        queries: &queries,
        fc_out: &fc_out,
        fc_out_bias: &fc_out_bias,
    };

    // Once per model: the operator, which uploads the parameters. Once per shape: a plan.
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);
    let operator = gpu.self_attention_operator(&weights)?;
    let shape = SelfAttentionShape::new(1, LEN);
    let plan = operator.plan(&shape)?;

    let words = wave(2.1, LEN * WIDTH);
    let device = gpu.device();
    let buffer = |usage| {
        let contents = bytemuck::cast_slice(&words);
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents,
            usage,
        })
    };
    let input = buffer(wgpu::BufferUsages::STORAGE);
    // As large as the input, and overwritten.
    let out = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read_back = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let buffers = SelfAttentionBuffers::new(&input, &input, &input, &out);
    operator.encode(&mut encoder, &plan, &buffers)?;
    encoder.copy_buffer_to_buffer(&out, 0, &read_back, 0, out.size());
    gpu.queue().submit([encoder.finish()]);
    read_back.map_async(wgpu::MapMode::Read, .., |result| {
        result.unwrap_or_else(|error| eprintln!("{error}"));
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let found: Vec<f32> = bytemuck::cast_slice(&read_back.get_mapped_range(..)?).to_vec();

    let inputs = SelfAttentionInputs { values: &words, keys: &words, queries: &words, mask: None };
    let accuracy = compare(&found, &cpu::self_attention(&weights, &shape, &inputs)?.out)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}
