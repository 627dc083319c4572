//! Choice by measurement: the tiles of the fused kernel that a shape is fastest with on this
//! device.

use crate::attention::{Attention, AttentionBuffers};
use crate::call::Call;
use crate::error::Error;
use crate::plan::{Entry, ForwardTile, Plan, Tuning, candidates};
use crate::problem::{AttentionShape, Problem};
use crate::scope::lock;
use std::time::{Duration, Instant};

/// Each candidate is timed so often, by turns.
const TURNS: usize = 7;

impl Attention {
    /// Measures the tiles that the plan's model picks for a shape and those near to it, and plans
    /// with the fastest from now on: calls of these dims, element type and number of rows, on all
    /// operators that share this one's device and pipelines.
    ///
    /// Takes each candidate's compilation and eight calls, which write to `buffers` as
    /// [`Attention::encode`] does. Gives the candidates with their median times, the fastest first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a browser, where there is no clock for it; [`Error::Invalid`] for
    /// a shape that `forward`, `tiled` and `decode` do not take; [`Error::Device`] if the device is
    /// lost, and nothing is learned then; otherwise as [`Attention::plan`], [`Attention::prepare`]
    /// and [`Attention::bind`].
    pub async fn tune(
        &self,
        shape: &AttentionShape,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<Vec<(ForwardTile, Duration)>, Error> {
        if cfg!(target_arch = "wasm32") {
            let [expected, found] = ["one that does not panic", "a browser's"].map(str::to_owned);
            return Err(Error::Unsupported { what: "clock", expected, found });
        }
        let capabilities = &self.context.capabilities;
        let problem = Problem::new(shape, &self.options)?;
        let chosen = Plan::new(problem.clone(), capabilities, None)?;
        let is_tuned = |entry| {
            use Entry::{AttentionDecode, AttentionForward, AttentionTiled};
            matches!(entry, AttentionDecode | AttentionForward | AttentionTiled)
        };
        if !chosen.dispatches().iter().any(|dispatch| is_tuned(dispatch.variant.entry)) {
            let expected = "one that forward, tiled or decode takes";
            return Err(Error::invalid("shape", expected, chosen.kernel.name()));
        }
        let mut measured = Vec::new();
        for tile in candidates(&problem, capabilities)? {
            let tuning = Tuning::of(&problem, tile);
            let plan = Plan::tuned(problem.clone(), capabilities, None, &tuning)?;
            self.prepare(&plan).await?;
            let call = self.bind(&plan, buffers)?;
            // Drivers may compile when a pipeline first runs.
            self.time(&call).await?;
            measured.push((tile, call, Vec::new()));
        }
        for _ in 0..TURNS {
            for (_, call, times) in &mut measured {
                times.push(self.time(call).await?);
            }
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[TURNS / 2]
        };
        let mut found: Vec<_> =
            measured.into_iter().map(|(tile, _, times)| (tile, median(times))).collect();
        found.sort_by_key(|(_, time)| *time);
        if let Some((tile, _)) = found.first() {
            self.learn(&Tuning::of(&problem, *tile));
        }
        Ok(found)
    }

    /// As [`Attention::tune`], blocking.
    ///
    /// # Errors
    /// As [`Attention::tune`].
    pub fn tune_blocking(
        &self,
        shape: &AttentionShape,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<Vec<(ForwardTile, Duration)>, Error> {
        pollster::block_on(self.tune(shape, buffers))
    }

    /// What has been measured or learned so far, to be kept for the next run.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        lock(&self.context.tuning).clone()
    }

    /// Plans with these tiles from now on, as if [`Attention::tune`] had found them.
    pub fn learn(&self, tuning: &Tuning) {
        lock(&self.context.tuning).learn(tuning);
    }

    /// From recording until the device is done.
    async fn time(&self, call: &Call) -> Result<Duration, Error> {
        let begin = Instant::now();
        self.context.run("timing", call).await?;
        Ok(begin.elapsed())
    }
}
