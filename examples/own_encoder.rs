//! An application with its own device, buffers and encoder records attention between two compute passes of
//! its own: one submission, nothing read back in between. `cargo run --example own_encoder`.

use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::wgpu::{self, util::DeviceExt};
use wgpu_attention::{AttentionBuffers, AttentionOptions, AttentionShape, Gpu, Inputs, cpu};

const SHAPE: [usize; 4] = [1, 4, 48, 32];
const LEN: usize = 4 * 48 * 32;
const WORKGROUPS: u32 = 4 * 48 * 32 / 64;

fn main() -> Result<(), Box<dyn Error>> {
    // The application's device; default limits are enough.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter =
        pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) =
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    println!("{}", adapter.get_info().name);

    // Its buffers: attention asks for STORAGE alone.
    let wave = |step: f32| (0..LEN).map(|n| (n as f32 * step).sin()).collect::<Vec<_>>();
    let [tokens, key, value] = [wave(0.7), wave(1.3), wave(2.1)];
    let upload = |contents: &[f32]| {
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(contents),
            usage: wgpu::BufferUsages::STORAGE,
        })
    };
    let (query_buffer, key_buffer, value_buffer) = (upload(&tokens), upload(&key), upload(&value));
    let create = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: LEN as u64 * 4,
            usage,
            mapped_at_creation: false,
        })
    };
    let out_buffer = create(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read_back = create(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let double = own_pass(&device, &query_buffer, "data[id.x] * 2.0");
    let add_one = own_pass(&device, &out_buffer, "data[id.x] + 1.0");

    // Once per device: what its operators share. Once per model: an operator. Once per shape, or per step, as it is cheap: a plan.
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let attention = Gpu::from_device(&device, &queue).attention_operator(&options)?;
    let [batch, num_heads, len, head_dim] = SHAPE;
    let shape = AttentionShape::new(batch, num_heads, len, head_dim);
    let plan = attention.plan(&shape)?;
    println!("{plan}");
    // Optional: compiles now and not in the first frame.
    attention.prepare_blocking(&plan)?;

    // One encoder, one submission: own pass, attention, own pass.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    record(&mut encoder, &double);
    let buffers = AttentionBuffers::new(&query_buffer, &key_buffer, &value_buffer, &out_buffer);
    attention.encode(&mut encoder, &plan, &buffers)?;
    record(&mut encoder, &add_one);
    encoder.copy_buffer_to_buffer(&out_buffer, 0, &read_back, 0, read_back.size());
    queue.submit([encoder.finish()]);

    // The application waits and reads where it wants to.
    let (sender, receiver) = std::sync::mpsc::channel();
    read_back.map_async(wgpu::MapMode::Read, .., move |result| {
        let _ = sender.send(result);
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    receiver.recv()??;
    let found: Vec<f32> = bytemuck::cast_slice(&read_back.get_mapped_range(..)?).to_vec();

    // The same on the CPU.
    let query: Vec<f32> = tokens.iter().map(|x| x * 2.0).collect();
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let expected: Vec<f64> =
        cpu::attention(&shape, &options, &inputs)?.out.iter().map(|x| x + 1.0).collect();
    let accuracy = compare(&found, &expected)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}

type Pass = (wgpu::ComputePipeline, wgpu::BindGroup);

/// A pass that the application has anyway: `data[i] = body` for all of a buffer.
fn own_pass(device: &wgpu::Device, data: &wgpu::Buffer, body: &str) -> Pass {
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> data: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            if id.x < arrayLength(&data) {{ data[id.x] = {body}; }}
        }}"
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: data.as_entire_binding() }],
    });
    (pipeline, group)
}

fn record(encoder: &mut wgpu::CommandEncoder, (pipeline, group): &Pass) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, group, &[]);
    pass.dispatch_workgroups(WORKGROUPS, 1, 1);
}
