//! `mha`: a multi-head layer with the parameters of PyTorch's `nn.MultiheadAttention`.

mod args;
mod request;

pub(crate) use args::{LayerEmit, MhaArgs};

use crate::adapter::Machine;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::state::StateDict;
use crate::summary::Summary;
use crate::tensors::{self, AXES, HEADS, MEAN, Named, PER_BATCH, Tensors};
use half::{bf16, f16};
use request::Request;
use safetensors::Dtype;
use wgpu_attention::{Element, HeadWeights, MultiHeadPlan, MultiHeadWeights, cpu};

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn mha(args: &MhaArgs) -> Result<(), Failure> {
    let summary = Summary::start("mha");
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
    args: &MhaArgs,
    tensors: &Tensors<'_>,
    summary: Summary,
) -> Result<(), Failure> {
    let state = StateDict::read(&args.weights, &NAMES)?;
    let weights = MultiHeadWeights::from_state_dict(args.heads, |name| state.find(name))?;
    let weights = MultiHeadWeights { add_zero_attn: args.add_zero_attn, ..weights };
    let request = Request::new(args, &weights, tensors)?;
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    let (shape, inputs) = (&request.shape, request.inputs());
    let (out, head_weights) = machine.compute(
        |gpu| {
            let found = gpu.multi_head_attention_blocking(&weights, shape, &inputs)?;
            Ok((tensors::rounded::<_, T>(found.out), found.weights))
        },
        || {
            let found = cpu::multi_head_attention(&weights, shape, &inputs)?;
            Ok((tensors::rounded::<_, T>(found.out), found.weights.map(tensors::rounded)))
        },
    )?;
    let mut named = vec![Named::new("out", &request.out_sizes, &out)];
    let mut texts = Vec::new();
    if let Some(head_weights) = &head_weights {
        named.push(Named::new("weights", &request.weights_sizes, head_weights));
        if shape.weights == Some(HeadWeights::Mean) {
            texts.push((HEADS, MEAN));
            if request.weights_sizes.len() == 3 {
                texts.push((AXES, PER_BATCH));
            }
        }
    }
    file.write(&tensors::serialize_with(named, &texts)?)?;
    let [query, key] = [tensors.require("query")?, tensors.require("key")?];
    let sizes = [("query", &query.sizes[..]), ("key", &key.sizes), ("out", &request.out_sizes)];
    summary.say(&machine, &sizes, |gpu| {
        let plan = MultiHeadPlan::new(&weights, shape, gpu.capabilities()).ok()?;
        Some(plan.kernel().name())
    });
    Ok(())
}

/// What a state_dict may hold.
const NAMES: [&str; 9] = [
    "in_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "in_proj_bias",
    "out_proj.weight",
    "out_proj.bias",
    "bias_k",
    "bias_v",
];
