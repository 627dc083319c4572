//! Attention sinks: a logit of a head that joins the sum of its rows and nothing else.

use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::common::data::{attend, numbers};
use crate::device::gpu;
use crate::properties::runner;
use proptest::prelude::*;
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{MergeInputs, MergeShape};
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, Capabilities, Inputs, Kernel, Layout, Outputs,
};

const CAUSAL: AttentionOptions =
    AttentionOptions { causal: true, align: Align::BottomRight, ..PLAIN };

fn with_sinks(shape: AttentionShape, options: AttentionOptions, seed: u64) -> Case {
    Case::new(AttentionShape { sinks: true, ..shape }, options, seed)
}

#[test]
fn sinks_of_any_size_are_right_beside_rows_that_see_no_key() {
    for (q_len, kv_len) in [(40, 33), (1, 70), (5, 0)] {
        for sinks in [
            [1e4, -1e4, 0.0],
            [f32::NEG_INFINITY, 30.0, -30.0],
            [f32::MAX, f32::MIN, f32::NEG_INFINITY],
        ] {
            let plain = shape(2, 3, q_len, kv_len, 8);
            let stored = AttentionShape { weights: Some(Layout::Bhsd), ..plain.clone() };
            for shape in [plain, stored] {
                let mut case = with_sinks(shape, CAUSAL, 1);
                case.sinks = Some(sinks.to_vec());
                case.check();
            }
        }
    }
}

#[test]
fn a_sink_that_is_no_number_shows_in_its_head_and_nowhere_else() {
    for poison in [f32::NAN, f32::from_bits(u32::MAX), f32::INFINITY] {
        for (q_len, kv_len) in [(40, 33), (3, 600), (3, 0)] {
            let mut case = with_sinks(shape(1, 3, q_len, kv_len, 8), CAUSAL, 1);
            case.sinks = Some(vec![0.5, poison, -0.5]);
            case.check();
            // Beside the weights lse is made of a row's maximum and sum.
            let weights = Some(Layout::Bhsd);
            let weighed = AttentionShape { weights, ..case.shape.clone() };
            Case { shape: weighed, ..case.clone() }.check();
            let nans = case.expected().out.iter().filter(|x| x.is_nan()).count();
            assert_eq!(nans, q_len.min(kv_len) * 8, "the rows of one head that see a key");
        }
    }
}

/// Its own key sees all, as a mask does not hide it; its bias is the sink.
fn with_one_more_key(case: &Case) -> Outputs<f64> {
    let AttentionShape { num_heads, kv_len, .. } = case.shape;
    let longer = AttentionShape { kv_len: kv_len + 1, sinks: false, ..case.shape.clone() };
    let [mask, bias] = [Some(full(&longer)); 2];
    let longer = AttentionShape { mask, bias, ..longer };
    let append = |tensor: &[f32]| -> Vec<f32> {
        let mut rows = Vec::new();
        let heads = longer.batch * longer.num_kv_heads;
        for head in 0..heads {
            rows.extend(&tensor[head * kv_len * 8..][..kv_len * 8]);
            rows.extend([0.0; 8]);
        }
        rows
    };
    let (key, value) = (append(&case.tensors.key), append(&case.tensors.value));
    let (mut mask, mut bias) = (Vec::new(), Vec::new());
    let rows = longer.batch * num_heads * longer.q_len;
    for row in 0..rows {
        let seen = case.mask.as_ref().unwrap();
        mask.extend(&seen[row * kv_len..][..kv_len]);
        mask.push(true);
        bias.extend(vec![0.0; kv_len]);
        bias.push(case.sinks.as_ref().unwrap()[row / longer.q_len % num_heads]);
    }
    let inputs = Inputs {
        query: &case.tensors.query,
        key: &key,
        value: &value,
        mask: Some(&mask),
        bias: Some(&bias),
        ..Inputs::default()
    };
    attend(&longer, &case.options, &inputs)
}

#[test]
fn a_sink_is_one_more_key_with_that_score_and_a_value_of_0() {
    let sizes = (1..3_usize, 1..3_usize, 1..3_usize, 1..40_usize, 0..70_usize);
    let calls = (sizes, prop_oneof![Just(1.0), Just(30.0), Just(1e4)], 0..1000_u64);
    runner(32)
        .run(&calls, |((batch, num_kv_heads, group, q_len, kv_len), size, seed)| {
            let plain = shape(batch, num_kv_heads * group, q_len, kv_len, 8);
            let masked = AttentionShape { num_kv_heads, mask: Some(full(&plain)), ..plain };
            let mut case =
                with_sinks(masked, AttentionOptions { softcap: Some(5.0), ..PLAIN }, seed);
            case.sinks.iter_mut().flatten().for_each(|sink| *sink *= size);
            let expected = with_one_more_key(&case);
            for kernel in Kernel::PORTABLE {
                let found = case.run(gpu(), Some(kernel));
                let what = format!("{}, {case}", kernel.name());
                check_tensor(&what, &found.out, &expected.out, &Bounds::F32);
                let lse = expected.lse.as_ref().unwrap();
                check_tensor(&what, &found.lse.unwrap(), lse, &Bounds::F32);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// However the keys are shared out and cut to fit a device, a sink counts once.
#[test]
fn a_sink_counts_once_whatever_the_call_is_cut_into() {
    let grouped = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 3, 1_000, 8) };
    let ragged = AttentionShape { kv_lens: Some(vec![1_000, 0]), ..grouped.clone() };
    for shape in [grouped, ragged] {
        let case = with_sinks(shape, CAUSAL, 2);
        case.check();
        let small = Capabilities { binding_size: 8 << 10, ..*gpu().capabilities() };
        let small = gpu().masked(&small);
        let operator = small.attention_operator(&case.options).unwrap();
        for kernel in [Kernel::Forward, Kernel::ForwardWide, Kernel::Decode] {
            let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
            assert!(plan.dispatches().len() > 8, "{plan}");
            let found = case.run(&small, Some(kernel));
            case.compare(kernel.name(), &found, &case.expected(), &Bounds::F32);
        }
    }
}

#[test]
fn sinks_given_to_one_part_of_the_keys_merge_into_the_whole() {
    let mut whole = with_sinks(shape(1, 3, 9, 70, 8), PLAIN, 3);
    whole.shape.mask = Some(full(&whole.shape));
    whole.mask = Some(numbers(9, 3 * 9 * 70).into_iter().map(|x| x < 0.4).collect());
    let part = |first: bool| {
        let mut part = whole.clone();
        let mask = part.mask.iter_mut().flatten().enumerate();
        mask.for_each(|(at, seen)| *seen &= (at % 70 < 20) == first);
        part.shape.sinks = first;
        part.sinks = part.sinks.filter(|_| first);
        part.run(gpu(), None)
    };
    let [a, b] = [true, false].map(part);
    let lse = [a.lse.unwrap(), b.lse.unwrap()].concat();
    let out = [a.out, b.out].concat();
    let shape = MergeShape::new(2, [1, 3, 9], 8);
    let merged = gpu()
        .merge_blocking(&shape, &MergeInputs { partial_out: &out, partial_lse: &lse })
        .unwrap();
    whole.compare("merged", &merged, &whole.expected(), &Bounds::F32);
}
