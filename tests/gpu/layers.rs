//! Layers on the GPU: as PyTorch's modules, as the reference, and recorded without a trace on the host.

use crate::app::{App, UNTOUCHED};
use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::common::layer_cases::cases;
use crate::device::{gpu, portable};
use crate::properties::runner;
use proptest::prelude::*;
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{
    HeadWeights, LayerMask, MultiHeadAttention, MultiHeadBuffers, MultiHeadInputs, MultiHeadShape,
    MultiHeadWeights, SelfAttention, SelfAttentionBuffers, SelfAttentionInputs, SelfAttentionShape,
    SelfAttentionWeights,
};
use wgpu_attention::{BroadcastLayout, Capabilities, CuSeqlens, Gpu, cpu};

#[test]
fn multi_head_layers_are_those_of_pytorch() {
    for case in cases("multi_head") {
        let (weights, shape) = (case.multi_head_weights().unwrap(), case.multi_head_shape());
        for gpu in [gpu(), portable()] {
            let inputs = case.multi_head_inputs();
            let found = gpu.multi_head_attention_blocking(&weights, &shape, &inputs).unwrap();
            let name = |tensor| format!("{}: {tensor}", case.name);
            check_tensor(&name("out"), &found.out, &case.expected("out"), &Bounds::F32);
            if let Some(found) = found.weights {
                let expected = case.expected("weights");
                check_tensor(&name("weights"), &found, &expected, &Bounds::F32);
            }
        }
    }
}

#[test]
fn self_attention_modules_are_those_of_pytorch() {
    for case in cases("self_attention") {
        let weights = case.self_attention_weights().unwrap();
        for stored in [true, false] {
            let shape = SelfAttentionShape { weights: stored, ..case.self_attention_shape() };
            let inputs = case.self_attention_inputs();
            let found = gpu().self_attention_blocking(&weights, &shape, &inputs).unwrap();
            let name = |tensor| format!("{}: {tensor}", case.name);
            check_tensor(&name("out"), &found.out, &case.expected("out"), &Bounds::F32);
            assert_eq!(found.weights.is_some(), stored, "{}", case.name);
            if let Some(found) = found.weights {
                let expected = case.expected("weights");
                check_tensor(&name("weights"), &found, &expected, &Bounds::F32);
            }
        }
    }
}

/// Parameters and inputs of a multi-head layer, from one seed.
struct Layer {
    sizes: [usize; 4],
    parts: Vec<Vec<f32>>,
    adds: bool,
}

impl Layer {
    /// Of width, heads, kdim and vdim.
    fn new(sizes: [usize; 4], adds: bool) -> Self {
        let [width, _, kdim, vdim] = sizes;
        let lens = [
            width * width,
            width * kdim,
            width * vdim,
            3 * width,
            width * width,
            width,
            width,
            width,
        ];
        let parts = (0..).zip(lens).map(|(seed, len)| numbers(seed, len)).collect();
        Self { sizes, parts, adds }
    }

    fn weights(&self) -> MultiHeadWeights<'_> {
        let [embed_dim, num_heads, kdim, vdim] = self.sizes;
        let p = &self.parts;
        MultiHeadWeights {
            embed_dim,
            num_heads,
            kdim,
            vdim,
            query: &p[0],
            key: &p[1],
            value: &p[2],
            in_bias: Some(&p[3]),
            out: &p[4],
            out_bias: Some(&p[5]),
            extra: self.adds.then_some([&p[6], &p[7]]),
            add_zero_attn: self.adds,
        }
    }

    fn check(&self, gpu: &Gpu, shape: &MultiHeadShape, inputs: &MultiHeadInputs<'_>) {
        let weights = self.weights();
        let expected = cpu::multi_head_attention(&weights, shape, inputs).unwrap();
        let found = gpu.multi_head_attention_blocking(&weights, shape, inputs).unwrap();
        check_tensor(&format!("{shape:?}: out"), &found.out, &expected.out, &Bounds::F32);
        assert_eq!(found.weights.is_some(), expected.weights.is_some());
        if let (Some(found), Some(expected)) = (found.weights, expected.weights) {
            check_tensor(&format!("{shape:?}: weights"), &found, &expected, &Bounds::F32);
        }
    }
}

/// With and without added rows, masks of both kinds, weights of all three kinds, rows either way.
#[test]
fn multi_head_layers_agree_with_the_reference_at_odd_sizes() {
    for (at, lens) in [[1, 1], [7, 33], [40, 9], [0, 5], [3, 0]].into_iter().enumerate() {
        for adds in [false, true] {
            let layer = Layer::new([24, 3, 10, 7], adds);
            let [q_len, kv_len] = lens;
            let query = numbers(20, 2 * q_len * 24);
            let [key, value] = [(21, 10), (22, 7)].map(|(seed, n)| numbers(seed, 2 * kv_len * n));
            let hidden: Vec<bool> =
                numbers(23, 6 * q_len * kv_len).iter().map(|x| *x > 0.3).collect();
            let scores = numbers(24, 2 * kv_len);
            let shape = MultiHeadShape {
                kv_len,
                batch_first: at % 2 == 0,
                weights: [None, Some(HeadWeights::Mean), Some(HeadWeights::PerHead)][at % 3],
                ..MultiHeadShape::new(2, q_len)
            };
            let plain =
                MultiHeadInputs { query: &query, key: &key, value: &value, ..Default::default() };
            layer.check(gpu(), &shape, &plain);
            let masked = MultiHeadInputs {
                attn_mask: Some(LayerMask::Hidden(&hidden)),
                key_padding_mask: Some(LayerMask::Added(&scores)),
                ..plain
            };
            layer.check(gpu(), &shape, &masked);
        }
    }
}

#[test]
fn sequences_packed_and_padded_agree_with_the_reference() {
    let layer = Layer::new([16, 2, 16, 16], false);
    let rows = numbers(30, 3 * 20 * 16);
    let inputs = MultiHeadInputs { query: &rows, key: &rows, value: &rows, ..Default::default() };
    let padded = MultiHeadShape { kv_lens: Some(vec![20, 0, 13]), ..MultiHeadShape::new(3, 20) };
    layer.check(gpu(), &padded, &inputs);
    let starts = vec![0, 20, 20, 33, 60];
    let packed = CuSeqlens { query: starts.clone(), key: starts };
    let packed = MultiHeadShape { cu_seqlens: Some(packed), ..MultiHeadShape::new(1, 60) };
    layer.check(gpu(), &packed, &inputs);
}

/// Bindings of 8 KiB: weights, projections and the mean are all cut.
#[test]
fn layers_too_large_for_a_device_are_cut() {
    let small = Capabilities { binding_size: 8 << 10, ..Capabilities::PORTABLE };
    let small = gpu().masked(&small);
    let layer = Layer::new([24, 3, 24, 24], true);
    let rows = numbers(31, 2 * 60 * 24);
    let inputs = MultiHeadInputs { query: &rows, key: &rows, value: &rows, ..Default::default() };
    let weights = Some(HeadWeights::Mean);
    layer.check(&small, &MultiHeadShape { weights, ..MultiHeadShape::new(2, 60) }, &inputs);
}

/// Rows that are wholly masked, in a batch that is cut into parts.
#[test]
fn self_attention_agrees_with_the_reference_at_odd_sizes() {
    let small = Capabilities { binding_size: 8 << 10, ..Capabilities::PORTABLE };
    for (gpu, dim, lens) in
        [(gpu(), 5, [33, 70]), (gpu(), 8, [1, 1]), (&gpu().masked(&small), 4, [20, 40])]
    {
        let ([q_len, kv_len], heads, batch) = (lens, 3, 2);
        let width = heads * dim;
        let [values, keys, queries, fc_out] =
            [(1, dim * dim), (2, dim * dim), (3, dim * dim), (4, width * width)]
                .map(|(seed, len)| numbers(seed, len));
        let fc_out_bias = numbers(5, width);
        let weights = SelfAttentionWeights {
            embed_size: width,
            heads,
            values: &values,
            keys: &keys,
            queries: &queries,
            fc_out: &fc_out,
            fc_out_bias: &fc_out_bias,
        };
        let mut mask: Vec<bool> =
            numbers(6, batch * q_len * kv_len).iter().map(|x| *x > 0.0).collect();
        mask[..kv_len].fill(false);
        let shape = SelfAttentionShape {
            kv_len,
            mask: Some(BroadcastLayout::Sizes([batch, 1, q_len, kv_len])),
            weights: true,
            ..SelfAttentionShape::new(batch, q_len)
        };
        let [values, keys] = [7, 8].map(|seed| numbers(seed, batch * kv_len * width));
        let queries = numbers(9, batch * q_len * width);
        let inputs = SelfAttentionInputs {
            values: &values,
            keys: &keys,
            queries: &queries,
            mask: Some(&mask),
        };
        let expected = cpu::self_attention(&weights, &shape, &inputs).unwrap();
        let found = gpu.self_attention_blocking(&weights, &shape, &inputs).unwrap();
        check_tensor(&format!("{shape:?}: out"), &found.out, &expected.out, &Bounds::F32);
        let (found, expected) = (found.weights.unwrap(), expected.weights.unwrap());
        check_tensor(&format!("{shape:?}: weights"), &found, &expected, &Bounds::F32);
    }
}

/// A key that is masked in one row and not in another, and one that holds NaN; where all are masked all count, by
/// their values alone.
#[test]
fn a_masked_nan_key_does_not_show_in_self_attention() {
    let one = [1.0];
    let weights = SelfAttentionWeights {
        embed_size: 1,
        heads: 1,
        values: &one,
        keys: &one,
        queries: &one,
        fc_out: &one,
        fc_out_bias: &[0.0],
    };
    let shape = SelfAttentionShape {
        kv_len: 2,
        mask: Some(BroadcastLayout::Sizes([1, 1, 2, 2])),
        ..SelfAttentionShape::new(1, 2)
    };
    let inputs = SelfAttentionInputs {
        values: &[2.0, 4.0],
        keys: &[1.0, f32::NAN],
        queries: &[1.0, 1.0],
        mask: Some(&[true, false, false, false]),
    };
    let found = gpu().self_attention_blocking(&weights, &shape, &inputs).unwrap();
    assert_eq!(found.out, [2.0, 3.0]);
    assert_eq!(cpu::self_attention(&weights, &shape, &inputs).unwrap().out, [2.0, 3.0]);
}

/// Two layers one after the other in one encoder, each twice, with no readback between; then once more, which makes
/// nothing new.
#[test]
fn layers_are_recorded_into_the_callers_encoder() {
    let app = App::open();
    let case = &cases("multi_head")[0];
    let (weights, shape) = (case.multi_head_weights().unwrap(), case.multi_head_shape());
    let inputs = case.multi_head_inputs();
    let operator = MultiHeadAttention::new(&app.device, &app.queue, &weights).unwrap();
    let plan = operator.plan(&shape).unwrap();
    let [query, key, value] = [inputs.query, inputs.key, inputs.value].map(|xs| app.buffer(xs));
    let [first, second] = [(); 2].map(|()| app.output(inputs.query.len() + 1));
    let mut encoder = app.encoder();
    for out in [&first, &second] {
        let buffers = MultiHeadBuffers::new(&query, &key, &value, out);
        operator.encode(&mut encoder, &plan, &buffers).unwrap();
    }
    // Fed with what came out.
    let twice = app.output(inputs.query.len());
    let buffers = MultiHeadBuffers::new(&first, &first, &first, &twice);
    operator.encode(&mut encoder, &plan, &buffers).unwrap();
    app.submit(encoder);
    let (found, again) = (app.read(&first), app.read(&second));
    assert_eq!(found, again);
    let (padding, out) = found.split_last().unwrap();
    assert_eq!(*padding, UNTOUCHED);
    check_tensor("out", out, &case.expected("out"), &Bounds::F32);
    let fed = MultiHeadInputs { query: out, key: out, value: out, ..inputs };
    let expected = cpu::multi_head_attention(&weights, &shape, &fed).unwrap();
    check_tensor("twice", &app.read(&twice), &expected.out, &Bounds::F32);

    let shares = MultiHeadBuffers::new(&query, &key, &value, &value);
    let refused = operator.encode(&mut app.encoder(), &plan, &shares).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "multi-head attention: out: expected a buffer of its own, found that of value"
    );
    let one = app.buffer(&[0.0]);
    let short = MultiHeadBuffers::new(&query, &key, &one, &first);
    let refused = operator.encode(&mut app.encoder(), &plan, &short).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("multi-head attention: value: expected a buffer of at least"),
        "{refused}"
    );
}

#[test]
fn self_attention_is_recorded_into_the_callers_encoder() {
    let app = App::open();
    let case = &cases("self_attention")[0];
    let weights = case.self_attention_weights().unwrap();
    let shape = SelfAttentionShape { weights: false, ..case.self_attention_shape() };
    let inputs = case.self_attention_inputs();
    let operator = SelfAttention::new(&app.device, &app.queue, &weights).unwrap();
    let plan = operator.plan(&shape).unwrap();
    let buffers = [inputs.values, inputs.keys, inputs.queries].map(|xs| app.buffer(xs));
    let [values, keys, queries] = &buffers;
    let out = app.output(inputs.queries.len());
    let mut encoder = app.encoder();
    let buffers = SelfAttentionBuffers::new(values, keys, queries, &out);
    operator.encode(&mut encoder, &plan, &buffers).unwrap();
    app.submit(encoder);
    check_tensor("out", &app.read(&out), &case.expected("out"), &Bounds::F32);
    let masked = SelfAttentionBuffers { mask: Some(values.into()), ..buffers };
    let refused = operator.encode(&mut app.encoder(), &plan, &masked).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "self-attention: mask: expected none, as the shape has none, found a buffer"
    );
}

/// Which masks a call has: none, hidden, or added, for all heads or each.
fn masks() -> impl Strategy<Value = (usize, bool, usize)> {
    (0..3_usize, any::<bool>(), 0..3_usize)
}

/// Few widths, as they are part of a pipeline's key.
#[test]
fn any_multi_head_layer_agrees_with_the_reference() {
    let sizes = (1..4_usize, 1..5_usize, 1..40_usize, 1..40_usize, prop_oneof![Just(4), Just(3)]);
    let flags = (any::<bool>(), any::<bool>(), 0..3_usize);
    runner(48)
        .run(&(sizes, flags, masks(), 0..1000_u64), |(sizes, flags, masks, seed)| {
            let (batch, heads, q_len, kv_len, head_dim) = sizes;
            let (adds, batch_first, weights) = flags;
            let (attention, is_per_head, padding) = masks;
            let width = heads * head_dim;
            let layer = Layer::new([width, heads, 9, width], adds);
            let tensor = |n: u64, len| numbers(seed.wrapping_add(n << 32), len);
            let query = tensor(0, batch * q_len * width);
            let (key, value) = (tensor(1, batch * kv_len * 9), tensor(2, batch * kv_len * width));
            let planes = if is_per_head { batch * heads } else { 1 };
            let scores = [(3, planes * q_len * kv_len), (4, batch * kv_len)].map(|(n, len)| {
                let hide = |x: f32| if x > 0.4 { f32::NEG_INFINITY } else { x };
                tensor(n, len).into_iter().map(hide).collect::<Vec<f32>>()
            });
            let hidden = scores.each_ref().map(|scores| {
                scores.iter().map(|x| *x == f32::NEG_INFINITY).collect::<Vec<bool>>()
            });
            let mask = |kind, at: usize| match kind {
                0 => None,
                1 => Some(LayerMask::Hidden(&hidden[at])),
                _ => Some(LayerMask::Added(&scores[at])),
            };
            let inputs = MultiHeadInputs {
                query: &query,
                key: &key,
                value: &value,
                attn_mask: mask(attention, 0),
                key_padding_mask: mask(padding, 1),
            };
            let shape = MultiHeadShape {
                kv_len,
                batch_first,
                weights: [None, Some(HeadWeights::Mean), Some(HeadWeights::PerHead)][weights],
                ..MultiHeadShape::new(batch, q_len)
            };
            layer.check(gpu(), &shape, &inputs);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
