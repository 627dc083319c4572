//! What a row is of: a call of attention, or of a layer around it. A wrong result has no times.

use super::case::Case;
use super::device::Device;
use super::label::Label;
use super::layer::Layer;
use std::error::Error;
use std::time::Instant;
use wgpu_attention::ForwardTile;
use wgpu_attention::check::{Compared, Times};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Attention(Case),
    Layer(Layer),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) kernel: &'static str,
    /// Seconds of the first call, with compiling what no earlier subject had compiled.
    pub(super) first: f64,
    pub(super) compared: Compared,
    pub(super) times: Times,
    /// Of all this process's threads, in seconds a call; a software adapter computes in them.
    pub(super) cpu: Option<f64>,
    /// The fastest tile, and how many times its time the planned one takes.
    pub(super) tuned: Option<(ForwardTile, f64)>,
}

/// One subject, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) label: Label,
    /// The times, or why there are none.
    pub(super) outcome: Result<Measured, String>,
}

impl Subject {
    pub(super) fn label(&self) -> Label {
        match self {
            Self::Attention(case) => case.label(),
            Self::Layer(layer) => layer.label(),
        }
    }

    /// Computes it, compares it with the reference, then times it; `tunes` measures tiles first.
    pub(super) fn time(
        &self,
        device: &Device<'_>,
        seconds: f64,
        tunes: bool,
    ) -> Result<Measured, Box<dyn Error>> {
        let workload = match self {
            Self::Attention(case) => case.workload(device.gpu, tunes)?,
            Self::Layer(layer) => layer.workload(device.gpu)?,
        };
        let start = Instant::now();
        workload.prepare_blocking()?;
        let prepared = start.elapsed().as_secs_f64();
        let first = device.stopwatch.lap(|encoder| workload.encode(encoder, 0))?;
        let compared = workload.compare()?;
        if let Some(why) = compared.failure {
            return Err(why.into());
        }
        let start = cpu_seconds();
        let record = |encoder: &mut _, turn| workload.encode(encoder, turn);
        let times = device.stopwatch.measure(seconds, record)?;
        // One more call shows how many make a submission.
        let calls = (1 + times.runs * times.per_run) as f64;
        Ok(Measured {
            kernel: workload.kernel(),
            first: prepared + first.host,
            compared,
            times,
            cpu: start.zip(cpu_seconds()).map(|(start, end)| (end - start) / calls),
            tuned: workload.tuned(),
        })
    }
}

/// What this process has computed for so far, on all its threads.
#[cfg(unix)]
fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64)
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<f64> {
    None
}
