//! Pipelines run once before they are needed: some drivers compile no earlier.

use super::attention::Attention;
use crate::call::Call;
use crate::context::{Context, Step};
use crate::error::Error;
use crate::plan::{Access, Plan, SequenceParams, Variant, Window};
use crate::scope::{if_ready, scoped};
use crate::uniforms::MOST_PARAMS;
use crate::{buffer, lost};
use futures_intrusive::channel::shared::oneshot_channel;

/// Bytes of each buffer made for what a shader stores here.
const BYTES: u64 = 256;

impl Attention {
    /// Compiles the plan's pipelines as [`Attention::prepare`] does, and runs each once on a call of no keys, with buffers of its
    /// own: a software adapter, and some drivers, compile a pipeline when it first runs, for seconds. Submits and waits; on
    /// native the wait blocks.
    ///
    /// ```
    /// use wgpu_attention::{AttentionOptions, AttentionShape, Gpu, GpuOptions};
    /// let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    /// let attention = gpu.operator(&AttentionOptions::default())?;
    /// let plan = attention.plan(&AttentionShape::new(1, 2, 3, 4))?;
    /// attention.warm_up_blocking(&plan)?;
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shader`], and [`Error::Device`] for what the device refuses.
    pub async fn warm_up(&self, plan: &Plan) -> Result<(), Error> {
        self.context.warm_up(&plan.variants()).await
    }

    /// As [`Attention::warm_up`], blocking.
    ///
    /// # Errors
    /// As [`Attention::warm_up`].
    pub fn warm_up_blocking(&self, plan: &Plan) -> Result<(), Error> {
        pollster::block_on(self.warm_up(plan))
    }
}

impl Context {
    /// Runs these shaders with parameters that are all 0: there are no keys to loop over. What a shader stores all the same
    /// stays within buffers made here, as its indices are checked.
    async fn warm_up(&self, variants: &[Variant]) -> Result<(), Error> {
        self.pipelines.prepare(variants).await?;
        let params = [0; MOST_PARAMS as usize];
        let table = [0; size_of::<SequenceParams>()];
        let whole = Window { start: 0, size: BYTES, first_element: 0 };
        let mut steps = Vec::new();
        for variant in variants {
            let mut buffers = Vec::new();
            for (number, access) in variant.entry.bindings() {
                // One buffer may be read through any number of bindings, and written through one.
                if access == Access::ReadWrite {
                    let written = buffer::output(&self.device, "warm-up", BYTES)?;
                    buffers.push((number, written, whole));
                }
            }
            let table: &[u8] = if variant.is_ragged() { &table } else { &[] };
            steps.push(Step { variant, params: &params, buffers, table, grid: [1; 3] });
        }
        let call = self.bind("warm-up", Vec::new(), &steps)?;
        self.run("warming up", &call).await
    }

    /// Submits a call and waits until the device is done with it. On native the wait blocks, as nothing else would poll the
    /// device.
    pub(super) async fn run(&self, action: &'static str, call: &Call) -> Result<(), Error> {
        let (device, queue) = (&self.device, &self.queue);
        let failed = |message: String| lost::failed(device, action, message);
        let ((), error) = scoped(device, || {
            let mut encoder = device.create_command_encoder(&Default::default());
            call.encode(&mut encoder);
            queue.submit([encoder.finish()]);
        });
        if let Some(message) = if_ready(error).flatten() {
            return Err(failed(message));
        }
        let (sender, receiver) = oneshot_channel();
        queue.on_submitted_work_done(move || {
            // The receiver is gone only if the caller dropped the future.
            let _ = sender.send(());
        });
        let waited = device.poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|error| failed(error.to_string()))?;
        if receiver.receive().await.is_none() {
            return Err(failed("wgpu dropped the callback".to_owned()));
        }
        // Of a device that is lost all work counts as done.
        lost::check(device, action)
    }
}
