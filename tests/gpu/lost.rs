//! A device that is gone gives errors: no panic, no hang, no made-up answer.

use crate::app::App;
use crate::cache::cache_shape;
use crate::case::{Case, PLAIN, shape};
use crate::paged_cache::pool;
use std::time::Duration;
use wgpu_attention::cache::{CacheTokens, KvCache, PagedKvCache};
use wgpu_attention::check::{Bounds, CheckOptions, run};
use wgpu_attention::layers::{Linear, LinearBuffers, LinearShape};
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionShape, Error, Gpu, GpuOptions, Kernel, Outputs, Tuning,
    wgpu,
};

fn case() -> Case {
    Case::new(shape(1, 2, 40, 70, 8), PLAIN, 1)
}

fn one_shot(gpu: &Gpu, case: &Case, kernel: Kernel) -> Result<Outputs, Error> {
    let inputs = case.inputs();
    let call = gpu.attention_with(&case.shape, &case.options, &inputs, Some(kernel));
    pollster::block_on(call)
}

fn says_so<T>(result: Result<T, Error>) -> bool {
    let Err(error) = result else { return false };
    assert!(!error.is_invalid() && error.to_string().ends_with(": the device is lost"), "{error}");
    error.is_lost()
}

#[test]
fn one_shots_on_a_lost_device_are_errors() {
    let app = App::open();
    let compiled = Gpu::from_device(&app.device, &app.queue);
    let fresh = Gpu::from_device(&app.device, &app.queue);
    case().check_on(&compiled);
    app.device.destroy();
    for gpu in [compiled, fresh, Gpu::from_device(&app.device, &app.queue)] {
        for kernel in Kernel::PORTABLE {
            assert!(says_so(one_shot(&gpu, &case(), kernel)));
        }
        // Of these calls some have nothing to upload, some nothing to compute.
        for (batch, q_len, kv_len) in [(0, 3, 3), (1, 0, 0), (1, 0, 3), (1, 3, 0)] {
            let case = Case::new(shape(batch, 2, q_len, kv_len, 8), PLAIN, 1);
            assert!(says_so(one_shot(&gpu, &case, Kernel::Forward)), "{case}");
        }
    }
}

/// Wherever in the call it happens; until then every answer is right.
#[test]
fn a_device_lost_during_a_call_is_an_error() {
    let case = case();
    let expected = case.expected();
    for delay in 0..12 {
        let app = App::open();
        let gpu = Gpu::from_device(&app.device, &app.queue);
        case.check_on(&gpu);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(3000 + delay * 400));
                app.device.destroy();
            });
            let error = loop {
                match one_shot(&gpu, &case, Kernel::Forward) {
                    Ok(found) => case.compare("so far", &found, &expected, &Bounds::F32),
                    Err(error) => break error,
                }
            };
            assert!(error.is_lost(), "{error}");
        });
    }
}

#[test]
fn all_that_is_asked_of_a_lost_device_says_that_it_is_lost() {
    let app = App::open();
    let gpu = Gpu::from_device(&app.device, &app.queue);
    let (device, queue) = (&app.device, &app.queue);
    let buffer = || app.output(1 << 14);
    let (compiled, fresh) =
        (gpu.attention_operator(&PLAIN).unwrap(), Attention::new(device, queue, &PLAIN).unwrap());
    let plan = |kernel| compiled.plan_kernel(&case().shape, Some(kernel)).unwrap();
    let plans = Kernel::PORTABLE.map(plan);
    plans.iter().for_each(|plan| compiled.prepare_blocking(plan).unwrap());
    let (cache, paged) = (cache_shape([1, 2, 32, 8]), pool([2, 16, 4, 8]));
    let mut held_cache = gpu.kv_cache(&cache, None).unwrap();
    let mut held_paged = gpu.paged_kv_cache(&paged, None).unwrap();
    let sequence = held_paged.add();
    let linear = LinearShape::new(3, 8, 8);
    let held = [buffer(), buffer(), buffer(), buffer(), buffer()];
    let begun = app.encoder();
    assert!(!gpu.is_lost());
    app.device.destroy();
    assert!(gpu.is_lost());
    let late = [(); 5].map(|()| {
        let (label, usage) = (None, wgpu::BufferUsages::STORAGE);
        let size = 1 << 16;
        device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    });
    let mut encoders = vec![begun];
    for operator in [&compiled, &fresh] {
        for [query, key, value, out, lse] in [&held, &late] {
            let buffers = AttentionBuffers {
                lse: Some(lse.into()),
                ..AttentionBuffers::new(query, key, value, out)
            };
            for plan in &plans {
                let mut encoder = encoders.pop().unwrap_or_else(|| app.encoder());
                assert!(says_so(operator.encode(&mut encoder, plan, &buffers)));
                assert!(says_so(operator.bind(plan, &buffers)));
                assert!(says_so(operator.prepare_blocking(plan)));
                queue.submit([encoder.finish()]);
            }
            assert!(says_so(operator.tune_blocking(&case().shape, &buffers)));
            assert_eq!(operator.tuning(), Tuning::default());
        }
    }
    assert!(says_so(Attention::new(device, queue, &PLAIN)));
    assert!(says_so(gpu.attention_operator(&PLAIN)));
    assert!(says_so(KvCache::new(device, queue, &cache, None)));
    assert!(says_so(PagedKvCache::new(device, queue, &paged, None)));
    let mut encoder = app.encoder();
    let tokens = CacheTokens::new(&held[0], &held[1], 1);
    assert!(says_so(held_cache.append(&mut encoder, &tokens)));
    assert!(says_so(held_cache.bind_append(&tokens)));
    assert!(says_so(held_cache.prepare_blocking()));
    assert!(says_so(held_paged.append(&mut encoder, &[sequence], &tokens)));
    assert_eq!((held_cache.lens(), held_paged.len(sequence).unwrap()), (&[0][..], 0));
    let layer = Linear::new(device, queue);
    let linear = layer.plan(&linear).unwrap();
    assert!(says_so(layer.prepare_blocking(&linear)));
    let [x, weight, out, ..] = &held;
    let buffers = LinearBuffers { x: x.into(), weight: weight.into(), bias: None, out: out.into() };
    assert!(says_so(layer.encode(&mut encoder, &linear, &buffers)));
    queue.submit([encoder.finish()]);
}

/// That of the caller alone, or one of those that share the cases.
#[test]
fn a_check_on_a_lost_device_is_an_error_and_finds_no_kernel_wrong() {
    let opened = Gpu::open_blocking(&GpuOptions::default()).unwrap();
    let own = Gpu::from_device(opened.device(), opened.queue());
    for (gpu, only) in [(&opened, "lengths"), (&own, "lengths"), (&own, "appended tokens")] {
        gpu.device().destroy();
        let options = CheckOptions { quick: true, only: Some(only), ..CheckOptions::default() };
        let mut wrong = Vec::new();
        let result = run(gpu, &options, &mut |progress| {
            wrong.extend(progress.rows.iter().filter(|row| row.failure.is_some()).cloned());
        });
        assert!(says_so(result) && wrong.is_empty(), "{only}: {wrong:#?}");
    }
}

/// Of a lost device all work counts as done, in no time: tiles would be taken for faster than they are.
#[test]
fn a_device_lost_while_tiles_are_timed_teaches_nothing() {
    let app = App::open();
    let gpu = Gpu::from_device(&app.device, &app.queue);
    let attention = gpu.attention_operator(&PLAIN).unwrap();
    let shape = AttentionShape::new(1, 2, 300, 32);
    let buffers = [(); 4].map(|()| app.output(2 * 300 * 32));
    let [query, key, value, out] = &buffers;
    let buffers = AttentionBuffers::new(query, key, value, out);
    let tune = || attention.tune_blocking(&shape, &buffers);
    let tiles = tune().unwrap().len();
    let learned = attention.tuning();
    // All is compiled now. Each tile runs once and then seven times by turns; each run is waited for, once or twice.
    lose_after(3 * tiles, app.device.clone(), app.queue.clone());
    assert!(says_so(tune()));
    assert_eq!(attention.tuning(), learned);
}

/// Destroys the device when it has been waited for so often.
fn lose_after(waits: usize, device: wgpu::Device, queue: wgpu::Queue) {
    queue.clone().on_submitted_work_done(move || match waits {
        0 => device.destroy(),
        _ => lose_after(waits - 1, device, queue),
    });
}
