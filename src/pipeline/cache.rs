//! What a driver has compiled, as bytes that outlive the program.

use super::{Pipelines, if_ready, scoped};
use crate::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

/// Bytes of the checksum that stands before the driver's own.
const CHECKSUM: usize = size_of::<u64>();

impl Pipelines {
    /// All that has been compiled so far, if this device can tell.
    pub(crate) fn cache_data(&self) -> Option<Vec<u8>> {
        let data = self.cache.as_ref()?.get_data()?;
        let checksum = checksum(&self.device.adapter_info(), &data);
        Some([&checksum.to_le_bytes()[..], &data].concat())
    }

    /// The same texts, of which none is compiled yet, starting from what was compiled before.
    pub(crate) fn started_from(&self, sealed: &[u8]) -> Result<Self, Error> {
        if self.cache.is_none() {
            let (expected, found) = ("Vulkan, and Features::PIPELINE_CACHE", "none".to_owned());
            return Err(Error::Unsupported {
                what: "pipeline cache",
                expected: expected.to_owned(),
                found,
            });
        }
        let data = sealed.split_first_chunk::<CHECKSUM>().filter(|(sum, data)| {
            u64::from_le_bytes(**sum) == checksum(&self.device.adapter_info(), data)
        });
        let Some((_, data)) = data else {
            let expected = "what pipeline_cache_data gave on this adapter and driver";
            return Err(Error::invalid("data", expected, format!("{} other bytes", sealed.len())));
        };
        let cache = create(&self.device, Some(data));
        let edited = match &self.edited {
            Some((edit, plain)) => Some((edit.clone(), Arc::new(plain.started_from(sealed)?))),
            None => None,
        };
        Ok(Self { device: self.device.clone(), edited, cache, places: Mutex::default() })
    }
}

/// None where the device has no such thing.
pub(super) fn create(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let label = Some("wgpu-attention");
    let descriptor = wgpu::PipelineCacheDescriptor { label, data, fallback: true };
    // SAFETY: data come from `get_data`: the checksum over them and the adapter, made then, was found right. A driver
    // that has changed since is told by wgpu from its key in the data, and then begins anew.
    let (cache, error) = scoped(device, || unsafe { device.create_pipeline_cache(&descriptor) });
    if_ready(error).flatten().is_none().then_some(cache)
}

/// Of the data, and of the adapter they are for. It differs between versions of Rust too: then nothing is found right, and
/// compiled anew.
fn checksum(adapter: &wgpu::AdapterInfo, data: &[u8]) -> u64 {
    let wgpu::AdapterInfo { name, vendor, device, driver, driver_info, backend, .. } = adapter;
    let mut hasher = DefaultHasher::new();
    (name, vendor, device, driver, driver_info, backend, data).hash(&mut hasher);
    hasher.finish()
}
