//! Two answers to one prompt, whose keys and values they share: pages are copied only where the answers part.
//! `cargo run --example paged_cache`.

use std::error::Error;
use wgpu_attention::cache::{CacheTokens, PagedCacheShape};
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{Align, AttentionOptions, Gpu, GpuOptions};

const NUM_HEADS: usize = 8;
const NUM_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const PROMPT: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);
    let options =
        AttentionOptions { causal: true, align: Align::BottomRight, ..Default::default() };
    let attention = gpu.attention_operator(&options)?;
    // A capacity of 512 tokens in all: 32 pages of 16.
    let shape = PagedCacheShape {
        num_kv_heads: NUM_KV_HEADS,
        pages: 32,
        page_len: 16,
        head_dim: HEAD_DIM,
        value_dim: HEAD_DIM,
        ..Default::default()
    };
    let mut cache = gpu.paged_kv_cache(&shape, None)?;
    // Here tokens come from the host; in a model, from the projections before.
    let wave = |count: usize, step: f32| {
        let numbers: Vec<f32> = (0..count * HEAD_DIM).map(|n| (n as f32 * step).sin()).collect();
        gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&numbers),
            usage: wgpu::BufferUsages::STORAGE,
        })
    };

    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let first = cache.add();
    let (key, value) = (wave(NUM_KV_HEADS * PROMPT, 1.3), wave(NUM_KV_HEADS * PROMPT, 2.1));
    cache.append(&mut encoder, &[first], &CacheTokens::new(&key, &value, PROMPT))?;
    println!("one prompt of {PROMPT} tokens: {} pages free", cache.free_pages());
    let second = cache.fork(first, PROMPT)?;
    println!("two sequences that share it: {} pages free", cache.free_pages());

    for step in 0..20 {
        // A token of each sequence: [2, heads, 1, dim].
        let pace = 0.1 * step as f32;
        let (key, value) = (wave(2 * NUM_KV_HEADS, pace), wave(2 * NUM_KV_HEADS, pace + 1.0));
        let (query, out) = (wave(2 * NUM_HEADS, pace + 2.0), wave(2 * NUM_HEADS, 0.0));
        cache.append(&mut encoder, &[first, second], &CacheTokens::new(&key, &value, 1))?;
        let batch = cache.batch(&mut encoder, &[first, second])?;
        let plan = attention.plan(&batch.shape(NUM_HEADS, 1))?;
        attention.encode(&mut encoder, &plan, &batch.buffers(&query, &out))?;
    }
    gpu.queue().submit([encoder.finish()]);
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    println!("20 tokens later, each its own: {} pages free", cache.free_pages());

    cache.remove(first)?;
    cache.remove(second)?;
    println!("both gone: {} pages free", cache.free_pages());
    let is_empty = cache.free_pages() == shape.pages;
    if is_empty { Ok(()) } else { Err("a page is lost".into()) }
}
