//! What operations other than attention share: from planned launches and the caller's buffers to steps.

use crate::context::{Context, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::Launch;

/// The launches with the buffers that `find` has for their tensors; a tensor without one gets a dummy.
pub(crate) fn steps<'a, T: Copy>(
    launches: &'a [Launch<T>],
    find: impl Fn(T) -> Option<wgpu::Buffer>,
) -> Vec<Step<'a>> {
    let step = |launch: &'a Launch<T>| Step {
        variant: &launch.variant,
        params: &launch.params,
        buffers: launch
            .bound
            .iter()
            .filter_map(|&(number, tensor, window)| Some((number, find(tensor)?, window)))
            .collect(),
        grid: launch.grid,
        table: &[],
    };
    launches.iter().map(step).collect()
}

/// Refuses a plan that was made for what another device can do, or for less of this one. Plans are plain data: what two devices
/// can do alike is planned alike.
pub(super) fn check_plan(planned: &Capabilities, context: &Context) -> Result<(), Error> {
    if *planned == context.capabilities {
        return Ok(());
    }
    Err(Error::invalid("plan", "a plan for this operator's capabilities", "one for others"))
}

/// A buffer that a call has or not: its name, the bytes it needs if it has it, and what was given.
pub(super) type Given<'a> = (&'static str, Option<u64>, Option<&'a wgpu::Buffer>);

/// Refuses buffers that are missing, not wanted, too small or without the STORAGE usage, and an output that is also
/// something else.
pub(super) fn check_buffers(inputs: &[Given<'_>], outputs: &[Given<'_>]) -> Result<(), Error> {
    let mut earlier: Vec<(&str, &wgpu::Buffer)> = Vec::new();
    for (index, &(name, bytes, buffer)) in inputs.iter().chain(outputs).enumerate() {
        let Some(buffer) = check_buffer(name, bytes, buffer)? else { continue };
        let is_output = index >= inputs.len();
        if let Some((other, _)) = earlier.iter().find(|(_, other)| is_output && *other == buffer) {
            return Err(Error::invalid(name, "a buffer of its own", format!("that of {other}")));
        }
        earlier.push((name, buffer));
    }
    Ok(())
}

/// The buffer, if a call has it, that is large enough and of the right usage.
pub(crate) fn check_buffer<'a>(
    name: &'static str,
    bytes: Option<u64>,
    buffer: Option<&'a wgpu::Buffer>,
) -> Result<Option<&'a wgpu::Buffer>, Error> {
    let (bytes, buffer) = match (bytes, buffer) {
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(Error::invalid(name, "a buffer, as the shape has one", "none"));
        }
        (None, Some(_)) => {
            return Err(Error::invalid(name, "none, as the shape has none", "a buffer"));
        }
        (Some(bytes), Some(buffer)) => (bytes, buffer),
    };
    if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        let found = format!("{:?}", buffer.usage());
        return Err(Error::invalid(name, "a buffer with usage STORAGE", found));
    }
    if buffer.size() < bytes {
        let expected = format!("a buffer of at least {bytes} bytes");
        return Err(Error::invalid(name, expected, format!("{} bytes", buffer.size())));
    }
    Ok(Some(buffer))
}

/// Bytes of the first `extent` elements, so many of them in a word.
pub(super) fn bytes(extent: u32, per_word: u32) -> u64 {
    u64::from(extent.div_ceil(per_word)) * 4
}
