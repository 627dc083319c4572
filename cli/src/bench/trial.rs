//! One call: computed once, its result compared with the reference, and only then timed.

use super::clock::{self, Times};
use super::device::Device;
use super::verify::{Checked, Fault};
use std::time::Instant;
use wgpu_attention::{Error, ForwardTile, wgpu};

/// What each case is worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) seconds: f64,
    /// Whether tiles are measured first.
    pub(super) tunes: bool,
}

/// The fastest tile, and how many times the time of it that of the tile takes which would have been planned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tuned {
    pub(super) tile: ForwardTile,
    pub(super) gain: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) kernel: &'static str,
    /// Seconds of the first call, with compiling what no earlier case had compiled.
    pub(super) first: f64,
    pub(super) checked: Checked,
    pub(super) times: Times,
    pub(super) tuned: Option<Tuned>,
}

pub(super) struct Trial<'t> {
    pub(super) kernel: &'static str,
    /// Compiles.
    pub(super) prepare: &'t dyn Fn() -> Result<(), Error>,
    /// Records one call, told how many were before.
    pub(super) record: &'t mut dyn FnMut(&mut wgpu::CommandEncoder, usize) -> Result<(), Error>,
    /// Holds NaN, so that what is never written cannot pass.
    pub(super) out: &'t wgpu::Buffer,
    /// Compares what is in `out`.
    pub(super) verify: &'t dyn Fn(&[u8]) -> Result<Checked, Fault>,
}

impl Trial<'_> {
    pub(super) fn run(self, device: &Device<'_>, seconds: f64) -> Result<Measured, Fault> {
        let Self { kernel, prepare, record, out, verify } = self;
        let start = Instant::now();
        prepare()?;
        device.submit(&mut |encoder| record(encoder, 0))?;
        let first = start.elapsed().as_secs_f64();
        let checked = verify(&device.download(out)?)?;
        let times = clock::measure(device, seconds, record)?;
        Ok(Measured { kernel, first, checked, times, tuned: None })
    }
}
