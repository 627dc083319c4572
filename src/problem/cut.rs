//! A part of a problem is a problem: how large calls are cut to fit a device.

use super::attention::Problem;
use super::sequences::{Band, Lens, Sequence};
use crate::tensor::{Axis, Tensor};
use crate::view::{count, move_view_along};
use std::ops::Range;

/// What a part has of each axis that a problem can be cut along.
#[derive(Clone)]
pub(super) struct Cut {
    pub(super) batches: Range<u32>,
    /// As batches, or some of the sequences packed into one of these.
    pub(super) sequences: Range<u32>,
    pub(super) heads: Range<u32>,
    pub(super) queries: Range<u32>,
    pub(super) keys: Range<u32>,
}

impl Problem {
    /// The same attention for some of the sequences, query heads and queries; of sequences that
    /// differ, for all queries. The heads either are all the heads of some key/value heads, or
    /// share one.
    #[must_use]
    pub(crate) fn slice(
        &self,
        batches: Range<u32>,
        heads: Range<u32>,
        queries: Range<u32>,
    ) -> Self {
        let own = batches.start as usize..batches.end as usize;
        let sequences = self.sequences.as_ref().map(|all| all[own].to_vec());
        let packed = if self.packed.is_some() { 0..self.sequence_count() } else { batches.clone() };
        let cut = Cut { batches, sequences: packed, heads, queries, ..self.whole() };
        Self { sequences, packed: self.packed.clone(), ..self.cut(&cut) }
    }

    /// The same attention over some of the keys, from the first of a page on, and without what
    /// joins once all of the keys are in: what comes of it is a part of the result.
    #[must_use]
    pub(crate) fn keys(&self, keys: Range<u32>) -> Self {
        let open = Band::open(self.q_len, count(&keys), Lens::most_moved(self.lens));
        let sees = |sequence: Sequence| sequence.part(0, &keys, open);
        let part = self.cut(&Cut { keys: keys.clone(), ..self.whole() });
        let part = Self {
            lens: self.lens.map(|lens| Lens { before: lens.before + keys.start, ..lens }),
            sequences: self.sequences.as_ref().map(|all| all.iter().copied().map(sees).collect()),
            packed: self.packed.clone(),
            ..part.of_keys()
        };
        part.alike(sees(self.shared_sequence()))
    }

    /// All of it.
    pub(super) fn whole(&self) -> Cut {
        Cut {
            batches: 0..self.batch,
            sequences: 0..self.sequence_count(),
            heads: 0..self.num_heads,
            queries: 0..self.q_len,
            keys: 0..self.kv_len,
        }
    }

    /// Some of it, as if sequences did not differ.
    #[must_use]
    pub(super) fn cut(&self, cut: &Cut) -> Self {
        let open = Band::open(count(&cut.queries), self.kv_len, Lens::most_moved(self.lens));
        Self {
            batch: count(&cut.batches),
            num_heads: count(&cut.heads),
            num_kv_heads: count(&self.kv_heads(cut)),
            q_len: count(&cut.queries),
            kv_len: count(&cut.keys),
            views: self.views.map(|tensor, view| move_view_along(view, self.ranges(tensor, cut))),
            sequences: None,
            packed: None,
            ..*self
        }
        .alike(self.shared_sequence().part(cut.queries.start, &(0..self.kv_len), open))
    }

    /// How many elements a tensor has along each axis: 1 where one is repeated.
    pub(super) fn sizes(&self, tensor: Tensor) -> [u32; 4] {
        let view = self.view(tensor).unwrap_or_default();
        let mut sizes = self.ranges(tensor, &self.whole()).map(|range| count(&range));
        for (size, stride) in sizes.iter_mut().zip(view.strides()) {
            *size = if stride == 0 { (*size).min(1) } else { *size };
        }
        sizes
    }

    fn kv_heads(&self, cut: &Cut) -> Range<u32> {
        let group = self.group();
        cut.heads.start / group..cut.heads.end.div_ceil(group)
    }

    /// What a cut has of each axis of a tensor.
    pub(super) fn ranges(&self, tensor: Tensor, cut: &Cut) -> [Range<u32>; 4] {
        tensor.spec().axes.map(|axis| self.range(tensor, axis, cut))
    }

    fn range(&self, tensor: Tensor, axis: Axis, cut: &Cut) -> Range<u32> {
        let pool = self.pages.filter(|_| matches!(tensor, Tensor::Key | Tensor::Value));
        match (axis, self.pages) {
            // Any of the pool's pages may hold any of the keys.
            (Axis::Batch, Some(pages)) if pool.is_some() => 0..pages.count,
            (Axis::Keys, Some(pages)) if pool.is_some() => 0..pages.page_len,
            (Axis::Pages, Some(pages)) => {
                cut.keys.start / pages.page_len..cut.keys.end.div_ceil(pages.page_len)
            }
            (Axis::One | Axis::Pages, _) => 0..1,
            (Axis::Batch, _) => cut.batches.clone(),
            (Axis::Sequences, _) => cut.sequences.clone(),
            (Axis::Heads, _) => cut.heads.clone(),
            (Axis::KvHeads, _) => self.kv_heads(cut),
            (Axis::Queries, _) => cut.queries.clone(),
            (Axis::Keys, _) => cut.keys.clone(),
            (Axis::HeadDim, _) => 0..self.head_dim,
            (Axis::ValueDim, _) => 0..self.value_dim,
        }
    }
}
