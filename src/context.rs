//! What the operators of one device share: pipelines, uniform slots, scratch buffers.

use crate::buffer::BufferRange;
use crate::call::{BoundDispatch, Call};
use crate::device::{Capabilities, MOST_UNIFORM};
use crate::error::Error;
use crate::lost;
use crate::pipeline::{Pipeline, Pipelines, TABLE};
use crate::plan::{
    Access, Bound, Dispatch, MOST_SEQUENCES, Params, Program, SequenceParams, Tuning, Window, bytes,
};
use crate::scope::lock;
use crate::shader::{Binding, bindings};
use crate::tensor::Tensor;
use crate::uniforms::{MOST_PARAMS, Slot, Uniforms};
use std::sync::{Arc, Mutex};

#[expect(clippy::cast_possible_truncation, reason = "a line is 32 bytes")]
const TABLE_BYTES: u32 = MOST_SEQUENCES * size_of::<SequenceParams>() as u32;

const _: () = assert!(TABLE_BYTES <= MOST_UNIFORM && MOST_PARAMS <= MOST_UNIFORM);
const _: () = assert!(size_of::<Params>() <= MOST_PARAMS as usize);

const BINDING: &str = "binding buffers";

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
    /// One for each of [`Tensor::OWN`].
    own: [Scratch; Tensor::OWN.len()],
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
            own: Default::default(),
            unread: dummy(),
            unwritten: [dummy(), dummy()],
        }
    }

    /// A program with the buffers that `find` has for its tensors, ready to be recorded.
    pub(crate) fn bind<'b>(
        &self,
        label: &'static str,
        program: &Program,
        find: impl Fn(Tensor) -> Option<BufferRange<'b>>,
    ) -> Result<Call, Error> {
        // Plans are plain data: what two devices can do alike is planned alike.
        if program.capabilities != self.capabilities {
            let expected = "a plan for this operator's capabilities";
            return Err(Error::invalid("plan", expected, "one for others"));
        }
        let alignment = self.capabilities.storage_alignment;
        program.check_buffers(&find, alignment, false).map_err(|error| error.of(label))?;
        self.call(label, &self.steps(&program.dispatches, find)?)
    }

    /// Dispatches with the buffers they bind, the context's own among them.
    pub(crate) fn steps<'a, 'b>(
        &self,
        dispatches: &'a [Dispatch],
        find: impl Fn(Tensor) -> Option<BufferRange<'b>>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let mut own = Vec::new();
        for tensor in Tensor::OWN {
            let size = bytes(dispatches, tensor);
            if size > 0 {
                own.push((tensor, self.own(tensor, size)?));
            }
        }
        let buffer = |bound: &Bound| {
            let Bound { name, tensor, window, .. } = *bound;
            if let Some((_, buffer)) = own.iter().find(|(own, _)| *own == tensor) {
                return Some((name, buffer.clone()?, window));
            }
            let BufferRange { buffer, offset, .. } = find(tensor)?;
            Some((name, buffer.clone(), Window { start: offset + window.start, ..window }))
        };
        let step = |dispatch: &'a Dispatch| {
            let buffers = dispatch.bound.iter().filter_map(buffer).collect();
            Step { dispatch, buffers }
        };
        Ok(dispatches.iter().map(step).collect())
    }

    /// A buffer of our own of at least `size` bytes; none if that is 0.
    pub(crate) fn own(&self, tensor: Tensor, size: u64) -> Result<Option<wgpu::Buffer>, Error> {
        let own = Tensor::OWN.into_iter().zip(&self.own).find(|(own, _)| *own == tensor);
        own.map_or(Ok(None), |(_, scratch)| scratch.get(&self.device, size))
    }

    /// Steps ready to be recorded.
    pub(crate) fn call(&self, label: &'static str, steps: &[Step<'_>]) -> Result<Call, Error> {
        let pipelines = self.pipelines.get(steps.iter().map(|step| &step.dispatch.variant))?;
        let tables: Vec<&[u8]> = steps
            .iter()
            .map(|step| bytemuck::cast_slice(&step.dispatch.table))
            .filter(|table: &&[u8]| !table.is_empty())
            .collect();
        let bound = lost::attempt(&self.device, BINDING, || {
            let params = steps.iter().map(|step| step.dispatch.params.as_slice());
            let (lease, slots) = self.uniforms.lease(params)?;
            let (table_lease, table_slots) = self.tables.lease(tables.into_iter())?;
            let mut table_slots = table_slots.into_iter();
            let dispatch = |((step, pipeline), params): ((&Step<'_>, Arc<Pipeline>), Slot)| {
                let Dispatch { table, grid, .. } = step.dispatch;
                let table = if table.is_empty() { None } else { table_slots.next() };
                let group = self.bind_group(step, &pipeline.layout, &params, table.as_ref());
                let offsets = std::iter::once(&params).chain(&table).map(|slot| slot.offset);
                BoundDispatch { group, offsets: offsets.collect(), pipeline, grid: *grid }
            };
            let dispatches: Vec<_> = steps.iter().zip(pipelines).zip(slots).map(dispatch).collect();
            Some((Arc::new([lease, table_lease]), dispatches))
        })?;
        let Some((leases, dispatches)) = bound else {
            return Err(lost::failed(&self.device, BINDING, "the queue takes no parameters"));
        };
        Ok(Call { label, dispatches, leases })
    }

    /// What has been made so far.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            pipelines: self.pipelines.len(),
            uniform_slots: self.uniforms.capacity(),
            workspace: self.own.iter().map(Scratch::size).sum(),
        }
    }

    /// Gives all scratch buffers back; the next call that needs one makes it anew.
    pub(crate) fn release_workspace(&self) {
        self.own.iter().for_each(|scratch| *lock(&scratch.0) = None);
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
        for &Binding { number, name, access } in bindings(step.dispatch.variant.entry) {
            let found = step.buffers.iter().find(|(bound, _, _)| *bound == name);
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
            label: Some(step.dispatch.variant.entry.name()),
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
    pub(crate) dispatch: &'a Dispatch,
    /// What the shader calls it, buffer, and which part of it.
    pub(crate) buffers: Vec<(&'static str, wgpu::Buffer, Window)>,
}

/// A buffer of our own that grows. Calls may share it: each writes what it reads, and the queue
/// runs them one after the other.
#[derive(Debug, Default)]
struct Scratch(Mutex<Option<wgpu::Buffer>>);

impl Scratch {
    /// At least `size` bytes; none if that is 0.
    fn get(&self, device: &wgpu::Device, size: u64) -> Result<Option<wgpu::Buffer>, Error> {
        const ALLOCATING: &str = "allocating workspace";
        let mut held = lock(&self.0);
        if held.as_ref().is_none_or(|buffer| buffer.size() < size) && size > 0 {
            let buffer = lost::attempt(device, ALLOCATING, || {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("wgpu-attention workspace"),
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })?;
            lost::check(device, ALLOCATING)?;
            *held = Some(buffer);
        }
        Ok(held.clone().filter(|_| size > 0))
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
    use crate::shader::bindings;

    #[test]
    fn no_binding_has_a_higher_number_than_devices_are_asked_for() {
        let of_shaders = Entry::ALL.into_iter().flat_map(bindings).map(|binding| binding.number);
        assert_eq!(of_shaders.chain([TABLE]).max(), Some(HIGHEST_BINDING));
    }
}
