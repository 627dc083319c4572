//! Rotary encoding and additive attention against the CPU reference: `cargo bench --bench encodings`.
//!
//! Times are of one call from slices, uploads and downloads among them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use wgpu_attention::layers::{
    AdditiveInputs, AdditiveShape, RotaryInputs, RotaryShape, RotaryTable,
};
use wgpu_attention::{Gpu, GpuOptions, cpu};

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|n| (n as f32 * step).sin()).collect()
}

/// The adapter, its name for an id, and whether this is `cargo test`, as criterion itself tells.
fn open() -> (Gpu, String, bool) {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let info = gpu.adapter_info();
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    let name = format!("{} {}", info.name, info.backend).replace('/', "-");
    (gpu, name, given("--test") || !given("--bench"))
}

fn rotary(criterion: &mut Criterion) {
    let (gpu, adapter, is_test) = open();
    let len = if is_test { 16 } else { 2048 };
    let shape = RotaryShape::new(1, 8, len, 64);
    let table = RotaryTable::new(64, 10_000.0, 0..len as u64);
    let table = table.unwrap_or_else(|error| panic!("{error}"));
    let x = wave(8 * len * 64, 0.7);
    let inputs = RotaryInputs { x: &x, cos: &table.cos, sin: &table.sin, positions: None };
    let mut group = criterion.benchmark_group(format!("rotary/1x8x{len}x64"));
    group.throughput(Throughput::Elements(x.len() as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new("rotary", &adapter), |bencher| {
        bencher.iter(|| gpu.rotary_blocking(&shape, black_box(&inputs)));
    });
    group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
        bencher.iter(|| cpu::rotary(&shape, black_box(&inputs)));
    });
}

fn additive(criterion: &mut Criterion) {
    let (gpu, adapter, is_test) = open();
    let len = if is_test { 8 } else { 128 };
    let (dim, hidden) = (64, 64);
    let shape = AdditiveShape::new(4, [len, len], [dim; 3], hidden);
    let [query, key, value] = [0.7, 1.3, 2.1].map(|step| wave(4 * len * dim, step));
    let [w_q, w_k, w_v, b] =
        [wave(hidden * dim, 0.9), wave(hidden * dim, 1.1), wave(hidden, 0.3), wave(hidden, 0.5)];
    let inputs = AdditiveInputs {
        query: &query,
        key: &key,
        value: &value,
        w_q: &w_q,
        w_k: &w_k,
        w_v: &w_v,
        b: Some(&b),
        mask: None,
    };
    let mut group = criterion.benchmark_group(format!("additive/4x{len}x{len}x{hidden}"));
    // A tanh for each query, key and hidden column.
    group.throughput(Throughput::Elements((4 * len * len * hidden) as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new("additive", &adapter), |bencher| {
        bencher.iter(|| gpu.additive_blocking(&shape, black_box(&inputs)));
    });
    group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
        bencher.iter(|| cpu::additive(&shape, black_box(&inputs)));
    });
}

criterion_group!(benches, rotary, additive);
criterion_main!(benches);
