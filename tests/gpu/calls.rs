//! Calls that are bound once and recorded again and again.

use crate::app::{App, UNTOUCHED};
use crate::case::{Case, PLAIN, check_tensor, shape};
use std::cell::Cell;
use std::sync::Once;
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{Linear, LinearBuffers, LinearShape};
use wgpu_attention::{
    AlibiLayout, Attention, AttentionBuffers, AttentionOptions, AttentionShape, Call, ElementType,
    Kernel, wgpu,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// Counts what wgpu says that this thread has created.
struct Creations;

thread_local! {
    static CREATED: Cell<usize> = const { Cell::new(0) };
}

impl log::Log for Creations {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "wgpu_core::device::global"
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args().to_string();
        if self.enabled(record.metadata()) && message.starts_with("Device::create_") {
            CREATED.set(CREATED.get() + 1);
        }
    }

    fn flush(&self) {}
}

/// Buffers, bind groups, pipelines and the like that `action` creates.
pub(crate) fn created(action: impl FnOnce()) -> usize {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Creations).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    CREATED.set(0);
    action();
    CREATED.get()
}

/// A case, the call it became, and where its answer will lie.
struct Bound {
    case: Case,
    call: Call,
    out: wgpu::Buffer,
}

impl Bound {
    fn new(app: &App, case: Case, kernel: Kernel) -> Self {
        use wgpu::BufferUsages as Usages;
        let operator = Attention::new(&app.device, &app.queue, &case.options).unwrap();
        let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
        let tensors = &case.tensors;
        let inputs = [&tensors.query, &tensors.key, &tensors.value].map(|xs| app.buffer(xs));
        let [query, key, value] = &inputs;
        let untouched = vec![UNTOUCHED; case.problem().out().extent as usize];
        let out = app.buffer_with(&untouched, Usages::STORAGE | Usages::COPY_DST);
        let slopes = case.slopes.as_ref().map(|slopes| app.buffer(slopes));
        let sinks = case.sinks.as_ref().map(|sinks| app.buffer(sinks));
        let buffers = AttentionBuffers {
            alibi_slopes: slopes.as_ref().map(Into::into),
            sinks: sinks.as_ref().map(Into::into),
            ..AttentionBuffers::new(query, key, value, &out)
        };
        let call = operator.bind(&plan, &buffers).unwrap();
        Self { case, call, out }
    }

    fn check(&self, app: &App) {
        let expected = self.case.expected().out;
        check_tensor(&format!("out, {}", self.case), &app.read(&self.out), &expected, &Bounds::F32);
    }
}

fn case(len: usize) -> Case {
    let shape = AttentionShape {
        lse: None,
        alibi: Some(AlibiLayout::PerHead),
        sinks: true,
        ..shape(1, 2, len, len + 7, 8)
    };
    Case::new(shape, CAUSAL, len as u64)
}

#[test]
fn recording_a_bound_call_creates_nothing_on_the_device() {
    let app = App::open();
    let bound: Vec<Bound> =
        Kernel::PORTABLE.into_iter().map(|kernel| Bound::new(&app, case(40), kernel)).collect();
    let mut encoder = app.encoder();
    assert_eq!(created(|| bound.iter().for_each(|bound| bound.call.encode(&mut encoder))), 0);
    // The count is one that can be wrong: binding does create.
    assert!(created(|| drop(Bound::new(&app, case(40), Kernel::Forward))) > 0);
    app.submit(encoder);
    bound.iter().for_each(|bound| bound.check(&app));
}

#[test]
fn a_call_goes_into_any_number_of_encoders_beside_other_calls() {
    let app = App::open();
    let calls = [9, 40, 70].map(|len| Bound::new(&app, case(len), Kernel::Forward));
    for round in 0..5 {
        let mut encoder = app.encoder();
        for bound in &calls {
            encoder.clear_buffer(&bound.out, 0, None);
            bound.call.encode(&mut encoder);
        }
        // A call for once in between takes parameters of its own, and leaves those of the others alone.
        let other = Bound::new(&app, case(20 + round), Kernel::Forward);
        other.call.encode(&mut encoder);
        app.submit(encoder);
        calls.iter().chain([&other]).for_each(|bound| bound.check(&app));
    }
}

/// Parameters are written before a submission, so those of a call must outlive it until then.
#[test]
fn a_call_that_is_dropped_before_its_encoder_is_submitted_still_runs() {
    let app = App::open();
    let mut encoder = app.encoder();
    let mut finished = Vec::new();
    for len in 1..60 {
        let Bound { case, call, out } = Bound::new(&app, case(len), Kernel::Forward);
        call.encode(&mut encoder);
        drop(call);
        finished.push((case, out));
    }
    app.submit(encoder);
    for (case, out) in finished {
        let expected = case.expected().out;
        check_tensor(&format!("out, {case}"), &app.read(&out), &expected, &Bounds::F32);
    }
}

#[test]
fn dropped_calls_give_their_parameters_back() {
    let app = App::open();
    let linear = Linear::new(&app.device, &app.queue);
    let shape = LinearShape::new(1, 2, 2);
    let plan = linear.plan(&shape).unwrap();
    assert_eq!(shape.element, ElementType::F32);
    let [x, weight, out] = [2, 4, 2].map(|len| app.buffer(&vec![1.0; len]));
    let buffers =
        LinearBuffers { x: (&x).into(), weight: (&weight).into(), bias: None, out: (&out).into() };
    let allocated = || app.instance.generate_report().unwrap().hub_report().buffers.num_allocated;
    drop(linear.bind(&plan, &buffers).unwrap());
    let before = allocated();
    for _ in 0..2000 {
        let call = linear.bind(&plan, &buffers).unwrap();
        let mut encoder = app.encoder();
        call.encode(&mut encoder);
        app.submit(encoder);
    }
    assert_eq!(allocated(), before);
}
