//! What the operators of one device share: pipelines, uniform slots, workspace.

use crate::device::Capabilities;
use crate::error::Error;
use crate::pipeline::{Edit, Pipelines, if_ready, lock, scoped};
use crate::plan::{Access, Dispatch, Tensor, largest};
use crate::uniforms::{Slot, Uniforms};
use std::sync::Mutex;

/// One device and what was made for it so far.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    pub(crate) pipelines: Pipelines,
    pub(crate) uniforms: Uniforms,
    workspace: Mutex<Option<wgpu::Buffer>>,
    unpacked: Mutex<Option<wgpu::Buffer>>,
    /// Bound in place of tensors that a call does not have: one to read, and, as no two writable
    /// bindings may overlap, one for each binding that may be written.
    unread: wgpu::Buffer,
    unwritten: [wgpu::Buffer; 2],
}

impl Context {
    pub(crate) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
        edit: Option<Edit>,
    ) -> Self {
        let dummy = || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-attention absent tensor"),
                size: 16,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        Self {
            device: device.clone(),
            queue: queue.clone(),
            capabilities,
            pipelines: Pipelines::new(device, edit),
            uniforms: Uniforms::new(device, queue, &capabilities),
            workspace: Mutex::default(),
            unpacked: Mutex::default(),
            unread: dummy(),
            unwritten: [dummy(), dummy()],
        }
    }

    /// Records `dispatches` in one compute pass; `buffer` finds the caller's tensors. Nothing is
    /// recorded if anything fails.
    pub(crate) fn record<'a>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        label: &str,
        dispatches: &[Dispatch],
        buffer: impl Fn(Tensor) -> Option<&'a wgpu::Buffer>,
    ) -> Result<(), Error> {
        if dispatches.is_empty() {
            return Ok(());
        }
        let workspace = self.grown(&self.workspace, largest(dispatches, Tensor::Workspace))?;
        let unpacked = self.grown(&self.unpacked, largest(dispatches, Tensor::Unpacked))?;
        let pipelines = dispatches
            .iter()
            .map(|dispatch| self.pipelines.get(&dispatch.variant))
            .collect::<Result<Vec<_>, _>>()?;
        let ((lease, slots, groups), error) = scoped(&self.device, || {
            let params = dispatches.iter().map(|dispatch| &dispatch.params);
            let (lease, slots) = self.uniforms.lease(params);
            let steps = dispatches.iter().zip(&pipelines).zip(&slots);
            let groups: Vec<_> = steps
                .map(|((dispatch, pipeline), slot)| {
                    let find = |tensor| match tensor {
                        Tensor::Workspace => workspace.as_ref(),
                        Tensor::Unpacked => unpacked.as_ref(),
                        tensor => buffer(tensor),
                    };
                    self.bind(dispatch, &pipeline.layout, slot, find)
                })
                .collect();
            (lease, slots, groups)
        });
        if let Some(message) = if_ready(error).flatten() {
            return Err(Error::Device { action: "binding buffers", message });
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(label),
            timestamp_writes: None,
        });
        for (((dispatch, pipeline), slot), group) in
            dispatches.iter().zip(&pipelines).zip(&slots).zip(&groups)
        {
            let [x, y, z] = dispatch.grid;
            pass.set_pipeline(&pipeline.compute);
            pass.set_bind_group(0, group, &[slot.offset]);
            pass.dispatch_workgroups(x, y, z);
        }
        drop(pass);
        encoder.on_submitted_work_done(move || drop(lease));
        Ok(())
    }

    fn bind<'a>(
        &'a self,
        dispatch: &Dispatch,
        layout: &wgpu::BindGroupLayout,
        slot: &Slot,
        buffer: impl Fn(Tensor) -> Option<&'a wgpu::Buffer>,
    ) -> wgpu::BindGroup {
        let mut unwritten = self.unwritten.iter();
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(slot.binding()),
        }];
        for (number, access) in dispatch.variant.entry.bindings() {
            let bound = dispatch
                .bound
                .iter()
                .find(|bound| bound.tensor.binding(dispatch.variant.entry) == number);
            let found = bound.and_then(|bound| Some((buffer(bound.tensor)?, bound.window)));
            let binding = match (found, access) {
                (Some((buffer, window)), _) => wgpu::BufferBinding {
                    buffer,
                    offset: window.start,
                    size: wgpu::BufferSize::new(window.size),
                },
                (None, Access::Read) => self.unread.as_entire_buffer_binding(),
                (None, Access::ReadWrite) => {
                    unwritten.next().unwrap_or(&self.unread).as_entire_buffer_binding()
                }
            };
            let resource = wgpu::BindingResource::Buffer(binding);
            entries.push(wgpu::BindGroupEntry { binding: number, resource });
        }
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(dispatch.variant.entry.name()),
            layout,
            entries: &entries,
        })
    }

    /// A buffer of our own, grown if it is smaller than `size`. Calls may share it: each writes what it
    /// reads, and the queue runs them one after the other.
    fn grown(
        &self,
        held: &Mutex<Option<wgpu::Buffer>>,
        size: u64,
    ) -> Result<Option<wgpu::Buffer>, Error> {
        let mut held = lock(held);
        if held.as_ref().is_none_or(|buffer| buffer.size() < size) && size > 0 {
            let (buffer, error) = scoped(&self.device, || {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("wgpu-attention workspace"),
                    size,
                    usage: wgpu::BufferUsages::STORAGE,
                    mapped_at_creation: false,
                })
            });
            if let Some(message) = if_ready(error).flatten() {
                return Err(Error::Device { action: "allocating workspace", message });
            }
            *held = Some(buffer);
        }
        Ok(held.clone())
    }
}
