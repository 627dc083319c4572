//! A part of a problem is a problem: how large calls are cut to fit a device.

use super::{Band, Lens, Problem, Segments, Sequence, View};
use std::ops::Range;

impl Problem {
    /// The same attention for some of the sequences, query heads and queries; of sequences that differ, for all
    /// queries. The heads either are all the heads of some key/value heads, or share one.
    #[must_use]
    pub(crate) fn slice(
        &self,
        batches: Range<u32>,
        heads: Range<u32>,
        queries: Range<u32>,
    ) -> Self {
        let sequences = self
            .sequences
            .as_ref()
            .map(|all| all[batches.start as usize..batches.end as usize].to_vec());
        Self { sequences, pieces: self.pieces.clone(), ..self.cut(batches, heads, queries) }
    }

    /// As [`Problem::slice`], of sequences that do not differ.
    #[must_use]
    pub(super) fn cut(&self, batches: Range<u32>, heads: Range<u32>, queries: Range<u32>) -> Self {
        let group = self.group();
        let kv_heads = heads.start / group..heads.end.div_ceil(group);
        let moved = |view: View, heads: &Range<u32>, rows: &Range<u32>, columns: u32| {
            move_view(view, &batches, heads, rows, columns)
        };
        let keys = 0..self.kv_len;
        let rows = |view: Option<View>, columns| view.map(|v| moved(v, &heads, &queries, columns));
        Self {
            batch: count(&batches),
            num_heads: count(&heads),
            num_kv_heads: count(&kv_heads),
            q_len: count(&queries),
            query: moved(self.query, &heads, &queries, self.head_dim),
            key: self.moved_keys(self.key, &batches, &kv_heads, &keys, self.head_dim),
            value: self.moved_keys(self.value, &batches, &kv_heads, &keys, self.value_dim),
            pages: self.moved_pages(&batches, &keys),
            out: moved(self.out, &heads, &queries, self.value_dim),
            mask: rows(self.mask, self.kv_len),
            bias: rows(self.bias, self.kv_len),
            alibi: self.alibi.map(|v| moved(v, &heads, &(0..1), 1)),
            segments: self.segments.map(|ids| Segments {
                query: moved(ids.query, &(0..1), &queries, 1),
                key: moved(ids.key, &(0..1), &keys, 1),
            }),
            lens: self
                .lens
                .map(|lens| Lens { view: moved(lens.view, &(0..1), &(0..1), 1), ..lens }),
            sinks: self.sinks.map(|v| moved(v, &heads, &(0..1), 1)),
            lse: rows(self.lse, 1),
            weights: rows(self.weights, self.kv_len),
            raw_scores: rows(self.raw_scores, self.kv_len),
            capped_scores: rows(self.capped_scores, self.kv_len),
            masked_scores: rows(self.masked_scores, self.kv_len),
            // Queries count from the slice's first one, so all that counts from a query moves with it.
            offset: self.offset.saturating_add_unsigned(queries.start),
            band: Band {
                lower: self.moved_bound(self.band.lower, &queries),
                upper: self.moved_bound(self.band.upper, &queries),
                ..self.band
            },
            sequences: None,
            pieces: None,
            ..*self
        }
    }

    /// The same attention over some of the keys, from the first of a page on, and without sinks, which join once all parts
    /// are one: what comes of it is a part of the result.
    #[must_use]
    pub(crate) fn keys(&self, keys: Range<u32>) -> Self {
        let batches = 0..self.batch;
        let (heads, kv_heads) = (0..self.num_heads, 0..self.num_kv_heads);
        let queries = 0..self.q_len;
        let rows = |view, columns| self.moved_keys(view, &batches, &kv_heads, &keys, columns);
        let columns = |view: Option<View>| {
            view.map(|view| {
                let moved = View { offset: view.offset + keys.start * view.column, ..view };
                move_view(moved, &batches, &heads, &queries, count(&keys))
            })
        };
        let open = Band::open(self.q_len, count(&keys), self.most_moved());
        let sees = |sequence: Sequence| sequence.at_keys(&keys, open);
        let Sequence { seen_len, offset, band } =
            sees(Sequence { seen_len: self.seen_len, offset: self.offset, band: self.band });
        Self {
            kv_len: count(&keys),
            key: rows(self.key, self.head_dim),
            value: rows(self.value, self.value_dim),
            pages: self.moved_pages(&batches, &keys),
            mask: columns(self.mask),
            bias: columns(self.bias),
            segments: self.segments.map(|ids| Segments {
                key: move_view(ids.key, &batches, &(0..1), &keys, 1),
                ..ids
            }),
            lens: self.lens.map(|lens| Lens { before: lens.before + keys.start, ..lens }),
            sinks: None,
            seen_len,
            offset,
            band,
            sequences: self.sequences.as_ref().map(|all| all.iter().copied().map(sees).collect()),
            ..self.clone()
        }
    }

    /// A bound counted from the slice's first query, open ends clamped to the slice as in `Problem::new`.
    fn moved_bound(&self, bound: i32, queries: &Range<u32>) -> i32 {
        let open = Band::open(count(queries), self.kv_len, self.most_moved());
        open.clamp(bound.saturating_add_unsigned(queries.start))
    }
}

fn count(range: &Range<u32>) -> u32 {
    range.end - range.start
}

pub(crate) fn move_view(
    view: View,
    batches: &Range<u32>,
    heads: &Range<u32>,
    rows: &Range<u32>,
    columns: u32,
) -> View {
    let sizes = [count(batches), count(heads), count(rows), columns];
    if sizes.contains(&0) || view.extent == 0 {
        return view;
    }
    let strides = [view.batch, view.head, view.row, view.column];
    let starts = [batches.start, heads.start, rows.start, 0];
    let offset = view.offset + dot(strides, starts);
    View { offset, extent: offset + dot(strides, sizes.map(|size| size - 1)) + 1, ..view }
}

/// Within the view's extent, which fits u32.
fn dot(strides: [u32; 4], steps: [u32; 4]) -> u32 {
    strides.iter().zip(steps).map(|(stride, step)| stride * step).sum()
}
