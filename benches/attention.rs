//! Three stages against one kernel against the CPU reference: `cargo bench`.
//!
//! GPU times are those of the host, from submission to completion, over buffers that were uploaded once. An id
//! names the adapter and its backend, so that saved baselines of two machines do not mix.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionOptions, AttentionShape, Gpu, GpuOptions, Inputs, Kernel,
    Plan, cpu,
};

/// Batch, heads, length, head_dim; under `cargo test` the length is a sixteenth.
const SHAPES: [[usize; 4]; 3] = [[1, 8, 512, 64], [1, 8, 1024, 64], [1, 8, 512, 128]];

/// Buffers of one shape, on one device.
struct Call<'a> {
    gpu: &'a Gpu,
    operator: Attention,
    buffers: [wgpu::Buffer; 4],
}

impl<'a> Call<'a> {
    fn new(gpu: &'a Gpu, options: &AttentionOptions, tensors: [&[f32]; 3]) -> Self {
        let operator = gpu.operator(options).unwrap_or_else(|error| panic!("{error}"));
        let upload = |contents: &[f32]| {
            gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(contents),
                usage: wgpu::BufferUsages::STORAGE,
            })
        };
        let [query, key, value] = tensors.map(upload);
        // As large as query, and as little to be read while it is written.
        let out = upload(tensors[0]);
        Self { gpu, operator, buffers: [query, key, value, out] }
    }

    fn run(&self, plan: &Plan) {
        let [query, key, value, out] = &self.buffers;
        let descriptor = wgpu::CommandEncoderDescriptor::default();
        let mut encoder = self.gpu.device().create_command_encoder(&descriptor);
        self.operator
            .encode(&mut encoder, plan, &AttentionBuffers::new(query, key, value, out))
            .unwrap_or_else(|error| panic!("{error}"));
        self.gpu.queue().submit([encoder.finish()]);
        let done = self.gpu.device().poll(wgpu::PollType::wait_indefinitely());
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn attention(criterion: &mut Criterion) {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let info = gpu.adapter_info();
    let adapter = format!("{} {}", info.name, info.backend).replace('/', "-");
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    // As criterion itself tells one from the other.
    let is_test = given("--test") || !given("--bench");
    for [batch, heads, len, dim] in SHAPES {
        let len = if is_test { len / 16 } else { len };
        let shape = AttentionShape::new(batch, heads, len, dim);
        let count = batch * heads * len * dim;
        let wave = |step: f32| (0..count).map(|n| (n as f32 * step).sin()).collect::<Vec<f32>>();
        let [query, key, value] = [wave(0.7), wave(1.3), wave(2.1)];
        for causal in [false, true] {
            let options = AttentionOptions { causal, ..AttentionOptions::default() };
            let size =
                format!("{batch}x{heads}x{len}x{dim}{}", if causal { "-causal" } else { "" });
            let mut group = criterion.benchmark_group(&size);
            // Query-key pairs a second, of those that are visible.
            let pairs = if causal { len * (len + 1) / 2 } else { len * len };
            group.throughput(Throughput::Elements((batch * heads * pairs) as u64));
            group.sample_size(10).measurement_time(Duration::from_secs(5));

            let call = Call::new(&gpu, &options, [&query, &key, &value]);
            for kernel in [Kernel::Forward, Kernel::ThreeStage] {
                let plan = call.operator.plan_kernel(&shape, Some(kernel));
                let plan = plan.unwrap_or_else(|error| panic!("{error}"));
                group.bench_function(BenchmarkId::new(kernel.name(), &adapter), |bencher| {
                    bencher.iter(|| call.run(&plan));
                });
            }
            let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
            group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
                bencher.iter(|| cpu::attention(&shape, &options, black_box(&inputs)));
            });
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
