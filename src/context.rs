//! What the operators of one device share: pipelines, uniform slots, scratch buffers.

use crate::call::{BoundDispatch, Call, Transfer};
use crate::device::{Capabilities, MOST_UNIFORM};
use crate::error::Error;
use crate::lost;
use crate::pipeline::{Pipeline, Pipelines, TABLE};
use crate::plan::{Access, MOST_SEQUENCES, SequenceParams, Tuning, Variant, Window};
use crate::scope::{if_ready, lock, scoped};
use crate::uniforms::{MOST_PARAMS, Slot, Uniforms};
use std::sync::{Arc, Mutex};

#[expect(clippy::cast_possible_truncation, reason = "a line is 32 bytes")]
const TABLE_BYTES: u32 = MOST_SEQUENCES * size_of::<SequenceParams>() as u32;

const _: () = assert!(TABLE_BYTES <= MOST_UNIFORM && MOST_PARAMS <= MOST_UNIFORM);

/// One device and what was made for it so far.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    pub(crate) pipelines: Arc<Pipelines>,
    /// Tiles that were measured here.
    pub(crate) tuning: Mutex<Tuning>,
    pub(crate) uniforms: Uniforms,
    tables: Uniforms,
    /// Scores that nobody keeps.
    pub(crate) workspace: Scratch,
    /// Out before it is packed; what reads it leaves it zero.
    pub(crate) unpacked: Scratch,
    /// Out, and maximum and sum, over parts of the keys.
    pub(crate) partial_out: Scratch,
    pub(crate) partial_lse: Scratch,
    /// Maximum and sum of each row, of which weights are made.
    pub(crate) sums: Scratch,
    /// Small tensors that share a binding.
    pub(crate) small: Scratch,
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
    ) -> Self {
        Self::with_pipelines(device, queue, capabilities, Arc::new(Pipelines::new(device)))
    }

    /// With pipelines that were made for this device.
    pub(crate) fn with_pipelines(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
        pipelines: Arc<Pipelines>,
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
            pipelines,
            tuning: Mutex::default(),
            uniforms: Uniforms::new(
                device,
                queue,
                MOST_PARAMS,
                capabilities.uniform_alignment,
                256,
            ),
            tables: Uniforms::new(device, queue, TABLE_BYTES, capabilities.uniform_alignment, 4),
            workspace: Scratch::default(),
            unpacked: Scratch::default(),
            partial_out: Scratch::default(),
            partial_lse: Scratch::default(),
            sums: Scratch::default(),
            small: Scratch::default(),
            unread: dummy(),
            unwritten: [dummy(), dummy()],
        }
    }

    /// `copies`, then `steps`, ready to be recorded.
    pub(crate) fn bind(
        &self,
        label: &'static str,
        copies: Vec<Transfer>,
        steps: &[Step<'_>],
    ) -> Result<Call, Error> {
        let pipelines = self.pipelines.get(steps.iter().map(|step| step.variant))?;
        let tables: Vec<&[u8]> =
            steps.iter().map(|step| step.table).filter(|table| !table.is_empty()).collect();
        let (bound, error) = scoped(&self.device, || {
            let (lease, slots) = self.uniforms.lease(steps.iter().map(|step| step.params))?;
            let (table_lease, table_slots) = self.tables.lease(tables.into_iter())?;
            let mut table_slots = table_slots.into_iter();
            let dispatch = |((step, pipeline), params): ((&Step<'_>, Arc<Pipeline>), Slot)| {
                let table = if step.table.is_empty() { None } else { table_slots.next() };
                let group = self.bind_group(step, &pipeline.layout, &params, table.as_ref());
                let offsets = std::iter::once(&params).chain(&table).map(|slot| slot.offset);
                BoundDispatch { group, offsets: offsets.collect(), pipeline, grid: step.grid }
            };
            let dispatches: Vec<_> = steps.iter().zip(pipelines).zip(slots).map(dispatch).collect();
            Some(([lease, table_lease], dispatches))
        });
        let failed = |message| Err(lost::failed(&self.device, "binding buffers", message));
        match (if_ready(error).flatten(), bound) {
            (Some(message), _) => failed(message),
            (None, None) => failed("the queue takes no parameters".to_owned()),
            (None, Some((leases, dispatches))) => Ok(Call::new(label, copies, dispatches, leases)),
        }
    }

    /// What has been made so far.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            pipelines: self.pipelines.len(),
            uniform_slots: self.uniforms.capacity(),
            workspace: self.scratches().iter().map(|scratch| scratch.size()).sum(),
        }
    }

    /// Gives all scratch buffers back; the next call that needs one makes it anew.
    pub(crate) fn release_workspace(&self) {
        self.scratches().iter().for_each(|scratch| *lock(&scratch.0) = None);
    }

    fn scratches(&self) -> [&Scratch; 6] {
        let Self { workspace, unpacked, partial_out, partial_lse, sums, small, .. } = self;
        [workspace, unpacked, partial_out, partial_lse, sums, small]
    }

    /// Bindings of the shader that the step does not have get a dummy.
    fn bind_group<'a>(
        &'a self,
        step: &'a Step<'_>,
        layout: &wgpu::BindGroupLayout,
        params: &'a Slot,
        table: Option<&'a Slot>,
    ) -> wgpu::BindGroup {
        let mut unwritten = self.unwritten.iter();
        let uniform = |binding, slot: &'a Slot| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(slot.binding()),
        };
        let mut entries = vec![uniform(0, params)];
        entries.extend(table.map(|table| uniform(TABLE, table)));
        for (number, access) in step.variant.entry.bindings() {
            let found = step.buffers.iter().find(|(binding, _, _)| *binding == number);
            let binding = match (found, access) {
                (Some((_, buffer, window)), _) => wgpu::BufferBinding {
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
            label: Some(step.variant.entry.name()),
            layout,
            entries: &entries,
        })
    }
}

/// What has been made on a device, see [`Gpu::footprint`](crate::Gpu::footprint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Compiled pipelines; these depend on head sizes and options, not on lengths.
    pub pipelines: usize,
    /// Places for the parameters of dispatches that the GPU has not finished yet.
    pub uniform_slots: usize,
    /// Bytes of workspace, which grows to what the largest call needs.
    pub workspace: u64,
}

/// One dispatch and what it binds.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) variant: &'a Variant,
    /// The shader's uniform block.
    pub(crate) params: &'a [u8],
    /// Binding number, buffer, and which part of it.
    pub(crate) buffers: Vec<(u32, wgpu::Buffer, Window)>,
    /// What each sequence is, for a ragged variant.
    pub(crate) table: &'a [u8],
    /// Workgroups along each axis.
    pub(crate) grid: [u32; 3],
}

/// A buffer of our own that grows. Calls may share it: each writes what it reads, and the queue runs them
/// one after the other.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Mutex<Option<wgpu::Buffer>>);

impl Scratch {
    /// At least `size` bytes; none if that is 0.
    pub(crate) fn get(
        &self,
        device: &wgpu::Device,
        size: u64,
    ) -> Result<Option<wgpu::Buffer>, Error> {
        const ALLOCATING: &str = "allocating workspace";
        let mut held = lock(&self.0);
        if held.as_ref().is_none_or(|buffer| buffer.size() < size) && size > 0 {
            let (buffer, error) = scoped(device, || {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("wgpu-attention workspace"),
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            });
            if let Some(message) = if_ready(error).flatten() {
                return Err(lost::failed(device, ALLOCATING, message));
            }
            lost::check(device, ALLOCATING)?;
            *held = Some(buffer);
        }
        Ok(held.clone())
    }

    fn size(&self) -> u64 {
        lock(&self.0).as_ref().map_or(0, wgpu::Buffer::size)
    }
}

#[cfg(test)]
mod tests {
    use crate::device::HIGHEST_BINDING;
    use crate::pipeline::TABLE;
    use crate::plan::Entry;

    #[test]
    fn no_binding_has_a_higher_number_than_devices_are_asked_for() {
        let of_shaders = Entry::ALL.into_iter().flat_map(|entry| entry.bindings().into_keys());
        assert_eq!(of_shaders.chain([TABLE]).max(), Some(HIGHEST_BINDING));
    }
}
