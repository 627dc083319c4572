//! From slices to vectors: the same bits every time, from any thread and any executor.

use crate::app::App;
use crate::case::{Case, PLAIN, shape};
use crate::device::gpu;
use crate::startup::fresh;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionOptions, AttentionShape, Gpu, GpuOptions, Kernel, Layout,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

fn case() -> Case {
    let grouped = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 70, 100, 8) };
    Case::new(grouped, CAUSAL, 1)
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let case = case();
    for kernel in Kernel::PORTABLE.map(Some) {
        let first = case.run(gpu(), kernel);
        for _ in 0..5 {
            assert_eq!(case.run(gpu(), kernel), first, "{kernel:?}, {case}");
        }
    }
}

#[test]
fn a_recorded_call_gives_the_bits_of_a_one_shot() {
    let case = case();
    let app = App::open();
    let operator = Attention::new(&app.device, &app.queue, &case.options).unwrap();
    let [query, key, value] =
        [&case.tensors.query, &case.tensors.key, &case.tensors.value].map(|xs| app.buffer(xs));
    for kernel in Kernel::PORTABLE.map(Some) {
        let expected = case.run(gpu(), kernel);
        let (out, lse) = (app.output(expected.out.len()), app.output(2 * 4 * 70));
        let plan = operator.plan_kernel(&case.shape, kernel).unwrap();
        let mut encoder = app.encoder();
        let buffers = AttentionBuffers {
            lse: Some((&lse).into()),
            ..AttentionBuffers::new(&query, &key, &value, &out)
        };
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
        app.submit(encoder);
        assert_eq!(app.read(&out), expected.out, "{kernel:?}, {case}");
        assert_eq!(Some(app.read(&lse)), expected.lse, "{kernel:?}, {case}");
    }
}

#[test]
fn asking_for_more_outputs_changes_no_bit() {
    let case = case();
    let mut more = case.clone();
    more.shape.weights = Some(Layout::Bhsd);
    more.shape.raw_scores = Some(Layout::Bhsd);
    let found = more.run(gpu(), None);
    assert_eq!(found.out, case.run(gpu(), Some(Kernel::ThreeStage)).out, "{case}");
}

#[test]
fn a_device_of_the_applications_own_serves_one_shots() {
    let app = App::open();
    let gpu = Gpu::from_device(&app.device, &app.queue);
    case().check_on(&gpu);
}

/// An executor that knows nothing of GPUs: it polls each future in turn.
#[test]
fn calls_are_futures_that_any_executor_can_poll() {
    let case = case();
    let expected = case.expected();
    let inputs = case.inputs();
    let mut first = pin!(gpu().attention(&case.shape, &case.options, &inputs));
    let mut second = pin!(gpu().attention(&case.shape, &case.options, &inputs));
    let (mut one, mut two) = (None, None);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let (None, Poll::Ready(found)) = (&one, first.as_mut().poll(&mut context)) {
            one = Some(found.unwrap());
        }
        if let (None, Poll::Ready(found)) = (&two, second.as_mut().poll(&mut context)) {
            two = Some(found.unwrap());
        }
        if one.is_some() && two.is_some() {
            break;
        }
    }
    for found in [one, two] {
        case.compare("polled", &found.unwrap(), &expected, &Bounds::F32);
    }
}

#[test]
fn a_device_opens_asynchronously() {
    let found = pollster::block_on(async {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        let case = case();
        gpu.attention(&case.shape, &case.options, &case.inputs()).await
    });
    case().compare("async", &found.unwrap(), &case().expected(), &Bounds::F32);
}

#[test]
fn threads_share_a_device() {
    let gpu = gpu();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                for len in 1..20 {
                    Case::new(shape(1, 1, len, len + 3, 8), CAUSAL, seed).check_on(gpu);
                }
            });
        }
    });
}

/// Tiles differ between few rows and many; but for that, sizes and the values of options are no part of a
/// pipeline.
#[test]
fn pipelines_do_not_grow_with_sizes_and_values() {
    let gpu = fresh();
    let operator = gpu.attention_operator(&CAUSAL).unwrap();
    let run = |batch: usize, heads: usize, len: usize| {
        let case = Case::new(shape(batch, heads, len, len + heads, 8), CAUSAL, len as u64);
        case.check_on(&gpu);
        let window = AttentionOptions { window_left: Some(len), scale: Some(0.3), ..PLAIN };
        Case { options: window, ..case.clone() }.check_on(&gpu);
        Case { options: PLAIN, ..case }.check_on(&gpu);
        operator.footprint().pipelines
    };
    let after_each_tile = [1, 20, 100, 300].map(|len| run(1, 1, len));
    for (n, len) in [2, 9, 31, 32, 33, 64, 65, 127, 200, 301].into_iter().enumerate() {
        let found = run(1 + n % 2, 1 + n % 3, len);
        assert_eq!(found, after_each_tile[3], "length {len}, after {after_each_tile:?}");
    }
}

#[test]
fn prepare_compiles_what_encode_will_use() {
    let gpu = fresh();
    let case = case();
    let operator = gpu.attention_operator(&case.options).unwrap();
    assert_eq!(operator.footprint().pipelines, 0);
    let plan = operator.plan_kernel(&case.shape, Some(Kernel::ThreeStage)).unwrap();
    operator.prepare_blocking(&plan).unwrap();
    assert_eq!(operator.footprint().pipelines, 3);
    case.run(&gpu, Some(Kernel::ThreeStage));
    assert_eq!(operator.footprint().pipelines, 3);
}
