//! `additive`: additive attention on the tensors of a safetensors file.

use crate::adapter::DeviceArgs;
use crate::adapter::Machine;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::run::require_memory;
use crate::summary::Summary;
use crate::tensors::{self, AXES, FLOATS, Named, PER_BATCH, Tensor, Tensors, rounded};
use clap::{Args, ValueEnum};
use half::{bf16, f16};
use safetensors::Dtype;
use std::path::PathBuf;
use wgpu_attention::{
    AdditiveInputs, AdditiveOutputs, AdditivePlan, AdditiveShape, Capabilities, Element, Error, cpu,
};

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
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    emit: Vec<AdditiveEmit>,
}

/// An output besides `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AdditiveEmit {
    Weights,
}

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn additive(args: &AdditiveArgs) -> Result<(), Failure> {
    let summary = Summary::start("additive");
    let bytes = tensors::read(&args.input)?;
    let tensors = Tensors::parse(&args.input, &bytes)?;
    match tensors.require("query")?.dtype {
        Dtype::F16 => attend::<f16>(args, &tensors, summary),
        Dtype::BF16 => attend::<bf16>(args, &tensors, summary),
        _ => attend::<f32>(args, &tensors, summary),
    }
}

/// With out as `T`. Computed in f32, which holds every number of the other types, as the parameters may be of another one.
fn attend<T: Element>(
    args: &AdditiveArgs,
    tensors: &Tensors<'_>,
    summary: Summary,
) -> Result<(), Failure> {
    let call = Call::new(args, tensors)?;
    let s = &call.shape;
    let out_sizes = vec![s.batch, s.q_len, s.value_dim];
    let weights_sizes = vec![s.batch, s.q_len, s.kv_len];
    let asked = [Some(&out_sizes), s.weights.then_some(&weights_sizes)];
    require_memory::<f32>(asked.into_iter().flatten())?;
    // What is too large for the smallest device may yet fit this one.
    match AdditivePlan::new(s, &Capabilities::PORTABLE) {
        Ok(_) | Err(Error::Unsupported { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let widen = |tensor: &Tensor<'_>| tensor.floats::<f32>();
    let mask = call.mask.as_ref().map(Tensor::bools).transpose()?;
    let b = call.b.as_ref().map(widen).transpose()?;
    let inputs = AdditiveInputs {
        query: &widen(&call.query)?,
        key: &widen(&call.keys)?,
        value: &widen(&call.values)?,
        w_q: &widen(&call.w_q)?,
        w_k: &widen(&call.w_k)?,
        w_v: &widen(&call.w_v)?,
        b: b.as_deref(),
        mask: mask.as_deref(),
    };
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    let found = machine.compute(
        |gpu| gpu.additive_blocking(s, &inputs),
        || {
            let AdditiveOutputs { out, weights } = cpu::additive(s, &inputs)?;
            Ok(AdditiveOutputs { out: rounded(out), weights: weights.map(rounded) })
        },
    )?;
    let out: Vec<T> = rounded(found.out);
    let mut named = vec![Named::new("out", &out_sizes, &out)];
    if let Some(weights) = &found.weights {
        named.push(Named::new("weights", &weights_sizes, weights));
    }
    let texts = found.weights.as_ref().map(|_| (AXES, PER_BATCH));
    file.write(&tensors::serialize_with(named, texts.as_slice())?)?;
    let sizes = [("query", &call.query.sizes[..]), ("keys", &call.keys.sizes), ("out", &out_sizes)];
    summary.say(&machine, &sizes, |_| Some("additive"));
    Ok(())
}

/// The tensors of a call, whose sizes go together.
struct Call<'a> {
    shape: AdditiveShape,
    query: Tensor<'a>,
    keys: Tensor<'a>,
    values: Tensor<'a>,
    w_q: Tensor<'a>,
    w_k: Tensor<'a>,
    w_v: Tensor<'a>,
    b: Option<Tensor<'a>>,
    mask: Option<Tensor<'a>>,
}

impl<'a> Call<'a> {
    fn new(args: &AdditiveArgs, tensors: &Tensors<'a>) -> Result<Self, Failure> {
        let [query, keys] = [tensors.require("query")?, tensors.require("keys")?];
        let values = match tensors.get("values") {
            Some(values) => values,
            None => tensors.require("keys")?,
        };
        let [w_q, w_k, w_v] =
            [tensors.require("w_q")?, tensors.require("w_k")?, tensors.require("w_v")?];
        let (b, mask) = (tensors.get("b"), tensors.get("mask"));
        query.require_dtype(&FLOATS)?;
        for other in [&keys, &values] {
            other.require_dtype(&[query.dtype])?;
        }
        for parameter in [&w_q, &w_k, &w_v].into_iter().chain(&b) {
            parameter.require_dtype(&FLOATS)?;
        }

        let &[batch, q_len, query_dim] = query.sizes.as_slice() else {
            return Err(refuse(&query, "3 sizes, [batch, queries, dim]"));
        };
        let &[_, kv_len, key_dim] = keys.sizes.as_slice() else {
            return Err(refuse(&keys, "3 sizes, [batch, keys, dim]"));
        };
        let &[_, _, value_dim] = values.sizes.as_slice() else {
            return Err(refuse(&values, "3 sizes, [batch, keys, dim]"));
        };
        let &[hidden_dim] = w_v.sizes.as_slice() else {
            return Err(refuse(&w_v, "1 size"));
        };
        for (tensor, expected) in [
            (&keys, &[batch, kv_len, key_dim][..]),
            (&values, &[batch, kv_len, value_dim]),
            (&w_q, &[hidden_dim, query_dim]),
            (&w_k, &[hidden_dim, key_dim]),
        ] {
            require_sizes(tensor, expected)?;
        }
        if let Some(b) = &b {
            require_sizes(b, &[hidden_dim])?;
        }
        let mask_sizes = mask.as_ref().map(|mask| broadcast(mask, [batch, q_len, kv_len]));
        let shape = AdditiveShape {
            bias: b.is_some(),
            mask: mask_sizes.transpose()?,
            weights: args.emit.contains(&AdditiveEmit::Weights),
            ..AdditiveShape::new(
                batch,
                [q_len, kv_len],
                [query_dim, key_dim, value_dim],
                hidden_dim,
            )
        };
        Ok(Self { shape, query, keys, values, w_q, w_k, w_v, b, mask })
    }
}

/// The sizes of a mask, aligned to the right.
fn broadcast(mask: &Tensor<'_>, whole: [usize; 3]) -> Result<[usize; 3], Failure> {
    mask.require_dtype(&[Dtype::BOOL])?;
    let mut sizes = [1; 3];
    let missing = 3_usize.checked_sub(mask.sizes.len()).filter(|&missing| missing < 3);
    if let Some(missing) = missing {
        sizes[missing..].copy_from_slice(&mask.sizes);
        if sizes.iter().zip(whole).all(|(&size, whole)| [1, whole].contains(&size)) {
            return Ok(sizes);
        }
    }
    Err(refuse(mask, &format!("1 to 3 sizes that broadcast to {whole:?}")))
}

fn require_sizes(tensor: &Tensor<'_>, expected: &[usize]) -> Result<(), Failure> {
    if tensor.sizes == expected { Ok(()) } else { Err(refuse(tensor, &format!("{expected:?}"))) }
}

fn refuse(tensor: &Tensor<'_>, expected: &str) -> Failure {
    Failure::input(tensor.name, expected, format_args!("{:?}", tensor.sizes))
}
