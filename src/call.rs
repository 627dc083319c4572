//! RECORD: a planned call with everything it binds, ready to be written into an encoder.

use crate::pipeline::Pipeline;
use crate::uniforms::Lease;
use std::sync::Arc;

/// A plan bound to its buffers: what `bind` of every operation returns.
///
/// [`Call::encode`] records the same work again and again, and creates nothing. A call holds on to
/// its bind groups, its parameters on the GPU and the buffers that it was bound to.
#[derive(Debug)]
pub struct Call {
    pub(crate) label: &'static str,
    pub(crate) dispatches: Vec<BoundDispatch>,
    /// Shared with every encoder that was recorded into, until its work is done.
    pub(crate) leases: Arc<[Lease; 2]>,
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

impl Call {
    /// Records the call into `encoder`, in a compute pass of its own. Any number of calls may go
    /// into one encoder, and one call into any number.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.dispatches.is_empty() {
            return;
        }
        self.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(self.label),
            timestamp_writes: None,
        }));
    }

    /// Records the call into a compute pass of yours, among your own dispatches and with your
    /// labels and timestamps. It sets the pipeline and bind group 0, and leaves them set.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for BoundDispatch { pipeline, group, offsets, grid: [x, y, z] } in &self.dispatches {
            pass.set_pipeline(&pipeline.compute);
            pass.set_bind_group(0, group, offsets);
            pass.dispatch_workgroups(*x, *y, *z);
        }
        let leases = self.leases.clone();
        pass.on_submitted_work_done(move || drop(leases));
    }
}
