//! What a token costs that is appended to a `KvCache` and looks at all tokens before it: by how many there are, and by how many there is
//! room for. `cargo bench --bench cache`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::error::Error;
use std::time::{Duration, Instant};
use wgpu_attention::{Align, AttentionOptions, CacheTokens, Gpu, GpuOptions, KvCacheShape, wgpu};

const NUM_HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;

fn cache(criterion: &mut Criterion) {
    if let Err(error) = time(criterion) {
        panic!("{error}");
    }
}

fn time(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    let options =
        AttentionOptions { causal: true, align: Align::BottomRight, ..Default::default() };
    let attention = gpu.operator(&options)?;
    let mut group = criterion.benchmark_group("decode step");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (len, capacity) in [(256, 1 << 12), (1024, 1 << 12), (1024, 1 << 15), (1024, 1 << 17)] {
        let buffer = |rows: usize| {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: (rows * HEAD_DIM * 4) as u64,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let mut cache = gpu.kv_cache(&KvCacheShape::new(1, KV_HEADS, capacity, HEAD_DIM), None)?;
        let [query, out] = [NUM_HEADS; 2].map(buffer);
        let [key, value] = [KV_HEADS; 2].map(buffer);
        let [keys, values] = [KV_HEADS * len; 2].map(buffer);
        let append = cache.bind_append(&CacheTokens::new(&key, &value, 1))?;
        let plan = attention.plan(&cache.step_shape(NUM_HEADS, 1))?;
        let attend = attention.bind(&plan, &cache.step_buffers(&query, &out))?;
        let encoder = || gpu.device().create_command_encoder(&Default::default());
        let done = |encoder: wgpu::CommandEncoder| {
            gpu.queue().submit([encoder.finish()]);
            gpu.device().poll(wgpu::PollType::wait_indefinitely())
        };
        // Each time from as many tokens.
        let mut step = || -> Result<Duration, Box<dyn Error>> {
            let mut start = encoder();
            cache.truncate(&mut start, 0, len.min(cache.lens()[0]))?;
            if cache.lens()[0] < len {
                cache.append(&mut start, &CacheTokens::new(&keys, &values, len))?;
            }
            done(start)?;
            let begin = Instant::now();
            let mut token = encoder();
            cache.append_step(&mut token, &append)?;
            attend.encode(&mut token);
            done(token)?;
            Ok(begin.elapsed())
        };
        let name = BenchmarkId::new(format!("{len} tokens"), format!("room for {capacity}"));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let all: Result<Duration, _> = (0..times).map(|_| step()).sum();
                all.unwrap_or_else(|error| panic!("{error}"))
            });
        });
    }
    Ok(())
}

criterion_group!(benches, cache);
criterion_main!(benches);
