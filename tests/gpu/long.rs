//! Rows of very many keys, whose weights are nearly equal, are as exact as short ones.
//!
//! Equal terms lose the same bits each time they are added to a long sum; random ones hide it.

use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::common::data::numbers;
use crate::device::gpu;
use half::f16;
use wgpu_attention::check::Bounds;
use wgpu_attention::internal::{Dispatch, Entry};
use wgpu_attention::layers::{
    AdditiveInputs, AdditiveShape, SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights,
};
use wgpu_attention::{
    AttentionShape, BroadcastLayout, Capabilities, CuSeqlens, Inputs, Kernel, Layout, PagedKeys,
    Plan, cpu,
};

/// What f32 reaches at any length.
const EXACT: Bounds = Bounds { max_relative: 2e-6, frobenius: 2e-6 };

/// Keys whose scores are equal but for the first one's, and values around 1.
fn even(shape: AttentionShape, first: f32) -> Case {
    let mut case = Case::new(shape, PLAIN, 1);
    case.tensors.query.fill(1.0);
    let (len, dim) = (case.shape.kv_len, case.shape.head_dim);
    case.tensors.key.fill(0.0);
    case.tensors.key.chunks_mut(len * dim).for_each(|head| head[..dim].fill(first));
    case.tensors.value.iter_mut().for_each(|x| *x = 1.0 + *x / 2.0);
    case
}

/// Compares out and lse, and weights where they are asked for.
fn check(case: &Case, kernel: Kernel) {
    let found = case.run(gpu(), Some(kernel));
    case.compare(kernel.name(), &found, &case.expected(), &EXACT);
}

#[test]
fn every_kernel_is_exact_over_16384_keys() {
    for kernel in Kernel::PORTABLE {
        check(&even(shape(1, 1, 40, 16_384, 4), 0.17), kernel);
    }
    let grouped = AttentionShape { num_kv_heads: 2, ..shape(4, 8, 1, 16_384, 4) };
    check(&even(grouped, 0.17), Kernel::Decode);
    // Workgroups share the columns, and each keeps totals of its own.
    let wide = AttentionShape { value_dim: 300, ..shape(1, 1, 40, 16_384, 4) };
    check(&even(wide, 0.17), Kernel::Tiled);
}

#[test]
fn weights_of_16384_keys_are_exact() {
    let weighed = AttentionShape { weights: Some(Layout::Bhsd), ..shape(1, 1, 9, 16_384, 4) };
    for kernel in [Kernel::Forward, Kernel::Tiled, Kernel::Decode, Kernel::ThreeStage] {
        check(&even(weighed.clone(), 0.17), kernel);
    }
}

/// As on a driver that stops loops there.
#[test]
fn rows_cut_along_their_keys_are_exact() {
    let stops = gpu().masked(&Capabilities { loop_turns: 4_000, ..*gpu().capabilities() });
    let even = |shape| even(shape, 0.17);
    let cu_seqlens = CuSeqlens { query: vec![0, 9, 12, 40], key: vec![0, 1_500, 1_500, 2_000] };
    let base = || shape(1, 1, 40, 2_000, 4);
    let packed = AttentionShape { cu_seqlens: Some(cu_seqlens), ..base() };
    let lens = AttentionShape { kv_lens: Some(vec![1_700]), ..base() };
    let on_gpu = AttentionShape { lens: true, ..base() };
    let biased = AttentionShape { bias: Some(full(&base())), ..base() };
    let pages = Some(PagedKeys::new(16, 125, 125));
    let paged = AttentionShape { pages, ..base() };
    let weighed = AttentionShape { weights: Some(Layout::Bhsd), ..shape(1, 1, 9, 2_000, 4) };
    for (case, kernel) in [
        (even(shape(1, 1, 40, 2_000, 4)), Kernel::Forward),
        (even(shape(1, 1, 40, 2_000, 4)), Kernel::Tiled),
        (even(shape(1, 1, 40, 2_000, 4)), Kernel::ForwardWide),
        (even(shape(1, 1, 2, 2_000, 4)), Kernel::Decode),
        (even(weighed), Kernel::Forward),
        (even(packed.with_layout(Layout::Bshd)), Kernel::Forward),
        (even(lens), Kernel::Forward),
        (even(on_gpu), Kernel::Forward),
        (even(biased), Kernel::Forward),
        (Case::new(paged, PLAIN, 1), Kernel::Forward),
    ] {
        let plan = Plan::new(case.problem(), stops.capabilities(), Some(kernel)).unwrap();
        let merges = |step: &Dispatch| step.variant.entry == Entry::AttentionCombine;
        assert!(plan.dispatches().iter().any(merges), "{plan}");
        let found = case.run(&stops, Some(kernel));
        case.compare(kernel.name(), &found, &case.expected(), &EXACT);
    }
}

#[test]
fn rows_of_262144_keys_are_exact() {
    for kernel in Kernel::PORTABLE {
        check(&even(shape(1, 1, 3, 262_144, 4), 0.17), kernel);
    }
}

/// One key far above the others, which weigh as much together.
#[test]
fn sixteen_bits_are_within_their_bounds_over_65536_keys() {
    let case = even(shape(1, 1, 9, 65_536, 4), 6.0);
    let shape = AttentionShape { element: wgpu_attention::ElementType::F16, ..case.shape.clone() };
    let narrow = |xs: &[f32]| -> Vec<f16> { xs.iter().map(|&x| f16::from_f32(x)).collect() };
    let (query, key, value) =
        (narrow(&case.tensors.query), narrow(&case.tensors.key), narrow(&case.tensors.value));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let expected = cpu::attention(&shape, &PLAIN, &inputs).unwrap();
    for kernel in Kernel::PORTABLE {
        let found = gpu().attention_with(&shape, &PLAIN, &inputs, Some(kernel));
        let found = pollster::block_on(found).unwrap();
        let out: Vec<f32> = found.out.iter().map(|x| x.to_f32()).collect();
        check_tensor(&format!("{} out", kernel.name()), &out, &expected.out, &Bounds::F16);
        let lse = (found.lse.unwrap(), expected.lse.as_ref().unwrap());
        check_tensor(&format!("{} lse", kernel.name()), &lse.0, lse.1, &EXACT);
    }
}

#[test]
fn additive_attention_is_exact_over_16384_keys() {
    let shape = AdditiveShape { weights: true, ..AdditiveShape::new(1, [9, 16_384], [4, 4, 4], 4) };
    let mut key = vec![0.0; 16_384 * 4];
    key[..4].fill(0.5);
    let value: Vec<f32> = numbers(3, 16_384 * 4).into_iter().map(|x| 1.0 + x / 2.0).collect();
    let inputs = AdditiveInputs {
        query: &numbers(1, 9 * 4),
        key: &key,
        value: &value,
        w_q: &numbers(2, 16),
        w_k: &[0.5; 16],
        w_v: &[0.3; 4],
        b: Some(&[0.1; 4]),
        mask: None,
    };
    let expected = cpu::additive(&shape, &inputs).unwrap();
    let found = gpu().additive_blocking(&shape, &inputs).unwrap();
    check_tensor("out", &found.out, &expected.out, &EXACT);
    check_tensor("weights", &found.weights.unwrap(), &expected.weights.unwrap(), &EXACT);
}

/// Rows that are wholly masked are the mean of the values.
#[test]
fn means_of_16384_values_are_exact() {
    let (q_len, kv_len) = (2, 16_384);
    let mask = Some(BroadcastLayout::Sizes([1, 1, 1, kv_len]));
    let shape = SelfAttentionShape { q_len, mask, ..SelfAttentionShape::new(1, kv_len) };
    let identity: Vec<f32> = (0..16).map(|n| if n % 5 == 0 { 1.0 } else { 0.0 }).collect();
    let weights = SelfAttentionWeights {
        embed_size: 4,
        heads: 1,
        values: &identity,
        keys: &identity,
        queries: &identity,
        fc_out: &identity,
        fc_out_bias: &[0.0; 4],
    };
    let inputs = SelfAttentionInputs {
        values: &vec![0.7; kv_len * 4],
        keys: &vec![1.0; kv_len * 4],
        queries: &vec![1.0; q_len * 4],
        mask: Some(&vec![false; kv_len]),
    };
    let expected = cpu::self_attention(&weights, &shape, &inputs).unwrap();
    let found = gpu().self_attention_blocking(&weights, &shape, &inputs).unwrap();
    check_tensor("out", &found.out, &expected.out, &EXACT);
}
