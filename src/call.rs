//! RECORD: a planned call with everything it binds, ready to be written into an encoder.

use crate::pipeline::Pipeline;
use crate::uniforms::Lease;
use std::sync::Arc;

/// A plan bound to its buffers: what `bind` of every operation returns.
///
/// Making one creates bind groups and keeps parameters on the GPU for as long as it lives; [`Call::encode`] then records
/// the same work again and again, and creates nothing. It holds on to the buffers that it was bound to.
#[derive(Debug)]
pub struct Call {
    label: &'static str,
    copies: Vec<Transfer>,
    dispatches: Vec<BoundDispatch>,
    /// Shared with every encoder that was recorded into, until its work is done.
    leases: Arc<[Lease; 2]>,
}

/// One dispatch and what it needs of the device.
#[derive(Debug)]
pub(crate) struct BoundDispatch {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) group: wgpu::BindGroup,
    /// Of its uniform blocks, in the order of their bindings.
    pub(crate) offsets: Vec<u32>,
    pub(crate) grid: [u32; 3],
}

/// All of a small tensor into a buffer of our own.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) source: wgpu::Buffer,
    /// First byte in the source.
    pub(crate) offset: u64,
    pub(crate) target: wgpu::Buffer,
    /// First byte in the target.
    pub(crate) start: u64,
    pub(crate) size: u64,
}

impl Call {
    pub(crate) fn new(
        label: &'static str,
        copies: Vec<Transfer>,
        dispatches: Vec<BoundDispatch>,
        leases: [Lease; 2],
    ) -> Self {
        Self { label, copies, dispatches, leases: Arc::new(leases) }
    }

    /// Records the call into `encoder`: the copies, then the dispatches in one compute pass. Any number of calls may go into
    /// one encoder, and one call into any number.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.dispatches.is_empty() {
            return;
        }
        for Transfer { source, offset, target, start, size } in &self.copies {
            encoder.copy_buffer_to_buffer(source, *offset, target, *start, *size);
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(self.label),
            timestamp_writes: None,
        });
        for BoundDispatch { pipeline, group, offsets, grid: [x, y, z] } in &self.dispatches {
            pass.set_pipeline(&pipeline.compute);
            pass.set_bind_group(0, group, offsets);
            pass.dispatch_workgroups(*x, *y, *z);
        }
        drop(pass);
        let leases = self.leases.clone();
        encoder.on_submitted_work_done(move || drop(leases));
    }
}
