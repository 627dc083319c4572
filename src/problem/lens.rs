//! Lengths that a call finds in a buffer: what the host knows of its sequences without them.

use super::options::{Align, AttentionOptions};
use super::shape::AttentionShape;
use crate::error::Error;
use crate::view::length;

/// Lengths `[batch]` that are read when the call runs.
///
/// The problem's offset and band then count without them: if the lengths move them, both are `len`
/// further along the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lens {
    /// Keys that there is room for: a length above it counts as this.
    pub most: u32,
    /// Keys of the whole that lie before the problem's first.
    pub before: u32,
    /// Whether a sequence's end is what offset and band count from.
    pub moves: bool,
}

impl Lens {
    pub(super) fn new(
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Option<Self>, Error> {
        let others =
            [("kv_lens", shape.kv_lens.is_some()), ("cu_seqlens", shape.cu_seqlens.is_some())];
        match others.into_iter().find(|(_, given)| *given) {
            _ if !shape.lens => Ok(None),
            Some((name, _)) => Err(Error::invalid(name, "none beside lens", "one")),
            None => Ok(Some(Self {
                most: length("kv_len", shape.kv_len)?,
                before: 0,
                moves: options.align == Align::BottomRight,
            })),
        }
    }
}

impl AttentionShape {
    /// The same with these lengths in place of those of a buffer, if it has any.
    pub(crate) fn with_lens(&self, lens: Option<&[u32]>) -> Self {
        match lens.filter(|_| self.lens) {
            Some(lens) => Self {
                lens: false,
                kv_lens: Some(lens.iter().map(|&len| len as usize).collect()),
                ..self.clone()
            },
            None => self.clone(),
        }
    }
}
