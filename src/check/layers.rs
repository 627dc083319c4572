//! The layers around attention: projections, masks, added rows, weights.

use super::data::{Numbers, mask};
use super::trial::{Call, Route, Task, Trial};
use crate::cpu;
use crate::error::Error;
use crate::host::Gpu;
use crate::layers::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadShape, MultiHeadWeights, ScaleBy,
    SelfAttentionInputs, SelfAttentionShape, SelfAttentionWeights,
};
use crate::problem::{BroadcastLayout, CuSeqlens, ElementType};
use crate::tensor::Tensor;

/// A call of a multi-head layer.
#[derive(Clone, Debug)]
struct MultiHead {
    shape: MultiHeadShape,
    /// embed_dim, num_heads, kdim, vdim.
    sizes: [usize; 4],
    /// Whether the layer has `bias_k`, `bias_v`, and a row of zeros.
    adds: bool,
    /// Whether there is a mask that hides, for each head or for all, and a padding mask that is
    /// added.
    masks: Option<Masks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masks {
    PerHead,
    Shared,
}

pub(super) fn tasks(quick: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, case: MultiHead| {
        tasks.push(Task::new(name, move |trial| multi_head(trial, name, &case)));
    };
    let shape = MultiHeadShape { kv_len: 33, ..MultiHeadShape::new(2, 9) };
    let base = MultiHead { shape, sizes: [24, 3, 10, 7], adds: false, masks: None };
    let of = |shape: MultiHeadShape| MultiHead { shape, ..base.clone() };
    let weights = |kind| MultiHeadShape { weights: Some(kind), ..base.shape.clone() };
    add("projections", base.clone());
    add("projections", of(MultiHeadShape { batch_first: false, ..base.shape.clone() }));
    add("bias_k, bias_v, zeros", MultiHead { adds: true, ..base.clone() });
    add("layer masks", MultiHead { masks: Some(Masks::PerHead), ..base.clone() });
    add("layer masks", MultiHead { masks: Some(Masks::Shared), adds: true, ..base.clone() });
    add("layer weights", of(weights(HeadWeights::PerHead)));
    add(
        "layer weights",
        MultiHead { masks: Some(Masks::Shared), adds: true, ..of(weights(HeadWeights::Mean)) },
    );
    if !quick {
        add("projections", MultiHead { sizes: [128, 2, 128, 128], ..base.clone() });
        add(
            "layer lengths",
            of(MultiHeadShape { kv_lens: Some(vec![33, 0]), ..base.shape.clone() }),
        );
        let cu_seqlens = CuSeqlens { query: vec![0, 4, 4, 9], key: vec![0, 20, 25, 33] };
        let shape = MultiHeadShape { kv_len: 33, ..MultiHeadShape::new(1, 9) };
        add("layer lengths", of(MultiHeadShape { cu_seqlens: Some(cu_seqlens), ..shape }));
    }

    let sizes = [2, 3, 9, 33];
    let masked = SelfAttentionShape {
        kv_len: 33,
        mask: Some(BroadcastLayout::Sizes(sizes)),
        ..SelfAttentionShape::new(2, 9)
    };
    for shape in [
        SelfAttentionShape { mask: None, ..masked.clone() },
        SelfAttentionShape { scale_by: ScaleBy::Embed, ..masked.clone() },
        SelfAttentionShape { weights: true, ..masked.clone() },
        SelfAttentionShape { mask: Some(BroadcastLayout::Sizes([2, 1, 9, 33])), ..masked },
    ] {
        let name = if shape.mask.is_none() { "shared projections" } else { "rows wholly masked" };
        tasks.push(Task::new(name, move |trial| self_attention(trial, name, &shape)));
    }
    tasks
}

fn multi_head(trial: &mut Trial<'_>, name: &'static str, case: &MultiHead) -> Result<(), Error> {
    let MultiHead { shape, sizes: [embed_dim, num_heads, kdim, vdim], adds, masks } = case;
    let mut numbers = Numbers(5);
    let mut tensor = |sizes: [&usize; 2]| numbers.tensor::<f32>((sizes[0] * sizes[1]) as u64);
    let (query, key, value) =
        (tensor([embed_dim; 2]), tensor([embed_dim, kdim]), tensor([embed_dim, vdim]));
    let (in_bias, out, out_bias) =
        (tensor([&3, embed_dim]), tensor([embed_dim; 2]), tensor([&1, embed_dim]));
    let extra = [tensor([&1, embed_dim]), tensor([&1, embed_dim])];
    let weights = MultiHeadWeights {
        embed_dim: *embed_dim,
        num_heads: *num_heads,
        kdim: *kdim,
        vdim: *vdim,
        query: &query,
        key: &key,
        value: &value,
        in_bias: Some(&in_bias),
        out: &out,
        out_bias: Some(&out_bias),
        extra: adds.then_some([&extra[0], &extra[1]]),
        add_zero_attn: *adds,
    };
    let (queries, keys) = (shape.batch * shape.q_len, shape.batch * shape.kv_len);
    let query = tensor([&queries, embed_dim]);
    let (key, value) = (tensor([&keys, kdim]), tensor([&keys, vdim]));
    let padding = tensor([&1, &keys]);
    let planes = if *masks == Some(Masks::PerHead) { shape.batch * num_heads } else { 1 };
    let hidden = (0..planes * shape.q_len * shape.kv_len).map(|_| numbers.unit() > 0.3);
    let hidden: Vec<bool> = hidden.collect();
    let inputs = MultiHeadInputs {
        query: &query,
        key: &key,
        value: &value,
        attn_mask: masks.map(|_| LayerMask::Hidden(&hidden)),
        key_padding_mask: masks.map(|_| LayerMask::Added(&padding)),
    };
    let expected = cpu::multi_head_attention(&weights, shape, &inputs)?;
    let call = call(name, format!("{case:?}"), &expected.out, expected.weights.as_deref());
    let route = |gpu: &Gpu| {
        let plan = gpu.multi_head_operator(&weights)?.plan(shape)?;
        let dispatches = plan.dispatches().len();
        Ok(Route { kernel: "multi-head", steps: plan.variants(), dispatches })
    };
    trial.compare(&call, route, |gpu| {
        let found = gpu.multi_head_attention_blocking(&weights, shape, &inputs)?;
        Ok(std::iter::once(found.out).chain(found.weights).collect())
    })
}

fn self_attention(
    trial: &mut Trial<'_>,
    name: &'static str,
    shape: &SelfAttentionShape,
) -> Result<(), Error> {
    let (embed_size, heads) = (24, 3);
    let head_dim = embed_size / heads;
    let mut numbers = Numbers(6);
    let mut tensor = |rows: usize, width: usize| numbers.tensor::<f32>((rows * width) as u64);
    let (of_values, of_keys) = (tensor(head_dim, head_dim), tensor(head_dim, head_dim));
    let of_queries = tensor(head_dim, head_dim);
    let (fc_out, fc_out_bias) = (tensor(embed_size, embed_size), tensor(1, embed_size));
    let weights = SelfAttentionWeights {
        embed_size,
        heads,
        values: &of_values,
        keys: &of_keys,
        queries: &of_queries,
        fc_out: &fc_out,
        fc_out_bias: &fc_out_bias,
    };
    let keys = shape.batch * shape.kv_len;
    let (values, keys) = (tensor(keys, embed_size), tensor(keys, embed_size));
    let queries = tensor(shape.batch * shape.q_len, embed_size);
    let p = shape.attention(heads, head_dim)?;
    let mask = p.view(Tensor::Mask).map(|view| {
        let mut mask = mask(&mut numbers, view.extent);
        mask[..shape.kv_len].fill(false);
        mask
    });
    let inputs = SelfAttentionInputs {
        values: &values,
        keys: &keys,
        queries: &queries,
        mask: mask.as_deref(),
    };
    let expected = cpu::self_attention(&weights, shape, &inputs)?;
    let call = call(name, format!("{shape:?}"), &expected.out, expected.weights.as_deref());
    let route = |gpu: &Gpu| {
        let plan = gpu.self_attention_operator(&weights)?.plan(shape)?;
        let dispatches = plan.dispatches().len();
        Ok(Route { kernel: "self-attention", steps: plan.variants(), dispatches })
    };
    trial.compare(&call, route, |gpu| {
        let found = gpu.self_attention_blocking(&weights, shape, &inputs)?;
        Ok(std::iter::once(found.out).chain(found.weights).collect())
    })
}

fn call<'a>(
    name: &'static str,
    what: String,
    out: &'a [f64],
    weights: Option<&'a [f64]>,
) -> Call<'a> {
    let weights = weights.map(|weights| ("weights", weights));
    let expected = std::iter::once(("out", out)).chain(weights).collect();
    Call { name, what, stored: ElementType::F32, expected }
}
