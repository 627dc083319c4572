//! `run`: attention on the tensors of a safetensors file.

mod args;
mod optional;
mod request;
mod rope;
mod vectors;

pub(crate) use args::RunArgs;

use crate::failure::Failure;
use crate::job::{Job, require_memory};
use crate::output::Output;
use crate::tensors::{Tensors, with_element};
use request::Request;
use std::time::Instant;
use wgpu_attention::{Element, Gpu};

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let tensors = Tensors::read(&args.input)?;
    with_element!(tensors.require("q")?.dtype, attend(args, &tensors, start))
}

/// With q, k, v and out as `T`.
fn attend<T: Element>(args: &RunArgs, tensors: &Tensors, start: Instant) -> Result<(), Failure> {
    let mut request = Request::<T>::new(args, tensors)?;
    let emitted = request.emits.iter().map(|(_, sizes)| &sizes[..]);
    let sizes: Vec<&[usize]> = std::iter::once(&request.out_sizes[..]).chain(emitted).collect();
    require_memory::<T>(&sizes)?;

    let job = Job::open("run", start, &args.out, &args.device)?;
    request.rotate(&job.machine)?;
    let found = job.machine.attention(&request.shape, &request.options, &request.inputs())?;
    let mut outputs = vec![Output::new("out", &request.out_sizes, &found.out)];
    for (name, sizes) in &request.emits {
        let computed = match *name {
            "present_k" | "present_v" => {
                let present = if *name == "present_k" { &request.key } else { &request.value };
                outputs.push(Output::new(name, sizes, present));
                continue;
            }
            "lse" => &found.lse,
            "weights" => &found.weights,
            "qk" => &found.raw_scores,
            "qk_softcap" => &found.capped_scores,
            _ => &found.masked_scores,
        };
        let missing = || Failure::Device(format!("{name}: nothing computed"));
        outputs.push(Output::new(name, sizes, computed.as_ref().ok_or_else(missing)?));
    }
    let inputs = [tensors.require("q")?, tensors.require("k")?, tensors.require("v")?];
    job.finish(&inputs, &outputs, &[], |gpu: &Gpu| {
        let plan =
            gpu.attention_operator(&request.options).and_then(|call| call.plan(&request.shape));
        Some(plan.ok()?.kernel.name())
    })
}
