//! A device that is gone gives errors: no panic, no hang, no made-up answer.

use crate::app::App;
use crate::case::{Case, PLAIN, shape};
use std::time::Duration;
use wgpu_attention::check::Bounds;
use wgpu_attention::{Attention, AttentionBuffers, Error, Gpu, Kernel, Outputs, wgpu};

fn case() -> Case {
    Case::new(shape(1, 2, 40, 70, 8), PLAIN, 1)
}

fn one_shot(gpu: &Gpu, case: &Case, kernel: Kernel) -> Result<Outputs, Error> {
    let inputs = case.inputs();
    let call = gpu.attention_with(&case.shape, &case.options, &inputs, Some(kernel));
    pollster::block_on(call)
}

fn is_of_the_machine(result: Result<Outputs, Error>) -> bool {
    result.is_err_and(|error| !error.is_invalid())
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
            assert!(is_of_the_machine(one_shot(&gpu, &case(), kernel)));
        }
        // Of these calls some have nothing to upload, some nothing to compute.
        for (batch, q_len, kv_len) in [(0, 3, 3), (1, 0, 0), (1, 0, 3), (1, 3, 0)] {
            let case = Case::new(shape(batch, 2, q_len, kv_len, 8), PLAIN, 1);
            assert!(is_of_the_machine(one_shot(&gpu, &case, Kernel::Forward)), "{case}");
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
            assert!(!error.is_invalid(), "{error}");
        });
    }
}

#[test]
fn encoding_on_a_lost_device_does_not_panic() {
    let app = App::open();
    let operator = || Attention::new(&app.device, &app.queue, &PLAIN).unwrap();
    let buffer = || {
        app.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 1 << 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let (compiled, fresh) = (operator(), operator());
    let plan = |kernel| compiled.plan_kernel(&case().shape, Some(kernel)).unwrap();
    let plans = Kernel::PORTABLE.map(plan);
    plans.iter().for_each(|plan| compiled.prepare_blocking(plan).unwrap());
    let held = [buffer(), buffer(), buffer(), buffer(), buffer()];
    let begun = app.encoder();
    app.device.destroy();
    let late = [buffer(), buffer(), buffer(), buffer(), buffer()];
    let mut encoders = vec![begun];
    for operator in [compiled, fresh, operator()] {
        for [query, key, value, out, lse] in [&held, &late] {
            let buffers = AttentionBuffers {
                lse: Some(lse),
                ..AttentionBuffers::new(query, key, value, out)
            };
            for plan in &plans {
                let mut encoder = encoders.pop().unwrap_or_else(|| app.encoder());
                // A loss that has not shown yet is no error; all else is one of the machine.
                if let Err(error) = operator.encode(&mut encoder, plan, &buffers) {
                    assert!(!error.is_invalid(), "{error}");
                }
                app.queue.submit([encoder.finish()]);
            }
        }
    }
}
