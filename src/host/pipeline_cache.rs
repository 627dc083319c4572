//! Pipelines of an earlier run.

use super::Gpu;
use crate::error::Error;
use std::sync::Arc;

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
        Ok(self.remade(self.context.capabilities, Arc::new(pipelines)))
    }
}
