//! `bench`: how fast each kernel is on this adapter, and how much of what the adapter can do that is.

mod args;
mod case;
mod ceilings;
mod chart;
mod clock;
mod defaults;
mod device;
mod matrix;
mod processor;
mod report;
mod request;
mod verify;

pub(crate) use args::BenchArgs;

use crate::adapter;
use crate::failure::Failure;
use crate::stderr;
use case::Case;
use ceilings::Ceilings;
use clock::Times;
use device::Device;
use half::{bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use request::Request;
use std::io::{self, Write};
use std::time::Instant;
use verify::{Checked, Tensors, verify};
use wgpu_attention::wgpu::{BufferUsages, CommandEncoder};
use wgpu_attention::{AttentionBuffers, Element, ElementType, Error, Gpu};

/// One case, and what became of it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    case: Case,
    /// The times, or why there are none.
    outcome: Result<Measured, String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    kernel: &'static str,
    /// Seconds of the first call, with compiling what no earlier case had compiled.
    first: f64,
    checked: Checked,
    times: Times,
}

/// Measures the adapter's ceilings, then checks and times each case.
pub(crate) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let request = Request::new(args)?;
    // There is no falling back here: without an adapter nothing is timed.
    let gpu = Gpu::open_blocking(&adapter::options(&args.device))?;
    run(&gpu, request, &mut io::stdout().lock())
}

fn run(gpu: &Gpu, request: Request, out: &mut impl Write) -> Result<(), Failure> {
    let device = Device::new(gpu);
    let cases = request.cases(gpu.capabilities());
    let bar =
        ProgressBar::with_draw_target(Some(cases.len() as u64 + 1), stderr::progress_target());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}") {
        bar.set_style(style);
    }
    let measured = ceilings::measure(&device, &mut |step| bar.set_message(step.to_owned()));
    let ceilings = alive(&device, measured)??;
    bar.inc(1);
    let report = Report { adapter: adapter::describe(&gpu.adapter_info()), ceilings };
    bar.suspend(|| report.begin(out, request.json))?;
    let mut rows = Vec::new();
    for case in &cases {
        bar.set_message(format!("{} {} {}", case.name(), case.element, case.words()));
        let outcome = match case.element {
            ElementType::F32 => time::<f32>(&device, case, request.seconds),
            ElementType::F16 => time::<f16>(&device, case, request.seconds),
            ElementType::Bf16 => time::<bf16>(&device, case, request.seconds),
        };
        let row = Row { case: *case, outcome: alive(&device, outcome)? };
        bar.suspend(|| report.row(out, &row, request.json))?;
        bar.inc(1);
        rows.push(row);
    }
    bar.finish_and_clear();
    report.end(out, &rows, request.json)?;
    if let Some((format, file)) = request.plot
        && let Some(picture) = chart::draw(format, &report.adapter, &rows)?
    {
        file.write(&picture)?;
    }
    if rows.iter().all(|row| row.outcome.is_ok()) { Ok(()) } else { Err(Failure::Wrong) }
}

/// What was found, unless the device is gone and nothing more will be.
fn alive<T>(device: &Device<'_>, found: T) -> Result<T, Failure> {
    match device.lost() {
        None => Ok(found),
        Some(message) => Err(Failure::Device(format!("the device was lost: {message}"))),
    }
}

/// What a case reads beyond any cache: each step of a decoder finds other layers' keys and values there.
const BEYOND_CACHES: usize = 256 << 20;

/// Computes a case, compares the result with the reference, and only then times it.
fn time<T: Element>(device: &Device<'_>, case: &Case, seconds: f64) -> Result<Measured, String> {
    let words = |error: Error| error.to_string();
    let operator = device.gpu.operator(&case.options()).map_err(words)?;
    let plan = operator.plan_kernel(&case.shape(), case.kernel).map_err(words)?;
    let tensors = Tensors::<T>::new(case);
    let upload = |label, bytes: &[u8]| {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        device.upload(label, bytes, usage).map_err(words)
    };
    let query = upload("query", bytemuck::cast_slice(&tensors.query))?;
    let [key_bytes, value_bytes]: [&[u8]; 2] =
        [bytemuck::cast_slice(&tensors.key), bytemuck::cast_slice(&tensors.value)];
    // A software adapter shares its caches with everything else, and its peers are timed as they are.
    let copies = match case.is_decode() && !device.gpu.capabilities().is_software() {
        true => BEYOND_CACHES.div_ceil(2 * key_bytes.len()).min(64),
        false => 1,
    };
    let pairs = (0..copies)
        .map(|_| Ok([upload("key", key_bytes)?, upload("value", value_bytes)?]))
        .collect::<Result<Vec<_>, String>>()?;
    let bias =
        tensors.bias.as_ref().map(|bias| upload("bias", bytemuck::cast_slice(bias))).transpose()?;
    // NaN of every type, so that what is never written cannot pass.
    let out = upload("out", &vec![0xff; size_of_val(&tensors.query[..])])?;
    let mut record = |encoder: &mut CommandEncoder, turn: usize| {
        let [key, value] = &pairs[turn % copies];
        let buffers = AttentionBuffers {
            bias: bias.as_ref(),
            ..AttentionBuffers::new(&query, key, value, &out)
        };
        operator.encode(encoder, &plan, &buffers)
    };
    let start = Instant::now();
    operator.prepare_blocking(&plan).map_err(words)?;
    device.submit(&mut |encoder| record(encoder, 0)).map_err(words)?;
    let first = start.elapsed().as_secs_f64();
    let bytes = device.download(&out).map_err(words)?;
    let found: Vec<T> = bytemuck::pod_collect_to_vec(&bytes[..size_of_val(&tensors.query[..])]);
    let checked = verify(case, &tensors, &found)?;
    let times = clock::measure(device, seconds, &mut record).map_err(words)?;
    Ok(Measured { kernel: plan.kernel.name(), first, checked, times })
}

#[cfg(test)]
mod tests;
