//! `selfattn`: the self-attention module of many tutorials.

use crate::adapter::DeviceArgs;
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::mha::LayerEmit;
use crate::output::OutputFile;
use crate::state::StateDict;
use crate::summary::Summary;
use crate::tensors::{self, Named, Tensor, Tensors, require_size};
use crate::values::heads;
use clap::{Args, ValueEnum};
use half::{bf16, f16};
use safetensors::Dtype;
use std::path::PathBuf;
use wgpu_attention::{
    BroadcastLayout, Capabilities, Element, Error, ScaleBy, SelfAttentionInputs, SelfAttentionPlan,
    SelfAttentionShape, SelfAttentionWeights, cpu,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention selfattn in.safetensors --weights module.safetensors --heads 8 --emit weights --out out.safetensors")]
pub(crate) struct SelfAttnArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Tensors values, keys, query, and optionally mask
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// The state_dict of the module: values, keys, queries, fc_out
    #[arg(long, value_name = "W.safetensors")]
    weights: PathBuf,
    /// Number of heads
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    heads: usize,
    /// Where the outputs go
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Divide the scores by the root of the width of a head, or of the whole
    #[arg(long, value_enum, default_value_t)]
    scale_by: ScaleByChoice,
    /// More outputs
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    emit: Vec<LayerEmit>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ScaleByChoice {
    #[default]
    Head,
    Embed,
}

/// What a state_dict holds.
const NAMES: [&str; 5] =
    ["values.weight", "keys.weight", "queries.weight", "fc_out.weight", "fc_out.bias"];

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn selfattn(args: &SelfAttnArgs) -> Result<(), Failure> {
    let summary = Summary::start("selfattn");
    let bytes = tensors::read(&args.input)?;
    let tensors = Tensors::parse(&args.input, &bytes)?;
    match tensors.require("query")?.dtype {
        Dtype::F16 => attend::<f16>(args, &tensors, summary),
        Dtype::BF16 => attend::<bf16>(args, &tensors, summary),
        _ => attend::<f32>(args, &tensors, summary),
    }
}

/// With out as `T`.
fn attend<T: Element>(
    args: &SelfAttnArgs,
    tensors: &Tensors<'_>,
    summary: Summary,
) -> Result<(), Failure> {
    let state = StateDict::read(&args.weights, &NAMES)?;
    let weights = SelfAttentionWeights::from_state_dict(args.heads, |name| state.find(name))?;
    let [values, keys, query] =
        [tensors.require("values")?, tensors.require("keys")?, tensors.require("query")?];
    query.require_dtype(&[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
    for other in [&values, &keys] {
        other.require_dtype(&[query.dtype])?;
    }
    let mask = tensors.get("mask");
    let shape = shape(args, weights.embed_size, [&values, &keys, &query], mask.as_ref())?;
    let head_dim = weights.embed_size / args.heads;
    // What is too large for the smallest device may yet fit this one.
    match SelfAttentionPlan::new(args.heads, head_dim, &shape, &Capabilities::PORTABLE) {
        Ok(_) | Err(Error::Unsupported { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mask = mask.map(|mask| mask.nonzero()).transpose()?;
    let inputs = SelfAttentionInputs {
        values: &values.floats()?,
        keys: &keys.floats()?,
        queries: &query.floats()?,
        mask: mask.as_deref(),
    };
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    let (out, head_weights) = machine.compute(
        |gpu| {
            let found = gpu.self_attention_blocking(&weights, &shape, &inputs)?;
            Ok((tensors::rounded::<_, T>(found.out), found.weights))
        },
        || {
            let found = cpu::self_attention(&weights, &shape, &inputs)?;
            Ok((tensors::rounded::<_, T>(found.out), found.weights.map(tensors::rounded)))
        },
    )?;
    let mut named = vec![Named::new("out", &query.sizes, &out)];
    let weights_sizes = [shape.batch, args.heads, shape.q_len, shape.kv_len];
    if let Some(head_weights) = &head_weights {
        named.push(Named::new("weights", &weights_sizes, head_weights));
    }
    file.write(&tensors::serialize(named)?)?;
    let sizes = [("query", &query.sizes[..]), ("keys", &keys.sizes), ("out", &query.sizes)];
    summary.say(&machine, &sizes, |gpu| {
        let plan = SelfAttentionPlan::new(args.heads, head_dim, &shape, gpu.capabilities()).ok()?;
        Some(plan.kernel().name())
    });
    Ok(())
}

/// The sizes of a call, which belong together.
fn shape(
    args: &SelfAttnArgs,
    embed_size: usize,
    tensors: [&Tensor<'_>; 3],
    mask: Option<&Tensor<'_>>,
) -> Result<SelfAttentionShape, Failure> {
    let sizes = |tensor: &Tensor<'_>| match tensor.sizes[..] {
        [batch, len, width] => Ok((batch, len, width)),
        _ => {
            let found = format_args!("{:?}", tensor.sizes);
            Err(Failure::input(tensor.name, "3 sizes, [batch, len, width]", found))
        }
    };
    let [values, keys, query] = tensors;
    let (values, keys, query) = (sizes(values)?, sizes(keys)?, sizes(query)?);
    require_size("width of values (as of fc_out)", embed_size, values.2)?;
    require_size("width of keys (as of fc_out)", embed_size, keys.2)?;
    require_size("width of query (as of fc_out)", embed_size, query.2)?;
    require_size("batch of keys (as of query)", query.0, keys.0)?;
    require_size("batch of values (as of query)", query.0, values.0)?;
    require_size("len of values (as of keys)", keys.1, values.1)?;
    let layout = |mask: &Tensor<'_>| match mask.sizes[..] {
        // One number for all.
        [] => Ok(BroadcastLayout::Sizes([1; 4])),
        _ => BroadcastLayout::from_dims("mask", &mask.sizes),
    };
    Ok(SelfAttentionShape {
        kv_len: keys.1,
        scale_by: match args.scale_by {
            ScaleByChoice::Head => ScaleBy::Head,
            ScaleByChoice::Embed => ScaleBy::Embed,
        },
        mask: mask.map(layout).transpose()?,
        weights: !args.emit.is_empty(),
        ..SelfAttentionShape::new(query.0, query.1)
    })
}
