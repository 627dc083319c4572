//! `bench`: how fast each kernel is on this adapter, and how much of what the adapter can do that is.

mod args;
mod attention;
mod case;
mod ceilings;
mod chart;
mod clock;
mod defaults;
mod device;
mod label;
mod layer;
mod matrix;
mod processor;
mod rate;
mod report;
mod request;
mod subject;
mod trial;
mod verify;

pub(crate) use args::BenchArgs;

use crate::adapter;
use crate::failure::Failure;
use crate::terminal::{self, Paint};
use ceilings::Ceilings;
use device::Device;
use label::Label;
use report::Report;
use request::Request;
use std::io::{self, Write};
use trial::Measured;
use wgpu_attention::Gpu;

/// One subject, and what became of it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    label: Label,
    /// The times, or why there are none.
    outcome: Result<Measured, String>,
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
    let subjects = request.subjects(gpu.capabilities());
    let bar = terminal::progress_bar(subjects.len() + 1);
    let measured = ceilings::measure(&device, &mut |step| bar.set_message(step.to_owned()));
    let ceilings = alive(&device, measured)??;
    bar.inc(1);
    let report = Report {
        adapter: adapter::describe(&gpu.adapter_info()),
        ceilings,
        form: request.form,
        paint: Paint::stdout(),
    };
    bar.suspend(|| report.begin(out))?;
    let mut rows = Vec::new();
    for subject in &subjects {
        let label = subject.label();
        bar.set_message(format!("{} {} {}", label.name(), label.element, label.words));
        let outcome = subject.time(&device, request.effort).map_err(|fault| fault.to_string());
        let row = Row { label, outcome: alive(&device, outcome)? };
        bar.suspend(|| report.row(out, &row))?;
        bar.inc(1);
        rows.push(row);
    }
    bar.finish_and_clear();
    report.end(out, &rows)?;
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

#[cfg(test)]
mod tests;
