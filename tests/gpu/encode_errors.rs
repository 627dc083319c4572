//! Every buffer that is wrong for a call: an error that names it, nothing recorded, and an encoder and a device
//! that go on working.

use crate::app::App;
use crate::case::{Case, PLAIN, check_tensor, shape};
use crate::errors::text;
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    AlibiLayout, Attention, AttentionBuffers, AttentionOptions, AttentionShape, BroadcastLayout,
    Capabilities, ElementType, Layout, SegmentLayout, wgpu,
};

/// A call that asks for everything, and buffers that are right for it.
struct Call {
    app: App,
    case: Case,
    operator: Attention,
    buffers: [wgpu::Buffer; 15],
}

const NAMES: [&str; 15] = [
    "query",
    "key",
    "value",
    "out",
    "mask",
    "bias",
    "alibi_slopes",
    "segments",
    "lens",
    "sinks",
    "lse",
    "weights",
    "raw_scores",
    "capped_scores",
    "masked_scores",
];

/// What the call below has of each.
const SHAPES: [&str; 15] = [
    " for f32 [1, 2, 3, 8]",
    " for f32 [1, 2, 5, 8]",
    " for f32 [1, 2, 5, 8]",
    " for f32 [1, 2, 3, 8]",
    " for bits [1, 1, 3, 5]",
    " for f32 [1, 2, 1, 5]",
    " for f32 [1, 2, 1, 1]",
    " for 8 elements of 32 bits",
    " for u32 [1, 1, 1, 1]",
    " for f32 [1, 2, 1, 1]",
    " for f32 [1, 2, 3, 1]",
    " for f32 [1, 2, 3, 5]",
    " for f32 [1, 2, 3, 5]",
    " for f32 [1, 2, 3, 5]",
    " for f32 [1, 2, 3, 5]",
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
            segments: Some(SegmentLayout::PerSide),
            lens: true,
            sinks: true,
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
        let segments: Vec<f32> =
            case.segments.iter().flatten().map(|&id| f32::from_bits(id)).collect();
        let lens: Vec<f32> = case.lens.iter().flatten().map(|&len| f32::from_bits(len)).collect();
        let [bias, slopes, sinks] =
            [&case.bias, &case.slopes, &case.sinks].map(|tensor| tensor.clone().unwrap());
        let buffers = [
            app.buffer(&case.tensors.query),
            app.buffer(&case.tensors.key),
            app.buffer(&case.tensors.value),
            app.output(48),
            app.buffer(&mask),
            app.buffer(&bias),
            app.buffer(&slopes),
            app.buffer(&segments),
            app.buffer(&lens),
            app.buffer(&sinks),
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
        assert_eq!(text(refused), format!("attention: {expected}"));
        self.operator.encode(&mut encoder, &plan, &self.given()).unwrap();
        self.app.submit(encoder);
    }

    fn check(&self) {
        let expected = self.case.expected().out;
        check_tensor("out", &self.app.read(&self.buffers[3]), &expected, &Bounds::F32);
    }
}

fn given<'a>(list: [Option<&'a wgpu::Buffer>; 15], or: &'a wgpu::Buffer) -> AttentionBuffers<'a> {
    let [query, key, value, out, mask, bias, alibi_slopes, segments, lens, sinks, rest @ ..] = list;
    let [lse, weights, raw_scores, capped_scores, masked_scores] = rest;
    AttentionBuffers {
        query: query.unwrap_or(or).into(),
        key: key.unwrap_or(or).into(),
        value: value.unwrap_or(or).into(),
        out: out.unwrap_or(or).into(),
        mask: mask.map(Into::into),
        bias: bias.map(Into::into),
        alibi_slopes: alibi_slopes.map(Into::into),
        segments: segments.map(Into::into),
        lens: lens.map(Into::into),
        pages: None,
        sinks: sinks.map(Into::into),
        lse: lse.map(Into::into),
        weights: weights.map(Into::into),
        raw_scores: raw_scores.map(Into::into),
        capped_scores: capped_scores.map(Into::into),
        masked_scores: masked_scores.map(Into::into),
    }
}

#[test]
fn encode_refuses_each_buffer_that_is_wrong() {
    let call = Call::new();
    let right = call.buffers.each_ref().map(Some);
    for (at, name) in NAMES.into_iter().enumerate() {
        let bytes = call.buffers[at].size();
        let with = |buffer| {
            let mut list = right;
            list[at] = buffer;
            given(list, &call.buffers[0])
        };
        let small = call.app.output(usize::try_from(bytes / 4 - 1).unwrap());
        if bytes > 4 {
            let shape = SHAPES[at];
            let expected = format!(
                "{name}: expected a buffer of at least {bytes} bytes{shape}, found {} bytes",
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
        if name == "out" || at >= 10 {
            let expected = format!("{name}: expected a buffer of its own, found that of value");
            let large = call.app.output(100);
            let mut list = right;
            (list[2], list[at]) = (Some(&large), Some(&large));
            call.refuses(&given(list, &call.buffers[0]), &expected);
        }
    }
    // Two outputs in one buffer.
    let mut list = right;
    list[12] = Some(&call.buffers[11]);
    let expected = "raw_scores: expected a buffer of its own, found that of weights";
    call.refuses(&given(list, &call.buffers[0]), expected);
    call.check();
}

#[test]
fn encode_refuses_buffers_that_the_shape_does_not_have() {
    let mut call = Call::new();
    let everything = call.case.shape.clone();
    for at in 4..15 {
        call.case.shape = AttentionShape { lse: None, ..AttentionShape::new(1, 2, 3, 8) };
        call.case.shape.kv_len = 5;
        let mut list = [None; 15];
        list[..4].copy_from_slice(&call.buffers.each_ref().map(Some)[..4]);
        list[at] = Some(&call.buffers[at]);
        let plan = call.operator.plan(&call.case.shape).unwrap();
        let mut encoder = call.app.encoder();
        let refused = call.operator.encode(&mut encoder, &plan, &given(list, &call.buffers[0]));
        let expected =
            format!("{}: expected none, as the shape has none, found a buffer", NAMES[at]);
        assert_eq!(text(refused), format!("attention: {expected}"));
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
        "plan: expected a plan for this operator's capabilities, found one for others"
    );
    other.encode(&mut encoder, &plan, &call.given()).unwrap();
    call.app.submit(encoder);
    call.check();
}

#[test]
fn encode_refuses_plans_with_other_options() {
    let call = Call::new();
    let refused = |plan| text(call.operator.bind(plan, &call.given()));
    let options = AttentionOptions { scale: Some(0.5), ..PLAIN };
    let other = Attention::new(&call.app.device, &call.app.queue, &options).unwrap();
    let plan = other.plan(&call.case.shape).unwrap();
    let found = refused(&plan);
    assert!(found.starts_with("plan: expected a plan with this operator's options"), "{found}");
    assert!(found.contains("found AttentionOptions { scale: Some(0.5)"), "{found}");
    // Another operator with the same options is as good.
    let same = Attention::new(&call.app.device, &call.app.queue, &PLAIN).unwrap();
    assert_eq!(refused(&same.plan(&call.case.shape).unwrap()), "no error");
}

#[test]
fn buffers_longer_than_their_tensors_are_found_where_one_asks() {
    let call = Call::new();
    let plan = call.operator.plan(&call.case.shape).unwrap();
    call.given().check_exact(&plan).unwrap();
    let longer = call.app.output(49);
    let buffers = AttentionBuffers { out: (&longer).into(), ..call.given() };
    call.operator.bind(&plan, &buffers).unwrap();
    let found = text(buffers.check_exact(&plan));
    assert_eq!(
        found,
        "out: expected a buffer of exactly 192 bytes for f32 [1, 2, 3, 8], found 196 bytes"
    );
    // Those of f32 are taken for f16, and are twice as long.
    let shape = AttentionShape { element: ElementType::F16, ..call.case.shape.clone() };
    let plan = call.operator.plan(&shape).unwrap();
    call.operator.bind(&plan, &call.given()).unwrap();
    let found = text(call.given().check_exact(&plan));
    assert_eq!(
        found,
        "query: expected a buffer of exactly 96 bytes for f16 [1, 2, 3, 8], found 192 bytes"
    );
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
