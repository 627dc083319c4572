//! Additive attention on the GPU agrees with its definition.

use crate::app::App;
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{
    Additive, AdditiveBuffers, AdditiveInputs, AdditiveOutputs, AdditiveShape,
};
use wgpu_attention::{Capabilities, Element, Gpu, cpu};

/// A call's tensors, from one seed unless a test changes them.
#[derive(Clone)]
struct Tensors<T> {
    query: Vec<T>,
    key: Vec<T>,
    value: Vec<T>,
    w_q: Vec<T>,
    w_k: Vec<T>,
    w_v: Vec<T>,
    b: Option<Vec<T>>,
    mask: Option<Vec<bool>>,
}

impl<T: Element> Tensors<T> {
    fn random(s: &AdditiveShape, seed: u64) -> Self {
        let tensor = |n: u64, count: usize, factor: f32| -> Vec<T> {
            let numbers = numbers(seed.wrapping_mul(9).wrapping_add(n), count);
            numbers.into_iter().map(|x| T::from_f64((x * factor).into())).collect()
        };
        let hidden = s.hidden_dim;
        Self {
            query: tensor(0, s.batch * s.q_len * s.query_dim, 1.0),
            key: tensor(1, s.batch * s.kv_len * s.key_dim, 1.0),
            value: tensor(2, s.batch * s.kv_len * s.value_dim, 1.0),
            w_q: tensor(3, hidden * s.query_dim, 1.0),
            w_k: tensor(4, hidden * s.key_dim, 1.0),
            // Scores of some size, so that the weights differ.
            w_v: tensor(5, hidden, 2.0),
            b: s.bias.then(|| tensor(6, hidden, 1.0)),
            mask: s.mask.map(|sizes| {
                let count = sizes.iter().product();
                numbers(seed + 7, count).into_iter().map(|x| x < 0.3).collect()
            }),
        }
    }

    fn inputs(&self) -> AdditiveInputs<'_, T> {
        AdditiveInputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            w_q: &self.w_q,
            w_k: &self.w_k,
            w_v: &self.w_v,
            b: self.b.as_deref(),
            mask: self.mask.as_deref(),
        }
    }
}

fn differs<T: Element>(
    what: &str,
    found: &AdditiveOutputs<T, f32>,
    expected: &AdditiveOutputs<f64>,
) -> Result<(), String> {
    let out: Vec<f32> = found.out.iter().map(|x| x.to_f32()).collect();
    let weights = found.weights.as_deref().zip(expected.weights.as_deref());
    let pairs = [("out", Some((&out[..], &expected.out[..]))), ("weights", weights)];
    for (name, pair) in pairs {
        let Some((found, expected)) = pair else { continue };
        let accuracy = compare(found, expected).map_err(|error| format!("{what}: {error}"))?;
        let bounds = if name == "out" { Bounds::of(T::TYPE) } else { Bounds::F32 };
        if !accuracy.within(&bounds) {
            return Err(format!("{what}: {name}: {} {accuracy}", T::TYPE));
        }
    }
    let both = found.weights.is_some() == expected.weights.is_some();
    if both { Ok(()) } else { Err(format!("{what}: weights are missing")) }
}

fn verdict<T: Element>(gpu: &Gpu, shape: &AdditiveShape, seed: u64) -> Result<(), String> {
    verdict_of(gpu, shape, &Tensors::<T>::random(shape, seed), seed)
}

fn verdict_of<T: Element>(
    gpu: &Gpu,
    shape: &AdditiveShape,
    tensors: &Tensors<T>,
    seed: u64,
) -> Result<(), String> {
    let shape = &AdditiveShape { element: T::TYPE, ..*shape };
    let what = format!("seed {seed}, {shape:?}");
    let expected = cpu::additive(shape, &tensors.inputs());
    let expected = expected.map_err(|error| format!("{what}: {error}"))?;
    let found = gpu.additive_blocking(shape, &tensors.inputs());
    differs(&what, &found.map_err(|error| format!("{what}: {error}"))?, &expected)
}

#[track_caller]
fn check<T: Element>(gpu: &Gpu, shape: &AdditiveShape, seed: u64) {
    verdict::<T>(gpu, shape, seed).unwrap_or_else(|message| panic!("{message}"));
}

/// Dims are part of a pipeline's key, so there are few of them.
fn shape() -> impl Strategy<Value = AdditiveShape> {
    let dims = prop_oneof![Just(([8, 12, 8], 16)), Just(([3, 5, 7], 6)), Just(([5, 4, 300], 70))];
    let options = (any::<bool>(), any::<bool>(), proptest::option::of([0..2_usize, 0..2, 0..2]));
    (0..3_usize, 0..20_usize, 0..70_usize, dims, options).prop_map(
        |(batch, q_len, kv_len, (dims, hidden), (bias, weights, mask))| {
            let sizes = [batch, q_len, kv_len];
            let broadcast = |full: [usize; 3]| {
                std::array::from_fn(|axis| if full[axis] == 1 { sizes[axis] } else { 1 })
            };
            AdditiveShape {
                bias,
                weights,
                mask: mask.map(broadcast),
                ..AdditiveShape::new(batch, [q_len, kv_len], dims, hidden)
            }
        },
    )
}

#[test]
fn any_additive_attention_agrees_with_its_definition() {
    let mut runner = TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(29),
        max_shrink_iters: 100,
        ..Config::default()
    });
    runner
        .run(&(shape(), 0..1000_u64), |(shape, seed)| {
            verdict::<f32>(gpu(), &shape, seed).map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn sixteen_bit_elements_are_computed_in_f32() {
    for (dims, hidden) in [([8, 12, 8], 16), ([3, 5, 7], 6)] {
        let shape = AdditiveShape {
            weights: true,
            mask: Some([2, 1, 40]),
            ..AdditiveShape::new(2, [11, 40], dims, hidden)
        };
        for gpu in [gpu(), portable()] {
            check::<f16>(gpu, &shape, 1);
            check::<bf16>(gpu, &shape, 2);
        }
    }
}

/// From where a tanh is its argument to far beyond where it is 1, and over the place where the shader changes from a series
/// to exponentials. One factor, so that a score shows each tanh.
#[test]
fn a_tanh_is_right_at_every_size() {
    let shape = AdditiveShape {
        bias: false,
        weights: true,
        ..AdditiveShape::new(1, [1, 256], [1, 1, 4], 1)
    };
    let mut tensors = Tensors::<f32>::random(&shape, 3);
    tensors.query[0] = 0.0;
    tensors.w_k[0] = 1.0;
    for (j, key) in tensors.key.iter_mut().enumerate() {
        *key = 1.15_f32.powi(i32::try_from(j).unwrap() - 128) * if j % 2 == 0 { 1.0 } else { -1.0 };
    }
    for factor in [5.0, 1e3, 1e6] {
        tensors.w_v[0] = factor;
        // Scores of which only small ones are left beside each other.
        let largest = 20.0 / factor;
        tensors.mask =
            Some(tensors.key.iter().map(|key| factor < 10.0 || key.abs() < largest).collect());
        let shape = AdditiveShape { mask: Some([1, 1, 256]), ..shape };
        let expected = cpu::additive(&shape, &tensors.inputs()).unwrap();
        let found = gpu().additive_blocking(&shape, &tensors.inputs()).unwrap();
        differs(&format!("{factor}"), &found, &expected).unwrap();
    }
}

#[test]
fn what_a_hidden_key_holds_does_not_leak_and_what_a_visible_one_holds_shows() {
    let shape = AdditiveShape {
        weights: true,
        mask: Some([1, 3, 40]),
        ..AdditiveShape::new(1, [3, 40], [3, 3, 5], 4)
    };
    let mut tensors = Tensors::<f32>::random(&shape, 4);
    // The first row does not see the poisoned keys, the second sees nothing, the third sees them.
    let mask = tensors.mask.as_mut().unwrap();
    for j in 0..40 {
        (mask[j], mask[40 + j], mask[80 + j]) = (![2, 33, 39].contains(&j), false, true);
    }
    tensors.key[2 * 3] = f32::NAN;
    tensors.value[33 * 5] = f32::NAN;
    tensors.value[39 * 5 + 1] = f32::INFINITY;
    let expected = cpu::additive(&shape, &tensors.inputs()).unwrap();
    assert!(expected.out[..10].iter().all(|x| x.is_finite()));
    assert!(expected.out[5..10].iter().all(|&x| x == 0.0) && expected.out[10].is_nan());
    let found = gpu().additive_blocking(&shape, &tensors.inputs()).unwrap();
    differs("poisoned", &found, &expected).unwrap();
}

#[test]
fn what_is_too_large_for_a_device_is_cut() {
    let small =
        Capabilities { binding_size: 16 << 10, workgroups_per_axis: 9, ..Capabilities::PORTABLE };
    let small = gpu().masked(&small);
    let shape = AdditiveShape {
        weights: true,
        mask: Some([3, 90, 50]),
        ..AdditiveShape::new(3, [90, 50], [3, 5, 7], 6)
    };
    check::<f32>(&small, &shape, 5);
    check::<bf16>(&small, &shape, 6);
    let slow = gpu().masked(&Capabilities { dispatch_work: 1, ..*gpu().capabilities() });
    check::<f32>(&slow, &shape, 7);
    let long = AdditiveShape::new(1, [1, 5000], [1, 1, 1], 1);
    let refused = small.additive_operator().plan(&long).unwrap_err().to_string();
    assert!(refused.contains("bytes of one storage binding"), "{refused}");
}

#[test]
fn two_plans_in_one_encoder_keep_apart() {
    let app = App::open();
    let operator = Additive::new(&app.device, &app.queue);
    let shapes = [[5, 9], [3, 40]]
        .map(|lens| AdditiveShape { weights: true, ..AdditiveShape::new(2, lens, [3, 5, 7], 6) });
    let mut encoder = app.encoder();
    let calls = shapes.map(|shape| {
        let t = Tensors::<f32>::random(&shape, 8);
        let inputs = [&t.query, &t.key, &t.value, &t.w_q, &t.w_k, &t.w_v].map(|x| app.buffer(x));
        let b = app.buffer(t.b.as_ref().unwrap());
        let out = app.output(2 * shape.q_len * 7);
        let weights = app.output(2 * shape.q_len * shape.kv_len);
        let [query, key, value, w_q, w_k, w_v] = &inputs;
        let buffers = AdditiveBuffers {
            query: query.into(),
            key: key.into(),
            value: value.into(),
            w_q: w_q.into(),
            w_k: w_k.into(),
            w_v: w_v.into(),
            b: Some((&b).into()),
            mask: None,
            out: (&out).into(),
            weights: Some((&weights).into()),
        };
        let plan = operator.plan(&shape).unwrap();
        operator.encode(&mut encoder, &plan, &buffers).unwrap();

        for (buffers, says) in [
            (
                AdditiveBuffers { query: w_v.into(), ..buffers },
                "query: expected a buffer of at least",
            ),
            (AdditiveBuffers { b: None, ..buffers }, "b: expected a buffer"),
            (AdditiveBuffers { mask: Some((&b).into()), ..buffers }, "mask: expected none"),
            (AdditiveBuffers { weights: None, ..buffers }, "weights: expected a buffer"),
            (
                AdditiveBuffers { out: (&weights).into(), ..buffers },
                "weights: expected a buffer of its own",
            ),
        ] {
            let refused = operator.encode(&mut app.encoder(), &plan, &buffers).unwrap_err();
            let says = format!("additive attention: {says}");
            assert!(refused.to_string().starts_with(&says), "{refused}, not {says}");
        }
        (cpu::additive(&shape, &t.inputs()).unwrap(), out, weights)
    });
    app.submit(encoder);
    for (expected, out, weights) in calls {
        check_tensor("out", &app.read(&out), &expected.out, &Bounds::F32);
        check_tensor("weights", &app.read(&weights), &expected.weights.unwrap(), &Bounds::F32);
    }
}

/// Scores from -18 to 18, larger with each key: the running maximum follows in every tile.
fn rising(gpu: &Gpu) -> Result<(), String> {
    let shape = AdditiveShape::new(1, [9, 100], [3, 5, 7], 6);
    let mut tensors = Tensors::<f32>::random(&shape, 1);
    tensors.w_q.fill(0.0);
    tensors.w_k.fill(0.2);
    tensors.w_v.fill(4.0);
    for (j, key) in tensors.key.chunks_mut(5).enumerate() {
        key.fill(j as f32 * 0.02 - 1.0);
    }
    verdict_of(gpu, &shape, &tensors, 1)
}

#[test]
fn a_maximum_that_grows_from_tile_to_tile_is_followed() {
    assert_eq!(rising(gpu()), Ok(()));
}

/// The tests above would notice.
#[test]
#[ignore = "planted faults: tests of the tests"]
fn a_kernel_that_is_broken_is_found() {
    let shape = AdditiveShape {
        weights: true,
        mask: Some([1, 20, 70]),
        ..AdditiveShape::new(2, [20, 70], [3, 5, 7], 70)
    };
    for (find, replacement) in [
        ("select(far, near, abs(x) < vec4(0.5))", "near"),
        ("select(0.0, exponential(scores[r * KEYS + j] - m), shown)", "1.0"),
        ("bits &= mask_bits(row, first_key);", ""),
        ("select(vec4(params.hidden_bits), bits, shown)", "bits"),
        ("column < params.head_dim; column += CHUNK * 4u", "column < 64u; column += CHUNK * 4u"),
    ] {
        let broken = gpu().broken(find, replacement);
        assert!(verdict::<f32>(&broken, &shape, 9).is_err(), "{find}");
    }
    let (find, replacement) = ("rescales[r] = rescale;", "rescales[r] = 1.0;");
    assert!(rising(&gpu().broken(find, replacement)).is_err(), "{find}");
}
