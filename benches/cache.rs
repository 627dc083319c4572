//! What a token costs that is appended to a cache and looks at all tokens before it: in a `KvCache` by how many there are and by how
//! many there is room for, in a `PagedKvCache` by how many sequences there are. `cargo bench --bench cache`.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::error::Error;
use std::time::{Duration, Instant};
use wgpu_attention::cache::{CacheTokens, KvCacheShape, PagedCacheShape};
use wgpu_attention::{Align, Attention, AttentionOptions, Gpu, GpuOptions, wgpu};

const NUM_HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;

fn cache(criterion: &mut Criterion) {
    let times = Times::open().unwrap_or_else(|error| panic!("{error}"));
    let mut group = criterion.benchmark_group("decode step");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (len, capacity) in [(256, 1 << 12), (1024, 1 << 12), (1024, 1 << 15), (1024, 1 << 17)] {
        let name = BenchmarkId::new(format!("{len} tokens"), format!("room for {capacity}"));
        let step = times.bound(len, capacity);
        run(&mut group, name, step.unwrap_or_else(|error| panic!("{error}")));
    }
    for sequences in [1, 8] {
        let name = BenchmarkId::new("1024 tokens in pages of 64", format!("{sequences} sequences"));
        let step = times.in_pages(1024, sequences);
        run(&mut group, name, step.unwrap_or_else(|error| panic!("{error}")));
    }
}

/// What a step takes, which leaves the cache as it was.
type Step<'a> = Box<dyn FnMut() -> Result<Duration, Box<dyn Error>> + 'a>;

fn run(group: &mut BenchmarkGroup<'_, WallTime>, name: BenchmarkId, mut step: Step<'_>) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let total: Result<Duration, _> = (0..count).map(|_| step()).sum();
            total.unwrap_or_else(|error| panic!("{error}"))
        });
    });
}

struct Times {
    gpu: Gpu,
    attention: Attention,
}

impl Times {
    fn open() -> Result<Self, Box<dyn Error>> {
        let gpu = Gpu::open_blocking(&GpuOptions::default())?;
        let options =
            AttentionOptions { causal: true, align: Align::BottomRight, ..Default::default() };
        let attention = gpu.attention_operator(&options)?;
        Ok(Self { gpu, attention })
    }

    fn buffer(&self, rows: usize) -> wgpu::Buffer {
        self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: (rows * HEAD_DIM * 4) as u64,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device().create_command_encoder(&Default::default())
    }

    fn done(&self, encoder: wgpu::CommandEncoder) -> Result<(), Box<dyn Error>> {
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        // Of a lost device all work counts as done.
        if self.gpu.is_lost() { Err("the device is lost".into()) } else { Ok(()) }
    }

    /// A step that is bound once, each time from as many tokens.
    fn bound(&self, len: usize, capacity: usize) -> Result<Step<'_>, Box<dyn Error>> {
        let shape = KvCacheShape {
            num_kv_heads: KV_HEADS,
            capacity,
            head_dim: HEAD_DIM,
            value_dim: HEAD_DIM,
            ..KvCacheShape::default()
        };
        let mut cache = self.gpu.kv_cache(&shape, None)?;
        let [query, out] = [NUM_HEADS; 2].map(|rows| self.buffer(rows));
        let [key, value] = [KV_HEADS; 2].map(|rows| self.buffer(rows));
        let [keys, values] = [KV_HEADS * len; 2].map(|rows| self.buffer(rows));
        let append = cache.bind_append(&CacheTokens::new(&key, &value, 1))?;
        let plan = self.attention.plan(&cache.step_shape(NUM_HEADS, 1))?;
        let attend = self.attention.bind(&plan, &cache.step_buffers(&query, &out))?;
        let mut start = self.encoder();
        cache.append(&mut start, &CacheTokens::new(&keys, &values, len))?;
        self.done(start)?;
        Ok(Box::new(move || {
            let begin = Instant::now();
            let mut token = self.encoder();
            cache.append_step(&mut token, &append)?;
            attend.encode(&mut token);
            self.done(token)?;
            let taken = begin.elapsed();
            let mut back = self.encoder();
            cache.truncate(&mut back, 0, len)?;
            self.done(back)?;
            Ok(taken)
        }))
    }

    /// A step that is planned anew, as sequences come and go, each time from as many tokens.
    fn in_pages(&self, len: usize, sequences: usize) -> Result<Step<'_>, Box<dyn Error>> {
        let pages = sequences * (len / 64 + 1);
        let shape = PagedCacheShape {
            num_kv_heads: KV_HEADS,
            pages,
            page_len: 64,
            head_dim: HEAD_DIM,
            value_dim: HEAD_DIM,
            ..PagedCacheShape::default()
        };
        let mut cache = self.gpu.paged_kv_cache(&shape, None)?;
        let all: Vec<_> = (0..sequences).map(|_| cache.add()).collect();
        let [query, out] = [sequences * NUM_HEADS; 2].map(|rows| self.buffer(rows));
        let [key, value] = [sequences * KV_HEADS; 2].map(|rows| self.buffer(rows));
        let [keys, values] = [sequences * KV_HEADS * len; 2].map(|rows| self.buffer(rows));
        let mut start = self.encoder();
        cache.append(&mut start, &all, &CacheTokens::new(&keys, &values, len))?;
        self.done(start)?;
        Ok(Box::new(move || {
            let begin = Instant::now();
            let mut token = self.encoder();
            cache.append(&mut token, &all, &CacheTokens::new(&key, &value, 1))?;
            let batch = cache.batch(&mut token, &all)?;
            let plan = self.attention.plan(&batch.shape(NUM_HEADS, 1))?;
            self.attention.encode(&mut token, &plan, &batch.buffers(&query, &out))?;
            self.done(token)?;
            let taken = begin.elapsed();
            all.iter().try_for_each(|&sequence| cache.truncate(sequence, len))?;
            Ok(taken)
        }))
    }
}

criterion_group!(benches, cache);
criterion_main!(benches);
