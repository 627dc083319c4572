//! What a call may say, and what it is told if it says it wrong.

use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, BroadcastStrides, Error,
    Inputs, Layout, Problem, Strides, cpu,
};

/// One sequence, four query heads on two key/value heads, three queries, five keys.
fn small() -> AttentionShape {
    AttentionShape { num_kv_heads: 2, kv_len: 5, ..AttentionShape::new(1, 4, 3, 2) }
}

fn plain() -> AttentionOptions {
    AttentionOptions::default()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, message: &str) {
    let error = result.unwrap_err();
    assert!(error.is_invalid());
    assert_eq!(error.to_string(), message);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let base = small();
    for (shape, message) in [
        (
            AttentionShape { num_heads: 0, ..base.clone() },
            "num_heads: expected at least 1, found 0",
        ),
        (
            AttentionShape { num_kv_heads: 0, ..base.clone() },
            "num_kv_heads: expected at least 1, found 0",
        ),
        (AttentionShape { head_dim: 0, ..base.clone() }, "head_dim: expected at least 1, found 0"),
        (
            AttentionShape { value_dim: 0, ..base.clone() },
            "value_dim: expected at least 1, found 0",
        ),
        (
            AttentionShape { num_kv_heads: 3, ..base.clone() },
            "num_kv_heads: expected a divisor of num_heads = 4, found 3",
        ),
        (
            AttentionShape { num_kv_heads: 8, ..base.clone() },
            "num_kv_heads: expected a divisor of num_heads = 4, found 8",
        ),
        (
            AttentionShape { kv_len: (1 << 30) + 1, ..base.clone() },
            "kv_len: expected at most 2^30, found 1073741825",
        ),
        (
            AttentionShape { q_len: usize::MAX, ..base.clone() },
            "q_len: expected at most 2^30, found 18446744073709551615",
        ),
        (
            AttentionShape { q_len: usize::MAX, kv_len: 0, ..base.clone() },
            "q_len: expected at most 2^30, found 18446744073709551615",
        ),
        (
            AttentionShape { q_len: 1 << 63, ..base },
            "q_len: expected at most 2^30, found 9223372036854775808",
        ),
    ] {
        assert_refused(Problem::new(&shape, &plain()), message);
        assert_refused(cpu::attention(&shape, &plain(), &Inputs::<f32>::default()), message);
        assert_refused(
            cpu::attention_rounded::<f32>(&shape, &plain(), &Inputs::default()),
            message,
        );
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let scale = |scale| AttentionOptions { scale: Some(scale), ..plain() };
    let softcap = |softcap| AttentionOptions { softcap: Some(softcap), ..plain() };
    let align = |offset| AttentionOptions { align: Align::Offset(offset), ..plain() };
    for (options, message) in [
        (scale(f32::NAN), "scale: expected a finite number, found NaN"),
        (scale(f32::INFINITY), "scale: expected a finite number, found inf"),
        (softcap(0.0), "softcap: expected a finite number above 0, found 0"),
        (softcap(-1.0), "softcap: expected a finite number above 0, found -1"),
        (softcap(f32::NAN), "softcap: expected a finite number above 0, found NaN"),
        (softcap(f32::INFINITY), "softcap: expected a finite number above 0, found inf"),
        (align((1 << 30) + 1), "align: expected an offset within 2^30 of 0, found 1073741825"),
        (align(i64::MIN), "align: expected an offset within 2^30 of 0, found -9223372036854775808"),
    ] {
        assert_refused(Problem::new(&small(), &options), message);
    }
    for options in [scale(0.0), scale(-1.0), align(1 << 30), align(-(1 << 30))] {
        assert!(Problem::new(&small(), &options).is_ok(), "{options:?}");
    }
}

#[test]
fn masks_and_biases_that_do_not_broadcast_are_refused() {
    let layout = Some(BroadcastLayout::Sizes([1, 3, 3, 5]));
    let expected = "expected a shape that broadcasts to [1, 4, 3, 5], found [1, 3, 3, 5]";
    let shape = AttentionShape { mask: layout, ..small() };
    assert_refused(Problem::new(&shape, &plain()), &format!("mask: {expected}"));
    let shape = AttentionShape { bias: layout, ..small() };
    assert_refused(Problem::new(&shape, &plain()), &format!("bias: {expected}"));
    assert_refused(
        BroadcastLayout::from_dims("mask", &[]),
        "mask: expected 1 to 4 dimensions, found []",
    );
    assert_refused(
        BroadcastLayout::from_dims("bias", &[1; 5]),
        "bias: expected 1 to 4 dimensions, found [1, 1, 1, 1, 1]",
    );
}

#[test]
fn every_slice_is_checked_by_name() {
    let shape = AttentionShape {
        mask: Some(BroadcastLayout::Sizes([1, 1, 3, 5])),
        bias: Some(BroadcastLayout::Sizes([1, 4, 1, 5])),
        alibi: Some(AlibiLayout::PerHead),
        sinks: true,
        ..small()
    };
    let right = Inputs {
        query: &[0.0; 24],
        key: &[0.0; 20],
        value: &[0.0; 20],
        mask: Some(&[true; 15]),
        bias: Some(&[0.0; 20]),
        alibi_slopes: Some(&[0.0; 4]),
        segments: None,
        lens: None,
        pages: None,
        sinks: Some(&[0.0; 4]),
    };
    assert!(cpu::attention(&shape, &plain(), &right).is_ok());
    for (wrong, message) in [
        (Inputs { query: &[0.0; 23], ..right }, "query: expected 24 elements, found 23"),
        (Inputs { key: &[0.0; 40], ..right }, "key: expected 20 elements, found 40"),
        (Inputs { value: &[], ..right }, "value: expected 20 elements, found 0"),
        (Inputs { mask: Some(&[true; 16]), ..right }, "mask: expected 15 elements, found 16"),
        (
            Inputs { mask: None, ..right },
            "mask: expected a slice, as the shape has one, found none",
        ),
        (Inputs { bias: Some(&[0.0; 60]), ..right }, "bias: expected 20 elements, found 60"),
        (
            Inputs { bias: None, ..right },
            "bias: expected a slice, as the shape has one, found none",
        ),
        (
            Inputs { alibi_slopes: Some(&[0.0; 3]), ..right },
            "alibi_slopes: expected 4 elements, found 3",
        ),
        (
            Inputs { alibi_slopes: None, ..right },
            "alibi_slopes: expected a slice, as the shape has one, found none",
        ),
        (Inputs { sinks: Some(&[0.0; 3]), ..right }, "sinks: expected 4 elements, found 3"),
        (
            Inputs { sinks: None, ..right },
            "sinks: expected a slice, as the shape has one, found none",
        ),
    ] {
        assert_refused(cpu::attention(&shape, &plain(), &wrong), message);
    }
    let bare = Inputs { mask: None, bias: None, alibi_slopes: None, sinks: None, ..right };
    for (unwanted, message) in [
        (
            Inputs { mask: right.mask, ..bare },
            "mask: expected none, as the shape has none, found 15 elements",
        ),
        (
            Inputs { bias: right.bias, ..bare },
            "bias: expected none, as the shape has none, found 20 elements",
        ),
        (
            Inputs { alibi_slopes: right.alibi_slopes, ..bare },
            "alibi_slopes: expected none, as the shape has none, found 4 elements",
        ),
        (
            Inputs { sinks: right.sinks, ..bare },
            "sinks: expected none, as the shape has none, found 4 elements",
        ),
    ] {
        assert_refused(cpu::attention(&small(), &plain(), &unwanted), message);
    }
}

#[test]
fn a_strided_slice_may_be_longer_than_needed_but_not_shorter() {
    let strides = Strides { offset: 7, batch: 0, head: 2, row: 8 };
    let shape = AttentionShape { query: Layout::Strided(strides), ..small() };
    // Last: 7 + 3 * 2 + 2 * 8 + 1 = 30.
    let query = [0.0; 40];
    let with = |len| Inputs {
        query: &query[..len],
        key: &[0.0; 20],
        value: &[0.0; 20],
        ..Inputs::default()
    };
    assert!(cpu::attention(&shape, &plain(), &with(40)).is_ok());
    assert!(cpu::attention(&shape, &plain(), &with(31)).is_ok());
    assert_refused(
        cpu::attention(&shape, &plain(), &with(30)),
        "query: expected at least 31 elements, found 30",
    );
}

#[test]
fn outputs_that_overlap_are_refused() {
    let good = Strides { offset: 0, batch: 24, head: 6, row: 2 };
    for strides in [
        Strides { head: 0, ..good },
        Strides { row: 0, ..good },
        Strides { row: 1, ..good },
        Strides { head: 5, ..good },
        Strides { head: 2, ..good },
    ] {
        let layout = Layout::Strided(strides);
        let place = "strides that give each element of [1, 4, 3, 2] a place of its own";
        assert_refused(
            Problem::new(&AttentionShape { out: layout, ..small() }, &plain()),
            &format!("out: expected {place}, found {layout:?}"),
        );
        // Reading one element twice harms no one.
        assert!(Problem::new(&AttentionShape { query: layout, ..small() }, &plain()).is_ok());
    }
    let interleaved = Strides { offset: 3, batch: 0, head: 2, row: 8 };
    for strides in [good, interleaved] {
        let shape = AttentionShape { out: Layout::Strided(strides), ..small() };
        assert!(Problem::new(&shape, &plain()).is_ok(), "{strides:?}");
    }
}

#[test]
fn every_optional_output_is_checked_by_name() {
    let overlapping = Some(Layout::Strided(Strides::default()));
    for (shape, argument) in [
        (AttentionShape { lse: overlapping, ..small() }, "lse"),
        (AttentionShape { weights: overlapping, ..small() }, "weights"),
        (AttentionShape { raw_scores: overlapping, ..small() }, "raw_scores"),
        (AttentionShape { capped_scores: overlapping, ..small() }, "capped_scores"),
        (AttentionShape { masked_scores: overlapping, ..small() }, "masked_scores"),
    ] {
        let message = Problem::new(&shape, &plain()).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{argument}: ")), "{message}");
    }
}

#[test]
fn tensors_past_32_bit_indices_are_refused() {
    let wide = AttentionShape::new(1, 1, 1 << 16, 1 << 16);
    assert_refused(
        Problem::new(&wide, &plain()),
        "query: expected fewer than 2^32 elements, found 4294967296",
    );
    assert!(Problem::new(&AttentionShape { q_len: 65_535, kv_len: 1, ..wide }, &plain()).is_ok());
    // Only a score matrix that is asked for has to fit.
    let long = AttentionShape::new(1, 1, 1 << 16, 1);
    assert!(Problem::new(&long, &plain()).is_ok());
    assert_refused(
        Problem::new(&AttentionShape { weights: Some(Layout::Bhsd), ..long.clone() }, &plain()),
        "weights: expected fewer than 2^32 elements, found 4294967296",
    );
    assert_refused(
        Problem::new(&AttentionShape { batch: 1 << 30, num_heads: 1 << 30, ..long }, &plain()),
        "query: expected fewer than 2^32 elements, found more",
    );
    for strides in [
        Strides { row: usize::MAX, ..Strides::default() },
        Strides { offset: usize::MAX, row: 2, ..Strides::default() },
    ] {
        let shape = AttentionShape { key: Layout::Strided(strides), ..small() };
        assert_refused(
            Problem::new(&shape, &plain()),
            "key: expected fewer than 2^32 elements, found more",
        );
    }
    let bias = BroadcastStrides { head: 1 << 31, ..BroadcastStrides::default() };
    let shape = AttentionShape { bias: Some(BroadcastLayout::Strided(bias)), ..small() };
    assert_refused(
        Problem::new(&shape, &plain()),
        "bias: expected fewer than 2^32 elements, found 6442450945",
    );
}

#[test]
fn strides_that_are_never_taken_are_never_refused() {
    let far = Strides { batch: usize::MAX, head: 6, row: 2, ..Strides::default() };
    let shape = AttentionShape { query: Layout::Strided(far), ..small() };
    assert!(Problem::new(&shape, &plain()).is_ok(), "one sequence never steps to the next");
    let shape = AttentionShape { q_len: 0, query: Layout::Strided(far), ..small() };
    assert_eq!(Problem::new(&shape, &plain()).unwrap().query().extent, 0);
}

#[test]
fn alignment_is_an_offset() {
    let offset = |q_len, kv_len, align| {
        let shape = AttentionShape { q_len, kv_len, ..small() };
        Problem::new(&shape, &AttentionOptions { align, ..plain() }).unwrap().offset
    };
    assert_eq!(offset(3, 5, Align::TopLeft), 0);
    assert_eq!(offset(3, 5, Align::BottomRight), 2);
    assert_eq!(offset(5, 3, Align::BottomRight), -2);
    assert_eq!(offset(5, 3, Align::Offset(-7)), -7);
}

/// Every small problem: the band is what causality and windows say, huge windows and far offsets included.
#[test]
fn the_band_is_causality_and_windows() {
    let windows = [None, Some(0), Some(1), Some(3), Some(usize::MAX)];
    let offsets = [-(1 << 30), -3, -1, 0, 1, 4, 1 << 30];
    let mut pairs = 0;
    for n in 0..5 * 5 * 7 * 5 * 5 * 2 * 4 {
        let (q_len, kv_len, offset) = (n % 5, n / 5 % 5, offsets[n / 25 % 7]);
        let (left, right) = (windows[n / 175 % 5], windows[n / 875 % 5]);
        let causal = n / 4375 % 2 == 1;
        let keeps = [0, 1, 3, usize::MAX][n / 8750];
        let options = AttentionOptions {
            causal,
            window_left: left,
            window_keeps: keeps,
            window_right: right,
            align: Align::Offset(offset),
            ..plain()
        };
        let shape = AttentionShape { q_len, kv_len, ..small() };
        let band = Problem::new(&shape, &options).unwrap().band;
        assert!(band.lower >= -4 && band.upper <= 4, "{options:?}: {band:?} is not clamped");
        for (i, j) in (0..q_len).flat_map(|i| (0..kv_len).map(move |j| (i, j))) {
            let at = |index: usize| index as i128;
            let place = at(i) + i128::from(offset);
            let visible = (!causal || at(j) <= place)
                && (j < keeps || left.is_none_or(|left| at(j) >= place - at(left)))
                && right.is_none_or(|right| at(j) <= place + at(right));
            assert_eq!(band.contains(i, j), visible, "{options:?}, query {i}, key {j}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 100 * 7 * 5 * 5 * 2 * 4);
}

#[test]
fn the_default_scale_is_that_of_the_query_and_key() {
    let shape = AttentionShape { head_dim: 64, value_dim: 16, ..small() };
    assert_eq!(Problem::new(&shape, &plain()).unwrap().scale, 0.125);
    let scaled = AttentionOptions { scale: Some(3.0), ..plain() };
    assert_eq!(Problem::new(&shape, &scaled).unwrap().scale, 3.0);
}
