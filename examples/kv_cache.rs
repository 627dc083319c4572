//! A prompt in chunks, then token by token, over a cache of keys and values: the same as one call over everything.
//! `cargo run --example kv_cache`.

use std::error::Error;
use wgpu_attention::cache::{CacheTokens, KvCacheShape};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{Align, AttentionOptions, AttentionShape, Gpu, GpuOptions, Inputs};

const NUM_HEADS: usize = 8;
const NUM_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const LEN: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);
    let wave = |heads: usize, step: f32| -> Vec<f32> {
        (0..heads * LEN * HEAD_DIM).map(|n| (n as f32 * step).sin()).collect()
    };
    let (query, key, value) =
        (wave(NUM_HEADS, 0.7), wave(NUM_KV_HEADS, 1.3), wave(NUM_KV_HEADS, 2.1));

    // The last query stands beside the last key of the cache.
    let options =
        AttentionOptions { causal: true, align: Align::BottomRight, ..Default::default() };
    let attention = gpu.attention_operator(&options)?;
    let shape = KvCacheShape {
        num_kv_heads: NUM_KV_HEADS,
        capacity: LEN,
        head_dim: HEAD_DIM,
        value_dim: HEAD_DIM,
        ..Default::default()
    };
    let mut cache = gpu.kv_cache(&shape, None)?;
    let mut stepwise = vec![0.0; query.len()];
    let mut place = |start: usize, len: usize, found: &[f32]| {
        for (head, rows) in found.chunks(len * HEAD_DIM).enumerate() {
            stepwise[(head * LEN + start) * HEAD_DIM..][..rows.len()].copy_from_slice(rows);
        }
    };
    // Here tokens come from the host; in a model, from the projections before.
    let tokens = |whole: &[f32], start: usize, len: usize| -> Vec<f32> {
        let heads = whole.chunks(LEN * HEAD_DIM);
        heads.flat_map(|head| &head[start * HEAD_DIM..][..len * HEAD_DIM]).copied().collect()
    };
    let upload = |tokens: &[f32]| {
        gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(tokens),
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
        })
    };

    // A prompt of 56 tokens in three chunks: each is planned for the tokens there are.
    for len in [24, 24, 8] {
        let start = cache.lens()[0];
        let [query, key, value, out] =
            [&query, &key, &value, &query].map(|whole| upload(&tokens(whole, start, len)));
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        cache.append(&mut encoder, &CacheTokens::new(&key, &value, len))?;
        let plan = attention.plan(&cache.shape(NUM_HEADS, len))?;
        attention.encode(&mut encoder, &plan, &cache.buffers(&query, &out))?;
        gpu.queue().submit([encoder.finish()]);
        place(start, len, &read(&gpu, &out)?);
    }

    // Then one token at a time: a step is bound once, and finds on the GPU how many tokens there are.
    let buffers =
        [&query, &key, &value, &query].map(|whole| upload(&tokens(whole, cache.lens()[0], 1)));
    let [query_token, key_token, value_token, out] = &buffers;
    let append = cache.bind_append(&CacheTokens::new(key_token, value_token, 1))?;
    let plan = attention.plan(&cache.step_shape(NUM_HEADS, 1))?;
    let attend = attention.bind(&plan, &cache.step_buffers(query_token, out))?;
    while cache.lens()[0] < LEN {
        let start = cache.lens()[0];
        for (buffer, whole) in buffers.iter().zip([&query, &key, &value]) {
            let token = tokens(whole, start, 1);
            gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&token));
        }
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        cache.append_step(&mut encoder, &append)?;
        attend.encode(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        place(start, 1, &read(&gpu, out)?);
    }

    let shape = AttentionShape {
        num_kv_heads: NUM_KV_HEADS,
        ..AttentionShape::new(1, NUM_HEADS, LEN, HEAD_DIM)
    };
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let at_once = gpu.attention_blocking(&shape, &options, &inputs)?.out;
    let differences = stepwise.iter().zip(&at_once).map(|(a, b)| (a - b).abs());
    println!("largest difference: {:e}", differences.fold(0.0, f32::max));
    let at_once: Vec<f64> = at_once.into_iter().map(f64::from).collect();
    let is_same = compare(&stepwise, &at_once)?.within(&Bounds::F32);
    if is_same { Ok(()) } else { Err("they differ".into()) }
}

fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<Vec<f32>, Box<dyn Error>> {
    let copy = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    copy.map_async(wgpu::MapMode::Read, .., |_| {});
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    let mapped = copy.get_mapped_range(..)?;
    Ok(bytemuck::cast_slice(&mapped).to_vec())
}
