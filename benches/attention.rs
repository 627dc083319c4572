//! Kernels over the shapes that `wgpu-attention bench` times, and the CPU reference beside them: `cargo bench`.
//!
//! GPU times are those of the host, from submission to completion, over buffers that were uploaded once. An id
//! names the adapter and its backend, so that saved baselines of two machines do not mix.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use std::hint::black_box;
use std::time::Duration;
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{
    Align, Attention, AttentionBuffers, AttentionOptions, AttentionShape, BroadcastLayout,
    ElementType, Gpu, GpuOptions, Inputs, Kernel, Plan, cpu,
};

/// One shape with its options; under `cargo test` lengths are a sixteenth.
struct Case {
    name: &'static str,
    shape: AttentionShape,
    options: AttentionOptions,
    /// Whether the textbook path and the CPU reference run it as well.
    compared: bool,
}

fn cases(is_test: bool) -> Vec<Case> {
    let short = |len: usize| if is_test { len / 16 } else { len };
    let shape = |heads, len, dim| AttentionShape::new(1, heads, short(len), dim);
    let plain = AttentionOptions::default;
    let causal = AttentionOptions { causal: true, align: Align::BottomRight, ..plain() };
    let case = |name, shape, options| Case { name, shape, options, compared: false };
    let compared = |name, shape, options| Case { name, shape, options, compared: true };
    let stored = |element| AttentionShape { element, ..shape(8, 512, 64) };
    let bias = BroadcastLayout::Sizes([1, 1, short(512), short(512)]);
    vec![
        compared("1x8x512x64", shape(8, 512, 64), plain()),
        compared("1x8x512x64-causal", shape(8, 512, 64), causal),
        case("1x8x1024x64", shape(8, 1024, 64), plain()),
        case("1x8x1024x64-causal", shape(8, 1024, 64), causal),
        case("1x8x512x128", shape(8, 512, 128), plain()),
        case("1x8x512x128-causal", shape(8, 512, 128), causal),
        case("1x2x512x256", shape(2, 512, 256), plain()),
        case("1x8x512x64-f16", stored(ElementType::F16), plain()),
        case("1x8x512x64-bf16", stored(ElementType::Bf16), plain()),
        case("1x8-2x512x64", AttentionShape { num_kv_heads: 2, ..shape(8, 512, 64) }, causal),
        case(
            "1x8x1024x64-window",
            shape(8, 1024, 64),
            AttentionOptions { window_left: Some(255), ..causal },
        ),
        case("1x8x512x64-bias", AttentionShape { bias: Some(bias), ..shape(8, 512, 64) }, plain()),
        case(
            "1x32-8x1-4096x128",
            AttentionShape { num_kv_heads: 8, q_len: 1, ..shape(32, 4096, 128) },
            plain(),
        ),
    ]
}

/// Numbers of one case.
struct Tensors {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Tensors {
    fn new(shape: &AttentionShape) -> Self {
        let wave = |step: f32, count| (0..count).map(|n| (n as f32 * step).sin()).collect();
        let keys = shape.batch * shape.num_kv_heads * shape.kv_len * shape.head_dim;
        Self {
            query: wave(0.7, shape.batch * shape.num_heads * shape.q_len * shape.head_dim),
            key: wave(1.3, keys),
            value: wave(2.1, keys),
            bias: shape.bias.map(|_| wave(2.9, shape.q_len * shape.kv_len)),
        }
    }
}

/// Buffers of one case, on one device.
struct Call<'a> {
    gpu: &'a Gpu,
    operator: Attention,
    buffers: [wgpu::Buffer; 4],
    bias: Option<wgpu::Buffer>,
}

impl<'a> Call<'a> {
    fn new(gpu: &'a Gpu, case: &Case, tensors: &Tensors) -> Self {
        let operator =
            gpu.attention_operator(&case.options).unwrap_or_else(|error| panic!("{error}"));
        let upload = |contents: &[u8]| {
            gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents,
                usage: wgpu::BufferUsages::STORAGE,
            })
        };
        // Out is as large as query, and as little to be read while it is written.
        let Tensors { query, key, value, bias } = tensors;
        let buffers =
            [query, key, value, query].map(|numbers| upload(&stored(numbers, case.shape.element)));
        let bias = bias.as_ref().map(|bias| upload(bytemuck::cast_slice(bias)));
        Self { gpu, operator, buffers, bias }
    }

    fn run(&self, plan: &Plan) {
        let [query, key, value, out] = &self.buffers;
        let descriptor = wgpu::CommandEncoderDescriptor::default();
        let mut encoder = self.gpu.device().create_command_encoder(&descriptor);
        let buffers = AttentionBuffers {
            bias: self.bias.as_ref().map(Into::into),
            ..AttentionBuffers::new(query, key, value, out)
        };
        self.operator
            .encode(&mut encoder, plan, &buffers)
            .unwrap_or_else(|error| panic!("{error}"));
        self.gpu.queue().submit([encoder.finish()]);
        let done = self.gpu.device().poll(wgpu::PollType::wait_indefinitely());
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn stored(numbers: &[f32], element: ElementType) -> Vec<u8> {
    match element {
        ElementType::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_ne_bytes()).collect(),
        ElementType::Bf16 => {
            numbers.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect()
        }
        _ => bytemuck::cast_slice(numbers).to_vec(),
    }
}

fn attention(criterion: &mut Criterion) {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let info = gpu.adapter_info();
    let adapter = format!("{} {}", info.name, info.backend).replace('/', "-");
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    // As criterion itself tells one from the other.
    let is_test = given("--test") || !given("--bench");
    for case in cases(is_test) {
        let Case { name, shape, options, compared } = &case;
        let tensors = Tensors::new(shape);
        let mut group = criterion.benchmark_group(*name);
        group.throughput(Throughput::Elements(pairs(shape, options)));
        group.sample_size(10).measurement_time(Duration::from_secs(5));

        let call = Call::new(&gpu, &case, &tensors);
        let stages = compared.then_some(Kernel::ThreeStage);
        for kernel in std::iter::once(None).chain(stages.map(Some)) {
            let plan = call.operator.plan_kernel(shape, kernel);
            let plan = plan.unwrap_or_else(|error| panic!("{error}"));
            group.bench_function(BenchmarkId::new(plan.kernel.name(), &adapter), |bencher| {
                bencher.iter(|| call.run(&plan));
            });
        }
        if *compared {
            let Tensors { query, key, value, .. } = &tensors;
            let inputs = Inputs { query, key, value, ..Inputs::default() };
            group.bench_function(BenchmarkId::new("reference", "cpu"), |bencher| {
                bencher.iter(|| cpu::attention(shape, options, black_box(&inputs)));
            });
        }
    }
}

/// Query-key pairs of all heads, of those that are visible; causal ones have as many queries as keys.
fn pairs(shape: &AttentionShape, options: &AttentionOptions) -> u64 {
    let seen = |query: usize| match (options.causal, options.window_left) {
        (false, _) => shape.kv_len,
        (true, None) => query + 1,
        (true, Some(left)) => (query + 1).min(left + 1),
    };
    let rows: usize = (0..shape.q_len).map(seen).sum();
    (shape.batch * shape.num_heads * rows) as u64
}

criterion_group!(benches, attention);
criterion_main!(benches);
