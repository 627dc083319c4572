//! Tables of pages and places on their way to the GPU, in buffers that are used again.
//!
//! As with uniform slots, a buffer that some encoder refers to must not be written before the GPU is done with it: a lease
//! holds it until then.

use crate::buffer::create;
use crate::error::Error;
use crate::lost;
use crate::scope::{if_ready, lock, scoped};
use crate::uniforms::Lease;
use std::sync::{Arc, Mutex};

/// Buffers of one cache, each of which one lease holds or none.
#[derive(Debug)]
pub(crate) struct Uploads {
    device: wgpu::Device,
    queue: wgpu::Queue,
    buffers: Mutex<Vec<wgpu::Buffer>>,
    /// Numbers of those that nobody holds.
    free: Arc<Mutex<Vec<u32>>>,
}

/// Smaller tables are not worth a buffer of their own size.
const LEAST: u64 = 1 << 12;

impl Uploads {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let (device, queue) = (device.clone(), queue.clone());
        Self { device, queue, buffers: Mutex::default(), free: Arc::default() }
    }

    /// A buffer that holds `table`, as long as the lease lives.
    pub(crate) fn lease(&self, table: &[u8]) -> Result<(Lease, wgpu::Buffer), Error> {
        let mut buffers = lock(&self.buffers);
        let mut free = lock(&self.free);
        let size = table.len() as u64;
        let fits = |&number: &u32| buffers[number as usize].size() >= size;
        let number = match free.iter().position(fits) {
            Some(at) => free.swap_remove(at),
            None => {
                // Twice as long as asked for at most, so that growing sequences rarely need another; it takes the place of one
                // that has become too small.
                let size = size.next_power_of_two().max(LEAST);
                let usage = wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC;
                let buffer = create(&self.device, "table", size, usage, false)?;
                match free.pop() {
                    Some(number) => {
                        buffers[number as usize] = buffer;
                        number
                    }
                    None => {
                        buffers.push(buffer);
                        u32::try_from(buffers.len() - 1).unwrap_or(u32::MAX)
                    }
                }
            }
        };
        let buffer = buffers[number as usize].clone();
        let lease = Lease::new(vec![number], self.free.clone());
        drop(free);
        let ((), error) = scoped(&self.device, || self.queue.write_buffer(&buffer, 0, table));
        match if_ready(error).flatten() {
            Some(message) => Err(lost::failed(&self.device, "uploading", message)),
            None => Ok((lease, buffer)),
        }
    }
}
