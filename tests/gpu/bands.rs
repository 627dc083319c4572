//! Lengths around the tile's edge, and the band of keys that causality and windows leave.

use crate::case::{Case, PLAIN, shape};
use wgpu_attention::{Align, AttentionOptions};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// Around tiles of 32 keys and of 32, 64 and 256 rows, and primes.
const LENGTHS: [usize; 16] = [1, 2, 9, 31, 32, 33, 61, 63, 64, 65, 96, 97, 131, 255, 256, 257];

#[test]
fn every_length_around_a_tile_is_right() {
    for (seed, len) in (0..).zip(LENGTHS) {
        Case::new(shape(1, 2, len, 70, 8), PLAIN, seed).check();
        Case::new(shape(1, 2, 70, len, 8), PLAIN, seed).check();
        Case::new(shape(2, 1, len, len, 8), CAUSAL, seed).check();
    }
}

#[test]
fn every_number_of_keys_up_to_two_tiles_is_right() {
    for kv_len in 1..=66 {
        Case::new(shape(1, 1, 3, kv_len, 8), CAUSAL, kv_len as u64).check();
    }
}

#[test]
fn queries_and_keys_of_different_number_meet_where_align_says() {
    let aligns = [
        Align::TopLeft,
        Align::BottomRight,
        Align::Offset(1),
        Align::Offset(-3),
        Align::Offset(40),
        Align::Offset(-40),
        Align::Offset(1 << 30),
        Align::Offset(-(1 << 30)),
    ];
    let lengths = [(1, 65), (65, 1), (7, 33), (33, 7), (31, 64), (100, 64), (65, 130)];
    for (seed, (q_len, kv_len)) in (0..).zip(lengths) {
        for align in aligns {
            let options = AttentionOptions { align, ..CAUSAL };
            Case::new(shape(1, 2, q_len, kv_len, 8), options, seed).check();
        }
    }
}

/// The first keys and those of the window: apart, in neighbouring tiles, and the same.
#[test]
fn a_window_keeps_the_first_keys() {
    let aligns = [Align::TopLeft, Align::BottomRight, Align::Offset(-20), Align::Offset(60)];
    for align in aligns {
        for (window_left, window_keeps) in
            [(0, 1), (17, 4), (17, 32), (40, 33), (3, 64), (90, 10), (5, usize::MAX)]
        {
            let window =
                AttentionOptions { window_left: Some(window_left), window_keeps, align, ..CAUSAL };
            for (q_len, kv_len) in [(70, 200), (3, 700), (200, 70), (1, 33)] {
                Case::new(shape(1, 2, q_len, kv_len, 8), window, 1).check();
            }
            let open = AttentionOptions { causal: false, window_right: Some(2), ..window };
            Case::new(shape(1, 2, 70, 200, 8), open, 2).check();
        }
    }
}

/// A tile that is taken for wholly visible, or left out, one key too early shows at one offset in 32.
#[test]
fn every_offset_of_a_band_is_right() {
    for offset in -72..=104 {
        let align = Align::Offset(offset);
        let causal = AttentionOptions { align, ..CAUSAL };
        Case::new(shape(1, 1, 70, 100, 8), causal, 1).check();
        let window = AttentionOptions { window_left: Some(0), align, ..PLAIN };
        Case::new(shape(1, 1, 70, 100, 8), window, 2).check();
    }
}

#[test]
fn windows_leave_a_band() {
    let reaches = [None, Some(0), Some(1), Some(31), Some(32), Some(40), Some(usize::MAX)];
    for (seed, (q_len, kv_len)) in (0..).zip([(70, 70), (40, 97), (97, 40)]) {
        for (n, window_left) in reaches.into_iter().enumerate() {
            for (m, window_right) in reaches.into_iter().enumerate() {
                // Every third pair is causal as well, and the aligns take turns.
                let align = [Align::TopLeft, Align::BottomRight, Align::Offset(-7)][(n + m) % 3];
                let causal = (n * reaches.len() + m).is_multiple_of(3);
                let options =
                    AttentionOptions { causal, window_left, window_right, align, ..PLAIN };
                Case::new(shape(1, 1, q_len, kv_len, 8), options, seed).check();
            }
        }
    }
}

#[test]
fn an_offset_past_all_keys_hides_every_row_from_a_window() {
    let options = AttentionOptions { window_left: Some(3), align: Align::Offset(1000), ..PLAIN };
    let case = Case::new(shape(1, 2, 33, 40, 8), options, 1);
    case.check();
    let expected = case.expected();
    assert!(expected.out.iter().all(|&x| x == 0.0));
    assert!(expected.lse.unwrap().iter().all(|&x| x == f64::NEG_INFINITY));
}

#[test]
fn the_answer_does_not_depend_on_lse_being_asked_for() {
    for len in [5, 70] {
        let with = Case::new(shape(1, 2, len, len, 8), CAUSAL, 1);
        let mut without = with.clone();
        without.shape.lse = None;
        without.check();
        let gpu = crate::device::gpu();
        assert_eq!(with.run(gpu, None).out, without.run(gpu, None).out, "{with}");
    }
}
