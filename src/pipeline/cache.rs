//! A driver's compiled code, as bytes that outlive the program.

use crate::scope::{if_ready, scoped};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of the checksum that stands before the driver's own.
const CHECKSUM: usize = size_of::<u64>();

/// The driver's bytes behind a checksum over them and the adapter.
pub(super) fn seal(adapter: &wgpu::AdapterInfo, data: &[u8]) -> Vec<u8> {
    [&checksum(adapter, data).to_le_bytes()[..], data].concat()
}

/// The driver's bytes, if they were sealed so on this adapter and driver.
pub(super) fn unseal<'a>(adapter: &wgpu::AdapterInfo, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, data) = sealed.split_first_chunk::<CHECKSUM>()?;
    (u64::from_le_bytes(*sum) == checksum(adapter, data)).then_some(data)
}

/// None where the device has no such thing.
pub(super) fn create(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let label = Some("wgpu-attention");
    let descriptor = wgpu::PipelineCacheDescriptor { label, data, fallback: true };
    // SAFETY: data come from `get_data`: the checksum over them and the adapter, made then, was
    // found right. A driver that has changed since is told by wgpu from its key in the data, and
    // then begins anew.
    let (cache, error) = scoped(device, || unsafe { device.create_pipeline_cache(&descriptor) });
    if_ready(error).flatten().is_none().then_some(cache)
}

/// The checksum of the data and of their adapter. It differs between versions of Rust too: then the
/// data are refused, and everything is compiled anew.
fn checksum(adapter: &wgpu::AdapterInfo, data: &[u8]) -> u64 {
    let wgpu::AdapterInfo { name, vendor, device, driver, driver_info, backend, .. } = adapter;
    let mut hasher = DefaultHasher::new();
    (name, vendor, device, driver, driver_info, backend, data).hash(&mut hasher);
    hasher.finish()
}
