//! Lengths around the tile's edge, and bands of keys, in whole calls. tests/gpu/visibility.rs tries thousands of bands in
//! the part of the shaders that decides them.

use crate::case::{Case, PLAIN, shape};
use wgpu_attention::{Align, AttentionOptions};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// Around tiles of 32 keys and of 32, 64 and 256 rows, and primes.
const LENGTHS: [usize; 10] = [1, 2, 31, 32, 33, 61, 64, 97, 255, 257];

#[test]
fn every_length_around_a_tile_is_right() {
    for (seed, len) in (0..).zip(LENGTHS) {
        Case::new(shape(1, 2, len, 70, 8), PLAIN, seed).check();
        Case::new(shape(1, 2, 70, len, 8), PLAIN, seed).check();
        Case::new(shape(2, 1, len, len, 8), CAUSAL, seed).check();
    }
}

#[test]
fn queries_and_keys_of_different_number_meet_where_align_says() {
    let aligns = [
        Align::TopLeft,
        Align::BottomRight,
        Align::Offset(-3),
        Align::Offset(40),
        Align::Offset(1 << 30),
        Align::Offset(-(1 << 30)),
    ];
    for (seed, (q_len, kv_len)) in (0..).zip([(1, 65), (33, 7), (100, 64), (65, 130)]) {
        for align in aligns {
            let options = AttentionOptions { align, ..CAUSAL };
            Case::new(shape(1, 2, q_len, kv_len, 8), options, seed).check();
        }
    }
}

/// The first keys and those of the window: apart, in neighbouring tiles, and the same.
#[test]
fn a_window_keeps_the_first_keys() {
    for align in [Align::TopLeft, Align::Offset(60)] {
        for (window_left, window_keeps) in [(0, 1), (17, 32), (40, 33), (5, usize::MAX)] {
            let window =
                AttentionOptions { window_left: Some(window_left), window_keeps, align, ..CAUSAL };
            for (q_len, kv_len) in [(70, 200), (3, 700)] {
                Case::new(shape(1, 2, q_len, kv_len, 8), window, 1).check();
            }
        }
    }
}

/// A tile that is taken for wholly visible, or left out, one key too early shows at one offset in 32.
#[test]
fn every_offset_of_a_band_is_right() {
    for offset in -31..=33 {
        let align = Align::Offset(offset);
        let causal = AttentionOptions { align, ..CAUSAL };
        Case::new(shape(1, 1, 70, 100, 8), causal, 1).check();
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
