//! From tensors and flags to one attention call, everything checked.

use super::sizes::{Order, Sizes, compare};
use crate::args::{AlignChoice, Emit, RunArgs};
use crate::failure::Failure;
use crate::tensors::{Tensor, Tensors};
use safetensors::Dtype;
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Inputs, Layout, Problem,
};

/// One attention call: what the library is asked, the elements it reads, and the sizes of its answers.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    pub(super) out_sizes: Vec<usize>,
    /// The other outputs and their sizes, each once.
    pub(super) emits: Vec<(Emit, Vec<usize>)>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
    alibi_slopes: Option<Vec<f32>>,
}

impl Request {
    /// Checks flags and tensors against each other; the library finds nothing left to refuse.
    pub(super) fn new(args: &RunArgs, tensors: &Tensors<'_>) -> Result<Self, Failure> {
        refuse_what_comes_later(args, tensors)?;
        let order = Order::new(args.layout)?;
        let [q, k, v] = vectors(tensors)?;
        let [query, key, value] = [order.read(&q)?, order.read(&k)?, order.read(&v)?];
        let batch = compare(query, key, value)?;
        let mask = tensors.get("mask");
        let bias = tensors.get("bias");
        let slopes = tensors.get("alibi_slopes");
        if let Some(bias) = &bias {
            let mut accepted = vec![Dtype::F32, q.dtype];
            accepted.dedup();
            bias.require_dtype(&accepted)?;
        }

        // The library numbers an output's elements as [batch, heads, rows, columns] whatever their rank.
        let rank = [&q, &k, &v].map(|tensor| tensor.sizes.len()).into_iter().max().unwrap_or(4);
        let out = Sizes { batch, heads: query.heads, len: query.len, dim: value.dim };
        let emits = emits(args, out, key.len, rank);
        let asked = |emit| emits.iter().any(|(e, _)| *e == emit).then_some(Layout::Bhsd);
        let shape = AttentionShape {
            num_kv_heads: key.heads,
            kv_len: key.len,
            value_dim: value.dim,
            query: order.layout(query, batch),
            key: order.layout(key, batch),
            value: order.layout(value, batch),
            out: order.layout(out, batch),
            mask: mask.as_ref().map(broadcast).transpose()?,
            bias: bias.as_ref().map(broadcast).transpose()?,
            alibi: slopes.as_ref().map(|slopes| alibi(slopes, out)).transpose()?,
            lse: asked(Emit::Lse),
            weights: asked(Emit::Weights),
            raw_scores: asked(Emit::Qk),
            capped_scores: asked(Emit::QkSoftcap),
            masked_scores: asked(Emit::QkBias),
            ..AttentionShape::new(batch, query.heads, query.len, query.dim)
        };
        let request = Self {
            options: options(args),
            out_sizes: order.write(out, rank),
            query: q.floats()?,
            key: k.floats()?,
            value: v.floats()?,
            mask: mask.map(|mask| mask.bools()).transpose()?,
            bias: bias.map(|bias| bias.floats()).transpose()?,
            alibi_slopes: slopes.map(|slopes| slopes.floats()).transpose()?,
            emits,
            shape,
        };
        request.inputs().validate(&Problem::new(&request.shape, &request.options)?)?;
        Ok(request)
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
        }
    }
}

/// Flags, outputs and tensors that the interface knows and this version does not have.
fn refuse_what_comes_later(args: &RunArgs, tensors: &Tensors<'_>) -> Result<(), Failure> {
    let flags = [
        ("--pad-mask", args.pad_mask),
        ("--rope", args.rope.is_some()),
        ("--heads", args.heads.is_some()),
        ("--kv-heads", args.kv_heads.is_some()),
    ];
    for (flag, given) in flags {
        if given {
            return Err(Failure::unsupported(flag));
        }
    }
    for &emit in &args.emit {
        match emit {
            Emit::Lse | Emit::Weights | Emit::Qk | Emit::QkSoftcap | Emit::QkBias => {}
            Emit::PresentK | Emit::PresentV | Emit::Dq | Emit::Dk | Emit::Dv | Emit::Dbias => {
                return Err(Failure::unsupported(format_args!("--emit {}", emit.name())));
            }
        }
    }
    let names = ["past_k", "past_v", "kv_len", "cu_seqlens_q", "cu_seqlens_k", "seg_q", "seg_k"];
    match names.into_iter().find(|name| tensors.get(name).is_some()) {
        Some(name) => Err(Failure::unsupported(format_args!("tensor {name}"))),
        None => Ok(()),
    }
}

/// q, k and v, of one element type.
fn vectors<'a>(tensors: &Tensors<'a>) -> Result<[Tensor<'a>; 3], Failure> {
    let [q, k, v] = [tensors.require("q")?, tensors.require("k")?, tensors.require("v")?];
    q.require_dtype(&[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
    k.require_dtype(&[q.dtype])?;
    v.require_dtype(&[q.dtype])?;
    if matches!(q.dtype, Dtype::F16 | Dtype::BF16) {
        return Err(Failure::unsupported(format_args!("element type {}", q.dtype)));
    }
    Ok([q, k, v])
}

/// Each output that is asked for, once, with its sizes: as out, it has the leading sizes that `rank` leaves.
fn emits(args: &RunArgs, out: Sizes, kv_len: usize, rank: usize) -> Vec<(Emit, Vec<usize>)> {
    let mut emits: Vec<(Emit, Vec<usize>)> = Vec::new();
    for &emit in &args.emit {
        if emits.iter().all(|(earlier, _)| *earlier != emit) {
            let mut sizes = vec![out.batch, out.heads, out.len];
            if emit != Emit::Lse {
                sizes.push(kv_len);
            }
            emits.push((emit, sizes.split_off(4 - rank)));
        }
    }
    emits
}

fn broadcast(tensor: &Tensor<'_>) -> Result<BroadcastLayout, Failure> {
    Ok(BroadcastLayout::from_dims(tensor.name, &tensor.sizes)?)
}

fn alibi(slopes: &Tensor<'_>, out: Sizes) -> Result<AlibiLayout, Failure> {
    slopes.require_dtype(&[Dtype::F32])?;
    match slopes.sizes.as_slice() {
        [heads] if *heads == out.heads => Ok(AlibiLayout::PerHead),
        &[batch, heads] if (batch, heads) == (out.batch, out.heads) => {
            Ok(AlibiLayout::PerBatchAndHead)
        }
        found => {
            let expected = format!("[{}] or [{}, {}]", out.heads, out.batch, out.heads);
            Err(Failure::input(slopes.name, expected, format_args!("{found:?}")))
        }
    }
}

fn options(args: &RunArgs) -> AttentionOptions {
    AttentionOptions {
        scale: args.scale,
        softcap: args.softcap.filter(|&softcap| softcap != 0.0),
        causal: args.causal,
        window_left: args.window_left.and_then(|window| window.0),
        window_right: args.window_right.and_then(|window| window.0),
        align: match args.align {
            // Without a cache or lengths, which would say better.
            AlignChoice::Auto | AlignChoice::TopLeft => Align::TopLeft,
            AlignChoice::BottomRight => Align::BottomRight,
        },
    }
}
