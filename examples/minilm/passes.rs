//! What an application brings of its own: two shaders, buffers, reading back.

use super::Result;
use wgpu_attention::wgpu::util::DeviceExt;
use wgpu_attention::{Gpu, wgpu};

/// The shaders, each of which gives a token a workgroup.
pub(super) struct Passes {
    device: wgpu::Device,
    add_norm: wgpu::ComputePipeline,
    gelu: wgpu::ComputePipeline,
}

impl Passes {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let compile = |source: &str| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        };
        Self {
            device: device.clone(),
            add_norm: compile(include_str!("add_norm.wgsl")),
            gelu: compile(include_str!("gelu.wgsl")),
        }
    }

    /// Records layer norm over x, y, weight, bias and out.
    pub(super) fn add_norm(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        tokens: u32,
        buffers: [&wgpu::Buffer; 5],
    ) {
        self.record(encoder, &self.add_norm, tokens, &buffers);
    }

    /// Records GELU in place.
    pub(super) fn gelu(&self, encoder: &mut wgpu::CommandEncoder, tokens: u32, x: &wgpu::Buffer) {
        self.record(encoder, &self.gelu, tokens, &[x]);
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        pipeline: &wgpu::ComputePipeline,
        tokens: u32,
        buffers: &[&wgpu::Buffer],
    ) {
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(tokens, 1, 1);
    }
}

pub(super) fn input(device: &wgpu::Device, contents: &[f32]) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(contents),
        usage: wgpu::BufferUsages::STORAGE,
    })
}

/// Room for `len` numbers, which can be read back.
pub(super) fn output(device: &wgpu::Device, len: usize) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: len as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

/// Submits, waits, and reads these buffers.
pub(super) fn read_back(
    gpu: &Gpu,
    mut encoder: wgpu::CommandEncoder,
    buffers: &[&wgpu::Buffer],
) -> Result<Vec<Vec<f32>>> {
    let mut copies = Vec::new();
    for buffer in buffers {
        let copy = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        encoder.map_buffer_on_submit(&copy, wgpu::MapMode::Read, .., |_| ());
        copies.push(copy);
    }
    gpu.queue().submit([encoder.finish()]);
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    // Where mapping failed, there is no range.
    let read = |copy: &wgpu::Buffer| Ok(bytemuck::pod_collect_to_vec(&copy.get_mapped_range(..)?));
    copies.iter().map(read).collect()
}
