#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::super::Stopwatch;
use super::attention::{Tensors, WORK, rows};
use super::{Compared, Workload};
use crate::cpu;
use crate::device::GpuOptions;
use crate::error::Error;
use crate::host::Gpu;
use crate::problem::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Element, ElementType, Layout,
    Outputs, Problem,
};

/// Causal attention with weights, the last query beside the last key.
fn shape(sizes: [usize; 6], element: ElementType) -> AttentionShape {
    let [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim] = sizes;
    AttentionShape {
        num_kv_heads,
        kv_len,
        element,
        weights: Some(Layout::Bhsd),
        ..AttentionShape::new(batch, num_heads, q_len, head_dim)
    }
}

const CAUSAL: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: true,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: Align::BottomRight,
};

/// How a result of the reference compares once it was changed.
fn compared<T: Element>(
    shape: &AttentionShape,
    options: &AttentionOptions,
    change: impl Fn(&mut Outputs<T, f32>),
) -> Result<Compared, Error> {
    let problem = Problem::new(shape, options).unwrap();
    let tensors = Tensors::<T>::new(&problem);
    let mut found = cpu::attention_rounded(shape, options, &tensors.inputs()).unwrap();
    change(&mut found);
    tensors.compare(&problem, &found)
}

#[test]
fn what_the_reference_gives_is_right_whatever_hides_keys() {
    for [q_len, kv_len] in [[5, 9], [9, 5], [1, 7]] {
        let plain = shape([2, 4, 2, q_len, kv_len, 3], ElementType::F32);
        let bias = Some(BroadcastLayout::Sizes([1, 1, q_len, kv_len]));
        let window = AttentionOptions { window_left: Some(3), ..CAUSAL };
        for (shape, options) in [
            (plain.clone(), CAUSAL),
            (plain.clone(), window),
            (AttentionShape { bias, ..plain }, CAUSAL),
        ] {
            let found = compared::<f32>(&shape, &options, |_| {}).unwrap();
            assert_eq!((found.rows, found.of), (8 * q_len, 8 * q_len));
            assert_eq!(found.failure, None);
        }
    }
    #[cfg(feature = "half")]
    {
        let shape = shape([1, 2, 1, 5, 5, 3], ElementType::Bf16);
        let found = compared::<half::bf16>(&shape, &CAUSAL, |_| {}).unwrap();
        assert!(found.failure.is_none() && found.max_relative > 0.0, "{found:?}");
    }
}

#[test]
fn one_wrong_element_is_found() {
    let shape = shape([1, 2, 1, 5, 5, 3], ElementType::F32);
    let is_wrong = |change: &dyn Fn(&mut Outputs<f32>)| {
        compared::<f32>(&shape, &CAUSAL, change).map_or(true, |found| found.failure.is_some())
    };
    for (at, wrong) in [(0, 1.0), (29, 1e-3), (7, f32::NAN), (8, 1e30)] {
        assert!(is_wrong(&|found| found.out[at] += wrong), "{at} {wrong}");
    }
    for (at, wrong) in [(0, 0.5), (49, 1e-3), (7, f32::NAN), (8, 2.0)] {
        assert!(is_wrong(&|found| found.weights.as_mut().unwrap()[at] += wrong), "{at} {wrong}");
    }
    assert!(is_wrong(&|found| found.weights = None));
}

#[test]
fn a_sample_of_a_long_call_has_the_first_and_the_last_rows_and_costs_no_more_than_it_may() {
    for sizes in
        [[2, 16, 16, 16_384, 16_384, 64], [3, 8, 8, 4096, 4096, 128], [40, 32, 8, 1, 65_536, 128]]
    {
        let [batch, heads, _, q_len, kv_len, head_dim] = sizes;
        let shape = AttentionShape { weights: None, ..shape(sizes, ElementType::F32) };
        let rows = rows(&Problem::new(&shape, &CAUSAL).unwrap());
        let last = [batch - 1, heads - 1, q_len - 1];
        assert!(rows[0] == [0; 3] && rows.contains(&last), "{sizes:?}");
        let exists = |&[b, h, i]: &[usize; 3]| b < batch && h < heads && i < q_len;
        assert!(rows.iter().all(exists), "{sizes:?}");
        let mut heads_seen: Vec<usize> = rows.iter().map(|[_, head, _]| *head).collect();
        heads_seen.sort_unstable();
        heads_seen.dedup();
        assert!(heads_seen.len() > 2, "{sizes:?}: {heads_seen:?}");
        assert!(rows.len() < batch * heads * q_len, "{sizes:?}");
        assert!(2 * rows.len() * kv_len * head_dim <= WORK, "{sizes:?}: {}", rows.len());
    }
}

#[test]
fn what_is_not_compared_is_within_its_range_or_wrong() {
    // 8 of 32 rows would be compared.
    let all = [0.5, -1.0, 1.005, 0.0];
    let fine = Compared { rows: 8, of: 32, max_relative: 0.0, failure: None };
    assert_eq!(fine.clone().bounded("out", &all, Some(1.0)), fine);
    for (most, wrong) in [(Some(1.0), 1.02), (Some(1.0), f32::NAN), (None, f32::INFINITY)] {
        let found = fine.clone().bounded("out", &[0.0, wrong], most);
        assert!(found.failure.is_some_and(|why| why.starts_with("out[1]: expected ")), "{wrong}");
    }
}

type Layer = fn(&Gpu) -> Result<Workload<'_>, Error>;

/// Of several sequences, so that the last one is compared too; rows in all, and what breaks each.
const LAYERS: [(Layer, usize, [&str; 2]); 6] = [
    (|gpu| Workload::linear(gpu, [2, 5, 12, 7]), 10, SUMS),
    (|gpu| Workload::multi_head(gpu, [3, 9, 24, 3]), 27, SUMS),
    (|gpu| Workload::self_attention(gpu, [2, 9, 24, 3]), 18, SUMS),
    (
        |gpu| Workload::additive(gpu, [2, 5, 9, 16]),
        10,
        ["scores[r * KEYS + j] * four", "0.9999 * scores[r * KEYS + j] * four"],
    ),
    (
        |gpu| Workload::rotary(gpu, [2, 3, 7, 10]),
        42,
        ["first * cosines - second * sines", "first * cosines + second * sines"],
    ),
    (
        |gpu| Workload::positional(gpu, [2, 7, 9]),
        14,
        ["four += load_token", "four += 0.9999 * load_token"],
    ),
];
const SUMS: [&str; 2] =
    ["sums[each * FOURS + four] + added", "0.9999 * sums[each * FOURS + four] + added"];

/// What a layer gives, once it was recorded and run.
fn run(layer: Layer, gpu: &Gpu) -> Compared {
    let workload = layer(gpu).unwrap();
    workload.prepare_blocking().unwrap();
    let lap = Stopwatch::new(gpu).unwrap().lap(|encoder| workload.encode(encoder, 0)).unwrap();
    assert!(lap.host > 0.0 && lap.best() > 0.0);
    workload.compare().unwrap()
}

#[test]
fn every_layer_agrees_with_the_reference_and_a_wrong_one_does_not() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap();
    for (place, (layer, of, [find, replace])) in LAYERS.into_iter().enumerate() {
        let found = run(layer, &gpu);
        assert_eq!((found.of, &found.failure), (of, &None), "{place}");
        // The first and the last sequence, of which the multi-head layer has one more.
        assert_eq!(found.rows, if place == 1 { 18 } else { of }, "{place}");
        let why = run(layer, &gpu.broken(find, replace)).failure.unwrap();
        assert!(why.contains("relative error"), "{place}: {why}");
    }
}
