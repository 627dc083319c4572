//! A linear layer and a multi-head layer, on the GPU and by the CPU reference: `cargo bench --bench layers`.
//!
//! GPU times are those of the host, from submission to completion, over buffers that were uploaded once.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use wgpu_attention::layers::{
    LinearBuffers, LinearInputs, LinearShape, MultiHeadBuffers, MultiHeadInputs, MultiHeadShape,
    MultiHeadWeights,
};
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{Error, Gpu, GpuOptions, cpu};

/// Rows, features in, features out; under `cargo test` an eighth of each.
const LINEAR: [[usize; 3]; 2] = [[512, 768, 768], [8, 768, 768]];
/// Batch, length, width, heads; under `cargo test` an eighth of length and width.
const MULTI_HEAD: [[usize; 4]; 2] = [[1, 512, 512, 8], [8, 64, 384, 12]];

fn wave(step: f32, count: usize) -> Vec<f32> {
    (0..count).map(|n| (n as f32 * step).sin() * 0.1).collect()
}

fn buffer(gpu: &Gpu, contents: &[f32]) -> wgpu::Buffer {
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(contents),
        usage: wgpu::BufferUsages::STORAGE,
    })
}

/// Records, submits, waits.
fn run(gpu: &Gpu, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>) {
    let descriptor = wgpu::CommandEncoderDescriptor::default();
    let mut encoder = gpu.device().create_command_encoder(&descriptor);
    encode(&mut encoder).unwrap_or_else(|error| panic!("{error}"));
    gpu.queue().submit([encoder.finish()]);
    let done = gpu.device().poll(wgpu::PollType::wait_indefinitely());
    done.unwrap_or_else(|error| panic!("{error}"));
}

fn layers(criterion: &mut Criterion) {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let info = gpu.adapter_info();
    let adapter = format!("{} {}", info.name, info.backend).replace('/', "-");
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    // As criterion itself tells one from the other.
    let part = if given("--test") || !given("--bench") { 8 } else { 1 };

    for sizes in LINEAR {
        let [rows, features, width] = sizes.map(|size| size / part);
        let mut group = criterion.benchmark_group(format!("linear-{rows}x{features}x{width}"));
        // Multiply-adds a second.
        group.throughput(Throughput::Elements((rows * features * width) as u64));
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        let shape = LinearShape { bias: Some(0), ..LinearShape::new(rows, features, width) };
        let tensors = [rows * features, width * features, width].map(|count| wave(0.7, count));
        let [x, weight, bias] = tensors.each_ref().map(|tensor| buffer(&gpu, tensor));
        let out = buffer(&gpu, &vec![0.0; rows * width]);
        let operator = gpu.linear_operator();
        let plan = operator.plan(&shape).unwrap_or_else(|error| panic!("{error}"));
        let buffers = LinearBuffers {
            x: (&x).into(),
            weight: (&weight).into(),
            bias: Some((&bias).into()),
            out: (&out).into(),
        };
        group.bench_function(BenchmarkId::new("linear", &adapter), |bencher| {
            bencher.iter(|| run(&gpu, |encoder| operator.encode(encoder, &plan, &buffers)));
        });
        let [x, weight, bias] = &tensors;
        let inputs = LinearInputs { x: &x[..], weight, bias: Some(bias) };
        group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
            bencher.iter(|| cpu::linear(&shape, &inputs));
        });
    }

    for [batch, len, width, num_heads] in MULTI_HEAD {
        let (len, width) = (len / part, width / part);
        let name = format!("multi-head-{batch}x{len}x{width}x{num_heads}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements((batch * len) as u64));
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        let matrix = wave(0.9, width * width);
        let weights = MultiHeadWeights {
            embed_dim: width,
            num_heads,
            kdim: width,
            vdim: width,
            query: &matrix,
            key: &matrix,
            value: &matrix,
            in_bias: None,
            out: &matrix,
            out_bias: None,
            extra: None,
            add_zero_attn: false,
        };
        let rows = wave(1.3, batch * len * width);
        let shape = MultiHeadShape::new(batch, len);
        let operator = gpu.multi_head_operator(&weights).unwrap_or_else(|error| panic!("{error}"));
        let plan = operator.plan(&shape).unwrap_or_else(|error| panic!("{error}"));
        let (x, out) = (buffer(&gpu, &rows), buffer(&gpu, &rows));
        let buffers = MultiHeadBuffers::new(&x, &x, &x, &out);
        group.bench_function(BenchmarkId::new("multi-head", &adapter), |bencher| {
            bencher.iter(|| run(&gpu, |encoder| operator.encode(encoder, &plan, &buffers)));
        });
        let inputs =
            MultiHeadInputs { query: &rows, key: &rows, value: &rows, ..Default::default() };
        group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
            bencher.iter(|| cpu::multi_head_attention(&weights, &shape, &inputs));
        });
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
