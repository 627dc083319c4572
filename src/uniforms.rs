//! Uniform slots with dynamic offsets.
//!
//! A `queue.write_buffer` lands before the whole next submission, so a slot that some encoder refers to
//! must not be written again before the GPU is done with it. A lease holds its slots until the work
//! of its encoder has finished, or the encoder is dropped.

use crate::device::Capabilities;
use crate::pipeline::lock;
use std::sync::{Arc, Mutex};

const PAGE_SLOTS: u32 = 256;
/// Bytes of the largest uniform block of any shader.
pub(crate) const MOST_PARAMS: u32 = 256;

/// The slots of one device: pages of them, added when all are in use.
#[derive(Debug)]
pub(crate) struct Uniforms {
    device: wgpu::Device,
    queue: wgpu::Queue,
    stride: u32,
    pages: Mutex<Vec<wgpu::Buffer>>,
    /// Numbers of the slots that nobody holds.
    free: Arc<Mutex<Vec<u32>>>,
}

/// Slots in use; dropping the lease frees them. It holds numbers, not buffers, so that the callback that
/// drops it can go to another thread, in a browser too.
#[derive(Debug)]
pub(crate) struct Lease {
    slots: Vec<u32>,
    home: Arc<Mutex<Vec<u32>>>,
}

/// Where a slot lies.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    page: wgpu::Buffer,
    pub(crate) offset: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.home).append(&mut self.slots);
    }
}

impl Slot {
    /// What a bind group binds; the offset is dynamic.
    pub(crate) fn binding(&self) -> wgpu::BufferBinding<'_> {
        let size = wgpu::BufferSize::new(u64::from(MOST_PARAMS));
        wgpu::BufferBinding { buffer: &self.page, offset: 0, size }
    }
}

impl Uniforms {
    pub(crate) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: &Capabilities,
    ) -> Self {
        Self {
            device: device.clone(),
            queue: queue.clone(),
            stride: MOST_PARAMS.next_multiple_of(capabilities.uniform_alignment),
            pages: Mutex::default(),
            free: Arc::default(),
        }
    }

    /// Writes each of `params` into a slot of its own.
    pub(crate) fn lease<'a>(
        &self,
        params: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> (Lease, Vec<Slot>) {
        let mut pages = lock(&self.pages);
        let mut free = lock(&self.free);
        while free.len() < params.len() {
            let first = u32::try_from(pages.len()).unwrap_or(u32::MAX).saturating_mul(PAGE_SLOTS);
            pages.push(self.page());
            free.extend(first..first.saturating_add(PAGE_SLOTS));
        }
        let kept = free.len() - params.len();
        let lease = Lease { slots: free.split_off(kept), home: self.free.clone() };
        let slots = lease.slots.iter().zip(params).map(|(&number, params)| {
            let page = pages[(number / PAGE_SLOTS) as usize].clone();
            let offset = number % PAGE_SLOTS * self.stride;
            self.queue.write_buffer(&page, u64::from(offset), params);
            Slot { page, offset }
        });
        let slots = slots.collect();
        (lease, slots)
    }

    /// How many slots there are, in use or not.
    pub(crate) fn capacity(&self) -> usize {
        lock(&self.pages).len() * PAGE_SLOTS as usize
    }

    fn page(&self) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu-attention uniforms"),
            size: u64::from(PAGE_SLOTS * self.stride),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }
}
