//! How long something takes: repeated for a while, in submissions long enough to be timed.

use super::workload::contents;
use crate::buffer::create;
use crate::error::Error;
use crate::host::Gpu;
use crate::lost;
use crate::scope::{if_ready, scoped};
use std::time::Instant;

/// Times what is recorded into encoders, from the host and by the GPU's timestamps where it has
/// them. Not in a browser, where nothing can be waited for.
///
/// ```no_run
/// use wgpu_attention::check::{Stopwatch, Workload};
/// use wgpu_attention::{Gpu, GpuOptions};
///
/// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
/// let workload = Workload::linear(&gpu, [1, 512, 768, 768])?;
/// let times = Stopwatch::new(&gpu)?.measure(1.0, |encoder, turn| workload.encode(encoder, turn))?;
/// println!("{} ms", 1e3 * times.best().median);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct Stopwatch<'g> {
    gpu: &'g Gpu,
    queries: Option<Queries>,
}

/// Two timestamps, and where they come back.
#[derive(Debug)]
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Seconds of one tick.
    tick: f64,
}

/// How long one submission took, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lap {
    /// From recording to the end of waiting.
    pub host: f64,
    /// Between the GPU's own timestamps.
    pub gpu: Option<f64>,
}

impl Lap {
    /// By the best clock there is.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.gpu.unwrap_or(self.host)
    }
}

/// What many calls took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// From recording to the end of waiting.
    pub host: Spread,
    /// Between the GPU's own timestamps, if it has them.
    pub gpu: Option<Spread>,
    /// How many submissions were timed.
    pub runs: usize,
    /// How many calls one submission held.
    pub per_run: usize,
}

/// Seconds a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the submissions took no longer.
    pub median: f64,
    /// The quickest submission.
    pub least: f64,
    /// Nine in ten submissions took no longer.
    pub p90: f64,
}

/// How long a submission should be: far longer than it takes to submit and wait.
const SUBMISSION: f64 = 0.02;
const MOST_CALLS: f64 = 200.0;
const FEWEST_RUNS: usize = 3;
const MOST_RUNS: usize = 1000;
const STAMPS: u64 = 2 * wgpu::QUERY_SIZE as u64;

impl<'g> Stopwatch<'g> {
    /// A stopwatch for work on `gpu`'s queue.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn new(gpu: &'g Gpu) -> Result<Self, Error> {
        let device = gpu.device();
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let queries = || {
            let descriptor = wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            };
            Ok::<_, Error>(Queries {
                resolved: create(device, "timestamps", STAMPS, usage, false)?,
                set: device.create_query_set(&descriptor),
                tick: f64::from(gpu.queue().get_timestamp_period()) * 1e-9,
            })
        };
        let queries = gpu.capabilities().timestamps.then(queries).transpose()?;
        Ok(Self { gpu, queries })
    }

    /// Records, submits and waits.
    ///
    /// # Errors
    /// What `record` ends in; [`Error::Device`] for what wgpu refuses.
    pub fn lap(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<Lap, Error> {
        let device = self.gpu.device();
        let start = Instant::now();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.stamp(&mut encoder, Some(0), None);
        record(&mut encoder)?;
        self.stamp(&mut encoder, None, Some(1));
        if let Some(Queries { set, resolved, .. }) = &self.queries {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
        }
        let (index, error) = scoped(device, || self.gpu.queue().submit([encoder.finish()]));
        if let Some(message) = if_ready(error).flatten() {
            return Err(lost::failed(device, "submitting", message));
        }
        device
            .poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None })
            .map_err(|error| lost::failed(device, "waiting", error))?;
        let host = start.elapsed().as_secs_f64();
        let gpu = self.queries.as_ref().map(|queries| self.seconds(queries)).transpose()?;
        // A driver whose clock says more than ours, or nothing at all, is not believed.
        Ok(Lap { host, gpu: gpu.filter(|&seconds| seconds > 0.0 && seconds <= 1.02 * host) })
    }

    /// Times a call for some seconds. `record` records it once and is told how many were before; it
    /// should have run once already, as first calls compile.
    ///
    /// # Errors
    /// As [`Stopwatch::lap`].
    pub fn measure(
        &self,
        seconds: f64,
        record: impl Fn(&mut wgpu::CommandEncoder, usize) -> Result<(), Error>,
    ) -> Result<Times, Error> {
        let mut calls = 0;
        let mut lap = |per_run: usize| {
            self.lap(|encoder| {
                let mut turns = calls..calls + per_run;
                calls = turns.end;
                turns.try_for_each(|turn| record(encoder, turn))
            })
        };
        let once = lap(1)?.host;
        #[expect(clippy::cast_possible_truncation, reason = "from 1 to 200")]
        let per_run = (SUBMISSION.min(seconds) / once).clamp(1.0, MOST_CALLS) as usize;
        let start = Instant::now();
        let mut laps = Vec::new();
        while laps.len() < FEWEST_RUNS
            || (laps.len() < MOST_RUNS && start.elapsed().as_secs_f64() < seconds)
        {
            laps.push(lap(per_run)?);
        }
        let host = Spread::of(laps.iter().map(|lap| lap.host).collect(), per_run as f64);
        let gpu: Option<Vec<f64>> = laps.iter().map(|lap| lap.gpu).collect();
        let gpu = gpu.map(|times| Spread::of(times, per_run as f64));
        Ok(Times { host, gpu, runs: laps.len(), per_run })
    }

    /// An empty pass that writes timestamps: what is recorded between two of them needs to know
    /// nothing of it.
    fn stamp(&self, encoder: &mut wgpu::CommandEncoder, begin: Option<u32>, end: Option<u32>) {
        let Some(Queries { set, .. }) = &self.queries else { return };
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("timestamp"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: begin,
                end_of_pass_write_index: end,
            }),
        });
    }

    /// Between the two timestamps.
    fn seconds(&self, Queries { resolved, tick, .. }: &Queries) -> Result<f64, Error> {
        let stamps = contents::<u64>(self.gpu, resolved, 2)?;
        let ticks = stamps.iter().copied().reduce(|start, end| end.saturating_sub(start));
        Ok(ticks.unwrap_or_default() as f64 * tick)
    }
}

impl Times {
    /// By the best clock there is.
    #[must_use]
    pub fn best(&self) -> Spread {
        self.gpu.unwrap_or(self.host)
    }
}

impl Spread {
    /// Of at least one time.
    fn of(mut times: Vec<f64>, calls: f64) -> Self {
        times.sort_by(f64::total_cmp);
        let middle = times.len() / 2;
        let median = if times.len() % 2 == 1 {
            times[middle]
        } else {
            (times[middle - 1] + times[middle]) / 2.0
        };
        let p90 = times[(9 * times.len()).div_ceil(10) - 1];
        Self { median: median / calls, least: times[0] / calls, p90: p90 / calls }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn a_spread_is_of_one_call() {
        let of_three = Spread { median: 2.0, least: 1.0, p90: 3.0 };
        assert_eq!(Spread::of(vec![6.0, 2.0, 4.0], 2.0), of_three);
        let of_two = Spread { median: 5.0, least: 2.0, p90: 8.0 };
        assert_eq!(Spread::of(vec![8.0, 2.0], 1.0), of_two);
        let of_twenty = Spread { median: 10.5, least: 1.0, p90: 18.0 };
        assert_eq!(Spread::of((1..=20).map(f64::from).collect(), 1.0), of_twenty);
    }
}
