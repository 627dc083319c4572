//! From tensors and flags to one attention call, everything checked.

use super::args::{AlignChoice, Emit, RunArgs};
use super::lengths::{cu_seqlens, kv_lens};
use super::mask::Mask;
use super::rope::Rope;
use super::segments::segments;
use super::sequence::{Sequence, Vectors};
use super::sizes::{Order, Sizes, compare, compare_past};
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::tensors::{FLOATS, Tensor, Tensors};
use safetensors::Dtype;
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Element, Inputs, Layout, Problem,
    SegmentLayout,
};

/// One attention call: what the library is asked, the elements it reads, and the sizes of its answers.
#[derive(Debug)]
pub(super) struct Request<T> {
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    pub(super) out_sizes: Vec<usize>,
    /// The other outputs and their sizes, each once.
    pub(super) emits: Vec<(Emit, Vec<usize>)>,
    rope: Option<Rope>,
    query: Vec<T>,
    /// All keys, the cached ones included.
    pub(super) key: Vec<T>,
    /// All values.
    pub(super) value: Vec<T>,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
    alibi_slopes: Option<Vec<f32>>,
    segments: Option<Vec<u32>>,
    sinks: Option<Vec<f32>>,
}

impl<T: Element> Request<T> {
    /// Checks flags and tensors against each other; the library finds nothing left to refuse.
    pub(super) fn new(args: &RunArgs, tensors: &Tensors<'_>) -> Result<Self, Failure> {
        let [order, kv_order] = Order::new(args)?;
        let (q, k, v) = vectors(tensors, [order, kv_order])?;
        let batch = compare(q.sizes, k.new.sizes, v.new.sizes)?;
        if let (Some(past_k), Some(past_v)) = (&k.past, &v.past) {
            compare_past([past_k.sizes, k.new.sizes], [past_v.sizes, v.new.sizes], batch)?;
        }
        let (query, key, value) = (q.sizes, k.sizes(), v.sizes());
        let scores_mask = |tensor| Mask::new(tensor, key.len, args.pad_mask);
        let mask = tensors.get("mask").map(scores_mask);
        let bias = bias(tensors, q.tensor.dtype)?.map(scores_mask);
        let slopes = tensors.get("alibi_slopes");
        let sinks = sinks(tensors, query.heads)?;
        let lens = tensors.get("kv_len");
        let cu_seqlens = cu_seqlens(tensors, order)?;
        let segments = segments(tensors, order, batch, [query.len, key.len])?;
        if let (Some(_), Some(past)) = (&lens, &k.past) {
            let expected = format!("none, as there is {}", past.tensor.name);
            return Err(Failure::input("kv_len", expected, "a tensor"));
        }

        let out = Sizes { batch, heads: query.heads, len: query.len, dim: value.dim };
        let sequences =
            cu_seqlens.as_ref().map_or(batch, |starts| starts.query.len().saturating_sub(1));
        let asked = |emit| args.emit.contains(&emit).then_some(Layout::Bhsd);
        let shape = AttentionShape {
            num_kv_heads: key.heads,
            kv_len: key.len,
            cu_seqlens,
            kv_lens: lens.as_ref().map(|lens| kv_lens(lens, batch, key.len)).transpose()?,
            value_dim: value.dim,
            element: T::TYPE,
            query: order.layout(query, batch),
            key: k.layout(batch),
            value: v.layout(batch),
            out: order.layout(out, batch),
            mask: mask.as_ref().map(Mask::layout).transpose()?,
            bias: bias.as_ref().map(Mask::layout).transpose()?,
            alibi: slopes.as_ref().map(|slopes| alibi(slopes, out.heads, sequences)).transpose()?,
            segments: segments.as_ref().map(|_| SegmentLayout::PerSide),
            sinks: sinks.is_some(),
            lse: asked(Emit::Lse),
            weights: asked(Emit::Weights),
            raw_scores: asked(Emit::Qk),
            capped_scores: asked(Emit::QkSoftcap),
            masked_scores: asked(Emit::QkBias),
            ..AttentionShape::new(batch, query.heads, query.len, query.dim)
        };
        let auto = match &k.past {
            // Longer than i64 counts is longer than the library takes.
            Some(past) => Align::Offset(i64::try_from(past.sizes.len).unwrap_or(i64::MAX)),
            None if lens.is_some() => Align::BottomRight,
            None => Align::TopLeft,
        };
        let options = options(args, auto);
        // Before elements are put together: with sizes that are refused, that could be endless work.
        let problem = Problem::new(&shape, &options)?;
        let rope =
            args.rope.map(|choice| Rope::new(choice, tensors, &q, &k, shape.cu_seqlens.as_ref()));
        let rank = match order {
            Order::Bhsd => [&q, &k.new, &v.new].map(|x| x.tensor.sizes.len()).into_iter().max(),
            Order::Bshd | Order::Packed { .. } => None,
            // What comes back beside out lies as [heads, total].
            Order::Thd => Some(3),
        };
        let rank = rank.unwrap_or(4);
        let request = Self {
            out_sizes: order.write(out, rank),
            emits: emits(args, out, [&k, &v], rank)?,
            rope: rope.transpose()?,
            query: q.tensor.floats()?,
            key: k.elements()?,
            value: v.elements()?,
            mask: mask.map(|mask| mask.bools()).transpose()?,
            bias: bias.map(|bias| bias.floats()).transpose()?,
            alibi_slopes: slopes.map(|slopes| slopes.floats()).transpose()?,
            segments,
            sinks: sinks.map(|sinks| sinks.floats()).transpose()?,
            shape,
            options,
        };
        request.inputs().validate(&problem)?;
        Ok(request)
    }

    /// Rotates q and the new k, if that is asked for.
    pub(super) fn rotate(&mut self, machine: &Machine) -> Result<(), Failure> {
        match &self.rope {
            Some(rope) => rope.rotate(machine, [&mut self.query, &mut self.key]),
            None => Ok(()),
        }
    }

    /// The sizes of all outputs.
    pub(super) fn sizes(&self) -> impl Iterator<Item = &Vec<usize>> {
        std::iter::once(&self.out_sizes).chain(self.emits.iter().map(|(_, sizes)| sizes))
    }

    pub(super) fn inputs(&self) -> Inputs<'_, T> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
            segments: self.segments.as_deref(),
            lens: None,
            pages: None,
            sinks: self.sinks.as_deref(),
        }
    }
}

/// q, and k and v with what is cached of them: of one element type.
fn vectors<'a>(
    tensors: &Tensors<'a>,
    [q_order, kv_order]: [Order; 2],
) -> Result<(Vectors<'a>, Sequence<'a>, Sequence<'a>), Failure> {
    let [q, k, v] = [tensors.require("q")?, tensors.require("k")?, tensors.require("v")?];
    let past = tensors.pair(["past_k", "past_v"])?;
    q.require_dtype(&FLOATS)?;
    for other in [&k, &v].into_iter().chain(past.iter().flatten()) {
        other.require_dtype(&[q.dtype])?;
    }
    let (past_k, past_v) = past.map(|[k, v]| (k, v)).unzip();
    let sequence = |past: Option<Tensor<'a>>, new| {
        // A cache lies the same way whatever the layout.
        let past = past.map(|past| Vectors::new(past, Order::Bhsd)).transpose()?;
        Ok::<_, Failure>(Sequence { new: Vectors::new(new, kv_order)?, past })
    };
    Ok((Vectors::new(q, q_order)?, sequence(past_k, k)?, sequence(past_v, v)?))
}

/// The bias: F32, or as q is.
fn bias<'a>(tensors: &Tensors<'a>, dtype: Dtype) -> Result<Option<Tensor<'a>>, Failure> {
    let bias = tensors.get("bias");
    if let Some(bias) = &bias {
        let mut accepted = vec![Dtype::F32, dtype];
        accepted.dedup();
        bias.require_dtype(&accepted)?;
    }
    Ok(bias)
}

/// Each output that is asked for, once, with its sizes: as out, it has the leading sizes that `rank` leaves.
fn emits(
    args: &RunArgs,
    out: Sizes,
    [k, v]: [&Sequence<'_>; 2],
    rank: usize,
) -> Result<Vec<(Emit, Vec<usize>)>, Failure> {
    let present = |emit: Emit, sequence: &Sequence<'_>| match &sequence.past {
        Some(past) => Ok(Order::Bhsd.write(sequence.sizes(), rank.max(past.tensor.sizes.len()))),
        None => {
            let what = format_args!("--emit {}", emit.name());
            Err(Failure::input(what, "tensors past_k and past_v", "none"))
        }
    };
    let mut emits: Vec<(Emit, Vec<usize>)> = Vec::new();
    for &emit in &args.emit {
        if emits.iter().all(|(earlier, _)| *earlier != emit) {
            let sizes = match emit {
                Emit::PresentK => present(emit, k)?,
                Emit::PresentV => present(emit, v)?,
                Emit::Lse => vec![out.batch, out.heads, out.len].split_off(4 - rank),
                _ => vec![out.batch, out.heads, out.len, k.sizes().len].split_off(4 - rank),
            };
            emits.push((emit, sizes));
        }
    }
    Ok(emits)
}

fn alibi(slopes: &Tensor<'_>, num_heads: usize, batch: usize) -> Result<AlibiLayout, Failure> {
    slopes.require_dtype(&[Dtype::F32])?;
    match slopes.sizes.as_slice() {
        [heads] if *heads == num_heads => Ok(AlibiLayout::PerHead),
        found if found == [batch, num_heads] => Ok(AlibiLayout::PerBatchAndHead),
        found => {
            let expected = format!("[{num_heads}] or [{batch}, {num_heads}]");
            Err(Failure::input(slopes.name, expected, format_args!("{found:?}")))
        }
    }
}

/// A logit for each head of q, if the file has them.
fn sinks<'a>(tensors: &Tensors<'a>, num_heads: usize) -> Result<Option<Tensor<'a>>, Failure> {
    let Some(sinks) = tensors.get("sinks") else { return Ok(None) };
    sinks.require_dtype(&[Dtype::F32])?;
    if sinks.sizes != [num_heads] {
        let found = format!("{:?}", sinks.sizes);
        return Err(Failure::input(sinks.name, format_args!("[{num_heads}]"), found));
    }
    Ok(Some(sinks))
}

/// `auto` is what `--align auto` comes to.
fn options(args: &RunArgs, auto: Align) -> AttentionOptions {
    AttentionOptions {
        scale: args.scale,
        softcap: args.softcap.filter(|&softcap| softcap != 0.0),
        causal: args.causal,
        window_left: args.window_left.and_then(|window| window.0),
        window_keeps: 0,
        window_right: args.window_right.and_then(|window| window.0),
        align: match args.align {
            AlignChoice::Auto => auto,
            AlignChoice::TopLeft => Align::TopLeft,
            AlignChoice::BottomRight => Align::BottomRight,
        },
    }
}
