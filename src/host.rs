//! ONE-SHOT: from slices to vectors.

use crate::device::{self, AdapterSummary, Capabilities, GpuOptions};
use crate::error::Error;
use crate::problem::{AttentionOptions, AttentionShape, Inputs, Outputs};

/// A device and queue, with the pipelines compiled for them so far.
#[derive(Debug)]
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Gpu {
    /// Opens the best adapter that matches.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none matches, [`Error::Device`] if it does not open.
    pub async fn open(options: &GpuOptions) -> Result<Self, Error> {
        let (_summary, device, queue): (AdapterSummary, _, _) = device::open(options).await?;
        Ok(Self::from_device(device, queue))
    }

    /// As [`Gpu::open`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_blocking(options: &GpuOptions) -> Result<Self, Error> {
        pollster::block_on(Self::open(options))
    }

    /// Uses a device of yours.
    #[must_use]
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self { device, queue }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// What the device can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::of(&self.device)
    }

    /// Name, backend and driver of the adapter.
    #[must_use]
    pub fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.device.adapter_info()
    }

    /// Attention from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn attention(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_>,
    ) -> Result<Outputs, Error> {
        let _ = (shape, options, inputs);
        Err(Error::Device { action: "attention", message: "not built yet".into() })
    }

    /// As [`Gpu::attention`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::attention`].
    pub fn attention_blocking(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_>,
    ) -> Result<Outputs, Error> {
        pollster::block_on(self.attention(shape, options, inputs))
    }
}
