//! Lengths that a call finds in a buffer: what the host knows of its sequences without them.

use super::{Align, AttentionOptions, AttentionShape, Problem, Sequence, length};
use crate::error::Error;

/// Lengths `[batch]` that are read when the call runs.
///
/// The problem's offset and band then count without them: if the lengths move them, both are `len` further along the keys.
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

impl Problem {
    /// How far lengths that are not known yet may move offset and band.
    pub(super) fn most_moved(&self) -> u32 {
        self.lens.filter(|lens| lens.moves).map_or(0, |lens| lens.most)
    }

    /// What holds for a sequence whose length a buffer says: what shaders/shared/locate_lens.wgsl computes.
    #[must_use]
    pub fn sequence_of(&self, len: u32) -> Sequence {
        let Some(lens) = self.lens else { return self.sequence(0) };
        let len = len.min(lens.most);
        let moved = |bound: i32| bound.saturating_add_unsigned(if lens.moves { len } else { 0 });
        let Sequence { offset, band, .. } = self.sequence(0);
        Sequence {
            seen_len: len.saturating_sub(lens.before).min(self.kv_len),
            offset: moved(offset),
            band: super::Band { lower: moved(band.lower), upper: moved(band.upper), ..band },
        }
    }
}
