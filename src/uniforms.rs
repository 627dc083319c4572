//! Uniform slots with dynamic offsets.
//!
//! A `queue.write_buffer` lands before the whole next submission, so a slot that some encoder refers to
//! must not be written again before the GPU is done with it. A lease holds its slots until the work
//! of its encoder has finished, or the encoder is dropped.

use crate::device::Capabilities;
use crate::pipeline::lock;
use crate::plan::Params;
use std::sync::{Arc, Mutex};

const PAGE_SLOTS: u32 = 256;
#[expect(clippy::cast_possible_truncation, reason = "the block is a few hundred bytes")]
const PARAMS_SIZE: u32 = size_of::<Params>() as u32;

/// A place for one [`Params`].
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) page: wgpu::Buffer,
    pub(crate) offset: u32,
}

/// The slots of one device.
#[derive(Debug)]
pub(crate) struct Uniforms {
    device: wgpu::Device,
    queue: wgpu::Queue,
    stride: u32,
    free: Arc<Mutex<Vec<Slot>>>,
}

/// Slots in use; dropping the lease frees them.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) slots: Vec<Slot>,
    home: Arc<Mutex<Vec<Slot>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.home).append(&mut self.slots);
    }
}

impl Slot {
    /// What a bind group binds; the offset is dynamic.
    pub(crate) fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.page,
            offset: 0,
            size: wgpu::BufferSize::new(u64::from(PARAMS_SIZE)),
        }
    }
}

impl Uniforms {
    pub(crate) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: &Capabilities,
    ) -> Self {
        let stride = PARAMS_SIZE.next_multiple_of(capabilities.uniform_alignment);
        let uniforms =
            Self { device: device.clone(), queue: queue.clone(), stride, free: Arc::default() };
        lock(&uniforms.free).extend(uniforms.page());
        uniforms
    }

    /// Writes each of `params` into a slot of its own.
    pub(crate) fn lease<'a>(&self, params: impl ExactSizeIterator<Item = &'a Params>) -> Lease {
        let mut free = lock(&self.free);
        while free.len() < params.len() {
            free.extend(self.page());
        }
        let first = free.len() - params.len();
        let slots = free.split_off(first);
        drop(free);
        for (slot, params) in slots.iter().zip(params) {
            let bytes = bytemuck::bytes_of(params);
            self.queue.write_buffer(&slot.page, u64::from(slot.offset), bytes);
        }
        Lease { slots, home: self.free.clone() }
    }

    fn page(&self) -> impl Iterator<Item = Slot> {
        let page = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu-attention uniforms"),
            size: u64::from(PAGE_SLOTS * self.stride),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let stride = self.stride;
        (0..PAGE_SLOTS).map(move |slot| Slot { page: page.clone(), offset: slot * stride })
    }
}
