//! What a plan of any operation comes to: the tensors that its caller gives, and dispatches in
//! order.

use super::dispatch::Dispatch;
use super::variant::{Entry, Variant};
use crate::buffer::BufferRange;
use crate::device::Capabilities;
use crate::error::Error;
use crate::tensor::{Given, Tensor};

/// Everything that binding and recording need to know; plain data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    /// The device it was made for.
    pub(crate) capabilities: Capabilities,
    /// What its caller gives.
    pub(crate) given: Vec<Given>,
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Program {
    /// Refuses what needs a larger buffer than the device has.
    pub(crate) fn new(
        capabilities: &Capabilities,
        given: impl IntoIterator<Item = Given>,
        dispatches: Vec<Dispatch>,
    ) -> Result<Self, Error> {
        let largest = Tensor::OWN.into_iter().map(|own| bytes(&dispatches, own)).max();
        let (largest, most) = (largest.unwrap_or_default(), capabilities.buffer_size);
        if largest > most {
            return Err(Error::unsupported("bytes of one buffer", largest, most));
        }
        let given = given.into_iter().collect();
        Ok(Self { capabilities: *capabilities, given, dispatches })
    }

    /// Its dispatches with other tensors in place of some: how an operation becomes a step of
    /// another.
    pub(crate) fn renamed(self, name: impl Fn(Tensor) -> Tensor) -> Vec<Dispatch> {
        let mut dispatches = self.dispatches;
        for bound in dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bound) {
            bound.tensor = name(bound.tensor);
        }
        dispatches
    }

    /// The shaders it runs, each once.
    pub(crate) fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<Variant> =
            self.dispatches.iter().map(|dispatch| dispatch.variant.clone()).collect();
        variants.sort_unstable();
        variants.dedup();
        variants
    }

    /// Refuses buffers that are missing, not wanted, too small or without a usage that they need,
    /// and an output that shares bytes with something else; `exactly` also those that are larger
    /// than their tensor.
    pub(crate) fn check_buffers<'b>(
        &self,
        find: impl Fn(Tensor) -> Option<BufferRange<'b>>,
        alignment: u32,
        exactly: bool,
    ) -> Result<(), Error> {
        let mut earlier: Vec<(&str, BufferRange<'_>)> = Vec::new();
        for given in &self.given {
            let Given { name, tensor, is_output, .. } = *given;
            let Some(range) = check_buffer(given, find(tensor), alignment, exactly)? else {
                continue;
            };
            let shares = |(_, other): &&(&str, BufferRange<'_>)| other.buffer == range.buffer;
            if let Some((other, _)) = earlier.iter().find(shares).filter(|_| is_output) {
                let found = format!("that of {other}");
                return Err(Error::invalid(name, "a buffer of its own", found));
            }
            earlier.push((name, range));
        }
        Ok(())
    }

    /// Whether rows share words, and so are written somewhere else first.
    pub(crate) fn packs(&self) -> bool {
        self.dispatches.iter().any(|dispatch| dispatch.variant.entry == Entry::Pack)
    }

    /// Bytes of the operator's own buffers.
    pub(crate) fn workspace(&self) -> u64 {
        Tensor::OWN.into_iter().map(|own| bytes(&self.dispatches, own)).sum()
    }
}

/// Bytes of a buffer that holds all that is bound of a tensor.
pub(crate) fn bytes(dispatches: &[Dispatch], tensor: Tensor) -> u64 {
    let bound = dispatches.iter().flat_map(|dispatch| &dispatch.bound);
    let ends = bound
        .filter(|bound| bound.tensor == tensor)
        .map(|bound| bound.window.start + bound.window.size);
    ends.max().unwrap_or_default()
}

/// The buffer that is given for a tensor, if the call has both.
pub(crate) fn check_buffer<'b>(
    given: &Given,
    range: Option<BufferRange<'b>>,
    alignment: u32,
    exactly: bool,
) -> Result<Option<BufferRange<'b>>, Error> {
    let refuse = |expected: &str, found: &str| Err(Error::invalid(given.name, expected, found));
    let (bytes, range) = match (given.bytes(), range) {
        (None, None) => return Ok(None),
        (Some(_), None) => return refuse("a buffer, as the shape has one", "none"),
        (None, Some(_)) => return refuse("none, as the shape has none", "a buffer"),
        (Some(bytes), Some(range)) => (bytes, range),
    };
    let usage = range.buffer.usage();
    if !usage.contains(wgpu::BufferUsages::STORAGE) {
        return refuse("a buffer with usage STORAGE", &format!("{usage:?}"));
    }
    if !range.offset.is_multiple_of(alignment.into()) {
        let expected = format!("a slice from a multiple of {alignment} bytes on");
        return refuse(&expected, &format!("from byte {}", range.offset));
    }
    if range.size < bytes || exactly && bytes > 0 && range.size != bytes {
        let how = if exactly { "exactly" } else { "at least" };
        let what = match given.shape {
            Some((of, [batch, heads, rows, columns])) => {
                format!("{of} [{batch}, {heads}, {rows}, {columns}]")
            }
            None => format!("{} elements of {} bits", given.len(), 32 / given.per_word),
        };
        let expected = format!("a buffer of {how} {bytes} bytes for {what}");
        return refuse(&expected, &format!("{} bytes", range.size));
    }
    Ok(Some(range))
}
