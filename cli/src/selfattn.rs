//! `selfattn`: the self-attention module of many tutorials.

use crate::adapter::DeviceArgs;
use crate::failure::Failure;
use crate::job::{Job, StateDict, require_valid};
use crate::tensors::{Tensors, require_alike, require_equal};
use crate::values::{choice, heads, one_of};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;
use wgpu_attention::layers::{
    ScaleBy, SelfAttentionInputs, SelfAttentionPlan, SelfAttentionShape, SelfAttentionWeights,
};
use wgpu_attention::{BroadcastLayout, Capabilities, Gpu, cpu};

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
    #[arg(long, value_parser = choice(SCALES), default_value = "head")]
    scale_by: ScaleBy,
    /// More outputs
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = one_of(["weights"]))]
    emit: Vec<&'static str>,
}

const SCALES: [(&str, ScaleBy); 2] = [("head", ScaleBy::Head), ("embed", ScaleBy::Embed)];

/// What a state_dict holds.
const NAMES: &str = "values.weight keys.weight queries.weight fc_out.weight fc_out.bias";

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn selfattn(args: &SelfAttnArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let tensors = Tensors::read(&args.input)?;
    let query = tensors.require("query")?;
    let state = StateDict::read(&args.weights, NAMES)?;
    let weights = SelfAttentionWeights::from_state_dict(args.heads, |name| state.find(name))?;
    let [values, keys] = [tensors.require("values")?, tensors.require("keys")?];
    require_alike(&[query, values, keys])?;
    let names = ["batch", "len", "width"];
    let [batch_of_values, len_of_values, width_of_values] = values.dims(names)?;
    let [batch_of_keys, kv_len, width_of_keys] = keys.dims(names)?;
    let [batch, q_len, width] = query.dims(names)?;
    require_equal(&[
        ("width of values (as of fc_out)", weights.embed_size, width_of_values),
        ("width of keys (as of fc_out)", weights.embed_size, width_of_keys),
        ("width of query (as of fc_out)", weights.embed_size, width),
        ("batch of keys (as of query)", batch, batch_of_keys),
        ("batch of values (as of query)", batch, batch_of_values),
        ("len of values (as of keys)", kv_len, len_of_values),
    ])?;
    let mask = tensors.get("mask");
    let mask_layout = mask.map(|mask| match mask.sizes {
        // One number for all.
        [] => Ok(BroadcastLayout::Sizes([1; 4])),
        sizes => BroadcastLayout::from_dims("mask", sizes),
    });
    let shape = SelfAttentionShape {
        kv_len,
        scale_by: args.scale_by,
        mask: mask_layout.transpose()?,
        weights: !args.emit.is_empty(),
        ..SelfAttentionShape::new(batch, q_len)
    };
    let head_dim = weights.embed_size / args.heads;
    let plan = |on: &Capabilities| SelfAttentionPlan::new(args.heads, head_dim, &shape, on);
    require_valid(plan(&Capabilities::PORTABLE))?;
    let mask = mask.map(|mask| mask.nonzero()).transpose()?;
    let inputs = SelfAttentionInputs {
        values: &values.floats()?,
        keys: &keys.floats()?,
        queries: &query.floats()?,
        mask: mask.as_deref(),
    };
    let weights_sizes = [batch, args.heads, q_len, kv_len];

    let job = Job::open("selfattn", start, &args.out, &args.device)?;
    let outputs = job.layer(
        |gpu| {
            gpu.self_attention_blocking(&weights, &shape, &inputs)
                .map(|found| (found.out, found.weights))
        },
        || cpu::self_attention(&weights, &shape, &inputs).map(|found| (found.out, found.weights)),
        query.dtype,
        [query.sizes, &weights_sizes],
    )?;

    let kernel = |gpu: &Gpu| Some(plan(gpu.capabilities()).ok()?.kernel().name());
    job.finish(&[query, keys], &outputs, &[], kernel)
}
