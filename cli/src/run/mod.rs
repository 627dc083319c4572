//! `run`: attention on the tensors of a safetensors file.

mod request;
mod sizes;

use crate::adapter::Machine;
use crate::args::{Emit, RunArgs};
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::tensors::{self, Tensors};
use request::Request;
use wgpu_attention::Outputs;

/// Reads, checks everything, computes, and writes all outputs at once.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let bytes = tensors::read(&args.input)?;
    let request = Request::new(args, &Tensors::parse(&args.input, &bytes)?)?;
    drop(bytes);
    let file = OutputFile::create(&args.out)?;

    let machine = Machine::open(&args.device)?;
    let outputs = machine.attention(&request.shape, &request.options, &request.inputs())?;

    let mut named = vec![("out", request.out_sizes.clone(), outputs.out.as_slice())];
    for (emit, sizes) in &request.emits {
        named.push((emit.name(), sizes.clone(), elements(&outputs, *emit)?));
    }
    file.write(&tensors::serialize(&named)?)
}

/// The output that goes by this name in the file.
fn elements(outputs: &Outputs, emit: Emit) -> Result<&[f32], Failure> {
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
