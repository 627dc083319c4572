//! Tuning measures tiles that are all right, and plans with the fastest.

use crate::app::App;
use crate::cache::app;
use crate::case::{Case, PLAIN, shape};
use crate::device::gpu;
use std::collections::BTreeSet;
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionOptions, AttentionShape, Capabilities, ForwardTile, Gpu,
    Kernel, Tuning,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// As if `tile` had been the fastest.
fn tuning(q_len: usize, head_dim: usize, tile: ForwardTile) -> Tuning {
    let ForwardTile { threads, rows_each, keys_each, ahead } = tile;
    let rows = q_len.next_power_of_two().min(256);
    let like = format!("head_dim={head_dim} value_dim={head_dim} element=f32 rows={rows}");
    let tile =
        format!("threads={threads} rows_each={rows_each} keys_each={keys_each} ahead={ahead}");
    format!("{like} {tile}").parse().unwrap()
}

#[test]
fn every_candidate_is_right_and_the_fastest_is_planned_with() {
    check_candidates(gpu().masked(gpu().capabilities()));
}

/// As on a GPU, whose tiles are those of tiled.
#[test]
fn every_candidate_of_a_gpu_is_right() {
    let plays_gpu = Capabilities { processors: 0, ..*gpu().capabilities() };
    let gpu = gpu().masked(&plays_gpu);
    let plan = gpu.attention_operator(&CAUSAL).unwrap().plan(&shape(1, 2, 300, 290, 16)).unwrap();
    assert_eq!(plan.kernel, Kernel::Tiled);
    check_candidates(gpu);
}

fn check_candidates(gpu: Gpu) {
    let attention = gpu.attention_operator(&CAUSAL).unwrap();
    for (q_len, kv_len, head_dim) in [(300, 290, 16), (3, 600, 20)] {
        let shape = shape(1, 2, q_len, kv_len, head_dim);
        let before = attention.plan(&shape).unwrap();
        assert!(!before.tuned);
        let app = app(&gpu);
        let [rows, keys] = [q_len, kv_len].map(|len| 2 * len * head_dim);
        let [query, key, value, out] = [rows, keys, keys, rows].map(|len| app.output(len));
        let lse = app.output(2 * q_len);
        let buffers = AttentionBuffers {
            lse: Some((&lse).into()),
            ..AttentionBuffers::new(&query, &key, &value, &out)
        };
        let found = attention.tune_blocking(&shape, &buffers).unwrap();
        assert!(found.len() > 3 && found.is_sorted_by_key(|(_, time)| *time), "{found:?}");
        let tiles: BTreeSet<String> = found.iter().map(|(tile, _)| tile.to_string()).collect();
        assert_eq!(tiles.len(), found.len(), "{found:?}");
        let planned = || {
            let plan = attention.plan(&shape).unwrap();
            let tiles = plan.tiles;
            assert!(plan.tuned, "{plan}");
            assert_eq!(tiles.forward_tile(), Some(found[0].0));
        };
        planned();
        // What was learned is what another run learns from text.
        let kept = attention.tuning();
        for (tile, _) in &found {
            attention.learn(&tuning(q_len, head_dim, *tile));
            assert!(attention.plan(&shape).unwrap().tuned);
            let case = Case::new(shape.clone(), CAUSAL, 3);
            case.compare(&tile.to_string(), &case.run(&gpu, None), &case.expected(), &Bounds::F32);
        }
        attention.learn(&kept);
        assert_eq!(
            attention.tuning().to_string().lines().count(),
            kept.to_string().lines().count()
        );
        planned();
    }
}

/// The device with tiles that are loaded ahead, and a call that they are for.
fn loaded_ahead(gpu: Gpu) -> (Gpu, Case) {
    let tile = ForwardTile { threads: 32, rows_each: 1, keys_each: 2, ahead: true };
    gpu.attention_operator(&PLAIN).unwrap().learn(&tuning(70, 10, tile));
    let mut case = Case::new(shape(1, 2, 70, 150, 10), CAUSAL, 1);
    // A value that is not finite is noted ahead of its tile.
    case.tensors.value[60 * 10] = f32::INFINITY;
    (gpu, case)
}

#[test]
fn tiles_loaded_ahead_are_right_in_every_band() {
    let window = AttentionOptions { window_left: Some(20), window_keeps: 5, ..CAUSAL };
    let (gpu, mut case) = loaded_ahead(gpu().masked(gpu().capabilities()));
    for options in [PLAIN, CAUSAL, window] {
        case.options = options;
        let plan = gpu.attention_operator(&options).unwrap().plan(&case.shape).unwrap();
        assert!(plan.tiles.forward_tile().is_some_and(|tile| tile.ahead), "{plan}");
        case.check_on(&gpu);
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_tiles_loaded_ahead_are_found() {
    for (find, replacement) in [
        ("key_at(keys, at + KEYS)", "key_at(keys, at)"),
        ("= next_keys[n];", "= next_keys[0u];"),
        ("stage_value(slot, next_values[n]);", ""),
    ] {
        let (broken, case) = loaded_ahead(gpu().broken(find, replacement));
        let message = case.verdict_of(&broken).expect_err(find);
        assert!(message.contains("relative error"), "{message}");
    }
}

#[test]
fn what_the_fused_kernel_does_not_take_is_not_tuned() {
    let app = App::open();
    let attention = Attention::new(&app.device, &app.queue, &PLAIN).unwrap();
    let small = app.output(4);
    let [query, key, value, out] = [300 * 300; 4].map(|len| app.output(len));
    let buffers = AttentionBuffers::new(&query, &key, &value, &out);
    let wide = AttentionShape::new(1, 1, 300, 300);
    let refused = attention.tune_blocking(&wide, &buffers).unwrap_err().to_string();
    let says = "shape: expected one that forward, tiled or decode takes, found forward-wide";
    assert_eq!(refused, says);
    let plain = AttentionShape::new(1, 1, 300, 16);
    let buffers = AttentionBuffers { out: (&small).into(), ..buffers };
    let refused = attention.tune_blocking(&plain, &buffers).unwrap_err().to_string();
    assert!(refused.starts_with("attention: out: expected a buffer of at least"), "{refused}");
    assert_eq!(attention.tuning(), Tuning::default());
    assert_eq!(attention.plan(&plain).unwrap().kernel, Kernel::Forward);
}
