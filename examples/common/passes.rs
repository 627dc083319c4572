//! Shaders of one's own, buffers, reading back.

use super::Result;
use wgpu_attention::wgpu::util::DeviceExt;
use wgpu_attention::{Gpu, wgpu};

/// A shader that gives each row a workgroup, and binds buffers from number 0 on.
pub(crate) struct Pass {
    device: wgpu::Device,
    pipeline: wgpu::ComputePipeline,
}

impl Pass {
    /// From the parts of its source.
    pub(crate) fn new(device: &wgpu::Device, source: &[&str]) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(source.concat().into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { device: device.clone(), pipeline }
    }

    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        rows: usize,
        buffers: &[&wgpu::Buffer],
    ) -> Result<()> {
        // A dispatch has no more workgroups.
        let Some(workgroups) = u16::try_from(rows).ok().filter(|&rows| rows > 0) else {
            return Err(format!("expected 1 to 65535 rows, found {rows}").into());
        };
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(workgroups.into(), 1, 1);
        Ok(())
    }
}

pub(crate) fn input(device: &wgpu::Device, contents: &[f32]) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(contents),
        usage: wgpu::BufferUsages::STORAGE,
    })
}

/// Room for `len` numbers, which can be written and read back.
pub(crate) fn output(device: &wgpu::Device, len: usize) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: len as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Submits, waits, and reads these buffers.
pub(crate) fn read_back(
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
