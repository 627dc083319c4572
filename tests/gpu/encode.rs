//! Attention recorded into the encoder of an application that has its own device and buffers.

use crate::app::{App, UNTOUCHED};
use crate::case::{Case, PLAIN, check_tensor, shape};
use std::thread;
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionOptions, AttentionShape, Gpu, Kernel, Layout, Plan,
    Strides, wgpu,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// The buffers of one case: query, key, value, out.
struct Uploaded([wgpu::Buffer; 4]);

impl Uploaded {
    fn new(app: &App, case: &Case) -> Self {
        let Case { tensors, .. } = case;
        let inputs = [&tensors.query, &tensors.key, &tensors.value].map(|xs| app.buffer(xs));
        let [query, key, value] = inputs;
        Self([query, key, value, app.output(case.problem().out().extent as usize)])
    }

    fn buffers(&self) -> AttentionBuffers<'_> {
        let [query, key, value, out] = &self.0;
        AttentionBuffers::new(query, key, value, out)
    }

    fn check(&self, app: &App, case: &Case) {
        let found = app.read(&self.0[3]);
        check_tensor(&format!("out, {case}"), &found, &case.expected().out, &Bounds::F32);
    }
}

fn without_lse(mut case: Case) -> Case {
    case.shape.lse = None;
    case
}

fn case(len: usize, options: AttentionOptions) -> Case {
    without_lse(Case::new(shape(1, 2, len, len + 7, 8), options, len as u64))
}

#[test]
fn plans_of_one_operator_share_an_encoder() {
    let app = App::open();
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    let cases = [case(40, CAUSAL), case(9, CAUSAL), case(70, CAUSAL)];
    let uploaded = cases.each_ref().map(|case| Uploaded::new(&app, case));
    let mut encoder = app.encoder();
    for (case, uploaded) in cases.iter().zip(&uploaded) {
        let plan = operator.plan(&case.shape).unwrap();
        operator.encode(&mut encoder, &plan, &uploaded.buffers()).unwrap();
    }
    app.submit(encoder);
    for (case, uploaded) in cases.iter().zip(&uploaded) {
        uploaded.check(&app, case);
    }
}

#[test]
fn kernels_and_operators_share_an_encoder() {
    let app = App::open();
    let softcap = AttentionOptions { softcap: Some(2.0), ..PLAIN };
    let mut encoder = app.encoder();
    let mut recorded = Vec::new();
    // Three-stage calls of different size, one after the other, share one workspace.
    for (options, kernel, len) in [
        (CAUSAL, Kernel::Forward, 40),
        (softcap, Kernel::ThreeStage, 33),
        (softcap, Kernel::ThreeStage, 70),
        (CAUSAL, Kernel::ThreeStage, 9),
    ] {
        let operator = Attention::new(&app.device, &app.queue, &options).unwrap();
        let case = case(len, options);
        let uploaded = Uploaded::new(&app, &case);
        let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
        operator.encode(&mut encoder, &plan, &uploaded.buffers()).unwrap();
        recorded.push((case, uploaded));
    }
    app.submit(encoder);
    for (case, uploaded) in recorded {
        uploaded.check(&app, &case);
    }
}

/// A submission clears what it binds and nobody has written yet. Parameters that another thread writes meanwhile are not
/// to be cleared with it.
#[test]
fn calls_are_bound_while_another_thread_submits_for_the_first_time() {
    const ENCODERS: usize = 200;
    const CALLS: usize = 40;
    let app = App::open();
    let device = Gpu::from_device(&app.device, &app.queue);
    let case = without_lse(Case::new(shape(1, 1, 1, 37, 8), PLAIN, 1));
    let uploaded = Uploaded::new(&app, &case);
    let [query, key, value, _] = &uploaded.0;
    let expected = case.expected().out.repeat(CALLS);
    for round in 0..24 {
        // The same pipelines, and nothing else that has been used.
        let operator =
            device.masked(device.capabilities()).attention_operator(&case.options).unwrap();
        let plan = operator.plan(&case.shape).unwrap();
        let mut first: Vec<_> = (0..ENCODERS).map(|_| app.encoder()).collect();
        for encoder in &mut first {
            operator.encode(encoder, &plan, &uploaded.buffers()).unwrap();
        }
        let mut second = app.encoder();
        // Each call writes its own eight elements of one buffer.
        let out = app.output(CALLS * 8);
        thread::scope(|scope| {
            scope.spawn(|| app.queue.submit(first.into_iter().map(wgpu::CommandEncoder::finish)));
            for n in 0..CALLS {
                let place = Strides { offset: n * 8, batch: 0, head: 0, row: 8 };
                let shape = AttentionShape { out: Layout::Strided(place), ..case.shape.clone() };
                let plan = operator.plan(&shape).unwrap();
                let buffers = AttentionBuffers::new(query, key, value, &out);
                operator.encode(&mut second, &plan, &buffers).unwrap();
            }
        });
        app.submit(second);
        check_tensor(&format!("round {round}"), &app.read(&out), &expected, &Bounds::F32);
    }
}

/// Parameters are written before the whole submission, so each of a thousand calls needs its own.
#[test]
fn a_thousand_calls_in_one_encoder_each_see_their_own_parameters() {
    const CALLS: usize = 1000;
    let app = App::open();
    let gpu = Gpu::from_device(&app.device, &app.queue);
    let most = without_lse(Case::new(shape(1, 1, 1, 37, 8), PLAIN, 1));
    let Uploaded([query, key, value, _]) = Uploaded::new(&app, &most);
    // Each call writes its own eight elements of one buffer.
    let out = app.output(CALLS * 8);
    let mut encoder = app.encoder();
    let call = |n: usize| {
        let mut case = most.clone();
        case.options.scale = Some((n % 50) as f32 * 0.02);
        case.shape.kv_len = 1 + n % 37;
        case.tensors.key.truncate(case.shape.kv_len * 8);
        case.tensors.value.truncate(case.shape.kv_len * 8);
        case
    };
    for n in 0..CALLS {
        let place = Strides { offset: n * 8, batch: 0, head: 0, row: 8 };
        let case = call(n);
        let shape = AttentionShape { out: Layout::Strided(place), ..case.shape };
        let operator = gpu.attention_operator(&case.options).unwrap();
        let plan = operator.plan(&shape).unwrap();
        let buffers = AttentionBuffers::new(&query, &key, &value, &out);
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
    }
    app.submit(encoder);
    for (n, found) in app.read(&out).chunks(8).enumerate() {
        let case = call(n);
        check_tensor(&format!("call {n}, {case}"), found, &case.expected().out, &Bounds::F32);
    }
}

#[test]
fn dropped_encoders_leak_nothing() {
    let app = App::open();
    let case = case(9, CAUSAL);
    let uploaded = Uploaded::new(&app, &case);
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    let plans: Vec<Plan> = Kernel::PORTABLE
        .into_iter()
        .map(|kernel| operator.plan_kernel(&case.shape, Some(kernel)).unwrap())
        .collect();
    let record = || {
        let mut encoder = app.encoder();
        for plan in &plans {
            operator.encode(&mut encoder, plan, &uploaded.buffers()).unwrap();
        }
        encoder
    };
    let buffers = || {
        let slots = operator.footprint().uniform_slots;
        (app.instance.generate_report().unwrap().hub_report().buffers.num_allocated, slots)
    };
    app.submit(record());
    let before = buffers();
    for n in 0..2000 {
        match n % 4 {
            0 => drop(record()),
            1 => drop(record().finish()),
            2 => app.submit(record()),
            // A failed call returns its slots as well.
            _ => {
                let mut wrong = uploaded.buffers();
                wrong.out = wrong.query;
                let mut encoder = app.encoder();
                operator.encode(&mut encoder, &plans[0], &wrong).unwrap_err();
            }
        }
    }
    assert_eq!(buffers(), before, "buffers and uniform slots, before and after");
    uploaded.check(&app, &case);
}

/// Submissions that are under way hold their slots; those after them get others.
#[test]
fn submissions_in_flight_keep_their_parameters() {
    let app = App::open();
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    let cases: Vec<Case> = (0..60).map(|n| case(1 + n, CAUSAL)).collect();
    let uploaded: Vec<Uploaded> = cases.iter().map(|case| Uploaded::new(&app, case)).collect();
    let mut finished = Vec::new();
    for (n, (case, uploaded)) in cases.iter().zip(&uploaded).enumerate() {
        let mut encoder = app.encoder();
        let plan = operator.plan(&case.shape).unwrap();
        operator.encode(&mut encoder, &plan, &uploaded.buffers()).unwrap();
        // Some are submitted at once, some later and in another order; polls run in between.
        if n % 3 == 0 {
            finished.push(encoder.finish());
        } else {
            app.queue.submit([encoder.finish()]);
        }
        app.device.poll(wgpu::PollType::Poll).unwrap();
    }
    app.queue.submit(finished.into_iter().rev());
    app.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    for (case, uploaded) in cases.iter().zip(&uploaded) {
        uploaded.check(&app, case);
    }
}

#[test]
fn query_key_and_value_may_share_a_buffer() {
    let app = App::open();
    // [batch, len, 3, heads, dim], as one linear layer projects it.
    let (batch, heads, len, dim) = (2, 2, 40, 8);
    let part = |n| {
        Layout::Strided(Strides {
            offset: n * heads * dim,
            batch: len * 3 * heads * dim,
            head: dim,
            row: 3 * heads * dim,
        })
    };
    let shape = AttentionShape {
        query: part(0),
        key: part(1),
        value: part(2),
        out: Layout::Bshd,
        ..AttentionShape::new(batch, heads, len, dim)
    };
    let mut case = Case::new(shape, CAUSAL, 1);
    let packed = crate::common::data::numbers(9, batch * len * 3 * heads * dim);
    case.tensors.query.clone_from(&packed);
    case.tensors.key.clone_from(&packed);
    case.tensors.value.clone_from(&packed);
    let (qkv, out) = (app.buffer(&packed), app.output(batch * len * heads * dim));
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    for kernel in Kernel::PORTABLE {
        let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
        let mut encoder = app.encoder();
        let buffers = AttentionBuffers::new(&qkv, &qkv, &qkv, &out);
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
        app.submit(encoder);
        let what = format!("{}, {case}", kernel.name());
        check_tensor(&what, &app.read(&out), &case.expected().out, &Bounds::F32);
    }
}

#[test]
fn larger_buffers_keep_what_lies_beside_the_answer() {
    let app = App::open();
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    for (dim, offset) in [(8, 64), (5, 3)] {
        let place = Strides { offset, batch: 0, head: 40 * (dim + 4) + 8, row: dim + 4 };
        let strided =
            AttentionShape { out: Layout::Strided(place), ..AttentionShape::new(1, 2, 40, dim) };
        let case = Case::new(strided, CAUSAL, 1);
        let larger = |xs: &[f32]| app.buffer(&[xs, &[f32::NAN; 100]].concat());
        let [query, key, value] =
            [&case.tensors.query, &case.tensors.key, &case.tensors.value].map(|xs| larger(xs));
        let extent = case.problem().out().extent as usize;
        for kernel in Kernel::PORTABLE {
            let out = app.output(extent + 100);
            let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
            let mut encoder = app.encoder();
            let buffers = AttentionBuffers::new(&query, &key, &value, &out);
            operator.encode(&mut encoder, &plan, &buffers).unwrap();
            app.submit(encoder);
            let mut expected = vec![f64::from(UNTOUCHED); extent + 100];
            let answer = case.expected().out;
            for n in 0..2 * 40 {
                let start = case.problem().out().index(0, n / 40, n % 40, 0);
                expected[start..][..dim].copy_from_slice(&answer[start..][..dim]);
            }
            let found = app.read(&out);
            let beside = found.iter().zip(&expected).filter(|(_, e)| **e == f64::from(UNTOUCHED));
            assert!(beside.clone().all(|(x, _)| *x == UNTOUCHED), "{case}");
            assert_eq!(beside.count(), extent + 100 - 2 * 40 * dim);
            check_tensor(
                &format!("out, {case}"),
                &found,
                &expected,
                &Bounds { max_relative: 1e-7, frobenius: 1e-5 },
            );
        }
    }
}

/// The application's own pass, one workgroup of 64 after another.
fn own_pass(app: &App, encoder: &mut wgpu::CommandEncoder, buffer: &wgpu::Buffer, body: &str) {
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> data: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            if id.x < arrayLength(&data) {{ data[id.x] = {body}; }}
        }}"
    );
    let module = app.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = app.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let group = app.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(u32::try_from(buffer.size() / 4).unwrap().div_ceil(64), 1, 1);
}

#[test]
fn attention_takes_its_place_between_two_passes_of_the_application() {
    let app = App::open();
    let mut case = case(40, CAUSAL);
    let uploaded = Uploaded::new(&app, &case);
    let buffers = uploaded.buffers();
    let operator = Attention::new(&app.device, &app.queue, &CAUSAL).unwrap();
    for kernel in Kernel::PORTABLE {
        let plan = operator.plan_kernel(&case.shape, Some(kernel)).unwrap();
        let mut encoder = app.encoder();
        own_pass(&app, &mut encoder, buffers.value.buffer(), "data[id.x] * 2.0 + 1.0");
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
        own_pass(&app, &mut encoder, buffers.out.buffer(), "data[id.x] - 3.0");
        app.submit(encoder);
        case.tensors.value.iter_mut().for_each(|x| *x = *x * 2.0 + 1.0);
        let expected: Vec<f64> = case.expected().out.iter().map(|x| x - 3.0).collect();
        let what = format!("{}, {case}", kernel.name());
        check_tensor(&what, &app.read(buffers.out.buffer()), &expected, &Bounds::F32);
    }
}

/// Query, key and value side by side in one buffer, out and lse in slices of theirs, recorded between
/// the application's own dispatches of one pass.
#[test]
fn slices_of_an_arena_are_read_in_a_pass_of_the_application() {
    let app = App::open();
    let shape = AttentionShape { lse: Some(Layout::Bhsd), ..shape(1, 2, 33, 40, 8) };
    let case = Case::new(shape, PLAIN, 3);
    let tensors = [&case.tensors.query, &case.tensors.key, &case.tensors.value];
    let mut contents = Vec::new();
    let ranges = tensors.map(|tensor| {
        contents.resize(contents.len().next_multiple_of(64), f32::NAN);
        let start = contents.len() as u64 * 4;
        contents.extend_from_slice(tensor);
        start..contents.len() as u64 * 4
    });
    let arena = app.buffer(&contents);
    let rows = 2 * 33;
    let (out, lse) = (app.output(64 + rows * 8), app.output(64 + rows));
    let [query, key, value] = ranges.map(|range| arena.slice(range));
    let buffers = AttentionBuffers {
        lse: Some(lse.slice(256..).into()),
        ..AttentionBuffers::new(query, key, value, out.slice(256..))
    };
    let operator = Attention::new(&app.device, &app.queue, &PLAIN).unwrap();
    let plan = operator.plan(&case.shape).unwrap();
    let call = operator.bind(&plan, &buffers).unwrap();
    let mut encoder = app.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    call.record(&mut pass);
    call.record(&mut pass);
    drop(pass);
    // What a call keeps on the GPU lives until its work is done.
    drop(call);
    app.submit(encoder);
    let expected = case.expected();
    for (name, buffer, expected) in
        [("out", &out, &expected.out), ("lse", &lse, &expected.lse.unwrap())]
    {
        let found = app.read(buffer);
        assert_eq!(found[..64], [UNTOUCHED; 64], "{name}");
        check_tensor(name, &found[64..], expected, &Bounds::F32);
    }

    let shifted = AttentionBuffers { query: arena.slice(4..).into(), ..buffers };
    let refused = operator.bind(&plan, &shifted).unwrap_err().to_string();
    let says = "attention: query: expected a slice from a multiple of ";
    assert!(refused.starts_with(says) && refused.ends_with("found from byte 4"), "{refused}");
    let shared = AttentionBuffers { out: arena.slice(..).into(), ..buffers };
    let refused = operator.bind(&plan, &shared).unwrap_err().to_string();
    assert_eq!(refused, "attention: out: expected a buffer of its own, found that of query");
}
