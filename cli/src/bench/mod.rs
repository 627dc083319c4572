//! `bench`: how fast each kernel is on this adapter, as a share of the adapter's peak.

mod args;
mod case;
mod ceilings;
mod chart;
mod defaults;
mod device;
mod label;
mod layer;
mod processor;
mod rate;
mod report;
mod request;
mod subject;

pub(crate) use args::BenchArgs;

use crate::adapter;
use crate::failure::Failure;
use crate::terminal::{self, Paint};
use device::Device;
use report::Report;
use std::io::Write;
use subject::Row;
use wgpu_attention::Gpu;

/// Measures the adapter's ceilings, then checks and times each case.
pub(crate) fn bench(
    args: &BenchArgs,
    gpu: Option<&Gpu>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let plot = args.check()?;
    let gpu = adapter::open(&args.device, gpu)?;
    let device = Device::new(&gpu)?;
    let subjects = args.subjects(gpu.capabilities());
    let bar = terminal::progress_bar(subjects.len() + 1);
    let measured = ceilings::measure(&device, &mut |step| bar.set_message(step.to_owned()));
    let ceilings = alive(&device, measured)??;
    bar.inc(1);
    let report = Report {
        adapter: adapter::describe(&gpu.adapter_info()),
        ceilings,
        form: args.form(),
        paint: Paint::stdout(),
    };
    bar.suspend(|| report.begin(out))?;
    let mut rows = Vec::new();
    for subject in &subjects {
        let label = subject.label();
        bar.set_message(format!("{} {} {}", label.name(), label.element, label.words));
        let outcome =
            subject.time(&device, args.seconds, args.tune).map_err(|fault| fault.to_string());
        let row = Row { label, outcome: alive(&device, outcome)? };
        bar.suspend(|| report.row(out, &row))?;
        bar.inc(1);
        rows.push(row);
    }
    bar.finish_and_clear();
    report.end(out, &rows)?;
    if let Some((format, file)) = plot
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
