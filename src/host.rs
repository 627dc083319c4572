//! ONE-SHOT: from slices to vectors.

mod once;

use crate::context::{Context, Footprint};
use crate::device::{self, Capabilities, GpuOptions};
use crate::error::Error;
use crate::lost;
use crate::pipeline::{Edit, Pipelines};
use std::sync::Arc;

/// A device and queue, with the pipelines compiled for them so far.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub(crate) context: Arc<Context>,
    /// What the device was opened on, unless it is the caller's own.
    adapter: Option<wgpu::Adapter>,
}

impl Gpu {
    /// Opens the best adapter that matches.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none matches, [`Error::Device`] if it does not open.
    pub async fn open(options: &GpuOptions) -> Result<Self, Error> {
        let adapter = device::adapter(options).await?;
        let (device, queue, capabilities) = device::open(&adapter).await?;
        let context = Context::new(&device, &queue, capabilities);
        Ok(Self { context: Arc::new(context), adapter: Some(adapter) })
    }

    /// As [`Gpu::open`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_blocking(options: &GpuOptions) -> Result<Self, Error> {
        pollster::block_on(Self::open(options))
    }

    /// Uses a device of yours. Operators and caches made by one `Gpu`, or by its clones, share
    /// pipelines, tuning and workspace: make one `Gpu` for your device and all operators from it.
    ///
    /// ```no_run
    /// # use wgpu_attention::{Attention, AttentionOptions, Error, Gpu, wgpu, cache::{KvCache, KvCacheShape}};
    /// # fn make(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<(Attention, KvCache), Error> {
    /// let gpu = Gpu::from_device(device, queue);
    /// let attention = gpu.attention_operator(&AttentionOptions::default())?;
    /// let shape = KvCacheShape {
    ///     num_kv_heads: 8,
    ///     capacity: 4096,
    ///     head_dim: 64,
    ///     value_dim: 64,
    ///     ..KvCacheShape::default()
    /// };
    /// let cache = gpu.kv_cache(&shape, None)?;
    /// # Ok((attention, cache))
    /// # }
    /// ```
    #[must_use]
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Gpu::from_device`], on no more than `capabilities` of the device: how a device of yours
    /// is used with its [`Matrices`](crate::Matrices).
    #[must_use]
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
    ) -> Self {
        let capabilities = capabilities.granted(device);
        Self { context: Arc::new(Context::new(device, queue, capabilities)), adapter: None }
    }

    /// The same device and pipelines, used as if it could do no more than `capabilities`.
    #[must_use]
    pub fn masked(&self, capabilities: &Capabilities) -> Self {
        let capabilities = self.context.capabilities.masked(capabilities);
        self.remade(capabilities, self.context.pipelines.clone())
    }

    /// The same device with every shader's text changed: how a test breaks a kernel on purpose.
    #[doc(hidden)]
    #[must_use]
    pub fn broken(&self, find: &str, replacement: &str) -> Self {
        let (find, replacement) = (find.to_owned(), replacement.to_owned());
        let edit = Edit(Arc::new(move |text: String| text.replace(&find, &replacement)));
        self.remade(self.context.capabilities, self.context.pipelines.edited(edit))
    }

    /// The same device, used as if it could do as much as `capabilities` say, every shader's text
    /// changed by `rewrite`: how a test emulates what no adapter at hand has.
    #[doc(hidden)]
    #[must_use]
    pub fn emulating(&self, capabilities: Capabilities, rewrite: fn(String) -> String) -> Self {
        self.remade(capabilities, self.context.pipelines.edited(Edit(Arc::new(rewrite))))
    }

    fn remade(&self, capabilities: Capabilities, pipelines: Arc<Pipelines>) -> Self {
        let Context { device, queue, .. } = &*self.context;
        let context = Context::with_pipelines(device, queue, capabilities, pipelines);
        Self { context: Arc::new(context), adapter: self.adapter.clone() }
    }

    /// Another device on the same adapter, used in the same way as far as it can; none where the
    /// adapter is not known or opens no other, or texts were changed.
    pub(crate) fn sibling(&self) -> Option<Self> {
        let adapter = self.adapter.as_ref().filter(|_| !self.context.pipelines.are_edited())?;
        let (device, queue, granted) = pollster::block_on(device::open(adapter)).ok()?;
        let context = Context::new(&device, &queue, self.context.capabilities.masked(&granted));
        Some(Self { context: Arc::new(context), adapter: Some(adapter.clone()) })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.context.device
    }

    /// Whether the device is lost: nothing works on it any more, and a new one has to be opened. It
    /// is asked by a buffer of some bytes; a browser tells nobody but the device's lost callback,
    /// which this library leaves to you.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        lost::is_lost(self.device())
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.context.queue
    }

    /// What the device can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.context.capabilities
    }

    /// Name, backend and driver of the adapter.
    #[must_use]
    pub fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.device().adapter_info()
    }

    /// What has been made so far for this `Gpu` and all that was made from it.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.context.footprint()
    }

    /// Gives back the workspace, which grows to what the largest call so far needed, of all
    /// operators and caches made from this `Gpu`. A call that is bound already, or that the GPU is
    /// still busy with, keeps its own until it is dropped and done.
    pub fn release_workspace(&self) {
        self.context.release_workspace();
    }
}

/// Pipelines of an earlier run.
impl Gpu {
    /// What the driver has compiled for this `Gpu` and its operators so far, for
    /// [`Gpu::with_pipeline_cache`] of a later run to start from: keep it in a file, say. None
    /// where drivers do not tell: it takes Vulkan, and on a device of yours
    /// [`wgpu::Features::PIPELINE_CACHE`]. Mesa's lavapipe gives some 100 bytes that hold nothing:
    /// it compiles when a pipeline first runs ([`Attention::warm_up`](crate::Attention::warm_up))
    /// and keeps a cache on disk by itself.
    #[must_use]
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        self.context.pipelines.cache_data()
    }

    /// The same device, with no pipelines yet, which it compiles from `data` as
    /// [`Gpu::pipeline_cache_data`] gave them.
    ///
    /// Data that were damaged, or come from another adapter or driver, are refused, by a checksum,
    /// and never reach the driver. No checksum holds against those who mean harm: keep data where
    /// others do not write.
    ///
    /// ```
    /// use wgpu_attention::{Gpu, GpuOptions};
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let kept: Vec<u8> = std::fs::read("no such file yet").unwrap_or_default();
    /// let gpu = gpu.with_pipeline_cache(&kept).unwrap_or(gpu);
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for other data, [`Error::Unsupported`] where there is no such cache.
    pub fn with_pipeline_cache(&self, data: &[u8]) -> Result<Self, Error> {
        let pipelines = self.context.pipelines.started_from(data)?;
        Ok(self.remade(self.context.capabilities, pipelines))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::Gpu;
    use crate::device::{Capabilities, GpuOptions};

    /// As if the first device had been granted more.
    #[test]
    fn a_sibling_does_no_more_than_its_own_device_can() {
        let opened = Gpu::open_blocking(&GpuOptions::default()).unwrap();
        let more = Capabilities { buffer_size: u64::MAX, ..*opened.capabilities() };
        let gpu = opened.remade(more, opened.context.pipelines.clone());
        assert_eq!(gpu.sibling().unwrap().capabilities(), opened.capabilities());
    }
}
