//! Tables of pages and places on their way to the GPU, in buffers that are used again.
//!
//! As with uniform slots, a buffer that some encoder refers to must not be written before the GPU
//! is done with it: a lease holds it until then.

use super::ranges::to_u32;
use crate::buffer::{READABLE, create};
use crate::context::Context;
use crate::error::Error;
use crate::lost;
use crate::scope::lock;
use crate::uniforms::Lease;
use std::sync::{Arc, Mutex};

/// Buffers of one cache, each of which one encoder holds or none.
#[derive(Debug, Default)]
pub(super) struct Tables {
    buffers: Mutex<Vec<wgpu::Buffer>>,
    /// Indices of those that no encoder holds.
    free: Arc<Mutex<Vec<u32>>>,
}

/// Smaller tables are not worth a buffer of their own size.
const LEAST: u64 = 1 << 12;

impl Tables {
    /// A buffer that holds `table` until the work that `encoder` records is done.
    pub(super) fn upload(
        &self,
        Context { device, queue, .. }: &Context,
        encoder: &wgpu::CommandEncoder,
        table: &[u32],
    ) -> Result<wgpu::Buffer, Error> {
        let table: &[u8] = bytemuck::cast_slice(table);
        let size = table.len() as u64;
        let mut buffers = lock(&self.buffers);
        let mut free = lock(&self.free);
        let fitting = free.iter().position(|&index| buffers[index as usize].size() >= size);
        let index = match fitting.map(|at| free.swap_remove(at)) {
            Some(index) => index,
            None => {
                // Growing sequences rarely need another; it replaces one that is too small.
                let size = size.next_power_of_two().max(LEAST);
                let usage = wgpu::BufferUsages::COPY_DST | READABLE;
                let buffer = create(device, "table", size, usage, false)?;
                let index = free.pop().unwrap_or(to_u32(buffers.len()));
                match buffers.get_mut(index as usize) {
                    Some(small) => *small = buffer,
                    None => buffers.push(buffer),
                }
                index
            }
        };
        let buffer = buffers[index as usize].clone();
        let lease = Lease::new(vec![index], self.free.clone());
        // A lease that is dropped gives its buffer back.
        drop(free);
        lost::attempt(device, "uploading", || queue.write_buffer(&buffer, 0, table))?;
        encoder.on_submitted_work_done(move || drop(lease));
        Ok(buffer)
    }
}
