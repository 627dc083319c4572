//! The device under the clock, and its faults.

use std::sync::{Arc, Mutex, PoisonError};
use wgpu_attention::check::Stopwatch;
use wgpu_attention::{Error, Gpu, wgpu};

/// A device whose errors are kept instead of ending the process, as is wgpu's default.
pub(super) struct Device<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) stopwatch: Stopwatch<'a>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    /// What wgpu refused since somebody last looked.
    refused: Option<String>,
    lost: Option<String>,
}

impl<'a> Device<'a> {
    pub(super) fn new(gpu: &'a Gpu) -> Result<Self, Error> {
        let device = gpu.device();
        let faults = Arc::new(Mutex::new(Faults::default()));
        let kept = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&kept).refused.get_or_insert(error.to_string());
        }));
        let kept = faults.clone();
        device.set_device_lost_callback(move |_, message| {
            lock(&kept).lost.get_or_insert(message);
        });
        Ok(Self { gpu, stopwatch: Stopwatch::new(gpu)?, faults })
    }

    /// Why the device is gone, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        // wgpu says so only to those who poll.
        let _ = self.gpu.device().poll(wgpu::PollType::Poll);
        lock(&self.faults).lost.clone()
    }

    /// `action`, unless wgpu refused any of it.
    pub(super) fn tried<T>(
        &self,
        what: &'static str,
        action: impl FnOnce() -> T,
    ) -> Result<T, Error> {
        let done = action();
        match lock(&self.faults).refused.take() {
            None => Ok(done),
            Some(message) => Err(Error::Device { action: what, message }),
        }
    }

    /// A buffer for shaders, of this size and as yet of zeros.
    pub(super) fn buffer(&self, label: &'static str, size: u64) -> Result<wgpu::Buffer, Error> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::UNIFORM | Usage::COPY_DST;
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.tried("allocating a buffer", || self.gpu.device().create_buffer(&descriptor))
    }
}

fn lock(faults: &Mutex<Faults>) -> std::sync::MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
