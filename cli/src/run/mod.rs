//! `run`: attention on the tensors of a safetensors file.

mod args;
mod lengths;
mod mask;
mod request;
mod rope;
mod segments;
mod sequence;
mod sizes;

pub(crate) use args::RunArgs;

use crate::adapter::Machine;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::summary::Summary;
use crate::tensors::{self, Named, Tensors};
use args::Emit;
use half::{bf16, f16};
use request::Request;
use safetensors::Dtype;
use wgpu_attention::{Element, Outputs};

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let summary = Summary::start("run");
    let bytes = tensors::read(&args.input)?;
    let tensors = Tensors::parse(&args.input, &bytes)?;
    match tensors.require("q")?.dtype {
        Dtype::F16 => attend::<f16>(args, &tensors, summary),
        Dtype::BF16 => attend::<bf16>(args, &tensors, summary),
        _ => attend::<f32>(args, &tensors, summary),
    }
}

/// With q, k, v and out as `T`.
fn attend<T: Element>(
    args: &RunArgs,
    tensors: &Tensors<'_>,
    summary: Summary,
) -> Result<(), Failure> {
    let mut request = Request::<T>::new(args, tensors)?;
    require_memory::<T>(request.sizes())?;
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    request.rotate(&machine)?;
    let outputs = machine.attention(&request.shape, &request.options, &request.inputs())?;

    let mut named = vec![Named::new("out", &request.out_sizes, &outputs.out)];
    for (emit, sizes) in &request.emits {
        named.push(match emit {
            Emit::PresentK => Named::new(emit.name(), sizes, &request.key),
            Emit::PresentV => Named::new(emit.name(), sizes, &request.value),
            _ => Named::new(emit.name(), sizes, computed(&outputs, *emit)?),
        });
    }
    file.write(&tensors::serialize(named)?)?;
    let [q, k, v] = [tensors.require("q")?, tensors.require("k")?, tensors.require("v")?];
    let sizes =
        [("q", &q.sizes[..]), ("k", &k.sizes), ("v", &v.sizes), ("out", &request.out_sizes)];
    summary.say(&machine, &sizes, |gpu| {
        let plan = gpu.operator(&request.options).and_then(|call| call.plan(&request.shape));
        plan.ok().map(|plan| plan.kernel.name())
    });
    Ok(())
}

/// Refuses outputs that cannot be held: without keys, a few bytes of input ask for any number of them.
pub(crate) fn require_memory<'a, T>(
    outputs: impl Iterator<Item = &'a Vec<usize>>,
) -> Result<(), Failure> {
    // As computed, and in the file to be written.
    let bytes = outputs.fold(0, |sum: usize, sizes| {
        let elements = sizes.iter().fold(1, |product: usize, &size| product.saturating_mul(size));
        sum.saturating_add(elements.saturating_mul(2 * size_of::<T>()))
    });
    let mut memory: Vec<u8> = Vec::new();
    let reserved = memory.try_reserve_exact(bytes);
    // What is never used need not be reserved, thinks the compiler.
    std::hint::black_box(&memory);
    reserved.map_err(|error| {
        Failure::input("memory", format_args!("{bytes} bytes for the outputs"), error)
    })
}

/// The output that goes by this name in the file.
fn computed<T>(outputs: &Outputs<T, f32>, emit: Emit) -> Result<&[f32], Failure> {
    let found = match emit {
        Emit::Lse => &outputs.lse,
        Emit::Weights => &outputs.weights,
        Emit::Qk => &outputs.raw_scores,
        Emit::QkSoftcap => &outputs.capped_scores,
        Emit::QkBias => &outputs.masked_scores,
        _ => &None,
    };
    found.as_deref().ok_or_else(|| Failure::Device(format!("{}: nothing computed", emit.name())))
}
