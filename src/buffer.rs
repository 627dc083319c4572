//! BACK: slices into buffers, buffers into vectors.

use crate::error::Error;
use crate::lost;
use crate::tensor::Tensor;
use futures_intrusive::channel::shared::oneshot_channel;

/// What shaders use and what can be downloaded.
pub(crate) const READABLE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC);

const ALLOCATING: &str = "allocating a buffer";
const UPLOADING: &str = "uploading";
const READING: &str = "reading back";

/// Where a tensor lies on the device, in bytes: a buffer, or a slice of one.
///
/// Both `&buffer` and `buffer.slice(..)` turn into one by `into()`. A slice begins at a multiple of
/// the device's `min_storage_buffer_offset_alignment`, 256 bytes on most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferRange<'a> {
    pub(crate) buffer: &'a wgpu::Buffer,
    /// First byte.
    pub(crate) offset: u64,
    /// Number of bytes.
    pub(crate) size: u64,
}

impl<'a> BufferRange<'a> {
    /// The whole buffer.
    #[must_use]
    pub fn buffer(&self) -> &'a wgpu::Buffer {
        self.buffer
    }
}

impl<'a> From<&'a wgpu::Buffer> for BufferRange<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0, size: buffer.size() }
    }
}

impl<'a> From<wgpu::BufferSlice<'a>> for BufferRange<'a> {
    fn from(slice: wgpu::BufferSlice<'a>) -> Self {
        Self { buffer: slice.buffer(), offset: slice.offset(), size: slice.size() }
    }
}

/// A layer's parameters on the device.
#[derive(Clone, Debug)]
pub(crate) struct Parameters(Vec<(Tensor, wgpu::Buffer)>);

impl Parameters {
    /// Uploads the parameters that are given, each with its name.
    pub(crate) fn upload(
        device: &wgpu::Device,
        given: &[(Tensor, &'static str, Option<&[f32]>)],
    ) -> Result<Self, Error> {
        let given = given.iter().filter_map(|&(tensor, name, slice)| Some((tensor, name, slice?)));
        let buffers = given.map(|(tensor, name, slice)| {
            Ok((tensor, upload(device, name, bytemuck::cast_slice(slice))?))
        });
        buffers.collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn get(&self, tensor: Tensor) -> Option<&wgpu::Buffer> {
        self.0.iter().find(|(own, _)| *own == tensor).map(|(_, buffer)| buffer)
    }
}

/// A storage buffer holding `data`, which can be downloaded again; an empty one still has a size
/// that can be bound.
pub(crate) fn upload(
    device: &wgpu::Device,
    label: &'static str,
    data: &[u8],
) -> Result<wgpu::Buffer, Error> {
    let size = padded(data.len() as u64);
    let buffer = create(device, label, size, READABLE, true)?;
    let filled = lost::attempt(device, UPLOADING, || {
        if !data.is_empty() {
            buffer.get_mapped_range_mut(..)?.slice(..data.len()).copy_from_slice(data);
        }
        buffer.unmap();
        Ok::<_, wgpu::MapRangeError>(())
    })?;
    // Nothing is mapped once the device is lost.
    filled.map_err(|error| lost::failed(device, UPLOADING, error))?;
    Ok(buffer)
}

/// A storage buffer of at least `bytes` that can be downloaded.
pub(crate) fn output(
    device: &wgpu::Device,
    label: &'static str,
    bytes: u64,
) -> Result<wgpu::Buffer, Error> {
    create(device, label, padded(bytes), READABLE, false)
}

/// Submits, and maps copies of `buffers`, all with one wait. On native the wait blocks, as nothing
/// else would poll the device.
pub(crate) async fn download(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    mut encoder: wgpu::CommandEncoder,
    buffers: &[&wgpu::Buffer],
) -> Result<Vec<Mapped>, Error> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let mut staging = Vec::new();
    for buffer in buffers {
        let copy = create(device, "wgpu-attention download", buffer.size(), usage, false)?;
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        staging.push(copy);
    }
    let (index, receivers) = lost::attempt(device, "submitting", || {
        let index = queue.submit([encoder.finish()]);
        let receiver = |copy: &wgpu::Buffer| {
            let (sender, receiver) = oneshot_channel();
            copy.map_async(wgpu::MapMode::Read, .., move |result| {
                // The receiver is gone only if the caller dropped the future.
                let _ = sender.send(result);
            });
            receiver
        };
        (index, staging.iter().map(receiver).collect::<Vec<_>>())
    })?;
    device
        .poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None })
        .map_err(|error| lost::failed(device, READING, error))?;
    for receiver in receivers {
        match receiver.receive().await {
            Some(result) => result.map_err(|error| lost::failed(device, READING, error))?,
            None => return Err(lost::failed(device, READING, "wgpu dropped the mapping")),
        }
    }
    Ok(staging.into_iter().map(|buffer| Mapped { device: device.clone(), buffer }).collect())
}

/// A buffer that can be read from the host.
pub(crate) struct Mapped {
    device: wgpu::Device,
    buffer: wgpu::Buffer,
}

/// The first `len` elements of a buffer.
pub(crate) fn read<T: bytemuck::Pod>(mapped: &Mapped, len: usize) -> Result<Vec<T>, Error> {
    let Mapped { device, buffer } = mapped;
    let failed = |error| lost::failed(device, READING, error);
    let bytes = buffer.get_mapped_range(..).map_err(failed)?;
    Ok(bytemuck::cast_slice(&bytes)[..len].to_vec())
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(4).max(4)
}

pub(crate) fn create(
    device: &wgpu::Device,
    label: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer, Error> {
    let most = device.limits().max_buffer_size;
    if size > most {
        return Err(Error::Unsupported {
            what: "bytes of one buffer",
            expected: format!("at least {size} for {label}"),
            found: most.to_string(),
        });
    }
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
    let buffer = lost::attempt(device, ALLOCATING, || device.create_buffer(&descriptor))?;
    lost::check(device, ALLOCATING).map(|()| buffer)
}
