//! From tensors and flags to one attention call, everything checked.

use super::args::RunArgs;
use super::optional::{Mask, alibi, cu_seqlens, kv_lens, segments};
use super::rope::Rope;
use super::vectors::{Order, Sequence, Sizes, Vectors};
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::tensors::{Tensors, require_alike, require_equal};
use safetensors::Dtype;
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, Element, Inputs, Layout, Problem, SegmentLayout,
};

/// One attention call: shape, options, the elements to read, and the sizes of all outputs.
#[derive(Debug)]
pub(super) struct Request<T> {
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    pub(super) out_sizes: Vec<usize>,
    /// The other outputs and their sizes, each once.
    pub(super) emits: Vec<(&'static str, Vec<usize>)>,
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
    pub(super) fn new(args: &RunArgs, tensors: &Tensors) -> Result<Self, Failure> {
        let [order, kv_order] = Order::new(args)?;
        let (q, k, v) = vectors(tensors, [order, kv_order])?;
        let batch = common_batch(q.sizes, &k, &v)?;
        let (query, key, value) = (q.sizes, k.sizes(), v.sizes());
        let scores_mask = |tensor| Mask::new(tensor, key.len, args.pad_mask);
        let mask = tensors.get("mask").map(scores_mask);
        let mut accepted = vec![Dtype::F32, q.tensor.dtype];
        accepted.dedup();
        let bias = tensors.get("bias");
        bias.map_or(Ok(()), |bias| bias.require_dtype(&accepted))?;
        let bias = bias.map(scores_mask);
        let sinks = tensors.find("sinks", &[Dtype::F32], &[&[query.heads]])?;
        let cu_seqlens = cu_seqlens(tensors, order)?;
        let segments = segments(tensors, order, batch, [query.len, key.len])?;
        let has_lens = tensors.get("kv_len").is_some();
        if has_lens && k.past.is_some() {
            return Err(Failure::input("kv_len", "none, as there is past_k", "a tensor"));
        }

        let out = Sizes { batch, heads: query.heads, len: query.len, dim: value.dim };
        let sequences =
            cu_seqlens.as_ref().map_or(batch, |starts| starts.query.len().saturating_sub(1));
        let kv_lens = kv_lens(tensors, batch, key.len)?;
        let slopes = alibi(tensors, out.heads, sequences)?;
        let asked = |emit| args.emit.contains(&emit).then_some(Layout::Bhsd);
        let shape = AttentionShape {
            num_kv_heads: key.heads,
            kv_len: key.len,
            cu_seqlens,
            kv_lens,
            value_dim: value.dim,
            element: T::TYPE,
            query: order.layout(query, batch),
            key: k.layout(batch),
            value: v.layout(batch),
            out: order.layout(out, batch),
            mask: mask.as_ref().map(Mask::layout).transpose()?,
            bias: bias.as_ref().map(Mask::layout).transpose()?,
            alibi: slopes.map(|(layout, _)| layout),
            segments: segments.as_ref().map(|_| SegmentLayout::PerSide),
            sinks: sinks.is_some(),
            lse: asked("lse"),
            weights: asked("weights"),
            raw_scores: asked("qk"),
            capped_scores: asked("qk_softcap"),
            masked_scores: asked("qk_bias"),
            ..AttentionShape::new(batch, query.heads, query.len, query.dim)
        };
        let auto = match &k.past {
            // Longer than i64 counts is longer than the library takes.
            Some(past) => Align::Offset(i64::try_from(past.sizes.len).unwrap_or(i64::MAX)),
            None if has_lens => Align::BottomRight,
            None => Align::TopLeft,
        };
        let options = options(args, auto);
        // Before elements are put together: sizes that are refused could make that endless.
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
            alibi_slopes: slopes.map(|(_, slopes)| slopes.floats()).transpose()?,
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

    pub(super) fn inputs(&self) -> Inputs<'_, T> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
            segments: self.segments.as_deref(),
            sinks: self.sinks.as_deref(),
            ..Inputs::default()
        }
    }
}

/// q, and k and v with what is cached of them: of one element type.
fn vectors(
    tensors: &Tensors,
    [q_order, kv_order]: [Order; 2],
) -> Result<(Vectors<'_>, Sequence<'_>, Sequence<'_>), Failure> {
    let [q, k, v] = [tensors.require("q")?, tensors.require("k")?, tensors.require("v")?];
    let past = tensors.pair(["past_k", "past_v"])?;
    require_alike(&[&[q, k, v], past.as_slice().as_flattened()].concat())?;
    let (past_k, past_v) = past.map(|[k, v]| (k, v)).unzip();
    let q = Vectors::new(q, q_order)?;
    Ok((q, Sequence::new(past_k, k, kv_order)?, Sequence::new(past_v, v, kv_order)?))
}

/// The batch that all have in common, of sizes that belong together.
fn common_batch(q: Sizes, k: &Sequence<'_>, v: &Sequence<'_>) -> Result<usize, Failure> {
    let (key, value) = (k.new.sizes, v.new.sizes);
    require_equal(&[
        ("head_dim of k (as of q)", q.dim, key.dim),
        ("heads of v (as of k)", key.heads, value.heads),
        ("len of v (as of k)", key.len, value.len),
    ])?;
    if !q.heads.is_multiple_of(key.heads) {
        let expected = format_args!("a divisor of the {} heads of q", q.heads);
        return Err(Failure::input("heads of k", expected, key.heads));
    }
    let common = |batch: usize, what, found: usize| match (batch, found) {
        (1, found) => Ok(found),
        (batch, found) if [1, batch].contains(&found) => Ok(batch),
        _ => Err(Failure::input(what, format_args!("1 or {batch}"), found)),
    };
    let batch = common(common(q.batch, "batch of k", key.batch)?, "batch of v", value.batch)?;
    if let (Some(past_k), Some(past_v)) = (&k.past, &v.past) {
        let (past_k, past_v) = (past_k.sizes, past_v.sizes);
        require_equal(&[
            ("heads of past_k (as of k)", key.heads, past_k.heads),
            ("heads of past_v (as of v)", value.heads, past_v.heads),
            ("head_dim of past_k (as of k)", key.dim, past_k.dim),
            ("value_dim of past_v (as of v)", value.dim, past_v.dim),
            ("len of past_v (as of past_k)", past_k.len, past_v.len),
        ])?;
        for (what, found) in [("batch of past_k", past_k.batch), ("batch of past_v", past_v.batch)]
        {
            if ![1, batch].contains(&found) {
                return Err(Failure::input(what, format_args!("1 or {batch}"), found));
            }
        }
    }
    Ok(batch)
}

/// Each output asked for, once, with its sizes, of which `rank` leaves the leading ones.
fn emits(
    args: &RunArgs,
    out: Sizes,
    [k, v]: [&Sequence<'_>; 2],
    rank: usize,
) -> Result<Vec<(&'static str, Vec<usize>)>, Failure> {
    let present = |emit: &str, sequence: &Sequence<'_>| match &sequence.past {
        Some(past) => Ok(Order::Bhsd.write(sequence.sizes(), rank.max(past.tensor.sizes.len()))),
        None => {
            let what = format_args!("--emit {emit}");
            Err(Failure::input(what, "tensors past_k and past_v", "none"))
        }
    };
    let lse = vec![out.batch, out.heads, out.len].split_off(4 - rank);
    let mut emits: Vec<(&str, Vec<usize>)> = Vec::new();
    for &emit in &args.emit {
        let sizes = match emit {
            "present_k" => present(emit, k)?,
            "present_v" => present(emit, v)?,
            "lse" => lse.clone(),
            _ => [&lse[..], &[k.sizes().len]].concat(),
        };
        if emits.iter().all(|(earlier, _)| *earlier != emit) {
            emits.push((emit, sizes));
        }
    }
    Ok(emits)
}

/// `auto` is what `--align auto` comes to.
fn options(args: &RunArgs, auto: Align) -> AttentionOptions {
    AttentionOptions {
        scale: args.scale,
        softcap: args.softcap.filter(|&softcap| softcap != 0.0),
        causal: args.causal,
        window_left: args.window_left.flatten(),
        window_keeps: 0,
        window_right: args.window_right.flatten(),
        align: args.align.unwrap_or(auto),
    }
}
