//! The device under the clock: its buffers, its faults, its time.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;
use wgpu_attention::{Error, Gpu, wgpu};

/// A device whose errors are kept instead of ending the process, as is wgpu's default.
pub(super) struct Device<'a> {
    pub(super) gpu: &'a Gpu,
    queries: Option<Queries>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    /// What wgpu refused since somebody last looked.
    refused: Option<String>,
    lost: Option<String>,
}

/// Two timestamps, and the way they come back.
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
    /// Seconds of one tick.
    tick: f64,
}

/// How long one submission took, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lap {
    /// From recording to the end of waiting.
    pub(super) host: f64,
    /// Between the GPU's own timestamps.
    pub(super) gpu: Option<f64>,
}

const STAMPS: u64 = 2 * wgpu::QUERY_SIZE as u64;

impl<'a> Device<'a> {
    pub(super) fn new(gpu: &'a Gpu) -> Self {
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
        let queries = gpu.capabilities().timestamps.then(|| {
            let create = |usage| {
                let descriptor = wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: STAMPS,
                    usage,
                    mapped_at_creation: false,
                };
                device.create_buffer(&descriptor)
            };
            Queries {
                set: device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: create(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
                read: create(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
                tick: f64::from(gpu.queue().get_timestamp_period()) * 1e-9,
            }
        });
        Self { gpu, queries, faults }
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

    /// A buffer with these bytes in it, for shaders.
    pub(super) fn upload(
        &self,
        label: &'static str,
        contents: &[u8],
    ) -> Result<wgpu::Buffer, Error> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM;
        let usage = usage | wgpu::BufferUsages::COPY_SRC;
        let buffer = self.create(label, contents.len() as u64, usage, true)?;
        // Of a device that is lost the buffer has nothing to write to.
        let filled = self.tried("uploading", || {
            buffer.get_mapped_range_mut(..)?.slice(..contents.len()).copy_from_slice(contents);
            buffer.unmap();
            Ok::<_, wgpu::MapRangeError>(())
        })?;
        let failed = |error: wgpu::MapRangeError| Error::Device {
            action: "uploading",
            message: error.to_string(),
        };
        filled.map(|()| buffer).map_err(failed)
    }

    /// A buffer for a kernel to write: NaN of every type, so that what is never written cannot pass.
    pub(super) fn unwritten(
        &self,
        label: &'static str,
        size: usize,
    ) -> Result<wgpu::Buffer, Error> {
        self.upload(label, &vec![0xff; size])
    }

    /// A storage buffer that can be copied from and to.
    pub(super) fn storage(&self, label: &'static str, size: u64) -> Result<wgpu::Buffer, Error> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        self.create(label, size, usage | wgpu::BufferUsages::COPY_DST, false)
    }

    fn create(
        &self,
        label: &'static str,
        size: u64,
        usage: wgpu::BufferUsages,
        mapped_at_creation: bool,
    ) -> Result<wgpu::Buffer, Error> {
        let most = self.gpu.capabilities().buffer_size;
        if size > most {
            return Err(Error::Unsupported {
                what: "bytes of one buffer",
                expected: format!("at least {size} for {label}"),
                found: most.to_string(),
            });
        }
        let size = size.next_multiple_of(4).max(4);
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
        self.tried("allocating a buffer", || self.gpu.device().create_buffer(&descriptor))
    }

    /// The bytes of a buffer.
    pub(super) fn download(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, Error> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let copy = self.create("read back", buffer.size(), usage, false)?;
        self.submit(&mut |encoder| {
            encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
            Ok(())
        })?;
        self.read(&copy)
    }

    /// Records, submits and waits.
    pub(super) fn submit(&self, record: &mut Recorder<'_>) -> Result<(), Error> {
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder)?;
        self.tried("submitting", || self.gpu.queue().submit([encoder.finish()]))?;
        self.wait()
    }

    /// As [`submit`](Self::submit), under the clock.
    pub(super) fn lap(&self, record: &mut Recorder<'_>) -> Result<Lap, Error> {
        let start = Instant::now();
        self.submit(&mut |encoder| {
            self.stamp(encoder, Some(0), None);
            record(encoder)?;
            self.stamp(encoder, None, Some(1));
            if let Some(Queries { set, resolved, read, .. }) = &self.queries {
                encoder.resolve_query_set(set, 0..2, resolved, 0);
                encoder.copy_buffer_to_buffer(resolved, 0, read, 0, STAMPS);
            }
            Ok(())
        })?;
        let host = start.elapsed().as_secs_f64();
        let mut gpu = None;
        if let Some(Queries { read, tick, .. }) = &self.queries {
            let bytes = self.read(read)?;
            let stamps: &[[u8; 8]] = bytes.as_chunks().0;
            if let [start, end] = *stamps {
                let ticks = u64::from_le_bytes(end).checked_sub(u64::from_le_bytes(start));
                // A driver whose clock says more than ours, or nothing at all, is not believed.
                let seconds = ticks.map(|ticks| ticks as f64 * tick);
                gpu = seconds.filter(|&seconds| seconds > 0.0 && seconds <= 1.02 * host);
            }
        }
        Ok(Lap { host, gpu })
    }

    /// An empty pass that writes timestamps: what is recorded between two of them needs to know nothing of it.
    fn stamp(&self, encoder: &mut wgpu::CommandEncoder, begin: Option<u32>, end: Option<u32>) {
        let Some(Queries { set, .. }) = &self.queries else { return };
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("timestamp"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: begin,
                end_of_pass_write_index: end,
            }),
        });
    }

    fn wait(&self) -> Result<(), Error> {
        let poll = || self.gpu.device().poll(wgpu::PollType::wait_indefinitely());
        match self.tried("waiting", poll)? {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Device { action: "waiting", message: error.to_string() }),
        }
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, Error> {
        let failed = |message| Error::Device { action: "reading back", message };
        let (sender, receiver) = mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        self.wait()?;
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(error) => return Err(failed(error.to_string())),
        }
        let mapped = buffer.get_mapped_range(..).map_err(|error| failed(error.to_string()))?;
        let bytes = mapped.to_vec();
        drop(mapped);
        buffer.unmap();
        Ok(bytes)
    }
}

/// What records commands into an encoder.
pub(super) type Recorder<'r> = dyn FnMut(&mut wgpu::CommandEncoder) -> Result<(), Error> + 'r;

fn lock(faults: &Mutex<Faults>) -> std::sync::MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
