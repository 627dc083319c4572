//! What is planned for a sequence without its length is right for every length.

use wgpu_attention::internal::{Band, Sequence};
use wgpu_attention::{Align, AttentionOptions, AttentionShape, CuSeqlens, Problem};

fn shape(q_len: usize, kv_len: usize) -> AttentionShape {
    AttentionShape { q_len, kv_len, ..AttentionShape::new(1, 1, 1, 4) }
}

/// What holds for a sequence whose length a buffer says: what shaders/shared/locate_lens.wgsl
/// computes.
pub(crate) fn sequence_of(p: &Problem, len: u32) -> Sequence {
    let Some(lens) = p.lens else { return p.sequence(0) };
    let len = len.min(lens.most);
    let moved = |bound: i32| bound.saturating_add_unsigned(if lens.moves { len } else { 0 });
    let Sequence { offset, band, .. } = p.sequence(0);
    Sequence {
        seen_len: len.saturating_sub(lens.before).min(p.kv_len),
        offset: moved(offset),
        band: Band { lower: moved(band.lower), upper: moved(band.upper), ..band },
    }
}

#[test]
fn every_length_sees_what_it_would_if_it_were_known() {
    let aligns = [Align::TopLeft, Align::BottomRight, Align::Offset(-3), Align::Offset(12)];
    let windows = [None, Some(0), Some(2), Some(11), Some(usize::MAX)];
    for (q_len, kv_len) in [(1, 9), (4, 9), (12, 5), (3, 0)] {
        for align in aligns {
            for (left, right) in windows.iter().flat_map(|l| windows.iter().map(move |r| (l, r))) {
                for (causal, window_keeps) in [(false, 0), (true, 0), (false, 3), (true, 3)] {
                    let options = AttentionOptions {
                        causal,
                        window_left: *left,
                        window_keeps,
                        window_right: *right,
                        align,
                        ..AttentionOptions::default()
                    };
                    let unknown = AttentionShape { lens: true, ..shape(q_len, kv_len) };
                    let unknown = Problem::new(&unknown, &options).unwrap();
                    for len in 0..=kv_len {
                        let known =
                            AttentionShape { kv_lens: Some(vec![len]), ..shape(q_len, kv_len) };
                        let known = Problem::new(&known, &options).unwrap().sequence(0);
                        let found = sequence_of(&unknown, len as u32);
                        assert_eq!(found.offset, known.offset, "{options:?}, {len}");
                        for (i, j) in (0..q_len).flat_map(|i| (0..kv_len).map(move |j| (i, j))) {
                            let what = format!("{options:?}, {len} keys: query {i}, key {j}");
                            assert_eq!(found.contains(i, j), known.contains(i, j), "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn lengths_come_from_one_place() {
    let options = AttentionOptions::default();
    let shape = AttentionShape { lens: true, ..shape(2, 3) };
    let cu_seqlens = Some(CuSeqlens { query: vec![0, 2], key: vec![0, 3] });
    for (shape, says) in [
        (AttentionShape { kv_lens: Some(vec![2]), ..shape.clone() }, "kv_lens"),
        (AttentionShape { cu_seqlens, ..shape }, "cu_seqlens"),
    ] {
        let refused = Problem::new(&shape, &options).unwrap_err().to_string();
        assert_eq!(refused, format!("{says}: expected none beside lens, found one"));
    }
}
