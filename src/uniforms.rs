//! Uniform slots with dynamic offsets.
//!
//! A `queue.write_buffer` lands before the whole next submission, so a slot that some encoder
//! refers to must not be written again before the GPU is done with it. A lease holds its slots
//! until the work of its encoder has finished, or the encoder is dropped.

use crate::scope::lock;
use std::sync::{Arc, Mutex};

/// Bytes of the largest uniform block of any shader, tables aside.
pub(crate) const MOST_PARAMS: u32 = 304;

/// Slots of one size on one device: pages of them, added when all are in use.
#[derive(Debug)]
pub(crate) struct Uniforms {
    device: wgpu::Device,
    queue: wgpu::Queue,
    size: u32,
    stride: u32,
    page_slots: u32,
    pages: Mutex<Vec<wgpu::Buffer>>,
    /// Indices of the free slots.
    free: Arc<Mutex<Vec<u32>>>,
}

/// Slots in use; dropping the lease frees them. It holds indices, not buffers, so that the callback
/// that drops it can go to another thread, in a browser too.
#[derive(Debug)]
pub(crate) struct Lease {
    slots: Vec<u32>,
    home: Arc<Mutex<Vec<u32>>>,
}

/// Where a slot lies.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    page: wgpu::Buffer,
    size: u32,
    pub(crate) offset: u32,
}

impl Lease {
    /// Indices that go back to `home`.
    pub(crate) fn new(slots: Vec<u32>, home: Arc<Mutex<Vec<u32>>>) -> Self {
        Self { slots, home }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.home).append(&mut self.slots);
    }
}

impl Slot {
    /// The binding for a bind group; the offset is dynamic.
    pub(crate) fn binding(&self) -> wgpu::BufferBinding<'_> {
        let size = wgpu::BufferSize::new(u64::from(self.size));
        wgpu::BufferBinding { buffer: &self.page, offset: 0, size }
    }
}

impl Uniforms {
    pub(crate) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        size: u32,
        alignment: u32,
        page_slots: u32,
    ) -> Self {
        Self {
            device: device.clone(),
            queue: queue.clone(),
            size,
            stride: size.next_multiple_of(alignment),
            page_slots,
            pages: Mutex::default(),
            free: Arc::default(),
        }
    }

    /// Writes each of `blocks` into a slot of its own; none if the queue takes no more.
    pub(crate) fn lease<'a>(
        &self,
        blocks: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Option<(Lease, Vec<Slot>)> {
        let mut pages = lock(&self.pages);
        let mut free = lock(&self.free);
        while free.len() < blocks.len() {
            let first =
                u32::try_from(pages.len()).unwrap_or(u32::MAX).saturating_mul(self.page_slots);
            pages.push(self.page());
            free.extend(first..first.saturating_add(self.page_slots));
        }
        let kept = free.len() - blocks.len();
        let lease = Lease::new(free.split_off(kept), self.free.clone());
        // A lease that is dropped gives its slots back.
        drop(free);
        let slots = lease.slots.iter().zip(blocks).map(|(&number, block)| {
            let page = pages[(number / self.page_slots) as usize].clone();
            let offset = number % self.page_slots * self.stride;
            if let Some(size) = wgpu::BufferSize::new(block.len() as u64) {
                // Unlike `write_buffer` it tells of a device that is lost.
                let mut view = self.queue.write_buffer_with(&page, u64::from(offset), size)?;
                view.copy_from_slice(block);
            }
            Some(Slot { page, size: self.size, offset })
        });
        let slots = slots.collect::<Option<_>>()?;
        Some((lease, slots))
    }

    /// How many slots there are, in use or not.
    pub(crate) fn capacity(&self) -> usize {
        lock(&self.pages).len() * self.page_slots as usize
    }

    /// A page of zeros. A submission clears those bytes of its bindings that nobody has written,
    /// and decides which before it takes in what other threads write: in wgpu 30 it would clear
    /// their parameters. Mapping writes all bytes.
    fn page(&self) -> wgpu::Buffer {
        let page = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("wgpu-attention uniforms"),
            size: u64::from(self.page_slots * self.stride),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: true,
        });
        page.unmap();
        page
    }
}
