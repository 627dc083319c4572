//! What operations other than attention share: from planned launches and the caller's buffers to steps.

use super::attention::check_buffer;
use crate::context::{Context, Step};
use crate::device::Capabilities;
use crate::error::Error;
use crate::plan::Launch;

/// The launches with the buffers that `find` has for their tensors; a tensor without one gets a dummy.
pub(super) fn steps<'a, T: Copy>(
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

/// Bytes of the first `extent` elements, so many of them in a word.
pub(super) fn bytes(extent: u32, per_word: u32) -> u64 {
    u64::from(extent.div_ceil(per_word)) * 4
}
