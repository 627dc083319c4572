//! How long something takes: repeated for a while, in submissions long enough to be timed.

use super::device::{Device, Lap};
use std::time::Instant;
use wgpu_attention::{Error, wgpu};

/// What many calls took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    /// From recording to the end of waiting.
    pub(super) host: Spread,
    /// Between the GPU's own timestamps, if it has them.
    pub(super) gpu: Option<Spread>,
    /// Of all this process's threads, in seconds a call; a software adapter computes in them.
    pub(super) cpu: Option<f64>,
    /// How many submissions were timed.
    pub(super) runs: usize,
    /// How many calls one submission held.
    pub(super) per_run: usize,
}

/// Seconds a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    /// Nine in ten submissions took no longer.
    pub(super) p90: f64,
}

/// How long a submission should be: far longer than it takes to submit and wait.
const SUBMISSION: f64 = 0.02;
const MOST_CALLS: f64 = 200.0;
const FEWEST_RUNS: usize = 3;
const MOST_RUNS: usize = 1000;

/// Times a call for some seconds. `record` records it once and is told how many were before; it was run once already.
pub(super) fn measure(
    device: &Device<'_>,
    seconds: f64,
    record: &mut dyn FnMut(&mut wgpu::CommandEncoder, usize) -> Result<(), Error>,
) -> Result<Times, Error> {
    let mut calls = 0;
    let mut lap = |per_run: usize| {
        device.lap(&mut |encoder| {
            for _ in 0..per_run {
                record(encoder, calls)?;
                calls += 1;
            }
            Ok(())
        })
    };
    let once = lap(1)?.host;
    let per_run = per_run((SUBMISSION.min(seconds) / once).clamp(1.0, MOST_CALLS));
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut laps = Vec::new();
    while laps.len() < FEWEST_RUNS
        || (laps.len() < MOST_RUNS && start.elapsed().as_secs_f64() < seconds)
    {
        laps.push(lap(per_run)?);
    }
    let each = |time: fn(&Lap) -> Option<f64>| {
        let times: Option<Vec<f64>> = laps.iter().map(time).collect();
        times.map(|times| Spread::of(times, per_run as f64))
    };
    let cpu =
        cpu.zip(cpu_seconds()).map(|(start, end)| (end - start) / (laps.len() * per_run) as f64);
    let host =
        each(|lap| Some(lap.host)).unwrap_or(Spread { median: once, least: once, p90: once });
    Ok(Times { host, gpu: each(|lap| lap.gpu), cpu, runs: laps.len(), per_run })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 200")]
fn per_run(calls: f64) -> usize {
    calls as usize
}

impl Times {
    /// By the best clock there is.
    pub(super) fn best(&self) -> Spread {
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
