//! Results over parts of the keys merge into the result over all of them, whatever the parts.

use crate::app::App;
use crate::case::check_tensor;
use crate::common::data::{Tensors, attend, numbers};
use crate::device::{gpu, portable};
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{Merge, MergeBuffers, MergeInputs, MergeShape};
use wgpu_attention::{
    AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, Element, Gpu, Inputs, Layout,
    Outputs, cpu,
};

/// A call, and which part each of its keys belongs to.
#[derive(Clone, Debug)]
struct Split {
    shape: AttentionShape,
    parts: usize,
    part_of: Vec<usize>,
    seed: u64,
}

impl Split {
    fn shape<T: Element>(&self) -> MergeShape {
        let AttentionShape { batch, num_heads, q_len, value_dim, .. } = self.shape;
        let shape = MergeShape::new(self.parts, [batch, num_heads, q_len], value_dim);
        MergeShape { element: T::TYPE, ..shape }
    }

    fn whole(&self) -> Outputs<f64> {
        let tensors = Tensors::random(&self.shape, self.seed);
        attend(&self.shape, &AttentionOptions::default(), &tensors.inputs())
    }

    /// Out and lse of each part; where a part has no key, out is what a part that left it unwritten might hold.
    fn partials<T: Element>(&self) -> (Vec<T>, Vec<f32>) {
        let tensors = Tensors::random(&self.shape, self.seed);
        let sizes = BroadcastLayout::Sizes([1, 1, 1, self.shape.kv_len]);
        let shape = AttentionShape { mask: Some(sizes), ..self.shape.clone() };
        let (mut outs, mut lses) = (Vec::new(), Vec::new());
        for part in 0..self.parts {
            let mask: Vec<bool> = self.part_of.iter().map(|&of| of == part).collect();
            let inputs = Inputs { mask: Some(&mask), ..tensors.inputs() };
            let found = attend(&shape, &AttentionOptions::default(), &inputs);
            let is_empty = !mask.contains(&true);
            outs.extend(
                found.out.iter().map(|&x| T::from_f64(if is_empty { f64::NAN } else { x })),
            );
            lses.extend(found.lse.unwrap().iter().map(|&x| f32::from_f64(x)));
        }
        (outs, lses)
    }

    fn check<T: Element>(&self, gpu: &Gpu) -> Result<(), String> {
        let (out, lse) = self.partials::<T>();
        let inputs = MergeInputs { partial_out: &out, partial_lse: &lse };
        let (shape, bounds) = (self.shape::<T>(), Bounds::of(T::TYPE));
        let expected = cpu::merge(&shape, &inputs).map_err(|error| error.to_string())?;
        let found = gpu.merge_blocking(&shape, &inputs).map_err(|error| error.to_string())?;
        let found_out: Vec<f32> = found.out.into_iter().map(T::to_f32).collect();
        same("out", &found_out, &expected.out, &bounds)?;
        same("lse", &found.lse.unwrap(), &expected.lse.unwrap(), &Bounds::F32)
    }
}

fn same(what: &str, found: &[f32], expected: &[f64], bounds: &Bounds) -> Result<(), String> {
    let accuracy = compare(found, expected).map_err(|error| format!("{what}: {error}"))?;
    let finite = expected.iter().filter(|x| x.is_finite()).count();
    let is_same = accuracy.within(bounds) && accuracy.compared == finite;
    if is_same { Ok(()) } else { Err(format!("{what}: {accuracy}")) }
}

fn splits() -> impl Strategy<Value = Split> {
    let sizes = (0..3_usize, 1..4_usize, 0..9_usize);
    let dims = prop_oneof![Just(1_usize), Just(3), Just(6), Just(8)];
    (sizes, dims, 0..5_usize, 0..20_usize, 0..1000_u64).prop_flat_map(
        |((batch, num_heads, q_len), value_dim, parts, kv_len, seed)| {
            let kv_len = if parts == 0 { 0 } else { kv_len };
            let shape = AttentionShape {
                kv_len,
                value_dim,
                lse: Some(Layout::Bhsd),
                ..AttentionShape::new(batch, num_heads, q_len, 4)
            };
            proptest::collection::vec(0..parts.max(1), kv_len).prop_map(move |part_of| Split {
                shape: shape.clone(),
                parts,
                part_of,
                seed,
            })
        },
    )
}

fn run(check: impl Fn(&Split) -> Result<(), String>) {
    let config = Config {
        cases: 40,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(31),
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&splits(), |split| check(&split).map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_split_of_the_keys_merges_into_the_result_of_one_piece() {
    run(|split| {
        let (out, lse) = split.partials::<f32>();
        let inputs = MergeInputs { partial_out: &out, partial_lse: &lse };
        let merged = cpu::merge(&split.shape::<f32>(), &inputs).unwrap();
        let whole = split.whole();
        let narrow = |xs: &[f64]| xs.iter().map(|&x| f32::from_f64(x)).collect::<Vec<_>>();
        same("out", &narrow(&merged.out), &whole.out, &Bounds::F32)?;
        same("lse", &narrow(&merged.lse.unwrap()), &whole.lse.unwrap(), &Bounds::F32)
    });
}

#[test]
fn any_merge_on_the_gpu_agrees_with_the_reference() {
    run(|split| {
        split.check::<f32>(gpu())?;
        split.check::<f16>(gpu())?;
        split.check::<f16>(portable())?;
        split.check::<bf16>(gpu())
    });
}

/// Two halves of the keys, then a part without keys, by the library's own attention, all in one encoder.
#[test]
fn what_attention_leaves_of_parts_merges_in_the_same_encoder() {
    let app = App::open();
    let (heads, q_len, dim, half) = (2, 3, 8, 5);
    let options = AttentionOptions::default();
    let whole = AttentionShape {
        kv_len: 2 * half,
        lse: Some(Layout::Bhsd),
        ..AttentionShape::new(1, heads, q_len, dim)
    };
    let tensors = Tensors::random(&whole, 3);
    let [query, key, value] =
        [&tensors.query, &tensors.key, &tensors.value].map(|tensor| app.buffer(tensor));
    let (rows, columns) = (heads * q_len, heads * q_len * dim);
    let all_out = app.output(3 * columns);
    let all_lse = app.buffer(&vec![f32::NEG_INFINITY; 3 * rows]);
    let attention = wgpu_attention::Attention::new(&app.device, &app.queue, &options).unwrap();
    let mut encoder = app.encoder();
    for part in 0..2 {
        let strides = |offset, row, len| {
            let head = row * len;
            Layout::Strided(wgpu_attention::Strides { offset, head, row, ..Default::default() })
        };
        let keys = strides(part * half * dim, dim, 2 * half);
        let shape = AttentionShape {
            kv_len: half,
            key: keys,
            value: keys,
            out: strides(part * columns, dim, q_len),
            lse: Some(strides(part * rows, 1, q_len)),
            ..whole.clone()
        };
        let plan = attention.plan(&shape).unwrap();
        let buffers = wgpu_attention::AttentionBuffers {
            lse: Some((&all_lse).into()),
            ..wgpu_attention::AttentionBuffers::new(&query, &key, &value, &all_out)
        };
        attention.encode(&mut encoder, &plan, &buffers).unwrap();
    }
    let merge = Merge::new(&app.device, &app.queue);
    let plan = merge.plan(&MergeShape::new(3, [1, heads, q_len], dim)).unwrap();
    let (out, lse) = (app.output(columns), app.output(rows));
    let buffers = MergeBuffers {
        partial_out: (&all_out).into(),
        partial_lse: (&all_lse).into(),
        out: (&out).into(),
        lse: (&lse).into(),
    };
    merge.encode(&mut encoder, &plan, &buffers).unwrap();
    app.submit(encoder);
    let expected = attend(&whole, &options, &tensors.inputs());
    check_tensor("out", &app.read(&out), &expected.out, &Bounds::F32);
    check_tensor("lse", &app.read(&lse), &expected.lse.unwrap(), &Bounds::F32);

    let mut encoder = app.encoder();
    let shared = MergeBuffers { lse: (&out).into(), ..buffers };
    let refused = merge.encode(&mut encoder, &plan, &shared).unwrap_err().to_string();
    assert_eq!(refused, "merge: lse: expected a buffer of its own, found that of out");
    let short = MergeBuffers { partial_lse: (&lse).into(), ..buffers };
    let refused = merge.encode(&mut encoder, &plan, &short).unwrap_err().to_string();
    assert_eq!(
        refused,
        "merge: partial_lse: expected a buffer of at least 72 bytes for 18 elements of 32 bits, found 24 bytes"
    );
}

#[test]
fn a_merge_too_large_for_a_device_is_cut_or_refused() {
    let small =
        Capabilities { binding_size: 16 << 10, workgroups_per_axis: 3, ..Capabilities::PORTABLE };
    let small = gpu().masked(&small);
    let shape = AttentionShape {
        kv_len: 4,
        value_dim: 6,
        lse: Some(Layout::Bhsd),
        ..AttentionShape::new(5, 4, 30, 4)
    };
    let split = Split { shape, parts: 2, part_of: vec![1, 0, 0, 1], seed: 8 };
    split.check::<f32>(&small).unwrap();
    split.check::<bf16>(&small).unwrap();
    let odd = AttentionShape { value_dim: 3, ..split.shape.clone() };
    Split { shape: odd, ..split }.check::<f16>(&small).unwrap();
    let many = MergeShape::new(1000, [1, 1, 1], 8);
    let refused = small.merge_operator().plan(&many).unwrap_err().to_string();
    assert!(refused.contains("bytes of one storage binding"), "{refused}");
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let shape = MergeShape::new(2, [1, 1, 2], 3);
    let (out, lse) = (numbers(1, 12), numbers(2, 4));
    for (out, lse, says) in [
        (&out[1..], &lse[..], "partial_out: expected 12 elements, found 11"),
        (&out[..], &lse[..2], "partial_lse: expected 4 elements, found 2"),
    ] {
        let inputs = MergeInputs { partial_out: out, partial_lse: lse };
        assert_eq!(cpu::merge(&shape, &inputs).unwrap_err().to_string(), says);
        assert_eq!(gpu().merge_blocking(&shape, &inputs).unwrap_err().to_string(), says);
    }
}

/// The tests above would notice.
#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_merge_that_is_broken_is_found() {
    let shape =
        AttentionShape { kv_len: 9, lse: Some(Layout::Bhsd), ..AttentionShape::new(2, 2, 5, 4) };
    let split = Split { shape, parts: 3, part_of: vec![0, 2, 0, 2, 2, 0, 0, 0, 2], seed: 5 };
    split.check::<f32>(gpu()).unwrap();
    for (find, replacement) in [
        ("columns.rest + weight * partial", "columns.rest + partial"),
        ("part * params.lse_split", "part"),
        ("lse_bits(finish.m, finish.l, finish.empty)", "lse_bits(finish.m, 1.0, finish.empty)"),
    ] {
        assert!(split.check::<f32>(&gpu().broken(find, replacement)).is_err(), "{find}");
    }
    let nothing = Split { part_of: vec![7; 9], ..split };
    nothing.check::<f32>(gpu()).unwrap();
    assert!(
        nothing
            .check::<f32>(
                &gpu().broken("let sees = bits != MINUS_INFINITY_BITS", "let sees = true")
            )
            .is_err()
    );
}
