//! `additive`: additive attention on the tensors of a safetensors file.

use crate::adapter::DeviceArgs;
use crate::failure::Failure;
use crate::job::{Job, require_memory, require_valid};
use crate::tensors::{AXES, FLOATS, PER_BATCH, Tensor, Tensors, require_alike};
use crate::values::one_of;
use clap::Args;
use safetensors::Dtype;
use std::path::PathBuf;
use std::time::Instant;
use wgpu_attention::layers::{AdditiveInputs, AdditivePlan, AdditiveShape};
use wgpu_attention::{Capabilities, cpu};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention additive in.safetensors --emit weights --out out.safetensors")]
pub(crate) struct AdditiveArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Tensors query, keys, w_q, w_k, w_v, and optionally values, b, mask
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// More outputs
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = one_of(["weights"]))]
    emit: Vec<&'static str>,
}

/// Reads, checks everything, computes, and writes all outputs at once. It computes in f32, which
/// holds every number of the other types, as the parameters may be of another one.
pub(crate) fn additive(args: &AdditiveArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let tensors = Tensors::read(&args.input)?;
    let [query, keys] = [tensors.require("query")?, tensors.require("keys")?];
    let values = tensors.get("values").unwrap_or(keys);
    let [w_q, w_k, w_v] =
        [tensors.require("w_q")?, tensors.require("w_k")?, tensors.require("w_v")?];
    let (b, mask) = (tensors.get("b"), tensors.get("mask"));
    require_alike(&[query, keys, values])?;
    for parameter in [w_q, w_k, w_v].iter().chain(&b) {
        parameter.require_dtype(&FLOATS)?;
    }
    let [batch, q_len, query_dim] = query.dims(["batch", "queries", "dim"])?;
    let [_, kv_len, key_dim] = keys.dims(["batch", "keys", "dim"])?;
    let [_, _, value_dim] = values.dims(["batch", "keys", "dim"])?;
    let &[hidden_dim] = w_v.sizes else { return Err(w_v.refuse("1 size")) };
    keys.require_sizes(&[&[batch, kv_len, key_dim]])?;
    values.require_sizes(&[&[batch, kv_len, value_dim]])?;
    w_q.require_sizes(&[&[hidden_dim, query_dim]])?;
    w_k.require_sizes(&[&[hidden_dim, key_dim]])?;
    b.map_or(Ok(()), |b| b.require_sizes(&[&[hidden_dim]]))?;
    let dims = [query_dim, key_dim, value_dim];
    let shape = AdditiveShape {
        bias: b.is_some(),
        mask: mask.map(|mask| broadcast(&mask, [batch, q_len, kv_len])).transpose()?,
        weights: !args.emit.is_empty(),
        ..AdditiveShape::new(batch, [q_len, kv_len], dims, hidden_dim)
    };
    let (out_sizes, weights_sizes) = ([batch, q_len, value_dim], [batch, q_len, kv_len]);
    let outputs = [&out_sizes[..], &weights_sizes];
    require_memory::<f32>(&outputs[..1 + usize::from(shape.weights)])?;
    require_valid(AdditivePlan::new(&shape, &Capabilities::PORTABLE))?;
    let mask = mask.map(|mask| mask.bools()).transpose()?;
    let b = b.map(|b| b.floats()).transpose()?;
    let inputs = AdditiveInputs::<f32> {
        query: &query.floats()?,
        key: &keys.floats()?,
        value: &values.floats()?,
        w_q: &w_q.floats()?,
        w_k: &w_k.floats()?,
        w_v: &w_v.floats()?,
        b: b.as_deref(),
        mask: mask.as_deref(),
    };

    let job = Job::open("additive", start, &args.out, &args.device)?;
    let outputs = job.layer(
        |gpu| gpu.additive_blocking(&shape, &inputs).map(|found| (found.out, found.weights)),
        || cpu::additive(&shape, &inputs).map(|found| (found.out, found.weights)),
        query.dtype,
        [&out_sizes, &weights_sizes],
    )?;

    let texts = [(AXES, PER_BATCH)];
    let texts = if shape.weights { &texts[..] } else { &[] };
    job.finish(&[query, keys], &outputs, texts, |_| Some("additive"))
}

/// The sizes of a mask, aligned to the right.
fn broadcast(mask: &Tensor<'_>, whole: [usize; 3]) -> Result<[usize; 3], Failure> {
    mask.require_dtype(&[Dtype::BOOL])?;
    let mut sizes = [1; 3];
    if let Some(missing @ 0..3) = sizes.len().checked_sub(mask.sizes.len()) {
        sizes[missing..].copy_from_slice(mask.sizes);
        if sizes.iter().zip(whole).all(|(&size, whole)| [1, whole].contains(&size)) {
            return Ok(sizes);
        }
    }
    Err(mask.refuse(format_args!("1 to 3 sizes that broadcast to {whole:?}")))
}
