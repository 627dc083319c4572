//! What every command that computes tensors does, from opening a device to a line of summary.

use crate::adapter::{DeviceArgs, Machine};
use crate::failure::Failure;
use crate::output::{Output, OutputFile, serialize};
use crate::stderr;
use crate::tensors::{Tensor, Tensors};
use safetensors::Dtype;
use std::path::Path;
use std::time::Instant;
use wgpu_attention::{Error, Gpu};

/// A command whose input is known to be right.
#[derive(Debug)]
pub(crate) struct Job {
    start: Instant,
    command: &'static str,
    file: OutputFile,
    pub(crate) machine: Machine,
}

impl Job {
    /// Opens the file first: an unwritable place is found out before anything is computed.
    pub(crate) fn open(
        command: &'static str,
        start: Instant,
        out: &Path,
        device: &DeviceArgs,
    ) -> Result<Self, Failure> {
        let file = OutputFile::create("--out", out)?;
        Ok(Self { start, command, file, machine: Machine::open(device)? })
    }

    /// A layer's out, in the type of `input`, and its weights, if they are asked for, in F32.
    pub(crate) fn layer<'a>(
        &self,
        on_gpu: impl FnOnce(&Gpu) -> Result<(Vec<f32>, Option<Vec<f32>>), Error>,
        on_cpu: impl FnOnce() -> Result<(Vec<f64>, Option<Vec<f64>>), Error>,
        input: Dtype,
        [out_sizes, weights_sizes]: [&'a [usize]; 2],
    ) -> Result<Vec<Output<'a>>, Failure> {
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect();
        let on_gpu = |gpu: &Gpu| on_gpu(gpu).map(|(out, weights)| (wide(out), weights.map(wide)));
        let (out, weights) = self.machine.compute(on_gpu, on_cpu)?;
        let weights =
            weights.map(|found| Output::rounded("weights", weights_sizes, Dtype::F32, &found));
        let out = Output::rounded("out", out_sizes, input, &out);
        Ok(std::iter::once(out).chain(weights).collect())
    }

    /// Writes all outputs, `out` being the first, and the texts beside them. On a terminal, says
    /// what was computed, where and how long it took; `kernel` names what a GPU runs.
    pub(crate) fn finish(
        self,
        inputs: &[Tensor<'_>],
        outputs: &[Output<'_>],
        texts: &[(&str, &str)],
        kernel: impl FnOnce(&Gpu) -> Option<&'static str>,
    ) -> Result<(), Failure> {
        self.file.write(&serialize(outputs, texts)?)?;
        if !stderr::is_terminal() {
            return Ok(());
        }
        let inputs = inputs.iter().map(|input| (input.name, input.sizes));
        let tensors = inputs.chain(outputs.iter().take(1).map(|out| (out.name, out.sizes)));
        // `{:?}` of sizes, without its spaces.
        let tensors = tensors.map(|(name, sizes)| format!("{name} {sizes:?}").replace(", ", ","));
        let tensors = tensors.collect::<Vec<_>>().join(", ");
        let kernel = self.machine.used_gpu().and_then(kernel);
        let kernel = kernel.map_or(String::new(), |kernel| format!("kernel {kernel}, "));
        let time = match self.start.elapsed().as_secs_f64() {
            seconds @ ..1.0 => format!("{:.0} ms", 1e3 * seconds),
            seconds => format!("{seconds:.1} s"),
        };
        let (command, adapter) = (self.command, self.machine.describe());
        stderr::say(&format!("{command}: {tensors}; {kernel}{adapter}; {time}"));
        Ok(())
    }
}

/// Refuses outputs that memory cannot hold: without keys, a small input can ask for large ones.
pub(crate) fn require_memory<T>(outputs: &[&[usize]]) -> Result<(), Failure> {
    // As computed, and in the file to be written.
    let bytes = outputs.iter().fold(0, |sum: usize, sizes| {
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

/// Takes a plan for the smallest device: what is too large for it may fit ours.
pub(crate) fn require_valid<P>(planned: Result<P, Error>) -> Result<(), Failure> {
    match planned {
        Ok(_) | Err(Error::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The state_dict of a layer, from a file of its own: parameters by name, as F32.
#[derive(Debug)]
pub(crate) struct StateDict(Vec<(&'static str, Vec<usize>, Vec<f32>)>);

impl StateDict {
    /// Reads those of `names`, with spaces between them, that the file has.
    pub(crate) fn read(path: &Path, names: &'static str) -> Result<Self, Failure> {
        let tensors = Tensors::read(path)?;
        let found = names.split(' ').filter_map(|name| tensors.get(name));
        let decoded =
            found.map(|tensor| Ok((tensor.name, tensor.sizes.to_vec(), tensor.floats()?)));
        decoded.collect::<Result<_, Failure>>().map(Self)
    }

    /// Sizes and elements of a parameter, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<(&[usize], &[f32])> {
        let (_, sizes, elements) = self.0.iter().find(|(own, _, _)| *own == name)?;
        Some((sizes, elements))
    }
}
