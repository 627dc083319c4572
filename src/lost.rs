//! Telling that a device is lost.
//!
//! wgpu keeps a loss from error scopes: what is made then is merely not valid, and says so of
//! itself once it is used. It tells the device's lost callback, but that is the application's.

use crate::error::{Error, LOST};
use crate::scope::{if_ready, scoped};

/// Whether nothing can be made on a device any more. A browser does not tell.
pub(crate) fn is_lost(device: &wgpu::Device) -> bool {
    let descriptor = wgpu::BufferDescriptor {
        label: Some("wgpu-attention probe"),
        size: wgpu::MAP_ALIGNMENT,
        usage: wgpu::BufferUsages::MAP_WRITE,
        mapped_at_creation: true,
    };
    let (is_mapped, error) =
        scoped(device, || device.create_buffer(&descriptor).get_mapped_range(..).is_ok());
    // A device without memory left says so.
    !is_mapped && if_ready(error).flatten().is_none()
}

/// Refuses to go on with a device that is lost.
pub(crate) fn check(device: &wgpu::Device, action: &'static str) -> Result<(), Error> {
    if is_lost(device) {
        return Err(Error::Device { action, message: LOST.to_owned() });
    }
    Ok(())
}

/// Runs what `action` names. What the device says against it at once, as it does on native, is an
/// error.
pub(crate) fn attempt<T>(
    device: &wgpu::Device,
    action: &'static str,
    run: impl FnOnce() -> T,
) -> Result<T, Error> {
    let (result, error) = scoped(device, run);
    match if_ready(error).flatten() {
        None => Ok(result),
        Some(message) => Err(failed(device, action, message)),
    }
}

/// What a device says of `action`, unless it says so because it is lost.
pub(crate) fn failed(device: &wgpu::Device, action: &'static str, message: impl ToString) -> Error {
    let lost = check(device, action).err();
    lost.unwrap_or_else(|| Error::Device { action, message: message.to_string() })
}
