//! What a call costs the host before anything is submitted, in microseconds: planning, recording once, and recording a call
//! that was bound before. `cargo bench --bench encode`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use wgpu_attention::{
    AttentionBuffers, AttentionOptions, AttentionShape, Error, Gpu, GpuOptions, wgpu,
};

fn encode(criterion: &mut Criterion) {
    if let Err(error) = time(criterion) {
        panic!("{error}");
    }
}

fn time(criterion: &mut Criterion) -> Result<(), Error> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    let operator =
        gpu.attention_operator(&AttentionOptions { causal: true, ..Default::default() })?;
    let grouped =
        |q_len| AttentionShape { num_kv_heads: 8, q_len, ..AttentionShape::new(1, 32, 4096, 128) };
    for (name, shape) in [("prefill", grouped(512)), ("decode", grouped(1))] {
        let buffer = |len: usize| {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: len as u64 * 4,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let queries = shape.num_heads * shape.q_len * shape.head_dim;
        let keys = shape.num_kv_heads * shape.kv_len * shape.head_dim;
        let [query, key, value, out] = [queries, keys, keys, queries].map(buffer);
        let buffers = AttentionBuffers::new(&query, &key, &value, &out);
        let plan = operator.plan(&shape)?;
        let call = operator.bind(&plan, &buffers)?;
        let encoder = || gpu.device().create_command_encoder(&Default::default());

        let mut group = criterion.benchmark_group(name);
        group.bench_function("plan", |bencher| bencher.iter(|| operator.plan(black_box(&shape))));
        group.bench_function("encode", |bencher| {
            let record = |encoder: &mut _| operator.encode(encoder, &plan, &buffers);
            bencher.iter_batched_ref(encoder, record, BatchSize::SmallInput);
        });
        group.bench_function("encode a bound call", |bencher| {
            let record = |encoder: &mut _| call.encode(encoder);
            bencher.iter_batched_ref(encoder, record, BatchSize::SmallInput);
        });
    }
    Ok(())
}

criterion_group!(benches, encode);
criterion_main!(benches);
