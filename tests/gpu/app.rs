//! An application with its own instance, device, queue and buffers, none of it the library's.

use crate::device::gpu;
use wgpu_attention::wgpu;
use wgpu_attention::wgpu::util::DeviceExt;

pub(crate) struct App {
    pub(crate) instance: wgpu::Instance,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
}

/// What a buffer holds before attention writes it.
pub(crate) const UNTOUCHED: f32 = 77.0;

impl App {
    pub(crate) fn open() -> Self {
        Self::on(wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: gpu().adapter_info().backend.into(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        }))
    }

    /// A device with wgpu's default limits and no features, on the adapter under test.
    pub(crate) fn on(instance: wgpu::Instance) -> Self {
        let wanted = gpu().adapter_info();
        let adapters = pollster::block_on(instance.enumerate_adapters(wanted.backend.into()));
        let same = |adapter: &wgpu::Adapter| adapter.get_info().name == wanted.name;
        let adapter = adapters.into_iter().find(same).unwrap();
        let opened = adapter.request_device(&wgpu::DeviceDescriptor::default());
        let (device, queue) = pollster::block_on(opened).unwrap();
        Self { instance, device, queue }
    }

    /// A buffer that attention can read or write.
    pub(crate) fn buffer(&self, contents: &[f32]) -> wgpu::Buffer {
        self.buffer_with(contents, wgpu::BufferUsages::STORAGE)
    }

    pub(crate) fn buffer_with(&self, contents: &[f32], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(contents),
            usage: usage | wgpu::BufferUsages::COPY_SRC,
        })
    }

    /// A buffer of `len` elements that nothing has written yet.
    pub(crate) fn output(&self, len: usize) -> wgpu::Buffer {
        self.buffer(&vec![UNTOUCHED; len])
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Submits and waits.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    }

    pub(crate) fn read(&self, buffer: &wgpu::Buffer) -> Vec<f32> {
        let copy = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        let index = self.queue.submit([encoder.finish()]);
        copy.map_async(wgpu::MapMode::Read, .., Result::unwrap);
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
        self.device.poll(wait).unwrap();
        bytemuck::cast_slice(&copy.get_mapped_range(..).unwrap()).to_vec()
    }
}
