//! `mha`: a multi-head layer with the parameters of PyTorch's `nn.MultiheadAttention`.

use crate::adapter::DeviceArgs;
use crate::failure::Failure;
use crate::job::{Job, StateDict, require_valid};
use crate::tensors::{AXES, HEADS, MEAN, PER_BATCH, Tensor, Tensors, require_alike, require_equal};
use crate::values::{heads, one_of};
use clap::Args;
use safetensors::Dtype;
use std::path::PathBuf;
use std::time::Instant;
use wgpu_attention::layers::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadPlan, MultiHeadShape, MultiHeadWeights,
};
use wgpu_attention::{Capabilities, Gpu, cpu};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention mha in.safetensors --weights layer.safetensors --heads 8 --batch-first --out out.safetensors
  wgpu-attention mha in.safetensors --weights layer.safetensors --heads 8 --emit weights --per-head-weights --out out.safetensors")]
pub(crate) struct MhaArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Tensors query, key, value, and optionally attn_mask, key_padding_mask
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// The state_dict of an nn.MultiheadAttention
    #[arg(long, value_name = "W.safetensors")]
    weights: PathBuf,
    /// Number of heads
    #[arg(long, value_name = "N", value_parser = heads, allow_hyphen_values = true)]
    heads: usize,
    /// Where the outputs go
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// query, key, value and out are [B,S,E], not [S,B,E]
    #[arg(long)]
    batch_first: bool,
    /// One more key and value of zeros
    #[arg(long)]
    add_zero_attn: bool,
    /// More outputs
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = one_of(["weights"]))]
    emit: Vec<&'static str>,
    /// Weights of each head, not their mean
    #[arg(long)]
    per_head_weights: bool,
}

/// What a state_dict may hold.
const NAMES: &str = "in_proj_weight q_proj_weight k_proj_weight v_proj_weight in_proj_bias \
    out_proj.weight out_proj.bias bias_k bias_v";

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn mha(args: &MhaArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let tensors = Tensors::read(&args.input)?;
    let query = tensors.require("query")?;
    let state = StateDict::read(&args.weights, NAMES)?;
    let weights = MultiHeadWeights::from_state_dict(args.heads, |name| state.find(name))?;
    let weights = MultiHeadWeights { add_zero_attn: args.add_zero_attn, ..weights };
    let [key, value] = [tensors.require("key")?, tensors.require("value")?];
    let shape = shape(args, &weights, [query, key, value])?;
    let MultiHeadShape { batch, q_len, kv_len, .. } = shape;
    let is_batched = query.sizes.len() == 3;
    let planes = batch.saturating_mul(args.heads);
    let attn_mask =
        Mask::find(&tensors, "attn_mask", &[&[q_len, kv_len], &[planes, q_len, kv_len]])?;
    let padded = [batch, kv_len];
    let key_padding_mask =
        Mask::find(&tensors, "key_padding_mask", &[&padded[usize::from(!is_batched)..]])?;
    let plan = |on: &Capabilities| MultiHeadPlan::new(&weights, &shape, on);
    require_valid(plan(&Capabilities::PORTABLE))?;
    let inputs = MultiHeadInputs {
        query: &query.floats()?,
        key: &key.floats()?,
        value: &value.floats()?,
        attn_mask: attn_mask.as_ref().map(Mask::of_layer),
        key_padding_mask: key_padding_mask.as_ref().map(Mask::of_layer),
    };
    let mut weights_sizes = vec![q_len, kv_len.saturating_add(weights.added_rows())];
    if args.per_head_weights {
        weights_sizes.insert(0, args.heads);
    }
    if is_batched {
        weights_sizes.insert(0, batch);
    }

    let job = Job::open("mha", start, &args.out, &args.device)?;
    let outputs = job.layer(
        |gpu| {
            gpu.multi_head_attention_blocking(&weights, &shape, &inputs)
                .map(|found| (found.out, found.weights))
        },
        || {
            cpu::multi_head_attention(&weights, &shape, &inputs)
                .map(|found| (found.out, found.weights))
        },
        query.dtype,
        [query.sizes, &weights_sizes],
    )?;

    let texts = match (shape.weights, is_batched) {
        (Some(HeadWeights::Mean), true) => &[(HEADS, MEAN), (AXES, PER_BATCH)][..],
        (Some(HeadWeights::Mean), false) => &[(HEADS, MEAN)],
        _ => &[],
    };
    let kernel = |gpu: &Gpu| Some(plan(gpu.capabilities()).ok()?.kernel().name());
    job.finish(&[query, key], &outputs, texts, kernel)
}

/// The shape of a call whose tensors go together and with the layer.
fn shape(
    args: &MhaArgs,
    weights: &MultiHeadWeights<'_>,
    [query, key, value]: [Tensor<'_>; 3],
) -> Result<MultiHeadShape, Failure> {
    require_alike(&[query, key, value])?;
    let rank = query.sizes.len();
    if let Some(other) = [key, value].iter().find(|other| other.sizes.len() != rank) {
        return Err(other.refuse(format_args!("{rank} sizes, as query")));
    }
    let sizes = |tensor: Tensor<'_>| match *tensor.sizes {
        [len, width] => Ok([1, len, width]),
        [batch, len, width] if args.batch_first => Ok([batch, len, width]),
        [len, batch, width] => Ok([batch, len, width]),
        _ if args.batch_first => Err(tensor.refuse("2 or 3 sizes, [batch, len, width]")),
        _ => Err(tensor.refuse("2 or 3 sizes, [len, batch, width]")),
    };
    let [batch, q_len, width] = sizes(query)?;
    let [batch_of_key, kv_len, width_of_key] = sizes(key)?;
    let [batch_of_value, len_of_value, width_of_value] = sizes(value)?;
    require_equal(&[
        ("width of query (as of the layer)", weights.embed_dim, width),
        ("width of key (as of the layer)", weights.kdim, width_of_key),
        ("width of value (as of the layer)", weights.vdim, width_of_value),
        ("batch of key (as of query)", batch, batch_of_key),
        ("batch of value (as of query)", batch, batch_of_value),
        ("len of value (as of key)", kv_len, len_of_value),
    ])?;
    let asked = if args.per_head_weights { HeadWeights::PerHead } else { HeadWeights::Mean };
    Ok(MultiHeadShape {
        kv_len,
        batch_first: args.batch_first || rank == 2,
        weights: (!args.emit.is_empty()).then_some(asked),
        ..MultiHeadShape::new(batch, q_len)
    })
}

/// A mask of the file.
enum Mask {
    Hidden(Vec<bool>),
    Added(Vec<f32>),
}

impl Mask {
    /// A mask of one of these sizes, if the file has it.
    fn find(
        tensors: &Tensors,
        name: &'static str,
        sizes: &[&[usize]],
    ) -> Result<Option<Self>, Failure> {
        let dtypes = [Dtype::BOOL, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
        let found = tensors.find(name, &dtypes, sizes)?.map(|tensor| match tensor.dtype {
            Dtype::BOOL => tensor.bools().map(Self::Hidden),
            _ => tensor.floats().map(Self::Added),
        });
        found.transpose()
    }

    fn of_layer(&self) -> LayerMask<'_> {
        match self {
            Self::Hidden(mask) => LayerMask::Hidden(mask),
            Self::Added(mask) => LayerMask::Added(mask),
        }
    }
}
