//! Every way to call it wrongly: an error that names argument, expected and found, nothing recorded, no panic,
//! and a device that goes on working.

use crate::app::App;
use crate::case::{Case, PLAIN, check_tensor, shape};
use crate::device::gpu;
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    AlibiLayout, Align, Attention, AttentionBuffers, AttentionOptions, AttentionShape,
    BroadcastLayout, Capabilities, Error, Inputs, Kernel, Layout, Strides, wgpu,
};

fn text<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn operators_refuse_options_that_no_shape_makes_valid() {
    let number = |scale| AttentionOptions { scale: Some(scale), ..PLAIN };
    let cap = |softcap| AttentionOptions { softcap: Some(softcap), ..PLAIN };
    for (options, expected) in [
        (number(f32::NAN), "scale: expected a finite number, found NaN"),
        (number(f32::INFINITY), "scale: expected a finite number, found inf"),
        (cap(0.0), "softcap: expected a finite number above 0, found 0"),
        (cap(-1.0), "softcap: expected a finite number above 0, found -1"),
        (cap(f32::NAN), "softcap: expected a finite number above 0, found NaN"),
        (
            AttentionOptions { align: Align::Offset(1 << 31), ..PLAIN },
            "align: expected an offset within 2^30 of 0, found 2147483648",
        ),
    ] {
        assert_eq!(text(gpu().operator(&options)), expected);
        assert_eq!(text(Attention::new(gpu().device(), gpu().queue(), &options)), expected);
    }
}

#[test]
fn plans_refuse_shapes_that_cannot_be() {
    let operator = gpu().operator(&PLAIN).unwrap();
    let good = AttentionShape::new(1, 4, 8, 8);
    let stored = AttentionShape { weights: Some(Layout::Bhsd), ..good.clone() };
    for (shape, kernel, expected) in [
        (
            AttentionShape { num_kv_heads: 3, ..good.clone() },
            None,
            "num_kv_heads: expected a divisor of num_heads = 4, found 3",
        ),
        (
            AttentionShape { head_dim: 0, ..good.clone() },
            None,
            "head_dim: expected at least 1, found 0",
        ),
        (
            AttentionShape { mask: Some(BroadcastLayout::Sizes([1, 3, 8, 8])), ..good.clone() },
            None,
            "mask: expected a shape that broadcasts to [1, 4, 8, 8], found [1, 3, 8, 8]",
        ),
        (
            AttentionShape { out: Layout::Strided(Strides::default()), ..good.clone() },
            None,
            "out: expected strides that give each element of [1, 4, 8, 8] a place of its own, found \
             Strided(Strides { offset: 0, batch: 0, head: 0, row: 0 })",
        ),
        (
            AttentionShape { kv_len: (1 << 30) + 1, ..good.clone() },
            None,
            "kv_len: expected at most 2^30, found 1073741825",
        ),
        (
            stored,
            Some(Kernel::Forward),
            "kernel: expected three-stage, as weights or scores are asked for, found forward",
        ),
    ] {
        let error = operator.plan_kernel(&shape, kernel);
        assert!(error.as_ref().is_err_and(Error::is_invalid), "{shape:?}");
        assert_eq!(text(error), expected);
    }
}

#[test]
fn plans_say_what_the_device_lacks() {
    let good = AttentionShape::new(2, 2, 200, 300);
    let most = *gpu().capabilities();
    for (capabilities, expected) in [
        (
            Capabilities { storage_buffers: 4, ..most },
            "this device's storage buffers per shader stage: expected at least 8, found 4",
        ),
        (
            Capabilities { workgroup_memory: 512, ..most },
            "this device's bytes of workgroup memory: expected at least 1664, found 512",
        ),
        (
            Capabilities { workgroup_invocations: 32, ..most },
            "this device's invocations per workgroup: expected at least 64, found 32",
        ),
        (
            Capabilities { binding_size: 4096, ..most },
            "this device's bytes of one storage binding: expected at least 240000, found 4096",
        ),
        (
            Capabilities { workgroups_per_axis: 1, ..most },
            "this device's workgroups along one axis of a dispatch: expected at least 3, found 1",
        ),
    ] {
        let operator = gpu().masked(&capabilities).operator(&PLAIN).unwrap();
        let error = operator.plan(&good);
        assert!(error.as_ref().is_err_and(|error| !error.is_invalid()), "{capabilities:?}");
        assert_eq!(text(error), expected);
    }
}

#[test]
fn one_shots_refuse_slices_of_the_wrong_length() {
    let plain = shape(1, 2, 3, 5, 8);
    let all = AttentionShape {
        mask: Some(BroadcastLayout::Sizes([1, 1, 3, 5])),
        bias: Some(BroadcastLayout::Sizes([1, 2, 1, 5])),
        alibi: Some(AlibiLayout::PerHead),
        ..plain.clone()
    };
    let case = Case::new(all, PLAIN, 1);
    let good = case.inputs();
    let bare = Case::new(plain, PLAIN, 1);
    let refused = |case: &Case, inputs: &Inputs<'_>, expected: &str| {
        let found = gpu().attention_blocking(&case.shape, &case.options, inputs);
        assert_eq!(text(found), expected);
    };
    for (inputs, expected) in [
        (Inputs { query: &good.query[1..], ..good }, "query: expected 48 elements, found 47"),
        (Inputs { key: &[], ..good }, "key: expected 80 elements, found 0"),
        (Inputs { value: &[0.0; 81], ..good }, "value: expected 80 elements, found 81"),
        (Inputs { mask: Some(&[true; 14]), ..good }, "mask: expected 15 elements, found 14"),
        (Inputs { bias: Some(&[0.0; 9]), ..good }, "bias: expected 10 elements, found 9"),
        (
            Inputs { alibi_slopes: Some(&[0.0]), ..good },
            "alibi_slopes: expected 2 elements, found 1",
        ),
        (Inputs { mask: None, ..good }, "mask: expected a slice, as the shape has one, found none"),
        (Inputs { bias: None, ..good }, "bias: expected a slice, as the shape has one, found none"),
    ] {
        refused(&case, &inputs, expected);
        case.check();
    }
    refused(
        &bare,
        &Inputs { mask: good.mask, ..bare.inputs() },
        "mask: expected none, as the shape has none, found 15 elements",
    );
    let strided = Layout::Strided(Strides { offset: 2, batch: 0, head: 40, row: 8 });
    let strided = Case { shape: AttentionShape { key: strided, ..bare.shape.clone() }, ..bare };
    refused(&strided, &strided.inputs(), "key: expected at least 82 elements, found 80");
}

/// A call that asks for everything, and buffers that are right for it.
struct Call {
    app: App,
    case: Case,
    operator: Attention,
    buffers: [wgpu::Buffer; 12],
}

const NAMES: [&str; 12] = [
    "query",
    "key",
    "value",
    "out",
    "mask",
    "bias",
    "alibi_slopes",
    "lse",
    "weights",
    "raw_scores",
    "capped_scores",
    "masked_scores",
];

impl Call {
    fn new() -> Self {
        Self::on(App::open())
    }

    fn on(app: App) -> Self {
        let stored = Some(Layout::Bhsd);
        let shape = AttentionShape {
            mask: Some(BroadcastLayout::Sizes([1, 1, 3, 5])),
            bias: Some(BroadcastLayout::Sizes([1, 2, 1, 5])),
            alibi: Some(AlibiLayout::PerHead),
            weights: stored,
            raw_scores: stored,
            capped_scores: stored,
            masked_scores: stored,
            ..shape(1, 2, 3, 5, 8)
        };
        let case = Case::new(shape, PLAIN, 1);
        let operator = Attention::new(&app.device, &app.queue, &PLAIN).unwrap();
        let seen = case.mask.iter().flatten().enumerate();
        let bits = seen.fold(0, |bits, (at, &seen)| bits | u32::from(seen) << at);
        let mask = [f32::from_bits(bits)];
        let (bias, slopes) = (case.bias.clone().unwrap(), case.slopes.clone().unwrap());
        let buffers = [
            app.buffer(&case.tensors.query),
            app.buffer(&case.tensors.key),
            app.buffer(&case.tensors.value),
            app.output(48),
            app.buffer(&mask),
            app.buffer(&bias),
            app.buffer(&slopes),
            app.output(6),
            app.output(30),
            app.output(30),
            app.output(30),
            app.output(30),
        ];
        Self { app, case, operator, buffers }
    }

    fn given(&self) -> AttentionBuffers<'_> {
        given(self.buffers.each_ref().map(Some), &self.buffers[0])
    }

    /// Fails unless `buffers` are refused, and the right ones still work in the same encoder.
    fn refuses(&self, buffers: &AttentionBuffers<'_>, expected: &str) {
        let plan = self.operator.plan(&self.case.shape).unwrap();
        let mut encoder = self.app.encoder();
        let refused = self.operator.encode(&mut encoder, &plan, buffers);
        assert_eq!(text(refused), expected);
        self.operator.encode(&mut encoder, &plan, &self.given()).unwrap();
        self.app.submit(encoder);
    }

    fn check(&self) {
        let expected = self.case.expected().out;
        check_tensor("out", &self.app.read(&self.buffers[3]), &expected, &Bounds::F32);
    }
}

fn given<'a>(list: [Option<&'a wgpu::Buffer>; 12], or: &'a wgpu::Buffer) -> AttentionBuffers<'a> {
    let [query, key, value, out, mask, bias, alibi_slopes, rest @ ..] = list;
    let [lse, weights, raw_scores, capped_scores, masked_scores] = rest;
    AttentionBuffers {
        query: query.unwrap_or(or),
        key: key.unwrap_or(or),
        value: value.unwrap_or(or),
        out: out.unwrap_or(or),
        mask,
        bias,
        alibi_slopes,
        lse,
        weights,
        raw_scores,
        capped_scores,
        masked_scores,
    }
}

#[test]
fn encode_refuses_each_buffer_that_is_wrong() {
    let call = Call::new();
    let right = call.buffers.each_ref().map(Some);
    for (at, name) in NAMES.into_iter().enumerate() {
        let with = |buffer| {
            let mut list = right;
            list[at] = buffer;
            given(list, &call.buffers[0])
        };
        let bytes = call.buffers[at].size();
        let small = call.app.output(usize::try_from(bytes / 4 - 1).unwrap());
        if bytes > 4 {
            let expected = format!(
                "{name}: expected a buffer of at least {bytes} bytes, found {} bytes",
                bytes - 4
            );
            call.refuses(&with(Some(&small)), &expected);
        }
        let not_storage = call.app.buffer_with(
            &vec![0.0; usize::try_from(bytes / 4).unwrap()],
            wgpu::BufferUsages::VERTEX,
        );
        let expected = format!(
            "{name}: expected a buffer with usage STORAGE, found BufferUsages(COPY_SRC | VERTEX)"
        );
        call.refuses(&with(Some(&not_storage)), &expected);
        if at >= 4 {
            let expected = format!("{name}: expected a buffer, as the shape has one, found none");
            call.refuses(&with(None), &expected);
        }
        if name == "out" || at >= 7 {
            let expected = format!("{name}: expected a buffer of its own, found that of value");
            let large = call.app.output(100);
            let mut list = right;
            (list[2], list[at]) = (Some(&large), Some(&large));
            call.refuses(&given(list, &call.buffers[0]), &expected);
        }
    }
    // Two outputs in one buffer.
    let mut list = right;
    list[9] = Some(&call.buffers[8]);
    let expected = "raw_scores: expected a buffer of its own, found that of weights";
    call.refuses(&given(list, &call.buffers[0]), expected);
    call.check();
}

#[test]
fn encode_refuses_buffers_that_the_shape_does_not_have() {
    let mut call = Call::new();
    let everything = call.case.shape.clone();
    for at in 4..12 {
        call.case.shape = AttentionShape { lse: None, ..AttentionShape::new(1, 2, 3, 8) };
        call.case.shape.kv_len = 5;
        let mut list = [None; 12];
        list[..4].copy_from_slice(&call.buffers.each_ref().map(Some)[..4]);
        list[at] = Some(&call.buffers[at]);
        let plan = call.operator.plan(&call.case.shape).unwrap();
        let mut encoder = call.app.encoder();
        let refused = call.operator.encode(&mut encoder, &plan, &given(list, &call.buffers[0]));
        let expected =
            format!("{}: expected none, as the shape has none, found a buffer", NAMES[at]);
        assert_eq!(text(refused), expected);
    }
    call.case.shape = everything;
    let plan = call.operator.plan(&call.case.shape).unwrap();
    let mut encoder = call.app.encoder();
    call.operator.encode(&mut encoder, &plan, &call.given()).unwrap();
    call.app.submit(encoder);
    call.check();
}

#[test]
fn encode_refuses_a_plan_for_other_capabilities() {
    let call = Call::new();
    let less = Capabilities { workgroup_memory: 4096, ..Capabilities::of(&call.app.device) };
    let other =
        Attention::with_capabilities(&call.app.device, &call.app.queue, &PLAIN, less).unwrap();
    let plan = other.plan(&call.case.shape).unwrap();
    let mut encoder = call.app.encoder();
    assert_eq!(
        text(call.operator.encode(&mut encoder, &plan, &call.given())),
        "plan: expected a plan of this operator's device, found one of another device"
    );
    other.encode(&mut encoder, &plan, &call.given()).unwrap();
    call.app.submit(encoder);
    call.check();
}

/// wgpu notices; its words come as an error, not as a panic.
#[test]
fn buffers_of_another_device_are_an_error() {
    let call = Call::new();
    let other = Call::on(App::on(call.app.instance.clone()));
    let plan = call.operator.plan(&call.case.shape).unwrap();
    let mut encoder = call.app.encoder();
    let error = call.operator.encode(&mut encoder, &plan, &other.given()).unwrap_err();
    assert!(error.to_string().starts_with("binding buffers: "), "{error}");
    call.operator.encode(&mut encoder, &plan, &call.given()).unwrap();
    call.app.submit(encoder);
    call.check();
}
